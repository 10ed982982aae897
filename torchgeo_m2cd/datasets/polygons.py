# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Polygons of vector files, burnt into a pixel grid."""

import math
import pathlib
from collections.abc import Callable, Sequence

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import shapely
import torch
from lightning.pytorch.utilities import rank_zero_warn
from pyproj import CRS
from rasterio.features import rasterize
from rasterio.transform import from_origin
from torch import Tensor

from ..utils import check_choice
from .grid import Grid
from .paths import name_paths, public_path, without_secrets

#: Suffixes of vector files.
VECTOR_SUFFIXES = (
    '.gpkg', '.geojson', '.json', '.shp', '.fgb', '.gdb', '.gml', '.kml', '.kmz',
    '.parquet', '.geoparquet', '.sqlite', '.zip',
)  # fmt: skip

_PARQUET = ('.parquet', '.geoparquet')


class Polygons:
    """Polygons that are burnt into a grid.

    A pixel belongs to a polygon if its centre does. Files are read and warped once. Where
    polygons overlap, the last of a layer counts, as GIS software draws them, and the
    first of several files, as in a mosaic.

    In a geographic CRS, the longitude of a polygon may be off by whole turns from that of
    the grid. A polygon across 180 degrees may be cut there or not.
    """

    def __init__(
        self,
        argument: str,
        layers: Sequence[tuple[str, str | None]],
        grid: Grid,
        label: Callable[[gpd.GeoDataFrame, str], Sequence[int]] | None = None,
    ) -> None:
        """Initialize a new Polygons instance.

        Args:
            argument: Argument that names the files, for messages.
            layers: Path and layer of each file, the first on top.
            grid: Grid to burn the polygons into.
            label: Function that returns the values of the polygons of a table, given
                also the name of its file (defaults to 1 for all of them).

        Raises:
            RuntimeError: If a file cannot be read.
            ValueError: If a layer has no CRS, or other geometries than polygons.
        """
        self.crs = grid.crs
        tables = []
        for path, layer in reversed(layers):
            name = f'{argument} file {name_paths(path)}' + (
                f' layer {layer!r}' if layer else ''
            )
            table = _read(name, path, layer)
            values = [1] * len(table) if label is None else label(table, name)
            shapes = gpd.GeoDataFrame(
                {'value': np.array(values, np.int64)},
                geometry=shapely.force_2d(table.geometry.to_numpy()),
                crs=table.crs,
            )
            tables.append(_project(_split(shapes, name), name, grid.crs))
        self.table = pd.concat(tables, ignore_index=True)

    @property
    def values(self) -> set[int]:
        """Values that are read: those of the polygons, and 0."""
        return {0, *self.table['value'].tolist()}

    def read(self, x: slice, y: slice) -> Tensor:
        """Burn the polygons of a window.

        Args:
            x: Left and right edge, and width of a pixel.
            y: Lower and upper edge, and height of a pixel.

        Returns:
            Values of the polygons, int64 of shape (1, H, W), 0 where there are none.
        """
        height = round((y.stop - y.start) / y.step)
        width = round((x.stop - x.start) / x.step)
        image = np.zeros((height, width), np.int32)
        turn = _full_turn(self.crs)
        for shift in (0.0,) if turn is None else (-turn, 0.0, turn):
            window = shapely.box(x.start + shift, y.start, x.stop + shift, y.stop)
            # In their order, which says what is on top
            hit = self.table.iloc[np.sort(self.table.sindex.query(window))]
            if len(hit):
                rasterize(
                    zip(hit.geometry, hit['value'], strict=True),
                    out=image,
                    transform=from_origin(x.start + shift, y.stop, x.step, y.step),
                )
        return torch.from_numpy(image[None].astype(np.int64))


def is_vector(path: str) -> bool:
    """Whether a path is that of a vector file.

    Args:
        path: Path or URL.

    Returns:
        Whether its suffix is one of :data:`VECTOR_SUFFIXES`.
    """
    return _suffix(path) in VECTOR_SUFFIXES


def list_layers(argument: str, path: str) -> list[str]:
    """List the layers of a vector file that have geometries.

    Args:
        argument: Argument that names the file, for messages.
        path: The file.

    Returns:
        Names of the layers, none for a file of a format without layers.

    Raises:
        RuntimeError: If the file cannot be read.
    """
    if _suffix(path) in _PARQUET:
        return []
    try:
        layers = pyogrio.list_layers(path)
    except (RuntimeError, ValueError) as error:
        raise _unreadable(f'{argument} file {name_paths(path)}', error) from error
    return [name for name, geometry in layers if geometry is not None]


def choose_layer(argument: str, path: str, layer: str | None) -> str | None:
    """Choose the layer of a vector file.

    Args:
        argument: Argument that names the file, for messages: ``mask`` or ``mask.area``,
            whose layers are named by ``mask.layer`` and ``mask.area_layer``.
        path: The file.
        layer: Name of the layer, if it is given.

    Returns:
        The layer, None for a file of a format without layers.

    Raises:
        RuntimeError: If the file cannot be read.
        ValueError: If the file lacks the layer, or has several and none is given.
    """
    layers = list_layers(argument, path)
    name = 'mask.layer' if argument == 'mask' else 'mask.area_layer'
    if layer is not None:
        check_choice(f'{name} of {name_paths(path)}', layer, layers)
    elif not layers and _suffix(path) not in _PARQUET:
        raise ValueError(
            f'{argument} file {name_paths(path)} has no layer with polygons'
        )
    elif len(layers) > 1:
        raise ValueError(
            f'{argument} file {name_paths(path)} has the layers '
            f'{", ".join(map(repr, layers))}: expected {name}, the name of the one to take'
        )
    return layer or next(iter(layers), None)


def _suffix(path: str) -> str:
    """Return the suffix of a path, or of a URL with a query."""
    return pathlib.PurePath(public_path(path)).suffix.lower()


def _unreadable(name: str, error: Exception) -> RuntimeError:
    """Make the error that a file cannot be read."""
    reason = without_secrets(str(error))
    return RuntimeError(f'{name} cannot be read: expected polygons ({reason})')


def _read(name: str, path: str, layer: str | None) -> gpd.GeoDataFrame:
    """Read a layer, without features that have no geometry."""
    try:
        if _suffix(path) in _PARQUET:
            table = gpd.read_parquet(path)
        else:
            table = pyogrio.read_dataframe(path, layer=layer)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise _unreadable(name, error) from error
    if table.crs is None and len(table):
        raise ValueError(
            f'{name} has no CRS: expected one, in a .prj file for a shapefile'
        )
    return table[~(table.geometry.isna() | table.geometry.is_empty)]


def _split(table: gpd.GeoDataFrame, name: str) -> gpd.GeoDataFrame:
    """Split polygons of several parts, and refuse other geometries."""
    while table.geom_type.isin(['MultiPolygon', 'GeometryCollection']).any():
        table = table.explode(ignore_index=True)
        table = table[~table.is_empty]
    others = table.geom_type[table.geom_type != 'Polygon'].value_counts()
    if len(others):
        counts = ', '.join(f'{count} {kind}' for kind, count in others.items())
        raise ValueError(
            f'{name} has other geometries than polygons ({counts}): expected polygons, '
            'in this layer or another one (mask.layer)'
        )
    return table


def _project(table: gpd.GeoDataFrame, name: str, crs: CRS) -> gpd.GeoDataFrame:
    """Warp polygons to another CRS."""
    if table.empty:
        return table.set_crs(crs, allow_override=True)
    table = _unwrap(table)
    if table.crs != crs:
        if not crs.is_geographic:
            table = _cut(table)
        # Straight edges become curves: 100 km of a parallel leave it by 100 m. Of polygons
        # that cross themselves, GEOS would lose a part
        table = table.set_geometry(table.make_valid())
        table = table.set_geometry(
            table.segmentize(0.1 if table.crs.is_geographic else 10_000.0)
        )
        table = _unwrap(table.to_crs(crs))
    reached = np.isfinite(table.bounds).all(axis=1)
    if not reached.all():
        rank_zero_warn(
            f'{name} has {(~reached).sum()} polygons with no place in {crs.to_string()}: '
            'they are passed over'
        )
    return table[reached]


def _full_turn(crs: CRS) -> float | None:
    """Return 360 degrees in units of a CRS, None if it is projected."""
    if not crs.is_geographic:
        return None
    return round(math.tau / crs.axis_info[0].unit_conversion_factor, 6)


def _unwrap(table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Unwrap longitudes at 180 degrees: 179.9 and -179.9 become 179.9 and 180.1."""
    turn = _full_turn(table.crs)
    if turn is None:
        return table
    bounds = table.bounds
    wide = (bounds.maxx - bounds.minx > turn / 2).to_numpy()
    shapes = table.geometry.to_numpy(copy=True)
    shapes[wide] = [_unwrap_polygon(shape, turn) for shape in shapes[wide]]
    return table.set_geometry(gpd.GeoSeries(shapes, table.index, crs=table.crs))


def _cut(table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Cut polygons at 180 degrees, where a projected CRS may have its two ends."""
    turn = _full_turn(table.crs)
    if turn is None:
        return table
    bounds = table.bounds
    beyond = (bounds.minx < -turn / 2) | (bounds.maxx > turn / 2)
    if not beyond.any():
        return table
    pieces = [table[~beyond]]
    for shift in (-turn, 0.0, turn):
        world = shapely.box(shift - turn / 2, -turn, shift + turn / 2, turn)
        shapes = table.geometry[beyond].make_valid().intersection(world)
        pieces.append(table[beyond].set_geometry(shapes.translate(-shift)))
    # Later polygons are on top
    table = pd.concat(pieces).sort_index(kind='stable').explode(ignore_index=True)
    return table[(table.geom_type == 'Polygon') & ~table.is_empty]


def _unwrap_polygon(polygon: shapely.Polygon, turn: float) -> shapely.Polygon:
    """Make the longitudes of neighbouring vertices differ by less than half a turn."""
    rings = []
    for ring in (polygon.exterior, *polygon.interiors):
        points = shapely.get_coordinates(ring)
        steps = np.diff(points[:, 0])
        # Keep an edge along a whole parallel
        steps -= np.where(np.abs(steps) < turn, np.round(steps / turn), 0) * turn
        points[1:, 0] = points[0, 0] + np.cumsum(steps)
        if abs(steps.sum()) > turn / 2:  # Around a pole
            return polygon
        rings.append(points)
    for hole in rings[1:]:
        away = hole[:, 0].mean() - rings[0][:, 0].mean()
        hole[:, 0] -= np.round(away / turn) * turn
    return shapely.Polygon(rings[0], rings[1:])

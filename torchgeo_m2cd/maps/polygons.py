# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Outlines of what has changed."""

import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.features import rasterize, shapes
from rasterio.windows import Window
from shapely.geometry import shape
from torchgeo.datasets.utils import Path

from ..checks import checked
from ..utils import GDAL_ENV
from .areas import Areas
from .mosaic import strips
from .rasters import is_binary

#: Formats of vector files, by suffix, and what GDAL has to know to write them. GeoJSON
#: is in degrees of WGS84, and cut at 180 degrees (RFC 7946).
FORMATS: Mapping[str, Mapping[str, Any]] = {
    '.gpkg': {'driver': 'GPKG', 'layer': 'change', 'geometry_type': 'Polygon'},
    '.geojson': {'driver': 'GeoJSON', 'RFC7946': 'YES'},
    '.json': {'driver': 'GeoJSON', 'RFC7946': 'YES'},
    '.shp': {'driver': 'ESRI Shapefile', 'geometry_type': 'Polygon'},
    '.fgb': {'driver': 'FlatGeobuf', 'geometry_type': 'Polygon'},
    '.parquet': {},
}

# A Shapefile is several files, and its names have ten characters
_SIDE_FILES = ('.shx', '.dbf', '.prj', '.cpg')
_SHORT_NAMES = {'mean_probability': 'mean_prob'}


def check_vector_suffix(path: pathlib.Path) -> None:
    """Check that a vector file can be written.

    Args:
        path: The file.

    Raises:
        ValueError: If the suffix is unknown, or the library for it is missing.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(
            f'polygons is {str(path)!r}: expected a file with one of the suffixes '
            f'{", ".join(FORMATS)}'
        )
    if suffix == '.parquet' and importlib.util.find_spec('pyarrow') is None:
        raise ValueError(
            f'polygons is {str(path)!r}, but there is no pyarrow to write it with: '
            'expected another suffix, or `pip install pyarrow`'
        )


def list_side_files(path: pathlib.Path) -> list[pathlib.Path]:
    """List the files that belong to a vector file.

    Args:
        path: The file.

    Returns:
        The others of a Shapefile, none of other formats.
    """
    suffixes = _SIDE_FILES if path.suffix.lower() == '.shp' else ()
    return [path.with_suffix(suffix) for suffix in suffixes]


@checked
def find_polygons(
    classes: Path, areas: Areas, labels: Mapping[int, str]
) -> gpd.GeoDataFrame:
    """Find the outlines of the pixels of each class that share an edge.

    Args:
        classes: Raster file of the classes; 0 has no outlines.
        areas: Areas on its grid.
        labels: Name of each class.

    Returns:
        Polygons on the grid, with ``class``, ``label`` and ``area_m2``.
    """
    with rasterio.Env(**GDAL_ENV), rasterio.open(classes) as src:
        band = rasterio.band(src, 1)
        found = [
            (shape(geometry), int(value))
            for geometry, value in shapes(band, band, transform=src.transform)
            if value != src.nodata
        ]
        crs = src.crs
    geometries = np.array([geometry for geometry, _ in found], np.object_)
    return gpd.GeoDataFrame(
        {
            'class': np.array([value for _, value in found], np.int32),
            'label': np.array([labels[value] for _, value in found], np.object_),
            'area_m2': areas.polygons(geometries),
        },
        geometry=geometries,
        crs=crs,
    )


def erase_polygons(classes: Path, table: gpd.GeoDataFrame) -> None:
    """Set the class of the pixels of polygons to 0.

    Args:
        classes: Raster file of the classes.
        table: Polygons on its grid.
    """
    with rasterio.Env(**GDAL_ENV), rasterio.open(classes, 'r+') as file:
        for window in strips(file.height, file.width):
            zones = _burn(table, file, window)
            if zones is not None:
                values = file.read(1, window=window)
                values[zones > 0] = 0
                file.write(values, 1, window=window)


@checked
def mean_probability(
    probability: Path, classes: Path, table: gpd.GeoDataFrame
) -> npt.NDArray[np.float64]:
    """Average probabilities over the pixels of each polygon.

    Args:
        probability: Raster file of the probability of change, or of each class.
        classes: Raster file of the classes.
        table: Polygons on the grid of both.

    Returns:
        Mean probability of change, or of the class of the polygon, shape (N,).
    """
    total, count = np.zeros((2, len(table) + 1))
    with (
        rasterio.Env(**GDAL_ENV),
        rasterio.open(probability) as src,
        rasterio.open(classes) as labels,
    ):
        for window in strips(src.height, src.width):
            zones = _burn(table, src, window)
            if zones is None:
                continue
            if is_binary(src):
                values = src.read(1, window=window)
            else:
                values = src.read(window=window)
                own = labels.read(window=window).clip(max=src.count - 1)
                values = np.take_along_axis(values, own.astype(np.int64), axis=0)
            zones, values = zones.ravel(), values.ravel()
            inside = zones > 0
            total += np.bincount(zones[inside], values[inside], len(total))
            count += np.bincount(zones[inside], minlength=len(count))
    mean: npt.NDArray[np.float64] = total[1:] / np.maximum(count[1:], 1)
    return mean


@checked
def save_polygons(table: gpd.GeoDataFrame, output: pathlib.Path) -> None:
    """Write polygons to a vector file, in the format of its suffix.

    Args:
        table: The polygons.
        output: File to write.
    """
    suffix = output.suffix.lower()
    if suffix == '.parquet':
        table.to_parquet(output)
        return
    if suffix == '.shp':
        table = table.rename(columns=_SHORT_NAMES)
    table.to_file(output, engine='pyogrio', **FORMATS[suffix])


def _burn(
    table: gpd.GeoDataFrame, src: Any, window: Window
) -> npt.NDArray[np.int32] | None:
    """Number the pixels of a window by their polygons, from 1; None if there are none."""
    bounds = rasterio.windows.bounds(window, src.transform)
    hit = table.iloc[table.sindex.intersection(bounds)]
    if not len(hit):
        return None
    zones: npt.NDArray[np.int32] = rasterize(
        zip(hit.geometry, hit.index + 1, strict=True),
        (window.height, window.width),
        transform=rasterio.windows.transform(window, src.transform),
        dtype='int32',
    )
    return zones

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Areas summed up by district."""

import math
import os
from collections.abc import Sequence
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import rasterio
import shapely
import shapely.affinity
from pyproj import Transformer
from rasterio.features import geometry_mask
from rasterio.transform import Affine, array_bounds
from rasterio.windows import Window

from ..checks import checked
from ..datasets import SceneDataset
from ..datasets.grid import Grid
from ..datasets.paths import is_remote, refuse_pipe
from ..utils import check_choice
from .districts import Districts

#: Columns of the table.
COLUMNS = (
    'name',
    'flooded_km2',
    'water_before_km2',
    'mapped_km2',
    'flooded_share',
    'area_km2',
    'mapped_share',
)

# Equal areas all over the world
_EQUAL_AREA = 'EPSG:6933'


@checked
def check_districts(districts: Districts, scenes: Sequence[SceneDataset]) -> None:
    """Check that there are districts in some scene.

    Args:
        districts: The file.
        scenes: The scenes.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If no scene has any, or the file cannot be read, holds anything but
            polygons, or lacks a CRS, the layer or the attribute.
    """
    if not any(
        len(read_districts(districts, scene.grid, scene.shape)) for scene in scenes
    ):
        raise ValueError(
            f'{districts.label} has no polygon where the scene is: expected districts of '
            'the same place'
        )


def read_districts(
    districts: Districts, grid: Grid, shape: tuple[int, int]
) -> gpd.GeoDataFrame:
    """Read the districts that a scene touches.

    Args:
        districts: The file.
        grid: Grid of the scene.
        shape: Height and width of the scene in pixels.

    Returns:
        Polygons in the CRS of the grid, one row per district, with ``name`` and
        ``area_m2``, of all of the district.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it cannot be read, holds anything but polygons, or lacks a
            CRS, the layer or the attribute; or if it has several layers, and none
            was chosen.
    """
    table = _read(districts)
    scene = shapely.box(*array_bounds(*shape, grid.transform))
    # What is far away may have no place in the CRS of the scene
    reach = _reach(scene, grid, table.crs)
    near = table[table.intersects(reach)]
    whole = table[table['name'].isin(near['name'])]
    whole = whole.set_geometry(whole.make_valid()).dissolve('name')
    table = near.set_geometry(near.make_valid().intersection(reach))
    table = table.to_crs(grid.crs)
    if grid.crs.is_geographic:
        # A place has several longitudes
        table = pd.concat(
            [table.set_geometry(table.translate(turn)) for turn in (-360, 0, 360)]
        )
    table = table.clip(scene).explode()
    table = table[table.geom_type == 'Polygon']  # No edges that only touch
    dissolved: gpd.GeoDataFrame = table.dissolve('name')
    dissolved['area_m2'] = whole.to_crs(_EQUAL_AREA).area
    return dissolved.reset_index()


class DistrictAreas:
    """Sum up the areas of classes in districts, a window at a time."""

    @checked
    def __init__(self, table: gpd.GeoDataFrame, transform: Affine) -> None:
        """Initialize a new DistrictAreas instance.

        Args:
            table: Districts on the grid of the scene, see ``read_districts``.
            transform: Transform of the scene.
        """
        self.table = table
        self.transform = transform
        #: Area of each class in each district in m², shape (districts, 256).
        self.total = np.zeros((len(table), 256))

    def add(
        self,
        window: Window,
        classes: npt.NDArray[np.uint8],
        areas: npt.NDArray[np.float64],
    ) -> None:
        """Add the pixels of a window.

        Args:
            window: The window of the scene.
            classes: Classes, shape (H, W).
            areas: Areas of the pixels in m², shape (H, W).
        """
        bounds = rasterio.windows.bounds(window, self.transform)
        # Each by itself: districts may overlap
        for number in self.table.sindex.intersection(bounds):
            geometry = self.table.geometry.iloc[number]
            here = geometry.intersection(shapely.box(*bounds))
            if here.area == 0:
                continue
            part = rasterio.windows.from_bounds(*here.bounds, self.transform)
            top, left = (
                max(math.floor(start), 0)
                for start in (part.row_off - window.row_off, part.col_off)
            )
            bottom = math.ceil(part.row_off + part.height - window.row_off)
            right = math.ceil(part.col_off + part.width)
            inside = classes[top:bottom, left:right]
            mask = geometry_mask(
                [geometry],
                inside.shape,
                self.transform @ Affine.translation(left, int(window.row_off) + top),
                invert=True,
            )
            self.total[number] += np.bincount(
                inside[mask], areas[top:bottom, left:right][mask], 256
            )

    def to_records(self, water: int | None) -> list[dict[str, Any]]:
        """Make the rows of a table.

        Args:
            water: Class of what was water before, if there is one.

        Returns:
            Name, km² that are flooded, were water before, and are mapped, and share of
            the mapped area that is flooded; km² of all of the district, and share of
            them that is mapped. None is what is not known.
        """
        records = []
        districts = zip(
            self.table['name'], self.table['area_m2'], self.total, strict=True
        )
        for name, area, total in districts:
            mapped = total[:255].sum()
            before = total[water] if water is not None else None
            flooded = total[1:255].sum() - (before or 0.0)
            records.append(
                {
                    'name': name,
                    'flooded_km2': to_km2(flooded),
                    'water_before_km2': None if before is None else to_km2(before),
                    'mapped_km2': to_km2(mapped),
                    'flooded_share': round(flooded / mapped, 6) if mapped else None,
                    'area_km2': to_km2(area),
                    # Areas of two projections
                    'mapped_share': min(round(float(mapped / area), 4), 1.0),
                }
            )
        return records


def to_km2(area: float) -> float:
    """Convert m² to km², rounded to whole m².

    Args:
        area: Area in m².

    Returns:
        Area in km².
    """
    return round(float(area) / 1e6, 6)


def _reach(scene: shapely.Polygon, grid: Grid, crs: Any) -> shapely.Geometry:
    """Return the surroundings of a scene in another CRS, at all longitudes of degrees."""
    transformer = Transformer.from_crs(grid.crs, crs, always_xy=True)
    west, south, east, north = transformer.transform_bounds(*scene.bounds)
    if not crs.is_geographic:
        return _widen(shapely.box(west, south, east, north))
    east += 360 if west > east else 0
    box = _widen(shapely.box(west, south, east, north))
    return shapely.union_all(
        [shapely.affinity.translate(box, turn) for turn in (-360, 0, 360)]
    )


def _widen(box: shapely.Polygon) -> shapely.Geometry:
    """Add a margin around a box, as bounds in another CRS are not exact."""
    west, south, east, north = box.bounds
    return box.buffer(0.05 * max(east - west, north - south), join_style='mitre')


def _read(districts: Districts) -> gpd.GeoDataFrame:
    """Read and check all districts."""
    path, what = districts.local_path, districts.label
    if not (os.path.exists(path) or is_remote(path)):
        raise FileNotFoundError(f'{what} does not exist')
    refuse_pipe(path, what)
    try:
        found = gpd.list_layers(path)
        layers = list(found['name'][found['geometry_type'].notna()])
        layer = districts.layer or (layers[0] if len(layers) == 1 else '')
        table = gpd.read_file(path, layer=layer) if layer in layers else None
    except RuntimeError as error:
        raise ValueError(f'{what} cannot be read: {error}') from error
    if table is None:
        raise ValueError(
            f'{what} has the layers {layers}, and districts.layer is {districts.layer}: '
            'expected one of them'
        )
    attributes = table.columns.drop('geometry')
    check_choice(f'attribute of {what}', districts.attribute, attributes)
    kinds = sorted(set(table.geom_type.dropna()))
    if table.crs is None or not set(kinds) <= {'Polygon', 'MultiPolygon'}:
        raise ValueError(
            f'{what} has the CRS {table.crs} and geometries of the types {kinds}: '
            'expected polygons with a CRS'
        )
    names = table[districts.attribute]
    if names.isna().any():
        raise ValueError(
            f'{what} has {names.isna().sum()} polygons without {districts.attribute!r}: '
            'expected a name for each'
        )
    polygons: gpd.GeoDataFrame = table[['geometry']].assign(name=names.astype(str))
    return polygons

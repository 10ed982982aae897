# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import numpy as np
import pytest
import shapely
from pyproj import CRS, Geod, Transformer
from pyproj.crs import CRS as AnyCRS
from rasterio.transform import Affine, from_origin
from rasterio.windows import Window

from torchgeo_m2cd.datasets.grid import Grid
from torchgeo_m2cd.maps import Areas

SHAPE = (300, 400)
WINDOW = Window(10, 20, 330, 250)


@pytest.mark.parametrize(
    ('crs', 'west', 'north', 'step'),
    [
        ('EPSG:32633', 500_000, 5_300_000, 10),
        ('EPSG:32760', 818_400, 8_140_000, 10),  # Across 180 degrees
        ('EPSG:4326', 179.98, -16, 1e-4),
        ('EPSG:4326', -180.02, -16, 1e-4),
        ('EPSG:4326', 359.98, -16, 1e-4),
        ('EPSG:4326', 10, 60, 0.01),
        ('EPSG:4326', 10, 89.999, 1e-4),
        ('EPSG:3413', -2000, 1500, 10),  # The pole is inside
        ('EPSG:3857', 1_200_000, 9_000_000, 30),  # Lengths are twice as long
        ('EPSG:2263', 900_000, 200_000, 30),  # Feet
    ],
)
def test_equals_geodesic(crs: str, west: float, north: float, step: float) -> None:
    """Pixels and a polygon have the area that geodesics along their edges enclose."""
    grid = Grid(CRS(crs), from_origin(west, north, step, step))
    areas = Areas(grid, SHAPE)
    left, top = grid.transform @ (WINDOW.col_off, WINDOW.row_off)
    polygon = shapely.box(left, top - 250 * step, left + 330 * step, top)
    # A vertex at each pixel: parallels are no geodesics
    edge = shapely.segmentize(polygon, step).exterior.coords
    lonlat = Transformer.from_crs(crs, 4326, always_xy=True).transform(*edge.xy)
    ellipsoid = grid.crs.get_geod()
    assert isinstance(ellipsoid, Geod)
    expected = abs(ellipsoid.polygon_area_perimeter(*lonlat)[0])
    (found,) = areas.polygons(np.array([polygon], np.object_))
    assert found == pytest.approx(expected, rel=1e-6)
    pixels = areas.pixels(WINDOW)
    assert pixels.shape == (250, 330)
    assert pixels.sum() == pytest.approx(expected, rel=1e-6)


def test_pixels_one_by_one() -> None:
    """Areas between those that are computed are interpolated."""
    grid = Grid(CRS('EPSG:3413'), from_origin(-400_000, -700_000, 1000, 2000))
    areas = Areas(grid, (5, 200))
    found = areas.pixels(Window(0, 0, 200, 5))
    boxes = [
        shapely.box(*grid.transform @ (column, row + 1), *grid.transform @ (column + 1, row))
        for row in range(5)
        for column in range(200)
    ]  # fmt: skip
    expected = areas.polygons(np.array(boxes, np.object_)).reshape(5, 200)
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    assert found.min() < 0.999 * found.max()
    np.testing.assert_allclose(areas.pixels(Window(9, 2, 1, 1)), expected[2:3, 9:10])


def test_beyond_the_pole() -> None:
    """Half a pixel of a grid whose centres begin at the pole."""
    grid = Grid(CRS('EPSG:4326'), from_origin(0, 90.5, 1, 1))
    pixels = Areas(grid, (2, 3)).pixels(Window(0, 0, 3, 2))
    cap = (0, 0, 0.5, 1), (90, 89.5, 89.5, 89.5)
    expected = abs(Geod(ellps='WGS84').polygon_area_perimeter(*cap)[0])
    np.testing.assert_allclose(pixels[0], expected, rtol=1e-4)


def test_local_crs() -> None:
    crs = AnyCRS('LOCAL_CS["here",UNIT["metre",1]]')
    areas = Areas(Grid(crs, Affine(2, 0, 0, 0, -3, 0)), (4, 4))
    assert (areas.pixels(Window(0, 0, 4, 4)) == 6).all()
    assert areas.polygons(np.array([shapely.box(0, 0, 5, 7)], np.object_)) == [35]

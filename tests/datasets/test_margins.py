# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely

from tests.data.geotiff import GRID, NORTH, WEST, write
from torchgeo_m2cd.datasets.margins import find_margin, grow


class TestFindMargin:
    def margin(self, path: Path, count: int = 1) -> shapely.Geometry | None:
        with rasterio.open(path) as src:
            return find_margin(src, list(range(1, count + 1)))

    @pytest.mark.parametrize('size', [(200, 100), (100, 1500)])
    def test_corner(self, size: tuple[int, int], tmp_path: Path) -> None:
        """A triangle is found, whatever the resolution it is looked at with."""
        height, width = size
        rows, columns = np.mgrid[:height, :width]
        image = np.ones(size, np.float32)
        image[rows / height + columns / width < 0.5] = 0
        image[height // 2 :, width // 2 :][:20, :20] = 0  # A lake
        margin = self.margin(write(tmp_path / 'a.tif', image))
        assert margin is not None
        expected = shapely.Polygon(
            [GRID @ xy for xy in ((0, 0), (width / 2, 0), (0, height / 2))]
        )
        assert margin.intersection(expected).area > 0.999 * expected.area
        assert margin.area < 1.4 * expected.area
        assert not margin.intersects(
            shapely.Point(GRID @ (width // 2 + 10, height // 2 + 10))
        )

    @pytest.mark.parametrize('edge', ['top', 'bottom', 'left', 'right'])
    def test_thin(self, edge: str, tmp_path: Path) -> None:
        image = np.ones((40, 60), np.float32)
        box = {
            'top': (0, 0, 60, 2), 'bottom': (0, 38, 60, 40),
            'left': (0, 0, 2, 40), 'right': (58, 0, 60, 40),
        }[edge]  # fmt: skip
        image[box[1] : box[3], box[0] : box[2]] = 0
        margin = self.margin(write(tmp_path / 'a.tif', image))
        assert margin is not None
        west, north = GRID @ box[:2]
        east, south = GRID @ box[2:]
        found = margin.intersection(shapely.box(WEST, NORTH - 400, WEST + 600, NORTH))
        # Two pixels more than there are zeros
        line = shapely.box(west, south, east, north)
        assert found.equals(
            line.buffer(20, join_style='mitre').intersection(
                shapely.box(WEST, NORTH - 400, WEST + 600, NORTH)
            )
        )

    def test_none(self, tmp_path: Path) -> None:
        """Neither single zeros, nor zeros of one band, nor a lake are a margin."""
        image = np.ones((2, 100, 100), np.float32)
        image[:, 30:60, 30:60] = 0
        image[0, :20] = 0
        image[:, ::2, ::2] = 0
        assert self.margin(write(tmp_path / 'a.tif', image), 2) is None
        assert self.margin(tmp_path / 'a.tif', 1) is not None


def test_grow() -> None:
    mask = np.zeros((5, 6), bool)
    mask[1, 4] = True
    expected = np.zeros((5, 6), bool)
    expected[:3, 3:] = True
    np.testing.assert_array_equal(grow(mask, 1), expected)
    np.testing.assert_array_equal(grow(mask, 0), mask)

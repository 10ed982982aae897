# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.features import geometry_mask

from tests.data.geotiff import GRID, NORTH, WEST, write
from torchgeo_m2cd.datasets.empty import find_empty


class TestFindEmpty:
    def find(
        self, path: Path, count: int = 1, anywhere: bool = False
    ) -> shapely.Geometry | None:
        with rasterio.open(path) as src:
            return find_empty(src, list(range(1, count + 1)), anywhere)

    @pytest.mark.parametrize('size', [(200, 100), (100, 1500)])
    def test_corner(self, size: tuple[int, int], tmp_path: Path) -> None:
        """A triangle is found at any resolution."""
        height, width = size
        rows, columns = np.mgrid[:height, :width]
        image = np.ones(size, np.float32)
        image[rows / height + columns / width < 0.5] = 0
        image[height // 2 :, width // 2 :][:20, :20] = 0  # A lake
        empty = self.find(write(tmp_path / 'a.tif', image))
        assert empty is not None
        expected = shapely.Polygon(
            [GRID @ xy for xy in ((0, 0), (width / 2, 0), (0, height / 2))]
        )
        assert empty.intersection(expected).area > 0.999 * expected.area
        assert empty.area < 2 * expected.area
        assert not empty.intersects(
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
        empty = self.find(write(tmp_path / 'a.tif', image))
        assert empty is not None
        west, north = GRID @ box[:2]
        east, south = GRID @ box[2:]
        found = empty.intersection(shapely.box(WEST, NORTH - 400, WEST + 600, NORTH))
        # Four pixels more than there are zeros
        line = shapely.box(west, south, east, north)
        assert found.equals(
            line.buffer(40, join_style='mitre').intersection(
                shapely.box(WEST, NORTH - 400, WEST + 600, NORTH)
            )
        )

    def test_none(self, tmp_path: Path) -> None:
        """Single zeros, zeros of one band, and a lake are not empty areas."""
        image = np.ones((2, 100, 100), np.float32)
        image[:, 30:60, 30:60] = 0
        image[0, :20] = 0
        image[:, ::2, ::2] = 0
        assert self.find(write(tmp_path / 'a.tif', image), 2) is None
        assert self.find(tmp_path / 'a.tif', 1) is not None
        # A lake is, where nothing is 0 by nature
        lake = self.find(tmp_path / 'a.tif', 2, anywhere=True)
        assert lake is not None
        assert lake.contains(shapely.box(*(GRID @ (30, 60)), *(GRID @ (60, 30))))

    @pytest.mark.parametrize('nodata', [-9999.0, np.nan])
    def test_fringe(self, nodata: float, tmp_path: Path) -> None:
        """Zeros beside declared no data are empty; a lake at an edge is not."""
        rows, columns = np.mgrid[:100, :100]
        image = np.ones((100, 100), np.float32)
        image[rows + columns < 60] = 0
        image[rows + columns < 50] = nodata
        image[80:, 40:60] = 0
        empty = self.find(write(tmp_path / 'a.tif', image, nodata=nodata))
        assert empty is not None
        fringe = (image == 0) & (rows < 70)
        inside = geometry_mask([empty], image.shape, GRID, invert=True)
        assert inside[fringe].all()
        assert not inside[75:].any()

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import sys
from pathlib import Path

import numpy as np
import pytest
from rasterio.transform import from_origin

from tests.data.geotiff import write
from torchgeo_m2cd.datasets import SceneDataset
from torchgeo_m2cd.datasets.grid_file import OPEN_FILES


@pytest.mark.parametrize('crs', [None, 'EPSG:32632'])
def test_open_files(crs: str | None, tmp_path: Path) -> None:
    """Few files of a mosaic are open at a time, also warped ones, and none in the end."""
    for name in ('optical', 'sar'):
        (tmp_path / name).mkdir()
        for i in range(OPEN_FILES.limit):
            grid = from_origin(500_000 + 80 * i, 5_300_000, 10, 10)
            values = np.full((1, 8, 8), i + 1, np.float32)
            write(tmp_path / name / f'tile_{i:03}.tif', values, grid)
    OPEN_FILES.close()

    def count() -> int:
        return sum(
            str(tmp_path) in str(link.readlink())
            for link in Path('/proc/self/fd').iterdir()
            if link.is_symlink()
        )

    scene = SceneDataset(tmp_path / 'optical', tmp_path / 'sar', crs=crs)
    for _ in range(2):
        sample = scene[scene.bounds]
        if crs is None:
            tiles = sample['image'][0, 0, 0, ::8]
            assert tiles.tolist() == list(range(1, OPEN_FILES.limit + 1))
        if sys.platform == 'linux':
            assert count() == OPEN_FILES.limit
        OPEN_FILES.close()
        if sys.platform == 'linux':
            assert count() == 0

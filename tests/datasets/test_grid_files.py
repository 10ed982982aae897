# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import torch
from torchgeo.samplers import GriddedPatchSampler

from tests.data.geotiff import GRID, write
from torchgeo_m2cd.datasets import Source
from torchgeo_m2cd.datasets.grid_files import GridRaster


class TestGridRaster:
    def test_samplers_of_torchgeo(self, tmp_path: Path) -> None:
        """It is a dataset of TorchGeo, also without a second image."""
        values = np.arange(2 * 64 * 96, dtype=np.float32).reshape(2, 64, 96)
        dataset = GridRaster('optical', Source(write(tmp_path / 'a.tif', values)))
        assert dataset.grid.transform == GRID
        patches = [
            dataset[index]['image'] for index in GriddedPatchSampler(dataset, size=32)
        ]
        assert len(patches) == 6
        expected = [
            torch.from_numpy(values[:, row : row + 32, column : column + 32])
            for row in (0, 32)
            for column in (0, 32, 64)
        ]
        # Whatever the order of the sampler is
        found = {patch[0, 0, 0].item(): patch for patch in patches}
        for patch in expected:
            assert torch.equal(found[patch[0, 0, 0].item()], patch)

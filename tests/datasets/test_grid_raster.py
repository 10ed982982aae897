# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from torchgeo.datasets import Sentinel2
from torchgeo.samplers import GriddedPatchSampler

from tests.data.geotiff import GRID, write
from torchgeo_m2cd.datasets import Source
from torchgeo_m2cd.datasets.grid_raster import GridRaster, grow


class TestGridRaster:
    def test_samplers_of_torchgeo(self, tmp_path: Path) -> None:
        """Samplers of TorchGeo accept the dataset, also without a second image."""
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

    @pytest.mark.parametrize('separate', [False, True])
    def test_select(self, separate: bool, tmp_path: Path) -> None:
        """Bands are chosen by their names, in one file or in one per band."""
        values = np.arange(3 * 64, dtype=np.float32).reshape(3, 8, 8)
        values[:, 0, 0] = np.nan
        if separate:
            for value, name in zip(values, ('B02', 'B03', 'B04'), strict=True):
                file = f'T26EMU_20190414T110839_{name}_10m.tif'
                write(tmp_path / file, value)
            bands = ['B02', 'B03', 'B04']
            dataset = GridRaster('optical', Source(tmp_path, bands, Sentinel2))
        else:
            path = write(tmp_path / 'a.tif', values)
            with rasterio.open(path, 'r+') as dst:
                dst.descriptions = ('blue', 'B3', None)
            dataset = GridRaster('optical', Source(path))
        names = ['B02', 'B03', 'B04'] if separate else ['B02', 'B03', '']
        assert dataset.band_names == names
        dataset.select(['B03', 'B02'])
        assert dataset.band_names == dataset.describe()['bands'] == ['B03', 'B02']
        assert dataset.band_count == 2
        x, y, _ = dataset.bounds
        image = dataset.read(x, y)
        expected = torch.from_numpy(values[[1, 0]])
        torch.testing.assert_close(image, expected, equal_nan=True)
        ((name, scanned, _),) = dataset.scan()
        assert name.startswith('optical file')
        assert np.array_equal(scanned, values[[1, 0]].reshape(2, -1)[:, 1:])


def test_grow() -> None:
    mask = np.zeros((5, 6), bool)
    mask[1, 4] = True
    expected = np.zeros((5, 6), bool)
    expected[:3, 3:] = True
    np.testing.assert_array_equal(grow(mask, 1), expected)
    np.testing.assert_array_equal(grow(mask, 0), mask)

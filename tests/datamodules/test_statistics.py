# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pytest
import torch
from torchgeo.datasets import NonGeoDataset
from torchgeo.datasets.utils import Sample

from tests.data.geotiff import write
from torchgeo_m2cd.datamodules.statistics import measure_chips, measure_statistics
from torchgeo_m2cd.datasets import SceneDataset
from torchgeo_m2cd.transforms import Standardize


class TestMeasureStatistics:
    def make(
        self, folder: Path, optical: float = 2000, spread: float = 3
    ) -> SceneDataset:
        """A scene whose first third has no data in any optical band."""
        rng = np.random.default_rng(0)
        image = rng.normal(optical, 300, (2, 150, 150))
        image[1] += 1000
        image[:, :50] = 0
        image[0, 50:60] = 0
        sar = rng.normal(-12, 3, (1, 150, 150))
        sar[:, :50] = -25
        mask = np.zeros((150, 150), np.uint8)
        mask[60:90] = 1
        return SceneDataset(
            write(folder / 'o.tif', image.astype(np.float32)),
            write(
                folder / 's.tif', (sar if spread else 0 * sar - 9).astype(np.float32)
            ),
            write(folder / 'm.tif', mask),
        )

    def test_zeros(self, tmp_path: Path) -> None:
        """Zeros in all optical bands are no data, as for a model."""
        inputs = measure_statistics(self.make(tmp_path), (32, 32))
        optical, sar = inputs.optical, inputs.sar
        assert isinstance(optical, Standardize)
        assert isinstance(sar, Standardize)
        assert optical.mean[0] == pytest.approx(1800, rel=0.1)
        assert optical.mean[1] == pytest.approx(3000, rel=0.02)
        assert optical.std[1] == pytest.approx(300, rel=0.1)
        assert sar.mean == pytest.approx([-12], abs=0.6)
        assert sar.std == pytest.approx([3], rel=0.1)

    def test_constant(self, tmp_path: Path) -> None:
        match = r"band 1 of SAR file .*s\.tif' is -9 wherever .* see sar\.bands"
        with pytest.raises(ValueError, match=match):
            measure_statistics(self.make(tmp_path, spread=0), (32, 32))


class Fake(NonGeoDataset):
    """Chips of two optical bands and SAR, of which some pixels have no data."""

    def __init__(
        self, length: int = 9, spread: float = 3.0, valid: bool = True
    ) -> None:
        self.length = length
        self.spread = spread
        self.valid = valid

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        generator = torch.Generator().manual_seed(index)
        image = torch.randn(2, 2, 40, 50, generator=generator)
        image[0] = image[0] * torch.tensor([10, 20])[:, None, None] + index + 100
        image[1] = image[1, 0] * self.spread - 7
        # Neither counts: no data in the optical image, or by the dataset
        image[0, :, :10] = 0
        image[1, :, :20] = 1e6
        valid = torch.ones(1, 40, 50, dtype=torch.bool)
        valid[:, 10:20] = False
        return {'image': image, 'valid': valid & self.valid}


class Named(Fake):
    band_names = (['B03', 'B04'], ['VV'])


class TestMeasureChips:
    @pytest.mark.parametrize('num_workers', [0, 1])
    def test_chips(self, num_workers: int) -> None:
        inputs = measure_chips(Named(), num_workers)
        optical, sar = inputs.optical, inputs.sar
        assert isinstance(optical, Standardize)
        assert isinstance(sar, Standardize)
        assert optical.mean == pytest.approx([104, 104], abs=1)
        assert optical.std == pytest.approx([10.3, 20.2], rel=0.03)
        assert sar.mean == pytest.approx([-7], abs=0.2)
        assert sar.std == pytest.approx([3], rel=0.03)

    def test_spread_over_the_dataset(self) -> None:
        """A part of many chips is read, spread over the dataset."""
        optical = measure_chips(Named(4000)).optical
        assert isinstance(optical, Standardize)
        assert optical.mean == pytest.approx([2099, 2099], abs=2)

    def test_no_names(self) -> None:
        """Datasets of TorchGeo have equal bands in both images and do not name them."""
        assert measure_chips(Fake(2)).band_counts == (2, 2)

    def test_errors(self) -> None:
        match = (
            r'band 1 of SAR images is -7 wherever it was looked at: .* see sar\.bands'
        )
        with pytest.raises(ValueError, match=match):
            measure_chips(Named(spread=0))
        match = 'training split has no pixels with data in both'
        with pytest.raises(ValueError, match=match):
            measure_chips(Named(valid=False))

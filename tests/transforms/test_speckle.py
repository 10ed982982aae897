# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import torch.nn.functional as F
from torch import Tensor

from torchgeo_m2cd.transforms import estimate_decibels, measure_speckle

REAL = Path(__file__).parents[2].parent / 'shared' / 'data'


def speckle(size: int = 256, looks: float = 4.4) -> Tensor:
    """Make a homogeneous area in dB with speckle."""
    gamma = torch.distributions.Gamma(looks, looks)
    return 10 * gamma.sample(torch.Size((size, size))).log10()


def smooth(image: Tensor, size: int) -> Tensor:
    """Average squares of pixels around each, as speckle filters do."""
    return F.avg_pool2d(image[None], size, 1, size // 2)[0]


def read_chip() -> Tensor:
    """Read VV and VH of a real chip in dB."""
    (path,) = (REAL / 'sen1floods11').glob('*S1Hand.tif')
    with rasterio.open(path) as src:
        return torch.from_numpy(np.nan_to_num(src.read(), nan=-30.0))


needs_real = pytest.mark.skipif(
    not REAL.is_dir(), reason='needs the real chip in ../shared/data/sen1floods11'
)


class TestEstimateDecibels:
    @pytest.mark.parametrize('unit', [0.05, 0.2, 1.0])
    def test_stretch(self, unit: float) -> None:
        """The estimate holds with fields, water, and a saturated corner, too."""
        sar = speckle()
        assert estimate_decibels(sar / unit + 150) == pytest.approx(unit, rel=0.07)
        sar[:, 100:] -= 11
        sar[50:90, :60] += 4
        picture = (sar / unit + 150).contiguous()
        picture[200:, 200:] = picture.max()
        assert estimate_decibels(picture) == pytest.approx(unit, rel=0.1)

    def test_valid(self) -> None:
        """Pixels without data do not change the estimate."""
        sar = speckle()
        valid = torch.zeros(256, 256, dtype=torch.bool)
        valid[:, :128] = True
        expected = estimate_decibels(sar[:, :128])
        sar[:, 128:] = 1e4
        assert estimate_decibels(sar, valid) == pytest.approx(expected, rel=1e-6)

    @pytest.mark.parametrize('shape', [(31, 64), (1, 64, 64)])
    def test_shape(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match=r'expected \(H, W\) of at least 32 x 32'):
            estimate_decibels(torch.zeros(shape))

    @pytest.mark.parametrize('valid', [True, False])
    def test_no_speckle(self, valid: bool) -> None:
        known = torch.full((64, 64), valid)
        with pytest.raises(ValueError, match='sar has no speckle'):
            estimate_decibels(torch.full((64, 64), 7.0), known)

    @needs_real
    def test_real_chip(self) -> None:
        """A Sentinel-1 chip in dB has 1 dB per unit."""
        for band in read_chip():
            assert estimate_decibels(band) == pytest.approx(1, rel=0.1)


class TestMeasureSpeckle:
    @pytest.mark.parametrize(('size', 'expected'), [(1, 0), (3, 2 / 3), (5, 4 / 5)])
    def test_correlation(self, size: int, expected: float) -> None:
        """A mean of n x n pixels shares (n - 1) / n of them with its neighbour."""
        image = smooth(speckle(512), size)[8:-8, 8:-8]
        found = measure_speckle(image)
        # The mean of a window is subtracted, which costs a little
        assert found.correlation == pytest.approx(expected, abs=0.11)
        assert found.growth == pytest.approx(1, abs=0.1)

    def test_growth(self) -> None:
        """In amplitude, speckle is as much larger as the land is brighter."""
        sar = speckle()
        sar[:, 128:] -= 6
        assert measure_speckle(sar).growth == pytest.approx(1, abs=0.1)
        assert measure_speckle(10 ** (sar / 20)).growth == pytest.approx(2, rel=0.15)

    @needs_real
    def test_real_chip(self) -> None:
        """Filters, and linear units, are told from the speckle of Sentinel-1."""
        for band in read_chip():
            found = measure_speckle(band)
            assert 0.6 < found.correlation < 0.75
            assert found.growth < 1.1
            assert measure_speckle(smooth(band, 3)).correlation > 0.8
            assert measure_speckle(10 ** (band / 20)).growth > 1.5

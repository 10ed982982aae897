# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from torch import Tensor

from torchgeo_m2cd.transforms import estimate_decibels

REAL = Path(__file__).parents[2].parent / 'shared' / 'data'


def speckle(size: int = 256, looks: float = 4.4) -> Tensor:
    """Even area in dB, of so many looks."""
    gamma = torch.distributions.Gamma(looks, looks)
    return 10 * gamma.sample(torch.Size((size, size))).log10()


class TestEstimateDecibels:
    @pytest.mark.parametrize('unit', [0.05, 0.2, 1.0])
    def test_stretch(self, unit: float) -> None:
        """An even area, and one with fields, water and a saturated corner."""
        sar = speckle()
        assert estimate_decibels(sar / unit + 150) == pytest.approx(unit, rel=0.07)
        sar[:, 100:] -= 11
        sar[50:90, :60] += 4
        picture = (sar / unit + 150).contiguous()
        picture[200:, 200:] = picture.max()
        assert estimate_decibels(picture) == pytest.approx(unit, rel=0.1)

    def test_valid(self) -> None:
        """What lies beyond the data has no say, whatever it is."""
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

    @pytest.mark.skipif(
        not REAL.is_dir(), reason='needs the real chip in ../shared/data/sen1floods11'
    )
    def test_real_chip(self) -> None:
        """Of Sentinel-1 in dB: one unit is 1 dB."""
        (path,) = (REAL / 'sen1floods11').glob('*S1Hand.tif')
        with rasterio.open(path) as src:
            bands = torch.from_numpy(np.nan_to_num(src.read()))
        for band in bands:
            assert estimate_decibels(band) == pytest.approx(1, rel=0.1)

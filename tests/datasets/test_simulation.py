# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import math

import numpy as np
import pytest

from torchgeo_m2cd.datasets.landscape import FOREST, GRASS, WATER, Landscape
from torchgeo_m2cd.datasets.simulation import (
    optical_image,
    sar_backscatter,
    to_decibels,
)


def make_flat(cover: int, depth: float = 0.0, size: int = 64) -> Landscape:
    """Make flat land of one cover, which may be flooded."""
    flat = np.full((size, size), 0.5, np.float32)
    return Landscape(np.full((size, size), cover, np.uint8), flat, flat, flat,
                     np.full((size, size), depth, np.float32))  # fmt: skip


def sar(land: Landscape) -> list[float]:
    """Return the mean backscatter in dB of VV and VH."""
    power = sar_backscatter(np.random.default_rng(0), land, 2)
    return [10 * math.log10(band.mean()) for band in power]


def test_flood() -> None:
    """Flooded grass looks like water, and flooded forest becomes brighter."""
    assert sar(make_flat(GRASS, depth=1)) == pytest.approx(sar(make_flat(WATER)))
    dry, flooded = sar(make_flat(FOREST)), sar(make_flat(FOREST, depth=1))
    assert flooded[0] - dry[0] == pytest.approx(3.5, abs=0.2)
    assert 0.5 < flooded[1] - dry[1] < 1


def test_optical_is_before_the_flood() -> None:
    dry, flooded = (
        optical_image(np.random.default_rng(0), make_flat(GRASS, depth))
        for depth in (0.0, 1.0)
    )
    np.testing.assert_array_equal(dry, flooded)


def test_to_decibels() -> None:
    power = np.array([0.01, 1, 100, 0, np.nan], np.float32)
    np.testing.assert_allclose(to_decibels(power), [-20, 0, 20, -60, np.nan], atol=1e-5)

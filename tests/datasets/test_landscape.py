# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import numpy as np

from torchgeo_m2cd.datasets.landscape import (
    WATER,
    fractal,
    make_landscape,
    order_statistic,
)


def test_permanent_water() -> None:
    """Rivers and lakes are not flooded."""
    water = 0
    for seed in range(20):
        land = make_landscape(np.random.default_rng(seed), 128)
        assert not ((land.cover == WATER) & (land.depth > 0)).any()
        water += (land.cover == WATER).sum()
    assert water > 0


def test_fractal() -> None:
    rng = np.random.default_rng(0)
    for size, cell in ((32, 128), (100, 16), (256, 64)):
        field = fractal(rng, size, cell, gain=0.5)
        assert field.shape == (size, size)
        assert field.dtype == np.float32
        assert np.abs(field).max() < 2
    # Smooth where there are no fine octaves
    smooth = fractal(rng, 256, 64, gain=0.5, finest=16)
    assert np.abs(np.diff(smooth, axis=0)).max() < 0.2


def test_order_statistic() -> None:
    field = np.arange(101, dtype=np.float32)[::-1]
    assert order_statistic(field, 0) == 0
    assert order_statistic(field, 0.25) == 25
    assert order_statistic(field, 1) == 100

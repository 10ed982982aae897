# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import numpy as np
import pytest

from torchgeo_m2cd.maps import blend_weights


class TestBlendWeights:
    @pytest.mark.parametrize(
        ('starts', 'size', 'stride', 'length'),
        [
            ([0, 48, 96, 100], 64, 48, 164),  # The last two overlap by more
            ([0, 60, 61], 64, 60, 125),
            ([0, 64, 128], 64, 64, 192),  # No overlap
            ([0, 1, 2, 3], 4, 1, 7),
            ([0], 64, 48, 64),
            ([0], 64, 48, 10),  # Smaller than a patch
        ],
    )
    def test_sum(self, starts: list[int], size: int, stride: int, length: int) -> None:
        weights = blend_weights(starts, size, stride, length)
        assert weights.shape == (len(starts), size)
        assert weights.min() >= 0
        total = np.zeros(starts[-1] + size)
        for weight, start in zip(weights, starts, strict=True):
            total[start : start + size] += weight
        np.testing.assert_allclose(total[:length], 1, rtol=1e-6)
        assert (total[length:] == 0).all()

    def test_smooth(self) -> None:
        """By the formula, in an overlap of 32 pixels: 8, 16 and 8 of them."""
        first, second = blend_weights([0, 32], 64, 32, 96)
        assert (first[:40] == 1).all()
        assert (first[-8:] == 0).all()
        ramp = np.sin((np.arange(16) + 0.5) / 16 * np.pi / 2) ** 2
        np.testing.assert_allclose(second[8:24], ramp, rtol=1e-6)
        np.testing.assert_allclose(first[40:56], 1 - ramp, atol=1e-7)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.transforms.helpers import everything, show
from torchgeo_m2cd.transforms import Relative


def flood(share: float, count: int = 20_000) -> tuple[Tensor, Tensor]:
    """Make land at about -8 dB and water at about -18 dB, (1, count), and the water mask."""
    water = torch.arange(count) < share * count
    sar = torch.where(water, -18.0, -8.0) + torch.randn(count)
    return sar[None], water


class TestRelative:
    @pytest.mark.parametrize('share', [0.1, 0.26, 0.42, 0.58, 0.74, 0.9])
    def test_two_classes(self, share: float) -> None:
        """Otsu separates water and land at any share and offset."""
        land = torch.rand(3, 4096) > share
        offset = 5 * torch.randn(3, 1)
        sar = torch.where(land, 2.0, -3.0) + 0.3 * torch.randn(land.shape)
        step = Relative([1, 1, 1])
        shown = show(step, sar + offset)
        assert torch.equal(shown > 0, land)
        # The threshold is one value per band
        shift = sar + offset - shown
        torch.testing.assert_close(shift, shift[:, :1].expand_as(shift))
        # The offset cancels
        torch.testing.assert_close(shown, show(step, sar), atol=0.05, rtol=0)

    def test_otsu(self) -> None:
        """The threshold minimises the variance within both classes."""
        pixels = flood(0.3)[0]
        values = pixels[0].numpy().astype(np.float64)

        def within(threshold: float) -> float:
            parts = values[values <= threshold], values[values > threshold]
            return sum(part.size * part.var() for part in parts) / values.size

        best = min(map(within, np.linspace(values.min(), values.max(), 400)[1:-1]))
        threshold = Relative([1]).measure(pixels, everything(pixels)).item()
        assert within(threshold) == pytest.approx(best, rel=0.002)
        # The median is far from the optimum
        assert within(float(np.median(values))) > 2 * best

    def test_quantiles(self) -> None:
        """Quantiles use land only, and Otsu's threshold all pixels."""
        pixels = torch.randn(2, 1000) * 3 - 10
        land = torch.rand(1000) > 0.4
        step = Relative([2, 3], [0, 0.5, 'otsu', 0.85, 1])
        reference = step.measure(pixels, land).reshape(5, 2).numpy()
        levels = np.quantile(pixels[:, land].numpy(), [0, 0.5, 0.85, 1], axis=1)
        np.testing.assert_allclose(reference[[0, 1, 3, 4]], levels, rtol=1e-5)
        otsu = Relative([1, 1]).measure(pixels, ~land)
        np.testing.assert_array_equal(reference[2], otsu)

    def test_no_land(self) -> None:
        """Quantiles use all pixels if none is land."""
        pixels = torch.randn(1, 1000)
        step = Relative([1], [0.85])
        reference = step.measure(pixels, ~everything(pixels))
        assert reference.item() == pytest.approx(np.quantile(pixels, 0.85), abs=1e-5)

    @pytest.mark.parametrize('share', [0.1, 0.2, 1 / 3])
    def test_flooded_land(self, share: float) -> None:
        """A flood lowers the median, but hardly the 0.85 quantile."""
        step = Relative([1], [0.85, 0.5])
        dry, _ = flood(0)
        wet, water = flood(share)
        before = step.measure(dry, everything(dry))
        upper, median = (before - step.measure(wet, everything(wet))).tolist()
        assert 0 <= upper < 0.35
        assert median > 1.25 * upper
        if share > 0.3:
            assert median > 0.6
        # With all water known from the optical image, neither changes
        after = step.measure(wet, ~water)
        torch.testing.assert_close(after, before, atol=0.05, rtol=0)

    def test_channels(self) -> None:
        """Channels are ordered by reference, then by band, and scaled in decibels."""
        step = Relative([4, 6], ['otsu', 0.5, 1], decibels=0.25)
        assert (step.bands, step.channels, step.num_references) == (2, 6, 6)
        image = torch.randn(3, 2, 4, 5)
        reference = torch.randn(3, 6, 1, 1)
        shown = step(image, reference)
        for channel in range(6):
            band = channel % 2
            expected = (image[:, band] - reference[:, channel]) * 0.25 / [4, 6][band]
            torch.testing.assert_close(shown[:, channel], expected)
        torch.testing.assert_close(step.inverse(shown, reference), image)

    def test_in_decibels(self) -> None:
        """The model is shown the same for 8-bit images and for dB."""
        step = Relative([4, 6], ['otsu', 0.85], decibels=0.2)
        pixels = 200 * torch.rand(2, 1000)
        decibels = step.in_decibels()
        assert decibels.to_dict()['init_args'] == {
            'scale': [4, 6], 'references': ['otsu', 0.85], 'decibels': 1,
        }  # fmt: skip
        torch.testing.assert_close(
            show(decibels, 0.2 * pixels - 30), show(step, pixels), atol=1e-4, rtol=1e-4
        )

    @pytest.mark.parametrize(
        ('arguments', 'match'),
        [
            ({'scale': []}, r'scale is \[\]: expected at least 1 item'),
            ({'scale': [1, 0]}, r'scale\[1\] is 0: expected more than 0'),
            ({'decibels': 0}, 'decibels is 0: expected more than 0'),
            ({'decibels': float('nan')}, 'decibels is nan: expected a finite number'),
            ({'references': []}, r'references is \[\]: expected at least 1 item'),
            (
                {'references': ['otsu', 'mean']},
                r"references\[1\] is 'mean': expected 'otsu' or a f",
            ),
            ({'references': [1.5]}, r'references\[0\] is 1.5: expected from 0 to 1'),
            ({'references': [-0.1]}, r'references\[0\] is -0.1: expected from 0'),
        ],
    )
    def test_wrong(self, arguments: dict[str, Any], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            Relative(**{'scale': [1], **arguments})

    def test_check(self) -> None:
        # The expected spread is 20 source units
        step = Relative([5, 5], decibels=0.25)
        pixels = 20 * torch.randn(2, 500) + 1e4
        step.check(pixels)
        for factor in (1e-3, 1e3):
            wrong = pixels.clone()
            wrong[1] *= factor
            match = (
                r'^band 2 has the standard deviation \d+.*, the model expects about 20\. '
                'Other units'
            )
            with pytest.raises(ValueError, match=match):
                step.check(wrong)

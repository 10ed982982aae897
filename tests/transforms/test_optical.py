# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.


import numpy as np
import pytest
import torch

from tests.transforms.helpers import everything, show
from torchgeo_m2cd.transforms import Darkness, RelativeDarkness


class TestDarkness:
    def test_values(self) -> None:
        # For a limit of 20: black, half the limit, the limit, above it, and negative
        pixels = torch.tensor([0.0, 10, 20, 70, -5]).expand(3, 5)
        shown = show(Darkness([10, 20, 0]), pixels)
        expected = [[-2, 0, 0, 0, -2], [-2, -1, 0, 0, -2], [0] * 5]
        assert shown.tolist() == expected

    def test_is_dark(self) -> None:
        """A pixel is dark if it is in any band that is not left out."""
        pixels = torch.tensor([[5.0, 50, 50, 10, 50], [90, 90, 19, 20, 90], [-1.0] * 5])
        dark = Darkness([10, 20, 0]).is_dark(pixels, torch.empty(0))
        assert dark.tolist() == [True, False, True, False, False]

    @pytest.mark.parametrize(
        ('limits', 'match'),
        [
            ([], r'limits is \[\]: expected one per band, not all of them 0'),
            ([0, 0], r'limits is \[0\.0, 0\.0\]: expected one per band, not all'),
            ([1, -1], r'limits\[1\] is -1: expected at least 0'),
        ],
    )
    def test_wrong(self, limits: list[float], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            Darkness(limits)

    def test_check(self) -> None:
        step = Darkness([0, 1500])
        pixels = torch.stack([torch.zeros(99), torch.linspace(0, 5000, 99)])
        step.check(pixels)
        # Nearly all water
        step.check(pixels / 10)
        for factor in (1e-4, 100):
            match = (
                r'^band 2 has the median \d.*, the model looks at what is darker than '
                r'1500\. Other units'
            )
            with pytest.raises(ValueError, match=match):
                step.check(factor * pixels)


class TestRelativeDarkness:
    def test_values(self) -> None:
        """Limits are shares of the median over land, computed with NumPy."""
        shares = [0.4, 0.0, 0.6]
        # Water is a tenth as bright
        pixels = torch.rand(3, 1001) + 1
        pixels[:, :300] *= 0.1
        step = RelativeDarkness(shares)
        shown = show(step, pixels).numpy()
        values = pixels.numpy().astype(np.float64)
        medians = []
        for band, share, output in zip(values, shares, shown, strict=True):
            land = band[band >= share * np.quantile(band, 0.85)]
            medians.append(np.quantile(land, 0.5, method='lower'))
            limit = share * medians[-1]
            if limit:
                expected = 2 * np.minimum(band / limit, 1) - 2
                np.testing.assert_allclose(output, expected, atol=1e-5)
            else:
                assert (output == 0).all()
        reference = step.measure(pixels, everything(pixels))
        np.testing.assert_allclose(reference, medians, rtol=1e-6)
        # Only water is dark
        dark = step.is_dark(pixels, reference)
        assert torch.equal(dark, torch.arange(1001) < 300)
        np.testing.assert_array_equal(dark, (shown < 0).any(axis=0))

    @pytest.mark.parametrize('factor', [1e-4, 0.3, 64, 1e4])
    def test_no_units(self, factor: float) -> None:
        pixels = 3000 * torch.rand(2, 999)
        step = RelativeDarkness([0.4, 0.7])
        torch.testing.assert_close(show(step, factor * pixels), show(step, pixels))
        step.check(factor * pixels)

    @pytest.mark.parametrize('share', [0.0, 0.3, 0.6, 0.8])
    def test_water(self, share: float) -> None:
        """The median over land stays the same until nearly all pixels are water."""
        pixels = torch.rand(1, 20_000) + 1
        pixels[:, : int(share * 20_000)] *= 0.1
        reference = RelativeDarkness([0.4]).measure(pixels, everything(pixels))
        assert reference.item() == pytest.approx(1.5, abs=0.03)

    @pytest.mark.parametrize('value', [0.0, -50.0])
    def test_black(self, value: float) -> None:
        """An image that is all black or negative has no dark pixels."""
        pixels = torch.full((1, 50), value) - torch.rand(1, 50)
        step = RelativeDarkness([0.4])
        reference = step.measure(pixels, everything(pixels))
        assert reference.isfinite().all()
        assert (show(step, pixels) == 0).all()
        assert not step.is_dark(pixels, reference).any()

    def test_share_above_one(self) -> None:
        pixels = torch.full((1, 9), 7.0)
        assert show(RelativeDarkness([2]), pixels).tolist() == [[-1.0] * 9]

    @pytest.mark.parametrize(
        ('shares', 'match'),
        [
            ([], r'shares is \[\]: expected one per band'),
            ([0, 0], r'shares is \[0\.0, 0\.0\]: expected one per band'),
            ([1, -1], r'shares\[1\] is -1: expected at least 0'),
        ],
    )
    def test_wrong(self, shares: list[float], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            RelativeDarkness(shares)

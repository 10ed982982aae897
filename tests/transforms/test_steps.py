# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import importlib
import json
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from torchgeo_m2cd.transforms import (
    Darkness,
    InputStep,
    LeftOut,
    Relative,
    RelativeDarkness,
    Standardize,
    StandardizeImage,
)

Array = npt.NDArray[np.float64]


class Negative(InputStep):
    """Step of a user, without arguments."""

    bands = channels = 1

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        return -image


STEPS: dict[str, Callable[[], InputStep]] = {
    'standardize': lambda: Standardize((1, 2), (3, 4)),
    'image': lambda: StandardizeImage([1.5, 2], [3, 4]),
    'relative': lambda: Relative((2,), ('otsu', 0.85), decibels=0.5),
    'darkness': lambda: Darkness((0, 40)),
    'relative_darkness': lambda: RelativeDarkness((0.4, 0, 1)),
    'left_out': lambda: LeftOut(3),
    'negative': Negative,
}


def everything(pixels: Tensor) -> Tensor:
    """All pixels are land."""
    return torch.ones(pixels.shape[1], dtype=torch.bool)


def show(step: InputStep, pixels: Tensor, land: Tensor | None = None) -> Tensor:
    """Show pixels of shape (bands, N) by themselves, as shape (channels, N)."""
    reference = step.measure(pixels, everything(pixels) if land is None else land)
    assert reference.shape == (step.num_references,)
    assert reference.dtype == pixels.dtype
    shown: Tensor = step(pixels[None, :, :, None], reference[None, :, None, None])
    assert shown.shape == (1, step.channels, pixels.shape[1], 1)
    return shown[0, ..., 0]


def flood(share: float, count: int = 20_000) -> tuple[Tensor, Tensor]:
    """Decibels of land at about -8 and water at -18, shape (1, count), and the water."""
    water = torch.arange(count) < share * count
    sar = torch.where(water, -18.0, -8.0) + torch.randn(count)
    return sar[None], water


class TestInputStep:
    def test_defaults(self) -> None:
        """What a step need not say."""
        step, pixels = Negative(), torch.rand(1, 5)
        assert torch.equal(show(step, pixels), -pixels)
        assert step.num_references == 0
        assert not step.is_dark(pixels, torch.empty(0)).any()
        assert step.is_dark(pixels, torch.empty(0)).shape == (5,)
        assert step.in_decibels() is step
        step.check(1e9 * pixels)
        with pytest.raises(ValueError, match=r'^Negative has no inverse: .*`source`$'):
            step.inverse(pixels[None, ..., None], torch.empty(1, 0, 1, 1))

    def test_no_forward(self) -> None:
        with pytest.raises(TypeError, match=r"abstract class InputStep.*'forward'"):
            InputStep()  # type: ignore[abstract]

    @pytest.mark.parametrize('name', STEPS)
    def test_dict(self, name: str) -> None:
        step = STEPS[name]()
        values = step.to_dict()
        assert values.keys() == {'class_path', 'init_args'}
        again = InputStep.from_dict(json.loads(json.dumps(values)))
        assert type(again) is type(step)
        assert again.to_dict() == values
        assert (again.bands, again.channels) == (step.bands, step.channels)
        pixels = 50 * torch.rand(step.bands, 100)
        assert torch.equal(show(again, pixels), show(step, pixels))

    def test_plain(self) -> None:
        """As in a YAML file, with the path that users import from."""
        assert STEPS['relative']().to_dict() == {
            'class_path': 'torchgeo_m2cd.transforms.Relative',
            'init_args': {'scale': [2], 'references': ['otsu', 0.85], 'decibels': 0.5},
        }
        assert Negative().to_dict() == {
            'class_path': f'{__name__}.Negative',
            'init_args': {},
        }

    def test_unknown(self) -> None:
        match = (
            "unknown input step 'torch.nn.Identity': expected one of .*"
            r'torchgeo_m2cd\.transforms\.Darkness, .*Import the module'
        )
        with pytest.raises(ValueError, match=match):
            InputStep.from_dict({'class_path': 'torch.nn.Identity'})
        with pytest.raises(ValueError, match='unknown input step None: expected'):
            InputStep.from_dict({})

    @pytest.mark.parametrize(
        ('arguments', 'match'),
        [
            ({'limit': [1]}, "unexpected keyword argument 'limit'"),
            ({}, "missing 1 required positional argument: 'limits'"),
            ({'limits': None}, 'not iterable'),
            (None, 'must be a mapping'),
        ],
    )
    def test_wrong_arguments(self, arguments: Any, match: str) -> None:
        path = 'torchgeo_m2cd.transforms.Darkness'
        with pytest.raises(ValueError, match=rf'input step {path}: .*{match}'):
            InputStep.from_dict({'class_path': path, 'init_args': arguments})
        with pytest.raises(ValueError, match='limits is'):
            InputStep.from_dict({'class_path': path, 'init_args': {'limits': [0]}})

    def test_nothing_is_imported(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A module of a checkpoint is not run, but one that the user imports is found."""
        monkeypatch.setattr(InputStep, '_registry', dict(InputStep._registry))
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / 'steps_of_a_user.py').write_text(
            'from torchgeo_m2cd.transforms import Darkness\n'
            'class Dark(Darkness):\n'
            '    pass\n'
        )
        values = {
            'class_path': 'steps_of_a_user.Dark',
            'init_args': {'limits': [7.0, 0.0]},
        }
        with pytest.raises(ValueError, match="unknown input step 'steps_of_a_user"):
            InputStep.from_dict(values)
        assert 'steps_of_a_user' not in sys.modules
        module = importlib.import_module('steps_of_a_user')
        step = InputStep.from_dict(values)
        assert type(step) is module.Dark
        assert step.to_dict() == values
        del sys.modules['steps_of_a_user']


class TestStandardize:
    def test_values(self) -> None:
        mean, std = [1.0, 20.0, -3.0], [2.0, 4.0, 0.5]
        image = 30 * torch.randn(2, 3, 4, 5)
        nothing = torch.empty(2, 0, 1, 1)
        shown = Standardize(mean, std)(image, nothing)
        for band in range(3):
            expected = (image[:, band].numpy() - mean[band]) / std[band]
            np.testing.assert_allclose(shown[:, band], expected, rtol=1e-5, atol=1e-6)
        again = Standardize(mean, std).inverse(shown, nothing)
        torch.testing.assert_close(again, image)

    @pytest.mark.parametrize(
        ('mean', 'std', 'match'),
        [
            ([1, 2], [1], 'mean has 2 values and std has 1: expected one per band'),
            ([], [], 'mean has 0 values and std has 0'),
            ([1, 2], [1, 0], r'std is \[1.0, 0.0\]: expected positive'),
            ([1], [-1], 'expected positive'),
            ([1], [float('nan')], 'expected positive'),
        ],
    )
    def test_wrong(self, mean: list[float], std: list[float], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            Standardize(mean, std)

    def test_check(self) -> None:
        step = Standardize([1000, 2000], [300, 400])
        pixels = torch.randn(2, 500)
        like = pixels * 300 + 1500
        step.check(like)
        far = like.clone()
        far[1] += 30_000
        match = (
            r'^band 2 has the median 3\.\d+e\+04 and the standard deviation \d+\.?\d*, '
            r'the model expects about 2000 and 400\. Other units'
        )
        with pytest.raises(ValueError, match=match):
            step.check(far)
        # Reflectance from 0 to 1
        with pytest.raises(ValueError, match=r'^band 1 has the median 0'):
            step.check(like / 10_000)


class TestStandardizeImage:
    def test_moments(self) -> None:
        mean, std = [1000.0, 2000.0], [300.0, 400.0]
        pixels = 50 * torch.randn(2, 400) + torch.tensor([[1200.0], [1500.0]])
        step = StandardizeImage(mean, std)
        shown = show(step, pixels).numpy()
        assert shown.mean() == pytest.approx(0, abs=1e-4)
        assert shown.std() == pytest.approx(1, abs=1e-4)
        # All bands alike: they keep their differences
        weighed = (pixels.numpy() - np.array(mean)[:, None]) / np.array(std)[:, None]
        expected = (weighed - weighed.mean()) / weighed.std()
        np.testing.assert_allclose(shown, expected, atol=1e-4)
        reference = step.measure(pixels, everything(pixels))
        np.testing.assert_allclose(
            reference, [weighed.mean(), weighed.std()], rtol=1e-4
        )

    def test_inverse(self) -> None:
        """With a reference of another image, too."""
        step = StandardizeImage([5, 6], [7, 8])
        image = torch.randn(3, 2, 4, 5)
        reference = torch.rand(3, 2, 1, 1) + 0.5
        again = step.inverse(step(image, reference), reference)
        torch.testing.assert_close(again, image, atol=1e-5, rtol=1e-5)

    def test_constant(self) -> None:
        shown = show(StandardizeImage([5, 6], [2, 2]), torch.tensor([[7.0], [8.0]]))
        assert shown.tolist() == [[0], [0]]


class TestRelative:
    @pytest.mark.parametrize('share', [0.1, 0.26, 0.42, 0.58, 0.74, 0.9])
    def test_two_classes(self, share: float) -> None:
        """Water and land of known levels, at any share and offset."""
        land = torch.rand(3, 4096) > share
        offset = 5 * torch.randn(3, 1)
        sar = torch.where(land, 2.0, -3.0) + 0.3 * torch.randn(land.shape)
        step = Relative([1, 1, 1])
        shown = show(step, sar + offset)
        assert torch.equal(shown > 0, land)
        # A shift per band
        shift = sar + offset - shown
        torch.testing.assert_close(shift, shift[:, :1].expand_as(shift))
        # As without offset
        torch.testing.assert_close(shown, show(step, sar), atol=0.05, rtol=0)

    def test_otsu(self) -> None:
        """The threshold of the smallest variance within both classes."""
        pixels = flood(0.3)[0]
        values = pixels[0].numpy().astype(np.float64)

        def within(threshold: float) -> float:
            parts = values[values <= threshold], values[values > threshold]
            return sum(part.size * part.var() for part in parts) / values.size

        best = min(map(within, np.linspace(values.min(), values.max(), 400)[1:-1]))
        threshold = Relative([1]).measure(pixels, everything(pixels)).item()
        assert within(threshold) == pytest.approx(best, rel=0.002)
        # The median would be far from it
        assert within(float(np.median(values))) > 2 * best

    def test_quantiles(self) -> None:
        """Of land alone; Otsu's threshold is of all pixels."""
        pixels = torch.randn(2, 1000) * 3 - 10
        land = torch.rand(1000) > 0.4
        step = Relative([2, 3], [0, 0.5, 'otsu', 0.85, 1])
        reference = step.measure(pixels, land).reshape(5, 2).numpy()
        levels = np.quantile(pixels[:, land].numpy(), [0, 0.5, 0.85, 1], axis=1)
        np.testing.assert_allclose(reference[[0, 1, 3, 4]], levels, rtol=1e-5)
        otsu = Relative([1, 1]).measure(pixels, ~land)
        np.testing.assert_array_equal(reference[2], otsu)

    def test_no_land(self) -> None:
        """All pixels, if none is land."""
        pixels = torch.randn(1, 1000)
        step = Relative([1], [0.85])
        reference = step.measure(pixels, ~everything(pixels))
        assert reference.item() == pytest.approx(np.quantile(pixels, 0.85), abs=1e-5)

    @pytest.mark.parametrize('share', [0.1, 0.2, 1 / 3])
    def test_flooded_land(self, share: float) -> None:
        """A flood pulls the median down, and hardly the 0.85 quantile."""
        step = Relative([1], [0.85, 0.5])
        dry, _ = flood(0)
        wet, water = flood(share)
        before = step.measure(dry, everything(dry))
        upper, median = (before - step.measure(wet, everything(wet))).tolist()
        assert 0 <= upper < 0.35
        assert median > 1.25 * upper
        if share > 0.3:
            assert median > 0.6
        # If the optical image knew all of the water, both would stay
        after = step.measure(wet, ~water)
        torch.testing.assert_close(after, before, atol=0.05, rtol=0)

    def test_channels(self) -> None:
        """One band after the other, reference by reference, in decibels."""
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
        """Images of 8 bits and in dB look the same."""
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
            ({'scale': []}, r'scale is \[\]: expected one positive value a band'),
            ({'scale': [1, 0]}, r'scale is \[1.0, 0.0\]: expected one positive'),
            ({'decibels': 0}, 'decibels is 0: expected a positive value'),
            ({'decibels': float('nan')}, 'decibels is nan: expected a positive'),
            ({'references': []}, 'references is empty: expected one or more'),
            ({'references': ['otsu', 'mean']}, "unknown reference 'mean': expected 'o"),
            ({'references': [1.5]}, 'unknown reference 1.5: .* from 0 to 1'),
            ({'references': [-0.1]}, 'unknown reference -0.1'),
        ],
    )
    def test_wrong(self, arguments: dict[str, Any], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            Relative(**{'scale': [1], **arguments})

    def test_check(self) -> None:
        # 20 units of the source
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


class TestDarkness:
    def test_values(self) -> None:
        # Black, half as bright as the limit, at the limit and above, and below zero
        pixels = torch.tensor([0.0, 10, 20, 70, -5]).expand(3, 5)
        shown = show(Darkness([10, 20, 0]), pixels)
        expected = [[-2, 0, 0, 0, -2], [-2, -1, 0, 0, -2], [0] * 5]
        assert shown.tolist() == expected

    def test_is_dark(self) -> None:
        """In one band or another, but not in one that is left out."""
        pixels = torch.tensor([[5.0, 50, 50, 10, 50], [90, 90, 19, 20, 90], [-1.0] * 5])
        dark = Darkness([10, 20, 0]).is_dark(pixels, torch.empty(0))
        assert dark.tolist() == [True, False, True, False, False]

    @pytest.mark.parametrize('limits', [[], [0, 0], [1, -1]])
    def test_wrong(self, limits: list[float]) -> None:
        shown = re.escape(str(list(map(float, limits))))
        with pytest.raises(ValueError, match=rf'limits is {shown}: expected one per'):
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
        """Limits are shares of the median over land, by numpy."""
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
        # Water is dark, and nothing else
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
        """Land has the same median until nearly all is water."""
        pixels = torch.rand(1, 20_000) + 1
        pixels[:, : int(share * 20_000)] *= 0.1
        reference = RelativeDarkness([0.4]).measure(pixels, everything(pixels))
        assert reference.item() == pytest.approx(1.5, abs=0.03)

    @pytest.mark.parametrize('value', [0.0, -50.0])
    def test_black(self, value: float) -> None:
        """Nothing is darker than an image that is all black, or below zero."""
        pixels = torch.full((1, 50), value) - torch.rand(1, 50)
        step = RelativeDarkness([0.4])
        reference = step.measure(pixels, everything(pixels))
        assert reference.isfinite().all()
        assert (show(step, pixels) == 0).all()
        assert not step.is_dark(pixels, reference).any()

    def test_share_above_one(self) -> None:
        pixels = torch.full((1, 9), 7.0)
        assert show(RelativeDarkness([2]), pixels).tolist() == [[-1.0] * 9]

    @pytest.mark.parametrize('shares', [[], [0, 0], [1, -1]])
    def test_wrong(self, shares: list[float]) -> None:
        with pytest.raises(
            ValueError, match=r'shares is \[.*\]: expected one per band'
        ):
            RelativeDarkness(shares)


class TestLeftOut:
    def test_values(self) -> None:
        step = LeftOut(2)
        assert (show(step, torch.rand(2, 9)) == 0).all()
        step.check(1e9 * torch.rand(2, 9))

    def test_wrong(self) -> None:
        with pytest.raises(ValueError, match='bands is 0: expected at least 1'):
            LeftOut(0)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import numpy as np
import pytest
import torch
from torch import Tensor

from torchgeo_m2cd.models import ThresholdRule, rule_inputs
from torchgeo_m2cd.transforms import (
    Darkness,
    Inputs,
    LeftOut,
    Relative,
    RelativeDarkness,
    Standardize,
)


def make_scene(size: int = 96) -> dict[str, Tensor]:
    """Make land, a lake at the left, a flood at the right, and a corner without data."""
    generator = torch.Generator().manual_seed(0)
    lake, flood = (torch.zeros(size, size, dtype=torch.bool) for _ in range(2))
    lake[:, :20] = True
    flood[30:80, 50:90] = True
    optical = 2000 + 100 * torch.randn(size, size, generator=generator)
    sar = -9 + 1.5 * torch.randn(size, size, generator=generator)
    optical[lake] -= 1700
    sar[lake | flood] -= 11
    valid = torch.ones(size, size, dtype=torch.bool)
    valid[:10, -10:] = False
    return {
        'optical': optical, 'sar': sar, 'lake': lake, 'flood': flood, 'valid': valid,
    }  # fmt: skip


def smooth(image: np.ndarray, sigma: float) -> np.ndarray:
    """Apply a Gaussian that ends at three standard deviations, 0 beyond the edges."""
    reach = np.arange(-round(3 * sigma), round(3 * sigma) + 1)
    kernel = np.exp(-(reach**2) / (2 * sigma**2))
    for _ in range(2):
        lines = [np.convolve(line, kernel / kernel.sum(), 'same') for line in image]
        image = np.stack(lines).T
    return image


def show(inputs: Inputs, optical: Tensor, sar: Tensor, valid: Tensor) -> Tensor:
    """Show one scene; a missing band is 0."""
    bands = max(len(optical), len(sar))
    pair = [
        torch.cat([x, x.new_zeros(bands - len(x), *x.shape[1:])])
        for x in (optical, sar)
    ]
    shown: Tensor = inputs(torch.stack(pair)[None] * valid, valid[None, None])
    return shown


class TestThresholdRule:
    @pytest.mark.parametrize('sigma', [0.0, 1.0, 2.0])
    def test_formula(self, sigma: float) -> None:
        """The rule takes VV of two SAR bands and the largest of three quantiles."""
        scene = make_scene()
        inputs = Inputs(
            RelativeDarkness([0, 0.5]), Relative([5, 8], [0.5, 0.85, 'otsu', 0.7], 0.5),
            bands=['red', 'nir'], sar_bands=['VH', 'VV'],
        )  # fmt: skip
        model = ThresholdRule(sigma=sigma, margin=6, inputs=inputs)
        optical = torch.stack([torch.ones_like(scene['optical']), scene['optical']])
        sar = torch.stack([scene['sar'].flip(0) + 3, 2 * scene['sar']])
        logits = model(show(inputs, optical, sar, scene['valid']))
        assert logits.shape == (1, 1, 96, 96)

        land = (scene['valid'] & ~scene['lake']).numpy()
        decibels = scene['sar'].numpy()
        pixels = torch.stack([optical, sar])[..., scene['valid']]
        otsu = float(inputs.measure_pixels(pixels)[1][5]) / 2
        assert -18 < otsu < -11
        threshold = min(otsu, np.quantile(decibels[land], 0.85) - 6)
        if sigma:
            total, share = (
                smooth(image, sigma)
                for image in (np.where(land, decibels, 0.0), land.astype(float))
            )
            decibels = total / np.maximum(share, 1e-6)
        expected = np.clip(0.2 * (threshold - decibels), -5, 5)
        expected[~land] = -5
        np.testing.assert_allclose(logits[0, 0].numpy(), expected, atol=1e-3)

    def test_flood(self) -> None:
        """Only the flood is mapped, and nothing where there is none."""
        scene = make_scene()
        model = ThresholdRule()
        for flooded in (True, False):
            sar = scene['sar'] + 11 * (scene['flood'] & (not flooded))
            image = show(
                model.inputs, scene['optical'][None], sar[None], scene['valid']
            )
            found = model(image)[0, 0] > 0
            truth = scene['flood'] & flooded
            assert (
                found.sum() == 0
                if not flooded
                else (found == truth).float().mean() > 0.97
            )

    @pytest.mark.parametrize(
        ('optical_scale', 'sar_scale', 'sar_offset'),
        [(1 / 1e4, 1, 0), (0.05, 5, 250), (1, 0.1, 0)],
        ids=['reflectance', '8 bit', 'other units'],
    )
    def test_units(
        self, optical_scale: float, sar_scale: float, sar_offset: float
    ) -> None:
        scene = make_scene()
        model = ThresholdRule()
        images = []
        for scale, gain, offset in ((1, 1, 0), (optical_scale, sar_scale, sar_offset)):
            model.take_inputs(rule_inputs(decibels=1 / gain))
            images.append(
                show(
                    model.inputs, scene['optical'][None] * scale,
                    scene['sar'][None] * gain + offset, scene['valid'],
                )
            )  # fmt: skip
        first, second = map(model, images)
        # Kornia's threshold is that of 256 bins
        torch.testing.assert_close(first, second, atol=0.02, rtol=0)

    def test_no_data(self) -> None:
        """An image without land is left out."""
        logits = ThresholdRule()(torch.zeros(1, 2, 2, 32, 32))
        assert (logits == -5).all()

    def test_arguments(self) -> None:
        with pytest.raises(ValueError, match=r'sigma is -1: expected at least 0'):
            ThresholdRule(sigma=-1)
        with pytest.raises(ValueError, match=r'margin is -0.5: expected at least 0'):
            ThresholdRule(margin=-0.5)
        model = ThresholdRule(margin=3)
        assert not any(value.requires_grad for value in model.parameters())
        assert model.state_dict()['margin'] == 3

    @pytest.mark.parametrize(
        ('optical', 'sar'),
        [
            (Standardize([0], [1]), Relative([1], ['otsu', 0.85])),
            (Darkness([1]), Relative([1], ['otsu'])),
            (Darkness([1]), Relative([1], [0.5, 0.85])),
            (Darkness([1]), Standardize([0], [1])),
        ],
    )
    def test_other_inputs(self, optical: Darkness, sar: Relative) -> None:
        with pytest.raises(ValueError, match=r'the rule needs Relative\(references='):
            ThresholdRule(inputs=Inputs(optical, sar))


class TestRuleInputs:
    def test_default(self) -> None:
        inputs = rule_inputs()
        assert inputs.band_names == (['B08'], ['VV'])
        assert inputs.sar.decibels == 1
        assert rule_inputs(decibels=0.2).sar.decibels == 0.2

    def test_like(self) -> None:
        """The inputs take the bands of a model and its definition of water."""
        like = Inputs(
            Darkness([0, 40]), Relative([3, 3], decibels=0.2), 128, None, ['VH', 'VV']
        )
        inputs = rule_inputs(like)
        assert inputs.optical is like.optical
        assert inputs.band_names == like.band_names
        assert inputs.window == 128
        assert isinstance(inputs.sar, Relative)
        assert inputs.sar.to_dict()['init_args'] == {
            'scale': [10, 10], 'references': ['otsu', 0.85], 'decibels': 0.2,
        }  # fmt: skip
        assert rule_inputs(like, decibels=1).sar.decibels == 1
        ThresholdRule(inputs=inputs)

    def test_standardized(self) -> None:
        """A standardised band named near infrared tells water."""
        statistics = Standardize([0, 0, 0], [1, 1, 1])
        like = Inputs(statistics, Standardize([0], [1]), bands=['red', 'nir', 'B02'])
        optical = rule_inputs(like, decibels=1).optical
        assert isinstance(optical, RelativeDarkness)
        assert optical.shares == [0, 0.5, 0]

    def test_unknown(self) -> None:
        like = Inputs(LeftOut(), Standardize([0], [1]))
        with pytest.raises(ValueError, match='not known how many dB'):
            rule_inputs(like)
        with pytest.raises(ValueError, match='not known which optical band'):
            rule_inputs(like, decibels=1)

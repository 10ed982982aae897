# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from torchgeo_m2cd.models import (
    O2SP,
    OriginalO2SP,
    PhysicalO2SP,
    guide_loss,
    simulate_sar,
    simulate_speckled_sar,
)

Array = npt.NDArray[np.float64]


class TestSimulateSAR:
    def test_moments(self) -> None:
        torch.manual_seed(0)
        x = torch.full((1, 1, 1000, 1000), -3.0)
        g = simulate_sar(x, max_variance=1) / x
        # Gamma(1, 1) is the exponential distribution
        assert (g >= 0).all()
        quantiles = np.quantile(g.numpy(), [0.1, 0.5, 0.9])
        np.testing.assert_allclose(quantiles, -np.log([0.9, 0.5, 0.1]), rtol=0.01)

    def test_variances(self) -> None:
        torch.manual_seed(0)
        x = torch.ones(1, 1, 400, 500)
        draws = [simulate_sar(x) for _ in range(60)]
        variances = torch.tensor([float(g.var()) for g in draws])
        means = torch.tensor([float(g.mean()) for g in draws])
        torch.testing.assert_close(means, torch.ones(60), rtol=0, atol=0.06)
        # Integers from 1 to 20, up to the error of the estimate
        assert variances.min() < 3
        assert 17 < variances.max() < 22
        relative = (variances - variances.round()).abs() / variances
        assert relative.max() < 0.05

    def test_no_pattern(self) -> None:
        x = torch.ones(2, 3, 64, 64)
        g = simulate_sar(x, max_variance=1).flatten(1)
        assert torch.corrcoef(g)[0, 1].abs() < 0.05
        assert simulate_sar(x.bfloat16()).dtype == torch.bfloat16

    def test_other_number_of_bands(self) -> None:
        optical = torch.randn(2, 4, 32, 32)
        torch.manual_seed(0)
        simulated = simulate_sar(optical, channels=2, max_variance=1)
        torch.manual_seed(0)
        mean = optical.mean(1, keepdim=True).expand(-1, 2, -1, -1)
        torch.testing.assert_close(simulated, simulate_sar(mean, max_variance=1))
        assert (simulated[:, 0] != simulated[:, 1]).any()


class TestSimulateSpeckledSAR:
    def test_speckle_of_a_flat_image(self) -> None:
        torch.manual_seed(0)
        optical = torch.tensor([100.0, 50.0]).reshape(1, 2, 1, 1)
        optical = optical.expand(1, 2, 400, 400)
        simulated = simulate_speckled_sar(optical, channels=1, max_looks=1)
        assert simulated.shape == (1, 1, 400, 400)
        # In decibels, an exponential distribution has a mean of -0.5772 and a standard
        # deviation of pi / sqrt 6, both times 10 / ln 10 (Gumbel)
        expected = 10 * np.log10(np.random.default_rng(0).exponential(size=160_000))
        expected = (expected + 0.5772 * 10 / np.log(10)) / (
            np.pi / np.sqrt(6) * 10 / np.log(10)
        )
        levels = [0.05, 0.25, 0.5, 0.75, 0.95]
        np.testing.assert_allclose(
            np.quantile(simulated.numpy(), levels),
            np.quantile(expected, levels),
            atol=0.03,
        )

    def test_order_of_brightness_survives(self) -> None:
        torch.manual_seed(0)
        optical = torch.cat(
            [torch.full((4, 1, 64, 32), 200.0), torch.full((4, 1, 64, 32), 1800.0)],
            dim=3,
        )
        dark, bright = simulate_speckled_sar(optical).split(32, dim=3)
        assert (dark.mean(dim=(1, 2, 3)) + 1 < bright.mean(dim=(1, 2, 3))).all()

    def test_standardised_like_sar(self) -> None:
        optical = 3 * torch.randn(2, 3, 64, 64) - 4  # most of it below zero
        simulated = simulate_speckled_sar(optical)
        assert simulated.isfinite().all()
        assert simulated.shape == optical.shape
        zeros = torch.zeros(2, 3)
        torch.testing.assert_close(simulated.mean((2, 3)), zeros, atol=1e-3, rtol=0)
        torch.testing.assert_close(simulated.std((2, 3)), zeros + 1, atol=1e-3, rtol=0)

    def test_no_light(self) -> None:
        simulated = simulate_speckled_sar(torch.zeros(1, 1, 8, 8))
        assert (simulated == 0).all()

    def test_luminance(self) -> None:
        """Luminance is the mean over the bands, with negative values as zero."""
        optical = 100 * torch.randn(2, 3, 32, 32)
        luminance = np.maximum(optical.numpy(), 0).mean(axis=1, keepdims=True)
        torch.manual_seed(0)
        simulated = simulate_speckled_sar(optical, channels=2)
        torch.manual_seed(0)
        expected = simulate_speckled_sar(torch.from_numpy(luminance), channels=2)
        torch.testing.assert_close(simulated, expected)

    @pytest.mark.parametrize('factor', [1e-4, 1000])
    def test_no_units(self, factor: float) -> None:
        """The scale of reflectance, 0 to 1 or 0 to 10,000, does not matter."""
        optical = 100 * torch.rand(2, 3, 32, 32) + 50
        torch.manual_seed(0)
        expected = simulate_speckled_sar(optical)
        torch.manual_seed(0)
        simulated = simulate_speckled_sar(factor * optical)
        torch.testing.assert_close(simulated, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize('detach', [False, True])
@pytest.mark.parametrize('distance', ['l1', 'l2', 'cosine'])
def test_guide_loss(distance: Any, detach: bool) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(3, 2, c, 5, 5)) for c in (4, 8)]

    def plain(a: Array, b: Array) -> float:
        match distance:
            case 'l1':
                return float(np.abs(a - b).mean())
            case 'l2':
                return float(((a - b) ** 2).mean())
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        return float(1 - ((a * b).sum(axis=1) / norms).mean())

    weights = [0.5, 3.0]
    expected = sum(
        weight * (plain(a[0], a[2]) + plain(a[1], a[2]))
        for weight, a in zip(weights, arrays, strict=True)
    )
    features = [torch.from_numpy(a).requires_grad_() for a in arrays]
    loss = guide_loss(features, distance, detach, weights)
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    for feature in features:
        assert feature.grad is not None
        size = feature.grad.abs().sum(dim=(1, 2, 3, 4))
        assert (size[:2] > 0).all()
        assert (size[2] == 0) == detach


def test_guide_loss_bad_arguments() -> None:
    features = [torch.zeros(3, 1, 1, 1, 1)]
    with pytest.raises(ValueError, match="unknown distance 'l3'"):
        guide_loss(features, 'l3')  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r'expected 1 stage_weights.*got \[1, 2\]'):
        guide_loss(features, stage_weights=[1, 2])


class TestO2SP:
    @pytest.mark.parametrize(
        ('o2sp', 'function', 'argument'),
        [
            (OriginalO2SP(3), simulate_sar, 'max_variance'),
            (PhysicalO2SP(3), simulate_speckled_sar, 'max_looks'),
        ],
    )
    def test_simulate(self, o2sp: O2SP, function: Any, argument: str) -> None:
        optical = torch.rand(2, 4, 16, 16)
        torch.manual_seed(1)
        simulated = o2sp.simulate(optical, 2)
        torch.manual_seed(1)
        torch.testing.assert_close(simulated, function(optical, 2, **{argument: 3}))
        assert o2sp.source_units == (argument == 'max_looks')
        described = o2sp.to_dict()
        assert described['init_args'].pop(argument) == 3
        assert described['init_args'] == {
            'weight': 1e-4,
            'distance': 'l1',
            'detach': False,
            'stage_weights': None,
        }

    def test_guide_loss(self) -> None:
        features = [torch.randn(3, 2, 4, 5, 5) for _ in range(2)]
        o2sp = OriginalO2SP(distance='l2', stage_weights=[0.5, 3])
        expected = guide_loss(features, 'l2', stage_weights=[0.5, 3])
        torch.testing.assert_close(o2sp.guide_loss(features), expected)

    def test_bad_arguments(self) -> None:
        with pytest.raises(ValueError, match="unknown distance 'l3'"):
            OriginalO2SP(distance='l3')  # type: ignore[arg-type]
        with pytest.raises(ValueError, match='weight is -1: expected at least 0'):
            PhysicalO2SP(weight=-1)
        with pytest.raises(ValueError, match='max_variance is 0: expected at least 1'):
            OriginalO2SP(0)
        with pytest.raises(ValueError, match='max_looks is 0: expected at least 1'):
            PhysicalO2SP(0)

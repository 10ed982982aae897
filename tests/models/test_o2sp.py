# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import numpy as np
import pytest
import torch

from torchgeo_m2cd.models import guide_loss, simulate_sar


class TestSimulateSAR:
    def test_moments(self) -> None:
        torch.manual_seed(0)
        x = torch.full((1_000_000,), -3.0)
        g = simulate_sar(x, max_variance=1) / x
        # Gamma(1, 1) is the exponential distribution
        assert (g >= 0).all()
        quantiles = np.quantile(g.numpy(), [0.1, 0.5, 0.9])
        np.testing.assert_allclose(quantiles, -np.log([0.9, 0.5, 0.1]), rtol=0.01)

    def test_variances(self) -> None:
        torch.manual_seed(0)
        x = torch.ones(200_000)
        draws = [simulate_sar(x) for _ in range(60)]
        variances = torch.tensor([float(g.var()) for g in draws])
        means = torch.tensor([float(g.mean()) for g in draws])
        torch.testing.assert_close(means, torch.ones(60), rtol=0, atol=0.06)
        # Whole numbers from 1 to 20, up to the error of the estimate
        assert variances.min() < 3
        assert 17 < variances.max() < 22
        relative = (variances - variances.round()).abs() / variances
        assert relative.max() < 0.05

    def test_no_pattern(self) -> None:
        x = torch.ones(2, 3, 64, 64)
        g = simulate_sar(x, max_variance=1).flatten(1)
        assert torch.corrcoef(g)[0, 1].abs() < 0.05
        assert simulate_sar(x.bfloat16()).dtype == torch.bfloat16


def test_guide_loss() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(3, 2, c, 5, 5)) for c in (4, 8)]
    expected = sum(
        np.abs(a[0] - a[2]).mean() + np.abs(a[1] - a[2]).mean() for a in arrays
    )
    features = [torch.from_numpy(a).requires_grad_() for a in arrays]
    loss = guide_loss(features)
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    for feature in features:
        assert feature.grad is not None
        assert (feature.grad.abs().sum(dim=(1, 2, 3, 4)) > 0).all()

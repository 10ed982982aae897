# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Optical-to-SAR path (O2SP): self-distillation over a simulated SAR image."""

from collections.abc import Sequence

import torch
from torch import Tensor


def simulate_sar(optical: Tensor, max_variance: int = 20) -> Tensor:
    r"""Simulate a SAR image from an optical one by multiplicative speckle.

    .. math::

       x_3 = x_1 \cdot g, \quad g \sim \Gamma(\text{shape} = 1 / v, \text{scale} = v)

    with :math:`g` independent per element, of mean 1 and variance :math:`v`, and one
    integer :math:`v \sim U\{1, \dots, \text{max\_variance}\}` per call.

    Args:
        optical: Standardised optical image, any shape.
        max_variance: Largest variance of the speckle.

    Returns:
        The simulated SAR image, same shape.
    """
    v = float(torch.randint(1, max_variance + 1, ()))
    shape = optical.new_full((), 1 / v, dtype=torch.float32)
    gamma = torch.distributions.Gamma(shape, 1 / v, validate_args=False)
    return optical * gamma.sample(optical.shape).to(optical.dtype)


def guide_loss(features: Sequence[Tensor]) -> Tensor:
    r"""Distance of the optical and SAR features from those of the simulated SAR.

    :math:`\sum_\text{stages} \overline{|f_1 - f_3|} + \overline{|f_2 - f_3|}`.
    Gradients flow into all three paths.

    Args:
        features: One tensor per stage, of shape ``(3, B, C, H, W)``: optical, SAR,
            simulated SAR.

    Returns:
        The unweighted loss, a scalar.
    """
    loss = features[0].new_zeros(())
    for f1, f2, f3 in features:
        loss = loss + (f1 - f3).abs().mean() + (f2 - f3).abs().mean()
    return loss

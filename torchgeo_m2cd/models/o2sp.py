# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Optical-to-SAR path (O2SP): self-distillation over a simulated SAR image."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..utils import check_choice

#: Names of the distances between features.
Distance = Literal['l1', 'l2', 'cosine']


def simulate_sar(
    optical: Tensor, channels: int | None = None, max_variance: int = 20
) -> Tensor:
    r"""Simulate a SAR image from an optical one, as the original does.

    .. math::

       x_3 = x_1 \cdot g, \quad g \sim \Gamma(\text{shape} = 1 / v, \text{scale} = v)

    with :math:`g` independent per element, of mean 1 and variance :math:`v`, and one
    integer :math:`v \sim U\{1, \dots, \text{max\_variance}\}` per call.

    Args:
        optical: Standardised optical image, shape ``(B, C, H, W)``.
        channels: Bands of the SAR image (defaults to C). If it is another number, each
            band is the mean over the optical bands, with speckle of its own.
        max_variance: Largest variance of the speckle.

    Returns:
        The simulated SAR image, shape ``(B, channels, H, W)``.
    """
    v = float(torch.randint(1, max_variance + 1, ()))
    return _speckle(_match(optical, channels), torch.full((), 1 / v))


def simulate_speckled_sar(
    optical: Tensor, channels: int | None = None, max_looks: int = 20
) -> Tensor:
    r"""Simulate a SAR image from an optical one by speckle on its luminance.

    Speckle multiplies intensity, which is not negative, so the image is in source units.
    Its luminance (mean over the bands) :math:`I` gets the speckle of an
    :math:`L`-look intensity image,
    :math:`I \cdot g, \; g \sim \Gamma(\text{shape} = L, \text{scale} = 1 / L)`,
    and the result, in decibel, is standardised like a SAR image: mean 0 and standard
    deviation 1 per image and band. One :math:`L \sim U\{1, \dots, \text{max\_looks}\}`
    is drawn per image.

    Source of the speckle's distribution: Goodman, "Some fundamental properties of
    speckle", 1976, https://doi.org/10.1364/JOSA.66.001145

    Args:
        optical: Optical image in source units, shape ``(B, C, H, W)``; negative values
            count as zero.
        channels: Bands of the SAR image (defaults to C).
        max_looks: Largest number of looks.

    Returns:
        The simulated SAR image, shape ``(B, channels, H, W)``.
    """
    luminance = optical.clamp(min=0).mean(dim=1, keepdim=True)
    luminance = luminance.expand(-1, channels or optical.shape[1], -1, -1)
    looks = torch.randint(
        1, max_looks + 1, (len(optical), 1, 1, 1), device=optical.device
    )
    intensity = _speckle(luminance, looks.to(optical.dtype))
    # Pixels without light get a floor 40 dB below the brightest pixel
    floor = 1e-4 * intensity.amax(dim=(2, 3), keepdim=True).clamp(min=1e-6)
    decibel = 10 * torch.maximum(intensity, floor).log10()
    variance, center = torch.var_mean(decibel, dim=(2, 3), keepdim=True)
    return (decibel - center) / (variance + 1e-6).sqrt()


def guide_loss(
    features: Sequence[Tensor],
    distance: Distance = 'l1',
    detach: bool = False,
    stage_weights: Sequence[float] | None = None,
) -> Tensor:
    r"""Distance of the features of both images from those of the simulated SAR.

    :math:`\sum_s w_s \, (d(f_{1,s}, f_{3,s}) + d(f_{2,s}, f_{3,s}))` over the stages
    :math:`s`, with the distance

    * ``'l1'``: :math:`\overline{|f_i - f_3|}` (the original)
    * ``'l2'``: :math:`\overline{(f_i - f_3)^2}`
    * ``'cosine'``: :math:`1 - \overline{\cos(f_i, f_3)}`, over the channels

    Args:
        features: One tensor per stage, of shape ``(3, B, C, H, W)``: first image,
            second image, simulated SAR.
        distance: Name of the distance.
        detach: Whether to stop gradients into the simulated SAR, which then only
            teaches. In the original, gradients flow into all three paths.
        stage_weights: One weight per stage (defaults to 1).

    Returns:
        The unweighted loss, a scalar.

    Raises:
        ValueError: If *distance* is unknown, or the number of weights is wrong.
    """
    check_choice('distance', distance, get_args(Distance))
    weights = [1.0] * len(features) if stage_weights is None else list(stage_weights)
    if len(weights) != len(features):
        raise ValueError(
            f'expected {len(features)} stage_weights, one per stage, got {weights}'
        )
    loss = features[0].new_zeros(())
    for feature, weight in zip(features, weights, strict=True):
        students, teacher = feature[:2], feature[2:]
        if detach:
            teacher = teacher.detach()
        match distance:
            case 'l1':
                distances = (students - teacher).abs()
            case 'l2':
                distances = (students - teacher) ** 2
            case _:  # 'cosine'
                distances = 1 - F.cosine_similarity(students, teacher, dim=2)
        loss = loss + 2 * weight * distances.mean()
    return loss


def _match(image: Tensor, channels: int | None) -> Tensor:
    """Give an image another number of bands."""
    if channels is None or channels == image.shape[1]:
        return image
    return image.mean(dim=1, keepdim=True).expand(-1, channels, -1, -1)


def _speckle(image: Tensor, shape: Tensor) -> Tensor:
    """Multiply by Gamma noise of mean 1 and variance 1 / shape."""
    shape = shape.to(image.device, torch.float32).expand(image.shape)
    gamma = torch.distributions.Gamma(shape, shape, validate_args=False)
    return image * gamma.sample().to(image.dtype)

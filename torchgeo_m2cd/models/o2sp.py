# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Optical-to-SAR path (O2SP): self-distillation through a simulated SAR image."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import Count, PositiveOrZero, checked
from ..configurable import Configurable

#: Names of the distances between features.
Distance = Literal['l1', 'l2', 'cosine']


class O2SP(Configurable, ABC):
    r"""The optical-to-SAR path: how SAR is simulated, and the guide loss.

    In training, a third path takes a SAR image that is simulated from the optical one.
    The guide loss draws the features of both real images to those of the simulated one.
    :math:`\lambda_\text{guide}` times this loss is added to the training loss.
    """

    kind: ClassVar[str] = 'O2SP'

    #: Whether :meth:`simulate` takes the optical image in source units.
    source_units: ClassVar[bool] = False

    @checked
    def __init__(
        self,
        weight: PositiveOrZero = 1e-4,
        distance: Distance = 'l1',
        detach: bool = False,
        stage_weights: Sequence[PositiveOrZero] | None = None,
    ) -> None:
        r"""Initialize a new O2SP instance.

        Args:
            weight: Weight :math:`\lambda_\text{guide}` of the guide loss, at least 0.
            distance: Distance of the features, see :func:`guide_loss`.
            detach: Whether the simulated SAR gets no gradient from the guide loss.
            stage_weights: Weight of each stage (defaults to 1).

        Raises:
            ValueError: If *distance* is unknown or *weight* is negative.
        """
        self.weight = weight
        self.distance: Distance = distance
        self.detach = detach
        self.stage_weights = stage_weights

    @abstractmethod
    def simulate(self, optical: Tensor, channels: int | None = None) -> Tensor:
        """Simulate a SAR image.

        Args:
            optical: Optical image, shape ``(B, C, H, W)``: in source units if
                :attr:`source_units` is set, else standardised.
            channels: Bands of the SAR image (defaults to C).

        Returns:
            The simulated SAR image, standardised, shape ``(B, channels, H, W)``.
        """

    def guide_loss(self, features: Sequence[Tensor]) -> Tensor:
        """Compute the unweighted guide loss, see :func:`guide_loss`.

        Args:
            features: One tensor per stage, shape ``(3, B, C, H, W)``.

        Returns:
            The loss, a scalar.
        """
        return guide_loss(features, self.distance, self.detach, self.stage_weights)


class OriginalO2SP(O2SP):
    """Gamma noise on the standardised optical image, see :func:`simulate_sar`."""

    @checked
    def __init__(
        self,
        max_variance: Count = 20,
        weight: PositiveOrZero = 1e-4,
        distance: Distance = 'l1',
        detach: bool = False,
        stage_weights: Sequence[PositiveOrZero] | None = None,
    ) -> None:
        """Initialize a new OriginalO2SP instance.

        Args:
            max_variance: Largest variance of the noise, at least 1. The larger, the
                stronger is the noise.
            weight: Weight of the guide loss, at least 0.
            distance: Distance of the features, see :func:`guide_loss`.
            detach: Whether the simulated SAR gets no gradient from the guide loss.
            stage_weights: Weight of each stage (defaults to 1).

        Raises:
            ValueError: If *distance* is unknown or a number is out of range.
        """
        super().__init__(weight, distance, detach, stage_weights)
        self.max_variance = max_variance

    def simulate(self, optical: Tensor, channels: int | None = None) -> Tensor:
        """Simulate a SAR image, see :meth:`O2SP.simulate`."""
        return simulate_sar(optical, channels, self.max_variance)


class PhysicalO2SP(O2SP):
    """Speckle on the luminance of the optical image, see :func:`simulate_speckled_sar`.

    The optical image is in source units, which data modules of this package keep.
    """

    source_units: ClassVar[bool] = True

    @checked
    def __init__(
        self,
        max_looks: Count = 20,
        weight: PositiveOrZero = 1e-4,
        distance: Distance = 'l1',
        detach: bool = False,
        stage_weights: Sequence[PositiveOrZero] | None = None,
    ) -> None:
        """Initialize a new PhysicalO2SP instance.

        Args:
            max_looks: Largest number of looks, at least 1. The larger, the weaker is
                the speckle.
            weight: Weight of the guide loss, at least 0.
            distance: Distance of the features, see :func:`guide_loss`.
            detach: Whether the simulated SAR gets no gradient from the guide loss.
            stage_weights: Weight of each stage (defaults to 1).

        Raises:
            ValueError: If *distance* is unknown or a number is out of range.
        """
        super().__init__(weight, distance, detach, stage_weights)
        self.max_looks = max_looks

    def simulate(self, optical: Tensor, channels: int | None = None) -> Tensor:
        """Simulate a SAR image, see :meth:`O2SP.simulate`."""
        return simulate_speckled_sar(optical, channels, self.max_looks)


@checked
def simulate_sar(
    optical: Tensor, channels: Count | None = None, max_variance: Count = 20
) -> Tensor:
    r"""Simulate a SAR image from an optical one by Gamma noise, as the original does.

    .. math::

       x_3 = x_1 \cdot g, \quad g \sim \Gamma(\text{shape} = 1 / v, \text{scale} = v)

    with :math:`g` independent per element, of mean 1 and variance :math:`v`, and one
    integer :math:`v \sim U\{1, \dots, \text{max\_variance}\}` per call.

    Args:
        optical: Standardised optical image, shape ``(B, C, H, W)``.
        channels: Bands of the SAR image (defaults to C). With another number than C,
            each band is the mean over the optical bands with noise of its own.
        max_variance: Largest variance of the noise.

    Returns:
        The simulated SAR image, shape ``(B, channels, H, W)``.
    """
    v = float(torch.randint(1, max_variance + 1, ()))
    return _gamma_noise(_match(optical, channels), torch.full((), 1 / v))


@checked
def simulate_speckled_sar(
    optical: Tensor, channels: Count | None = None, max_looks: Count = 20
) -> Tensor:
    r"""Simulate a SAR image from an optical one by speckle on its luminance.

    Speckle multiplies the intensity, which cannot be negative, so the image must be in
    source units. The luminance :math:`I` (mean over the bands) gets the speckle of an
    :math:`L`-look intensity image,
    :math:`I \cdot g, \; g \sim \Gamma(\text{shape} = L, \text{scale} = 1 / L)`.
    The result is converted to decibels and standardised to mean 0 and standard deviation
    1 per image and band. One :math:`L \sim U\{1, \dots, \text{max\_looks}\}` is drawn per
    image.

    Source of the distribution: Goodman, "Some fundamental properties of
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
    intensity = _gamma_noise(luminance, looks.to(optical.dtype))
    # Black pixels have no logarithm: a floor 40 dB below the brightest pixel
    floor = 1e-4 * intensity.amax(dim=(2, 3), keepdim=True).clamp(min=1e-6)
    decibel = 10 * torch.maximum(intensity, floor).log10()
    variance, center = torch.var_mean(decibel, dim=(2, 3), keepdim=True)
    return (decibel - center) / (variance + 1e-6).sqrt()


@checked
def guide_loss(
    features: Sequence[Tensor],
    distance: Distance = 'l1',
    detach: bool = False,
    stage_weights: Sequence[PositiveOrZero] | None = None,
) -> Tensor:
    r"""Compute how far the features of both images are from those of the simulated SAR.

    :math:`\sum_s w_s \, (d(f_{1,s}, f_{3,s}) + d(f_{2,s}, f_{3,s}))` over the stages
    :math:`s`, with the distance

    * ``'l1'``: :math:`\operatorname{mean}\,(|f_i - f_3|)` (the original)
    * ``'l2'``: :math:`\operatorname{mean}\,((f_i - f_3)^2)`
    * ``'cosine'``: :math:`1 - \operatorname{mean}\,(\cos(f_i, f_3))`, the cosine over
      the channels

    Args:
        features: One tensor per stage, of shape ``(3, B, C, H, W)``: first image,
            second image, simulated SAR.
        distance: Name of the distance.
        detach: Whether the simulated SAR gets no gradient. In the original, gradients
            flow into all three paths.
        stage_weights: Weight of each stage (defaults to 1).

    Returns:
        The unweighted loss, a scalar.

    Raises:
        ValueError: If *distance* is unknown, or the number of weights is wrong.
    """
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


def _gamma_noise(image: Tensor, shape: Tensor) -> Tensor:
    """Multiply by Gamma noise of mean 1 and variance 1 / shape."""
    shape = shape.to(image.device, torch.float32).expand(image.shape)
    gamma = torch.distributions.Gamma(shape, shape, validate_args=False)
    return image * gamma.sample().to(image.dtype)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""A rule that maps floods without any training."""

import torch
from kornia.filters import get_gaussian_kernel1d
from torch import Tensor, nn
from torch.nn.functional import conv2d

from ..checks import Positive, PositiveOrZero, checked
from ..transforms import Inputs, Relative, RelativeDarkness
from ..transforms.base import InputStep

#: Logit per dB, with the least cross-entropy on the runs of chips named below.
_SLOPE = 0.2
#: Largest logit. Pixels that the rule leaves out have minus this.
_CERTAIN = 5.0


class ThresholdRule(nn.Module):
    r"""Flooded is what is dark in SAR, and was not dark in the optical image.

    A pixel is flooded if its smoothed SAR value :math:`x`, in dB, is below Otsu's
    threshold :math:`o` and at least a *margin* :math:`m` below the 0.85 quantile
    :math:`q` of land, and its optical value was not that of water. The logit follows the
    distance from the threshold in dB:

    .. math:: 0.2 \, (\min(o, q - m) - x)

    Otsu's threshold alone halves every image, also one without any flood. The margin
    alone does not know how dark the water of this image is. SAR is smoothed by a Gaussian
    over land only, so that a lake does not darken its shore.

    The rule has nothing to learn. Its numbers were chosen on the
    training split of OMBRIA, by the IoU of 24 runs of chips, of the groups ``dry`` and
    ``green``, and of chips of which 6 % are flooded.

    Example:
        >>> import torch
        >>> from torchgeo_m2cd.models import ThresholdRule
        >>> rule = ThresholdRule()
        >>> image = torch.stack(
        ...     [torch.full((1, 64, 64), 3000), torch.full((1, 64, 64), -9)]
        ... )
        >>> image[1, 0, :32] = -21  # The north is flooded
        >>> shown = rule.inputs.show({'image': image[None].float()})
        >>> flooded = rule(shown['image'])[0, 0] > 0
        >>> flooded[0, 0], flooded[63, 0]
        (tensor(True), tensor(False))
    """

    #: Gaussian along one axis.
    kernel: Tensor

    @checked
    def __init__(
        self,
        sigma: PositiveOrZero = 2.0,
        margin: PositiveOrZero = 9.0,
        inputs: Inputs | None = None,
    ) -> None:
        """Initialize a new ThresholdRule instance.

        Args:
            sigma: Standard deviation of the Gaussian in pixels; 0 does not smooth.
            margin: How far floods are below land, in dB.
            inputs: What the rule is shown (defaults to near infrared and VV in dB).

        Raises:
            ValueError: If *sigma* or *margin* is negative, or the rule cannot work with
                *inputs*.
        """
        super().__init__()
        self.sigma = sigma
        # A parameter that is never trained: the SHA-256 of the model depends on it
        self.margin = nn.Parameter(torch.tensor(float(margin)), requires_grad=False)
        size = 2 * round(3 * sigma) + 1
        kernel = get_gaussian_kernel1d(size, sigma)[0] if sigma else torch.ones(1)
        self.register_buffer('kernel', kernel)
        self.take_inputs(rule_inputs() if inputs is None else inputs)

    def take_inputs(self, inputs: Inputs) -> None:
        """Find out which channels the rule looks at.

        These are of VV, or of the first SAR band if none has that name.

        Args:
            inputs: What the rule is shown. SAR is relative to Otsu's threshold and to a
                quantile of land, the largest one if there are several. The optical step
                finds water.

        Raises:
            ValueError: If the rule cannot work with them.
        """
        sar = inputs.sar
        references = sar.references if isinstance(sar, Relative) else []
        quantiles = [float(name) for name in references if name != 'otsu']
        if not (quantiles and 'otsu' in references and inputs.optical.finds_water):
            raise ValueError(
                f'the inputs are {inputs.optical.to_dict()} and {sar.to_dict()}: the rule '
                "needs Relative(references=['otsu', 0.85]) for SAR, and a step that finds "
                'water, such as RelativeDarkness([0.5]), for the optical image'
            )
        assert isinstance(sar, Relative)
        self.inputs = inputs
        band = _find_band(inputs.sar_bands, 'VV')
        self.scale = sar.scale[band]
        self.otsu_channel, self.land_channel = (
            references.index(name) * sar.bands + band
            for name in ('otsu', max(quantiles))
        )

    def forward(self, image: Tensor) -> Tensor:
        """Apply the rule.

        Args:
            image: Image pairs as the inputs show them, shape ``(B, 2, C, H, W)``,
                with 0 where there are no data.

        Returns:
            Logits, shape ``(B, 1, H, W)``, from -5 to 5.
        """
        optical = image[:, 0, : self.inputs.optical.channels]
        sar = image[:, 1] * self.scale
        otsu, land = sar[:, [self.otsu_channel]], sar[:, [self.land_channel]]
        # Both differ by one number in each image, so that one of them decides everywhere
        excess = torch.maximum(otsu, land + self.margin)
        # The two references differ: SAR cannot be equal to both of them
        known = (image != 0).flatten(1, 2).any(dim=1, keepdim=True)
        is_land = known & (optical >= 0).all(dim=1, keepdim=True)
        weight = is_land.to(sar.dtype)
        total, share = self._smooth(excess * weight), self._smooth(weight)
        logits = -_SLOPE * total / share.clamp(min=1e-6)
        logits = logits.clamp(-_CERTAIN, _CERTAIN)
        return torch.where(is_land, logits, -_CERTAIN)

    def _smooth(self, image: Tensor) -> Tensor:
        """Apply the Gaussian, with 0 beyond the edges, to images (B, 1, H, W)."""
        kernel = self.kernel.to(image.dtype)
        padding = len(kernel) // 2
        image = conv2d(image, kernel.view(1, 1, -1, 1), padding=(padding, 0))
        return conv2d(image, kernel.view(1, 1, 1, -1), padding=(0, padding))


@checked
def rule_inputs(like: Inputs | None = None, decibels: Positive | None = None) -> Inputs:
    """Make the inputs of the rule.

    Args:
        like: Inputs of a model, for images with the same bands (defaults to the near
            infrared and VV).
        decibels: Decibels per source unit of SAR (defaults to those of *like*, or 1).

    Returns:
        The inputs.

    Raises:
        ValueError: If *like* neither finds water nor has a band that is known to be the
            near infrared, or decibels are not known.
    """
    if like is None:
        return Inputs(
            RelativeDarkness([0.5]), _relative(1, decibels or 1.0),
            bands=['nir'], sar_bands=['VV'],
        )  # fmt: skip
    decibels = decibels or like.sar.decibels
    if decibels is None:
        raise ValueError('it is not known how many dB a unit of SAR is')
    optical: InputStep = like.optical
    if not optical.finds_water:
        if 'B08' not in like.bands:
            raise ValueError('it is not known which optical band is the near infrared')
        optical = RelativeDarkness([0.5 if name == 'B08' else 0 for name in like.bands])
    sar = _relative(like.sar.bands, decibels)
    return Inputs(optical, sar, like.window, *like.band_names)


def _relative(bands: int, decibels: float) -> Relative:
    """Make the SAR step of the rule."""
    return Relative([10.0] * bands, ['otsu', 0.85], decibels)


def _find_band(names: list[str], name: str) -> int:
    """Find a band by its name, or else take the first one."""
    return names.index(name) if name in names else 0

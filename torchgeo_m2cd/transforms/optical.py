# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Input steps that reduce optical images to their dark pixels."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import PositiveOrZero, checked
from .base import InputStep, median_and_std, per_band

#: This quantile of an image is bright until nearly all of it is water.
_BRIGHT_QUANTILE = 0.85


class _DarkStep(InputStep):
    """Reduce an image to its dark pixels, which lie below a limit per band."""

    finds_water = True

    def is_dark(self, pixels: Tensor, reference: Tensor) -> Tensor:
        """Find pixels below a limit in any band, see :meth:`InputStep.is_dark`."""
        limits = self._limits(reference[None, :, None, None]).reshape(-1, 1)
        # Negative values must not count in a band of limit 0, which is left out
        return ((pixels < limits) & (limits > 0)).any(dim=0)

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Compute the darkness, see :meth:`InputStep.forward`."""
        limits = self._limits(reference)
        darkness = 2 * (image / limits).clamp(0, 1) - 2
        return torch.where(limits > 0, darkness, 0)

    @abstractmethod
    def _limits(self, reference: Tensor) -> Tensor:
        """Compute the limits in source units.

        Args:
            reference: References, shape (B, K, 1, 1).

        Returns:
            Limits, shape (B, bands, 1, 1), or (1, bands, 1, 1) if all images share them.
        """


class Darkness(_DarkStep):
    r"""Reduce an optical image to its dark pixels.

    A band :math:`x` of limit :math:`l` becomes :math:`2 \min(x / l, 1) - 2`: 0 at and
    above the limit, and -2 where the image is black. In the near infrared, only water is
    that dark. The model therefore sees where water was before the event, but not the
    colours of soil and vegetation. Colours help to recognise the surroundings of the
    floods in the training data, and mislead the model elsewhere.
    """

    @checked
    def __init__(self, limits: Sequence[PositiveOrZero]) -> None:
        """Initialize a new Darkness instance.

        Args:
            limits: Limit of each band in source units. A band of limit 0 is left out: it
                becomes 0.

        Raises:
            ValueError: If *limits* is empty, a limit is negative, or all are zero.
        """
        super().__init__()
        self.limits = list(map(float, limits))
        _check_limits('limits', self.limits)
        self.bands = self.channels = len(self.limits)

    def check(self, pixels: Tensor) -> None:
        """Compare medians with the limits, see :meth:`InputStep.check`."""
        medians = median_and_std(pixels)[0]
        for band, (median, limit) in enumerate(
            zip(medians, self.limits, strict=True), 1
        ):
            # Water lowers the median, but not to a fiftieth of the limit
            if limit and not limit / 50 < median < limit * 50:
                raise ValueError(
                    f'band {band} has the median {median:.4g}, the model looks at what '
                    f'is darker than {limit:.4g}. Other units, or other bands?'
                )

    def _limits(self, reference: Tensor) -> Tensor:
        """Return the same limits for all images."""
        return per_band(self.limits, reference)[None]


class RelativeDarkness(_DarkStep):
    """Reduce an optical image in any units to its dark pixels.

    This is :class:`Darkness` with the limit of a band given as a share of its median over
    land. Land are the pixels above the same share of the 0.85 quantile, which is bright
    until nearly all of the image is water.

    The reference is the median of each band over land.
    """

    @checked
    def __init__(self, shares: Sequence[PositiveOrZero]) -> None:
        """Initialize a new RelativeDarkness instance.

        Args:
            shares: Limit of each band as a share of its median over land. A band of share
                0 is left out: it becomes 0.

        Raises:
            ValueError: If *shares* is empty, a share is negative, or all are zero.
        """
        super().__init__()
        self.shares = list(map(float, shares))
        _check_limits('shares', self.shares)
        self.bands = self.channels = self.num_references = len(self.shares)

    def measure(self, pixels: Tensor, land: Tensor) -> Tensor:
        """Measure the medians over land, see :meth:`InputStep.measure`."""
        bright = torch.quantile(pixels, _BRIGHT_QUANTILE, dim=1)
        return torch.stack(
            [
                # A limit above the level itself could leave no pixel
                band[band >= torch.minimum(share * level, level)].median()
                for band, share, level in zip(pixels, self.shares, bright, strict=True)
            ]
        )

    def _limits(self, reference: Tensor) -> Tensor:
        """Compute the limits of each image from its medians."""
        return per_band(self.shares, reference) * reference.clamp(min=0)


def _check_limits(name: str, values: Sequence[float]) -> None:
    """Check that at least one limit is not zero."""
    if not any(values):
        raise ValueError(
            f'{name} is {list(values)}: expected one per band, not all of them 0'
        )

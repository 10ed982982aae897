# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Base class of input steps, and the step that hides an image."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..checks import Count, checked
from ..configurable import Configurable


class InputStep(Configurable, nn.Module, ABC):
    """Turn the optical or the SAR image of a pair into what a model is shown.

    Some steps first :meth:`measure` the image, for example its Otsu threshold. The K
    measured values are the *reference* of the image.

    A subclass sets :attr:`bands`, :attr:`channels` and :attr:`num_references`. It stores
    its arguments, plain values, as attributes of the same names, because ``to_dict``
    reads them.
    """

    #: Number of bands of the image in source units.
    bands: int
    #: Number of channels that the model is shown.
    channels: int
    #: Number K of measured values.
    num_references: int = 0
    #: Whether :meth:`is_dark` can tell.
    finds_water: ClassVar[bool] = False
    #: Decibels per source unit, if the step depends on them.
    decibels: float | None = None

    kind: ClassVar[str] = 'input step'

    def __init__(self) -> None:
        """Initialize a new InputStep instance."""
        # nn.Module accepts any arguments, but to_dict reads the signature
        super().__init__()

    def measure(self, pixels: Tensor, land: Tensor) -> Tensor:
        """Measure the reference of an image.

        Args:
            pixels: Valid pixels in source units, shape (bands, N) with N > 0.
            land: True for land, as far as the other image tells, bool of shape (N,).

        Returns:
            The reference, shape (K,).
        """
        return pixels.new_empty(0)

    def is_dark(self, pixels: Tensor, reference: Tensor) -> Tensor:
        """Find dark pixels, which are taken for water.

        A step that cannot tell finds none.

        Args:
            pixels: Valid pixels in source units, shape (bands, N).
            reference: The reference of the image, shape (K,).

        Returns:
            Bool tensor of shape (N,).
        """
        return torch.zeros(pixels.shape[1], dtype=torch.bool, device=pixels.device)

    @abstractmethod
    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Turn images into what the model is shown.

        Args:
            image: Images in source units, shape (B, bands, H, W).
            reference: References, shape (B, K, 1, 1).

        Returns:
            What the model is shown, shape (B, channels, H, W).
        """

    def inverse(self, shown: Tensor, reference: Tensor) -> Tensor:
        """Undo :meth:`forward`.

        Args:
            shown: What the model is shown, shape (B, channels, H, W).
            reference: References, shape (B, K, 1, 1).

        Returns:
            Images in source units, shape (B, bands, H, W).

        Raises:
            ValueError: If the step loses information.
        """
        raise ValueError(
            f'{type(self).__name__} has no inverse: it does not keep the values of the '
            'image. Use the image in source units, which a batch has as `source`'
        )

    def check(self, pixels: Tensor) -> None:
        """Check that the values of an image are plausible in the units of the step.

        Args:
            pixels: Valid pixels in source units, shape (bands, N) with N > 1.

        Raises:
            ValueError: If they are not.
        """

    def in_decibels(self, unit: float = 1.0) -> 'InputStep':
        """Convert the step to images in other units, if it depends on the units.

        Args:
            unit: Decibels per unit of these images.

        Returns:
            A step of the same kind.
        """
        return self


class LeftOut(InputStep):
    """Hide an image from the model: all values become 0."""

    @checked
    def __init__(self, bands: Count = 1) -> None:
        """Initialize a new LeftOut instance.

        Args:
            bands: Number of bands.

        Raises:
            ValueError: If *bands* is not positive.
        """
        super().__init__()
        self.bands = self.channels = bands

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Return zeros, see :meth:`InputStep.forward`."""
        return torch.zeros_like(image)


def per_band(values: Sequence[float], like: Tensor) -> Tensor:
    """Make a tensor of shape (bands, 1, 1), with the type and device of another one."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]


def median_and_std(pixels: Tensor) -> tuple[list[float], list[float]]:
    """Compute the median and the standard deviation of each band, shape (bands, N)."""
    return pixels.median(dim=1).values.tolist(), pixels.std(dim=1).tolist()

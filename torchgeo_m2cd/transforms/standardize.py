# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Standardisation of images."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import Positive, checked
from .base import InputStep, median_and_std, per_band


class Standardize(InputStep):
    """Standardise each band with one mean and standard deviation for all images."""

    @checked
    def __init__(self, mean: Sequence[float], std: Sequence[Positive]) -> None:
        """Initialize a new Standardize instance.

        Args:
            mean: Mean of each band in source units.
            std: Standard deviation of each band in source units.

        Raises:
            ValueError: If *mean* and *std* differ in length or are empty, or if a
                standard deviation is not positive.
        """
        super().__init__()
        self.mean, self.std = list(map(float, mean)), list(map(float, std))
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(
                f'mean has {len(self.mean)} values and std has {len(self.std)}: expected '
                'one per band in both'
            )
        self.bands = self.channels = len(self.mean)

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Standardise images, see :meth:`InputStep.forward`."""
        return (image - per_band(self.mean, image)) / per_band(self.std, image)

    def inverse(self, shown: Tensor, reference: Tensor) -> Tensor:
        """Undo :meth:`forward`, see :meth:`InputStep.inverse`."""
        return shown * per_band(self.std, shown) + per_band(self.mean, shown)

    def check(self, pixels: Tensor) -> None:
        """Compare median and spread with *mean* and *std*, see :meth:`InputStep.check`."""
        values = zip(*median_and_std(pixels), self.mean, self.std, strict=True)
        for band, (median, spread, mean, std) in enumerate(values, 1):
            if abs(median - mean) > 50 * std or spread < std / 50:
                raise ValueError(
                    f'band {band} has the median {median:.4g} and the standard deviation '
                    f'{spread:.4g}, the model expects about {mean:.4g} and {std:.4g}. '
                    'Other units, or other bands?'
                )


class StandardizeImage(Standardize):
    """Standardise each image with its own mean and standard deviation.

    Bands are first standardised with the *mean* and *std* of all images, which gives them
    the same weight and keeps their differences. Then the mean over all bands and pixels
    of the image becomes 0, and the standard deviation 1. This reduces differences between
    scenes, for example in calibration, season, and incidence angle.

    The reference is this mean and standard deviation.
    """

    num_references = 2

    def measure(self, pixels: Tensor, land: Tensor) -> Tensor:
        """Measure mean and standard deviation, see :meth:`InputStep.measure`."""
        image = super().forward(pixels[None, :, :, None], pixels)
        std, mean = torch.std_mean(image, correction=0)
        # A constant image becomes 0
        return torch.stack([mean, std + 1e-6])

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Standardise images, see :meth:`InputStep.forward`."""
        mean, std = reference.chunk(2, dim=1)
        return (super().forward(image, reference) - mean) / std

    def inverse(self, shown: Tensor, reference: Tensor) -> Tensor:
        """Undo :meth:`forward`, see :meth:`InputStep.inverse`."""
        mean, std = reference.chunk(2, dim=1)
        return super().inverse(shown * std + mean, reference)

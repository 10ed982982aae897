# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Input steps for SAR images."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from annotated_types import MinLen
from einops import rearrange
from kornia.filters import otsu_threshold
from torch import Tensor

from ..checks import Positive, Share, checked
from .base import InputStep, median_and_std, per_band


class Relative(InputStep):
    r"""Show SAR relative to its surroundings: how far it is below land or a threshold.

    A band :math:`x` becomes one channel :math:`(x - r_k) \, d / s` per reference
    :math:`r_k`, with :math:`d` the *decibels* per source unit and :math:`s` the *scale*.
    Calibration, incidence angle, and season shift land and references alike, and so
    cancel. The contrast between water and land stays, because that is what holds in other
    scenes, too.

    References are

    * ``'otsu'``: Otsu's threshold of the image, which divides it into dark and bright
      pixels. If the image has comparable shares of water and land, it divides these.
    * a number :math:`q` from 0 to 1: this quantile of the SAR values over land. Land is
      where the optical image shows no water, see :class:`Darkness`, or everywhere if the
      optical image cannot tell. Flooded land lowers a low quantile. The 0.85 quantile
      stays that of dry land until most of the land is flooded.

    Source of the threshold: Otsu, "A threshold selection method from gray-level
    histograms", 1979, https://doi.org/10.1109/TSMC.1979.4310076
    """

    @checked
    def __init__(
        self,
        scale: Annotated[Sequence[Positive], MinLen(1)],
        references: Annotated[Sequence[Literal['otsu'] | Share], MinLen(1)] = ('otsu',),
        decibels: Positive = 1.0,
    ) -> None:
        """Initialize a new Relative instance.

        Args:
            scale: Decibels that the model sees as 1, for each band.
            references: What the image is relative to, see above.
            decibels: Decibels per source unit. For 8-bit images of unknown stretch,
                :func:`~torchgeo_m2cd.transforms.estimate_decibels` estimates them from
                speckle.

        Raises:
            ValueError: If *scale* or *decibels* is not positive, or if *references* is
                empty or one is unknown.
        """
        super().__init__()
        self.scale = list(map(float, scale))
        self.references = list(references)
        self.decibels: float = float(decibels)
        self.bands = len(self.scale)
        self.channels = self.num_references = self.bands * len(self.references)

    def measure(self, pixels: Tensor, land: Tensor) -> Tensor:
        """Measure the references of all bands, see :meth:`InputStep.measure`."""
        on_land = pixels[:, land] if land.any() else pixels
        references = [
            otsu_threshold(pixels[None, :, :, None])[1]
            if name == 'otsu'
            else torch.quantile(on_land, float(name), dim=1)
            for name in self.references
        ]
        return torch.cat(references).to(pixels.dtype)

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Compute the differences from the references, see :meth:`InputStep.forward`."""
        reference = rearrange(reference, 'b (k c) h w -> b k c h w', c=self.bands)
        relative = (image.unsqueeze(1) - reference) / self._unit(image)
        return relative.flatten(1, 2)

    def inverse(self, shown: Tensor, reference: Tensor) -> Tensor:
        """Undo :meth:`forward`, see :meth:`InputStep.inverse`."""
        first, reference = shown[:, : self.bands], reference[:, : self.bands]
        return first * self._unit(shown) + reference

    def check(self, pixels: Tensor) -> None:
        """Compare the spread with *scale*, see :meth:`InputStep.check`."""
        for band, (spread, scale) in enumerate(
            zip(median_and_std(pixels)[1], self.scale, strict=True), 1
        ):
            expected = scale / self.decibels
            if not expected / 50 < spread < expected * 50:
                raise ValueError(
                    f'band {band} has the standard deviation {spread:.4g}, the model '
                    f'expects about {expected:.4g}. Other units, or other bands?'
                )

    def in_decibels(self, unit: float = 1.0) -> 'Relative':
        """Convert the step to other units, see :meth:`InputStep.in_decibels`."""
        if unit == self.decibels:
            return self
        return Relative(self.scale, self.references, unit)

    def _unit(self, image: Tensor) -> Tensor:
        """Return the source units that the model sees as 1, shape (bands, 1, 1)."""
        return per_band(self.scale, image) / self.decibels

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""How one image of a pair is shown to a model."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from einops import rearrange
from kornia.filters import otsu_threshold
from torch import Tensor, nn

from ..configurable import Configurable

#: Share of a window's land that may be flooded before its upper levels are water, too.
_UPPER = 0.85


class InputStep(Configurable, nn.Module, ABC):
    """How the optical or the SAR image of a pair is shown to a model.

    A step turns an image from source units into what a model sees. Some steps first
    :meth:`measure` the image, for example its Otsu threshold; what they measure is the
    *reference*, a vector of K values.

    A subclass sets :attr:`bands`, :attr:`channels` and :attr:`num_references`, and
    keeps its arguments, plain values, as attributes of the same names:
    :meth:`to_dict` reads them.
    """

    #: Number of bands of the source.
    bands: int
    #: Number of channels that the model sees.
    channels: int
    #: Number K of values to measure.
    num_references: int = 0
    #: Decibels of one unit of the source, if the step depends on them.
    decibels: float | None = None

    kind: ClassVar[str] = 'input step'

    def __init__(self) -> None:
        """Initialize a new InputStep instance."""
        # Unlike a module's, without arguments: to_dict reads the signature
        super().__init__()

    def measure(self, pixels: Tensor, land: Tensor) -> Tensor:
        """Measure the reference of an image.

        Args:
            pixels: Valid pixels in source units, shape (bands, N) with N > 0.
            land: Which of them are land, as far as the other image tells, shape (N,).

        Returns:
            The reference, shape (K,).
        """
        return pixels.new_empty(0)

    def is_dark(self, pixels: Tensor, reference: Tensor) -> Tensor:
        """Find the pixels that are dark, that is water, if the step can tell.

        Args:
            pixels: Valid pixels in source units, shape (bands, N).
            reference: The reference of the image, shape (K,).

        Returns:
            Bool tensor of shape (N,).
        """
        return torch.zeros(pixels.shape[1], dtype=torch.bool, device=pixels.device)

    @abstractmethod
    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Show an image.

        Args:
            image: Image in source units, shape (B, bands, H, W).
            reference: References, shape (B, K, 1, 1).

        Returns:
            What the model sees, shape (B, channels, H, W).
        """

    def inverse(self, shown: Tensor, reference: Tensor) -> Tensor:
        """Undo :meth:`forward`.

        Args:
            shown: What the model sees, shape (B, channels, H, W).
            reference: References, shape (B, K, 1, 1).

        Returns:
            Image in source units, shape (B, bands, H, W).

        Raises:
            ValueError: If the step loses information.
        """
        raise ValueError(
            f'{type(self).__name__} has no inverse: it does not keep the values of the '
            'image. Use the image in source units, which a batch has as `source`'
        )

    def check(self, pixels: Tensor) -> None:
        """Check that the values of an image can be in the units of the step.

        Args:
            pixels: Valid pixels in source units, shape (bands, N) with N > 1.

        Raises:
            ValueError: If they cannot.
        """

    def in_decibels(self, unit: float = 1.0) -> 'InputStep':
        """Return the step for images of other units, if it knows its own.

        Args:
            unit: Decibels of one unit of the images.

        Returns:
            A step of the same kind.
        """
        return self


class Standardize(InputStep):
    """One mean and standard deviation per band, the same for all images."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Initialize a new Standardize instance.

        Args:
            mean: Mean of each band in source units.
            std: Standard deviation of each band in source units.

        Raises:
            ValueError: If there are not as many of both, or one of *std* is not positive.
        """
        super().__init__()
        self.mean, self.std = list(map(float, mean)), list(map(float, std))
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(
                f'mean has {len(self.mean)} values and std has {len(self.std)}: expected '
                'one per band in both'
            )
        if not all(value > 0 for value in self.std):
            raise ValueError(f'std is {self.std}: expected positive values')
        self.bands = self.channels = len(self.mean)

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Show an image, see :meth:`InputStep.forward`."""
        return (image - _per_band(self.mean, image)) / _per_band(self.std, image)

    def inverse(self, shown: Tensor, reference: Tensor) -> Tensor:
        """Undo :meth:`forward`, see :meth:`InputStep.inverse`."""
        return shown * _per_band(self.std, shown) + _per_band(self.mean, shown)

    def check(self, pixels: Tensor) -> None:
        """Check that median and spread are like *mean* and *std*."""
        values = zip(*_median_and_spread(pixels), self.mean, self.std, strict=True)
        for band, (median, spread, mean, std) in enumerate(values, 1):
            if abs(median - mean) > 50 * std or spread < std / 50:
                raise ValueError(
                    f'band {band} has the median {median:.4g} and the standard deviation '
                    f'{spread:.4g}, the model expects about {mean:.4g} and {std:.4g}. '
                    'Other units, or other bands?'
                )


class StandardizeImage(Standardize):
    """Mean and standard deviation of each image by itself.

    Bands are first standardised by the *mean* and *std* of all images, so that they
    weigh alike and keep their differences; then the mean over all bands and pixels of
    the image becomes 0, and the standard deviation 1. What differs between scenes, like
    calibration, season and incidence angle, then differs less.

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
        """Show an image, see :meth:`InputStep.forward`."""
        mean, std = reference.chunk(2, dim=1)
        return (super().forward(image, reference) - mean) / std

    def inverse(self, shown: Tensor, reference: Tensor) -> Tensor:
        """Undo :meth:`forward`, see :meth:`InputStep.inverse`."""
        mean, std = reference.chunk(2, dim=1)
        return super().inverse(shown * std + mean, reference)


class Relative(InputStep):
    r"""SAR relative to its surroundings: how far below land, or a threshold, it is.

    A band :math:`x` becomes one channel :math:`(x - r_k) \, d / s` per reference
    :math:`r_k`, with :math:`d` the *decibels* of a source unit and :math:`s` the *scale*.
    Calibration, incidence angle and season move land and references alike. The contrast
    stays as it is: how far below land water lies is what carries over.

    References are

    * ``'otsu'``: Otsu's threshold of the image, which divides it into dark and bright
      pixels; where there are both in comparable shares, into water and land
    * a number :math:`q` from 0 to 1: that quantile of land. Land is what the optical image
      shows no water in, see :class:`Darkness`, or all pixels if it cannot tell. Flooded
      land pulls a low quantile down; the 0.85 quantile stays land until most of it is
      flooded.

    Source of the threshold: Otsu, "A threshold selection method from gray-level
    histograms", 1979, https://doi.org/10.1109/TSMC.1979.4310076
    """

    def __init__(
        self,
        scale: Sequence[float],
        references: Sequence[Literal['otsu'] | float] = ('otsu',),
        decibels: float = 1.0,
    ) -> None:
        """Initialize a new Relative instance.

        Args:
            scale: Decibels of each band that the model sees as 1.
            references: What the image is relative to, see above.
            decibels: Decibels of one unit of the source. For 8-bit images of unknown
                stretch, :func:`~torchgeo_m2cd.transforms.estimate_decibels` estimates it from speckle.

        Raises:
            ValueError: If *scale* or *decibels* is not positive, or a reference unknown.
        """
        super().__init__()
        self.scale = list(map(float, scale))
        self.references = list(references)
        self.decibels: float = float(decibels)
        if not self.scale or not all(value > 0 for value in self.scale):
            raise ValueError(
                f'scale is {self.scale}: expected one positive value a band'
            )
        if not self.decibels > 0:
            raise ValueError(f'decibels is {decibels}: expected a positive value')
        for name in self.references:
            quantile = isinstance(name, int | float) and 0 <= name <= 1
            if name != 'otsu' and not quantile:
                raise ValueError(
                    f"unknown reference {name!r}: expected 'otsu', or a quantile "
                    'from 0 to 1'
                )
        if not self.references:
            raise ValueError('references is empty: expected one or more')
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
        """Show an image, see :meth:`InputStep.forward`."""
        reference = rearrange(reference, 'b (k c) h w -> b k c h w', c=self.bands)
        relative = (image.unsqueeze(1) - reference) / self._unit(image)
        return relative.flatten(1, 2)

    def inverse(self, shown: Tensor, reference: Tensor) -> Tensor:
        """Undo :meth:`forward`, see :meth:`InputStep.inverse`."""
        first, reference = shown[:, : self.bands], reference[:, : self.bands]
        return first * self._unit(shown) + reference

    def check(self, pixels: Tensor) -> None:
        """Check that the contrast is like *scale*."""
        for band, (spread, scale) in enumerate(
            zip(_median_and_spread(pixels)[1], self.scale, strict=True), 1
        ):
            expected = scale / self.decibels
            if not expected / 50 < spread < expected * 50:
                raise ValueError(
                    f'band {band} has the standard deviation {spread:.4g}, the model '
                    f'expects about {expected:.4g}. Other units, or other bands?'
                )

    def in_decibels(self, unit: float = 1.0) -> 'Relative':
        """Return the step for other units, see :meth:`InputStep.in_decibels`."""
        return Relative(self.scale, self.references, unit)

    def _unit(self, image: Tensor) -> Tensor:
        """Return the source units that the model sees as 1, shape (bands, 1, 1)."""
        return _per_band(self.scale, image) / self.decibels


class Darkness(InputStep):
    r"""The optical image reduced to what is dark in it.

    A band :math:`x` of limit :math:`l` becomes :math:`2 \min(x / l, 1) - 2`: 0 from the
    limit on, and -2 where it is black. In the near infrared, only water is that dark. A
    model then sees where water was before, and no colours of soil and vegetation: those
    tell floods that it was trained on from their surroundings, and mislead it elsewhere.
    """

    def __init__(self, limits: Sequence[float]) -> None:
        """Initialize a new Darkness instance.

        Args:
            limits: Limit of each band in source units. A band of limit 0 is left out:
                it becomes 0.

        Raises:
            ValueError: If they are negative, or all zero.
        """
        super().__init__()
        self.limits = list(map(float, limits))
        _check_limits('limits', self.limits)
        self.bands = self.channels = len(self.limits)

    def is_dark(self, pixels: Tensor, reference: Tensor) -> Tensor:
        """Find pixels darker than a limit, see :meth:`InputStep.is_dark`."""
        limits = self._limits(reference[None, :, None, None]).reshape(-1, 1)
        # Values may be negative, and a band that is left out has no say
        return ((pixels < limits) & (limits > 0)).any(dim=0)

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Show an image, see :meth:`InputStep.forward`."""
        limits = self._limits(reference)
        darkness = 2 * (image / limits).clamp(0, 1) - 2
        return torch.where(limits > 0, darkness, 0)

    def check(self, pixels: Tensor) -> None:
        """Check that values are neither far above the limits nor far below."""
        medians = _median_and_spread(pixels)[0]
        for band, (median, limit) in enumerate(
            zip(medians, self.limits, strict=True), 1
        ):
            # Where nearly all is water, the median is low, but not that low
            if limit and not limit / 50 < median < limit * 50:
                raise ValueError(
                    f'band {band} has the median {median:.4g}, the model looks at what '
                    f'is darker than {limit:.4g}. Other units, or other bands?'
                )

    def _limits(self, reference: Tensor) -> Tensor:
        """Return the limits in source units, shape (B, bands, 1, 1)."""
        return _per_band(self.limits, reference)[None]


class RelativeDarkness(Darkness):
    """The optical image reduced to what is dark in it, in any units.

    As :class:`Darkness`, with the limit of a band as a share of its median over land.
    Land are the pixels above that share of the 0.85 quantile: that is bright until nearly
    all of the image is water.

    The reference is the median of each band over land.
    """

    def __init__(self, shares: Sequence[float]) -> None:
        """Initialize a new RelativeDarkness instance.

        Args:
            shares: Limit of each band as a share of its median over land. A band of share
                0 is left out: it becomes 0.

        Raises:
            ValueError: If they are negative, or all zero.
        """
        InputStep.__init__(self)
        self.shares = list(map(float, shares))
        _check_limits('shares', self.shares)
        self.bands = self.channels = self.num_references = len(self.shares)

    def measure(self, pixels: Tensor, land: Tensor) -> Tensor:
        """Measure the medians over land, see :meth:`InputStep.measure`."""
        bright = torch.quantile(pixels, _UPPER, dim=1)
        return torch.stack(
            [
                # Never above the level itself, or nothing may be left
                band[band >= torch.minimum(share * level, level)].median()
                for band, share, level in zip(pixels, self.shares, bright, strict=True)
            ]
        )

    def check(self, pixels: Tensor) -> None:
        """Check nothing: any units will do."""

    def _limits(self, reference: Tensor) -> Tensor:
        """Return the limits in source units, shape (B, bands, 1, 1)."""
        return _per_band(self.shares, reference) * reference.clamp(min=0)


class LeftOut(InputStep):
    """An image that the model is not to see: it becomes 0."""

    def __init__(self, bands: int = 1) -> None:
        """Initialize a new LeftOut instance.

        Args:
            bands: Number of bands.

        Raises:
            ValueError: If it is not positive.
        """
        super().__init__()
        if bands < 1:
            raise ValueError(f'bands is {bands}: expected at least 1')
        self.bands = self.channels = bands

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        """Show an image, see :meth:`InputStep.forward`."""
        return torch.zeros_like(image)


def _per_band(values: Sequence[float], like: Tensor) -> Tensor:
    """Make a tensor of shape (bands, 1, 1)."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None, None]


def _median_and_spread(pixels: Tensor) -> tuple[list[float], list[float]]:
    """Return median and standard deviation of each band."""
    return pixels.median(dim=1).values.tolist(), pixels.std(dim=1).tolist()


def _check_limits(name: str, values: Sequence[float]) -> None:
    """Check the limits of all bands."""
    if not values or min(values) < 0 or not any(values):
        raise ValueError(
            f'{name} is {list(values)}: expected one per band, not negative and not all 0'
        )

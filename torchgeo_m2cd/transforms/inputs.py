# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""What a model is shown of an image pair."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchgeo.datasets.utils import Sample

from ..checks import Count, checked
from ..datasets import stack_pair
from ..datasets.bands import name_bands
from .base import InputStep

#: Largest number of pixels to measure an image with; more would hardly change the result.
_MAX_PIXELS = 2**16


class Reference(NamedTuple):
    """Values measured in image pairs, which the input steps need."""

    #: References of the optical images, shape (B, K1, 1, 1).
    optical: Tensor
    #: References of the SAR images, shape (B, K2, 1, 1).
    sar: Tensor


class Inputs(nn.Module):
    """What a model is shown of an image pair, with one step per modality.

    This is the only place that knows about statistics, thresholds, limits, the bands that
    they are of, and modalities that are left out. It belongs to the model: checkpoints,
    ``save_pretrained``, and the metadata of ONNX files contain it.

    Pixels without data do not count in measurements, and the model sees 0 there. A pixel
    has no data if the dataset says so, or if all optical bands are 0, as in Sentinel-2
    products; a dataset whose zeros are data replaces them by a tiny number. Losses and
    metrics follow the mask alone: it says which pixels count.
    """

    @checked
    def __init__(
        self,
        optical: InputStep,
        sar: InputStep,
        window: Count = 256,
        bands: Sequence[str] | None = None,
        sar_bands: Sequence[str] | None = None,
    ) -> None:
        """Initialize a new Inputs instance.

        Args:
            optical: Step for the optical image.
            sar: Step for the SAR image.
            window: Height and width in pixels of the window of a scene that is measured
                around a patch, by at most about 256 x 256 of its pixels; all of a smaller
                scene. A larger patch is measured itself. Use about the size of the chips
                in training. Chips are always measured as a whole.
            bands: Names of the optical bands, such as ``['B04', 'B08']`` or ``['red',
                'nir']``, with empty strings where they are not known (defaults to those
                of the training data, if these have names). The bands of a scene are
                then read by name.
            sar_bands: Names of the SAR bands, such as ``['VV', 'VH']``.

        Raises:
            ValueError: If *window* is not positive, or there are not as many names as
                bands.
        """
        super().__init__()
        self.optical = optical
        self.sar = sar
        self.window = window
        #: Names of the optical bands, empty where they are not known.
        self.bands = name_bands('bands', bands, optical.bands)
        #: Names of the SAR bands, empty where they are not known.
        self.sar_bands = name_bands('sar_bands', sar_bands, sar.bands)

    @property
    def band_counts(self) -> tuple[int, int]:
        """Number of optical and of SAR bands in source units."""
        return self.optical.bands, self.sar.bands

    @property
    def band_names(self) -> tuple[list[str], list[str]]:
        """Names of the optical and of the SAR bands, empty where they are not known."""
        return self.bands, self.sar_bands

    @property
    def channels(self) -> tuple[int, int]:
        """Number of channels that the model is shown of the optical and of the SAR image."""
        return self.optical.channels, self.sar.channels

    @property
    def measures(self) -> bool:
        """Whether a step needs measured values."""
        return self.optical.num_references + self.sar.num_references > 0

    def valid(self, image: Tensor, valid: Tensor | None = None) -> Tensor:
        """Find the pixels with data.

        Args:
            image: Image pairs in source units, shape (B, 2, C, H, W), or one pair of
                shape (2, C, H, W).
            valid: Pixels with data according to the dataset, bool, shape (B, 1, H, W) or
                (1, H, W).

        Returns:
            Bool tensor of shape (B, 1, H, W) or (1, H, W).

        Raises:
            ValueError: If the image does not have the bands that the steps expect.
        """
        optical, sar = self.band_counts
        if (
            image.ndim < 4
            or image.shape[-4] != 2
            or image.shape[-3] != max(optical, sar)
        ):
            raise ValueError(
                f'image has shape {tuple(image.shape)}: expected (B, 2, '
                f'{max(optical, sar)}, H, W), the model is made for {optical} optical and '
                f'{sar} SAR bands'
            )
        bands = image[..., 0, :optical, :, :]
        seen = (bands != 0).any(dim=-3, keepdim=True)
        return seen if valid is None else seen & valid

    def measure(self, image: Tensor, valid: Tensor | None = None) -> Reference:
        """Measure the references of image pairs.

        Args:
            image: Image pairs in source units, shape (B, 2, C, H, W).
            valid: Pixels with data, see :meth:`valid`.

        Returns:
            The references. They are 0 for images without data.
        """
        return self._measure(image, self.valid(image, valid))

    def _measure(self, image: Tensor, valid: Tensor) -> Reference:
        """Measure the references in the pixels with data."""
        pairs = [
            self.measure_pixels(pair[:, :, inside[0]])
            if self.measures
            else (pair.new_empty(0), pair.new_empty(0))
            for pair, inside in zip(image, valid, strict=True)
        ]
        return Reference(
            *(
                torch.stack(values)[..., None, None]
                for values in zip(*pairs, strict=True)
            )
        )

    def measure_pixels(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Measure one image pair.

        Args:
            pixels: Pixels with data in source units, shape (2, C, N).

        Returns:
            References of the optical and of the SAR image, shapes (K1,) and (K2,).
        """
        if pixels.shape[-1] == 0:
            return tuple(  # type: ignore[return-value]
                pixels.new_zeros(step.num_references)
                for step in (self.optical, self.sar)
            )
        # A chip of 256 x 256 pixels is measured completely
        pixels = pixels[..., :: -(-pixels.shape[-1] // _MAX_PIXELS)]
        optical, sar = self._split(pixels.unsqueeze(-1), dim=0)
        optical, sar = optical[..., 0], sar[..., 0]
        everything = torch.ones(
            optical.shape[1], dtype=torch.bool, device=optical.device
        )
        first = self.optical.measure(optical, everything)
        land = ~self.optical.is_dark(optical, first)
        return first, self.sar.measure(sar, land)

    def forward(
        self,
        image: Tensor,
        valid: Tensor | None = None,
        reference: Reference | None = None,
    ) -> Tensor:
        """Turn image pairs into what the model is shown.

        Args:
            image: Image pairs in source units, shape (B, 2, C, H, W), with C the larger
                number of bands, see :func:`~torchgeo_m2cd.datasets.stack_pair`.
            valid: Pixels with data, see :meth:`valid`.
            reference: Values measured elsewhere (defaults to those of the images).

        Returns:
            What the model is shown, shape (B, 2, C', H, W), with C' the larger number of
            channels. Pixels without data are 0.

        Raises:
            ValueError: If the image does not have the bands that the steps expect.
        """
        return self._forward(image, self.valid(image, valid), reference)

    def _forward(
        self, image: Tensor, valid: Tensor, reference: Reference | None
    ) -> Tensor:
        """Turn the pixels with data into what the model is shown."""
        if reference is None:
            reference = self._measure(image, valid)
        images = self._split(image, dim=1)
        shown = [
            step(own, values)
            for step, own, values in zip(
                (self.optical, self.sar), images, reference, strict=True
            )
        ]
        return torch.where(valid.unsqueeze(1), _stack(*shown), 0)

    def inverse(self, shown: Tensor, reference: Reference) -> Tensor:
        """Undo :meth:`forward`.

        Args:
            shown: What the model is shown, shape (B, 2, C', H, W).
            reference: Values measured in the images.

        Returns:
            Image pairs in source units, shape (B, 2, C, H, W). Pixels without data are
            not restored.

        Raises:
            ValueError: If a step loses information.
        """
        steps = (self.optical, self.sar)
        return _stack(
            *(
                step.inverse(shown[:, i, : step.channels], values)
                for i, (step, values) in enumerate(zip(steps, reference, strict=True))
            )
        )

    def show(self, batch: Sample, valid: Tensor | None = None) -> Sample:
        """Turn the pairs of a batch into what the model is shown.

        Args:
            batch: Batch with ``image`` in source units. ``valid`` is optional, and so are
                ``reference_optical`` and ``reference_sar``, the values measured around
                patches of a scene.
            valid: Pixels with data, bool, shape (B, 1, H, W), if the images were changed
                since they were found (defaults to those that :meth:`valid` finds).

        Returns:
            Batch with ``image`` as the model is shown it, ``source``, the image pairs in
            source units, ``valid``, the pixels with data, and the references.
        """
        image = batch['image']
        if valid is None:
            valid = self.valid(image, batch.get('valid'))
        if 'reference_sar' in batch:
            reference = Reference(batch['reference_optical'], batch['reference_sar'])
        else:
            reference = self._measure(image, valid)
        return {
            **batch,
            'image': self._forward(image, valid, reference),
            'source': image,
            'valid': valid,
            'reference_optical': reference.optical,
            'reference_sar': reference.sar,
        }

    def find_water(self, batch: Sample) -> Tensor:
        """Find what the optical images show as water, see :meth:`InputStep.is_dark`.

        Args:
            batch: Output of :meth:`show`.

        Returns:
            Bool tensor of shape (B, 1, H, W), False where there are no data.
        """
        source, valid = batch['source'], batch['valid']
        optical = source[:, 0, : self.optical.bands].flatten(2)
        references = batch['reference_optical']
        dark = [
            self.optical.is_dark(*pair)
            for pair in zip(optical, references.flatten(1), strict=True)
        ]
        water: Tensor = torch.stack(dark).view_as(valid) & valid
        return water

    def in_decibels(self, unit: float = 1.0) -> 'Inputs':
        """Convert the inputs to SAR images in other units, if the step depends on them.

        Args:
            unit: Decibels per unit of these images, 1 if they are in dB.

        Returns:
            Inputs for these images.
        """
        sar = self.sar.in_decibels(unit)
        if sar is self.sar:
            return self
        return Inputs(self.optical, sar, self.window, *self.band_names)

    def named(self, bands: Sequence[str], sar_bands: Sequence[str]) -> 'Inputs':
        """Name the bands that have no names.

        Args:
            bands: Names of the optical bands. They are not used if they are not as many
                as the bands.
            sar_bands: Names of the SAR bands.

        Returns:
            Inputs with the names.
        """
        names = tuple(
            [name or other for name, other in zip(own, others, strict=True)]
            if len(own) == len(others)
            else own
            for own, others in zip(self.band_names, (bands, sar_bands), strict=True)
        )
        if names == self.band_names:
            return self
        return Inputs(self.optical, self.sar, self.window, *names)

    def check(self, pixels: Tensor) -> None:
        """Check that the values of a pair are plausible in the units of the steps.

        Args:
            pixels: Pixels with data in source units, shape (2, C, N).

        Raises:
            ValueError: If they are not. The message begins with the modality.
        """
        pixels = pixels[:, :, (pixels[0, : self.optical.bands] != 0).any(dim=0)]
        if pixels.shape[-1] < 2:
            return
        images = self._split(pixels.unsqueeze(-1), dim=0)
        for name, step, own in zip(
            ('optical', 'SAR'), (self.optical, self.sar), images, strict=True
        ):
            try:
                step.check(own[..., 0])
            except ValueError as error:
                raise ValueError(f'{name} {error}') from error

    def to_dict(self) -> dict[str, Any]:
        """Describe the inputs in plain values, as in a YAML file.

        Returns:
            The arguments.
        """
        return {
            'optical': self.optical.to_dict(),
            'sar': self.sar.to_dict(),
            'window': self.window,
            'bands': self.bands,
            'sar_bands': self.sar_bands,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> 'Inputs':
        """Make inputs from their description.

        Args:
            values: Output of :meth:`to_dict`, with or without the names of the bands.

        Returns:
            The inputs.

        Raises:
            ValueError: If a key is missing, or a key or a step is unknown.
        """
        names = ('bands', 'sar_bands')
        expected = {'optical', 'sar', 'window', *names}
        if {*values, *names} != expected:
            raise ValueError(
                f'inputs have the keys {sorted(values)}: expected {sorted(expected)}'
            )
        steps = {key: InputStep.from_dict(values[key]) for key in ('optical', 'sar')}
        return cls(**{**values, **steps})

    def _split(self, image: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """Split pairs into optical and SAR images, each with its own bands."""
        optical, sar = image.unbind(dim)
        bands = self.band_counts
        return optical[..., : bands[0], :, :], sar[..., : bands[1], :, :]


def _stack(optical: Tensor, sar: Tensor) -> Tensor:
    """Stack batches of images like :func:`~torchgeo_m2cd.datasets.stack_pair`."""
    pairs = stack_pair(optical.transpose(0, 1), sar.transpose(0, 1))
    return pairs.permute(2, 0, 1, 3, 4)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""What a model is shown of an image pair."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchgeo.datasets.utils import Sample

from ..datasets import stack_pair
from .steps import InputStep

#: Pixels that an image is measured by; more would say nothing new.
MAX_PIXELS = 2**16


class Reference(NamedTuple):
    """What was measured of image pairs before they are shown."""

    #: Of the optical images, shape (B, K1, 1, 1).
    optical: Tensor
    #: Of the SAR images, shape (B, K2, 1, 1).
    sar: Tensor


class Inputs(nn.Module):
    """What a model is shown of an image pair, with one step per modality.

    The only place that knows about statistics, thresholds, limits and modalities that
    are left out. It belongs to the model: it is kept in its checkpoint, with
    ``save_pretrained``, and in the metadata of an ONNX file.

    Pixels without data never count, and the model sees 0 there. Beside those that a
    dataset marks, these are the pixels where all optical bands are zero, as in
    Sentinel-2's products.
    """

    def __init__(self, optical: InputStep, sar: InputStep, window: int = 256) -> None:
        """Initialize a new Inputs instance.

        Args:
            optical: How to show the optical image.
            sar: How to show the SAR image.
            window: Height and width in pixels of the part of a scene that is measured
                around a patch, or the patch itself, if it is larger. About the size of
                the chips that the model was trained with. Chips are measured whole.

        Raises:
            ValueError: If *window* is not positive.
        """
        super().__init__()
        if window < 1:
            raise ValueError(f'window is {window}: expected at least 1')
        self.optical = optical
        self.sar = sar
        self.window = window

    @property
    def band_counts(self) -> tuple[int, int]:
        """Number of optical and SAR bands of the source."""
        return self.optical.bands, self.sar.bands

    @property
    def channels(self) -> tuple[int, int]:
        """Number of channels that the model sees of the optical and of the SAR image."""
        return self.optical.channels, self.sar.channels

    @property
    def measures(self) -> bool:
        """Whether something has to be measured of an image before it can be shown."""
        return self.optical.num_references + self.sar.num_references > 0

    def valid(self, image: Tensor, valid: Tensor | None = None) -> Tensor:
        """Find the pixels with data.

        Args:
            image: Image pairs in source units, shape (B, 2, C, H, W), or a pair without
                B.
            valid: Pixels with data as far as is known, bool, shape (B, 1, H, W) or
                (1, H, W).

        Returns:
            Bool tensor of the shape of *valid*.

        Raises:
            ValueError: If the image has not the bands that the steps are made for.
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
        """Measure what has to be known of images before they can be shown.

        Args:
            image: Image pairs in source units, shape (B, 2, C, H, W).
            valid: Pixels with data, see :meth:`valid`.

        Returns:
            The references; zeros for images without any pixel with data.
        """
        valid = self.valid(image, valid)
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
        # All of a chip of 256 x 256
        pixels = pixels[..., :: -(-pixels.shape[-1] // MAX_PIXELS)]
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
        """Show image pairs.

        Args:
            image: Image pairs in source units, shape (B, 2, C, H, W), with C the larger
                number of bands, see :func:`~torchgeo_m2cd.datasets.stack_pair`.
            valid: Pixels with data, see :meth:`valid`.
            reference: What was measured, if not of the images themselves.

        Returns:
            What the model sees, shape (B, 2, C', H, W), with C' the larger number of
            channels; 0 where there are no data.

        Raises:
            ValueError: If the image has not the bands that the steps are made for.
        """
        valid = self.valid(image, valid)
        if reference is None:
            reference = self.measure(image, valid)
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
            shown: What the model sees, shape (B, 2, C', H, W).
            reference: What was measured of the images.

        Returns:
            Image pairs in source units, shape (B, 2, C, H, W), except where there are no
            data.

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

    def show(self, batch: Sample) -> Sample:
        """Show the pairs of a batch, and keep them in source units, too.

        Args:
            batch: Batch with ``image`` in source units and, optionally, ``valid``, and
                ``reference_optical`` and ``reference_sar``, what was measured around
                patches of a scene.

        Returns:
            Batch with ``image`` as the model sees it, ``source``, the images in source
            units, and ``valid``, where there are data.
        """
        image = batch['image']
        valid = self.valid(image, batch.get('valid'))
        reference = None
        if 'reference_sar' in batch:
            reference = Reference(batch['reference_optical'], batch['reference_sar'])
        shown = self(image, valid, reference)
        return {**batch, 'image': shown, 'source': image, 'valid': valid}

    def in_decibels(self, unit: float = 1.0) -> 'Inputs':
        """Return the same inputs for SAR images of other units, if the step knows its own.

        Args:
            unit: Decibels of one unit of the images: 1 if they are in dB.

        Returns:
            Inputs with a step for these images.
        """
        return Inputs(self.optical, self.sar.in_decibels(unit), self.window)

    def check(self, pixels: Tensor) -> None:
        """Check that the values of a pair can be in the units that the model knows.

        Args:
            pixels: Pixels with data in source units, shape (2, C, N).

        Raises:
            ValueError: If they cannot; the message begins with the modality.
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
        """Describe what the model is shown in plain values, as a YAML file does.

        Returns:
            ``optical``, ``sar`` and ``window``.
        """
        return {
            'optical': self.optical.to_dict(),
            'sar': self.sar.to_dict(),
            'window': self.window,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> 'Inputs':
        """Make inputs from their description.

        Args:
            values: Output of :meth:`to_dict`.

        Returns:
            The inputs.

        Raises:
            ValueError: If a key is missing or unknown, or a step is.
        """
        expected = {'optical', 'sar', 'window'}
        if set(values) != expected:
            raise ValueError(
                f'inputs have the keys {sorted(values)}: expected {sorted(expected)}'
            )
        steps = {key: InputStep.from_dict(values[key]) for key in ('optical', 'sar')}
        return cls(**steps, window=values['window'])

    def _split(self, image: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """Return the optical and the SAR image, each with its own bands."""
        optical, sar = image.unbind(dim)
        bands = self.band_counts
        return optical[..., : bands[0], :, :], sar[..., : bands[1], :, :]


class KeepsInputs:
    """Base class of tasks that keep what their model is shown."""

    #: What the model is shown; None until it is trained or loaded.
    inputs: Inputs | None

    def take_inputs(self, inputs: Inputs) -> None:
        """Keep what the model is shown, as the data module decided.

        Args:
            inputs: The inputs.
        """
        self.inputs = inputs


def _stack(optical: Tensor, sar: Tensor) -> Tensor:
    """Stack batches of images, as :func:`~torchgeo_m2cd.datasets.stack_pair` does."""
    pairs = stack_pair(optical.transpose(0, 1), sar.transpose(0, 1))
    return pairs.permute(2, 0, 1, 3, 4)

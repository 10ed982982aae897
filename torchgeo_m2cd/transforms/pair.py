# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Augmentation of image pairs."""

from collections.abc import Sequence
from typing import Any, Literal

import kornia.augmentation as K
import torch
from einops import rearrange
from kornia.augmentation.base import _AugmentationBase
from torch import Tensor, nn
from torchgeo.datasets.utils import Sample

from ..checks import PositiveOrZero, Share, checked
from .drain import RandomDrain


class PairAugmentation(nn.Module):
    """Augment batches of image pairs for training.

    Kornia treats an image of shape (B, 2, C, H, W) as a video and cannot change its frames
    differently. This class passes the pair on as one image with 2C channels instead. A
    geometric transform is then the same for both images, the mask, and the images in
    source units.

    Only the image is interpolated. Masks and images in source units are resampled with
    nearest neighbours, and keep their values and data types. Other keys do not change.
    Where a transform leaves pixels without data, images are 0, ``valid`` is False, and the
    mask is 255, to be ignored.

    Example:
        >>> import torch
        >>> from kornia.augmentation import RandomHorizontalFlip
        >>> from torchgeo_m2cd.transforms import PairAugmentation
        >>> augmentation = PairAugmentation([RandomHorizontalFlip(p=1)])
        >>> batch = {'image': torch.rand(2, 2, 3, 8, 8), 'mask': torch.ones(2, 1, 8, 8)}
        >>> flipped = augmentation(batch)['image']
        >>> torch.equal(flipped, batch['image'].flip(-1))
        True
    """

    @checked
    def __init__(
        self,
        augmentations: Sequence[_AugmentationBase] = (),
        source_augmentations: Sequence[_AugmentationBase] = (),
        drain: RandomDrain | None = None,
    ) -> None:
        """Initialize a new PairAugmentation instance.

        Args:
            augmentations: Kornia augmentations of images with 2C channels, as the model
                is shown them.
            source_augmentations: Kornia augmentations of images with 2C channels in source
                units, applied before the images are measured. After a crop here, the
                crop is measured, and not the chip that it is from.
            drain: Takes floods away, before all other augmentations.
        """
        super().__init__()
        self.drain = drain
        self.augmentations = K.AugmentationSequential(*augmentations, data_keys=None)
        self.source_augmentations = K.AugmentationSequential(
            *source_augmentations, data_keys=None
        )

    def change_source(self, batch: Sample, land: Tensor | None = None) -> Sample:
        """Augment a batch in source units, before it is measured.

        Args:
            batch: See :meth:`forward`.
            land: Pixels with data that were no water before, bool, shape (B, 1, H, W).
                Nothing is drained without it.

        Returns:
            See :meth:`forward`.

        Raises:
            ValueError: If the image does not have the shape that :meth:`forward` expects.
        """
        if self.drain is not None and land is not None:
            batch = self.drain(batch, land)
        return _augment(batch, self.source_augmentations)

    def forward(self, batch: Sample) -> Sample:
        """Augment a batch as the model is shown it.

        Args:
            batch: Batch with ``image`` of shape (B, 2, C, H, W). Optional are ``mask`` and
                ``valid`` of shape (B, 1, H, W), and ``source`` of shape (B, 2, C', H, W).

        Returns:
            Batch with the same keys, transformed together. Crops change H and W.

        Raises:
            ValueError: If the image does not have the shape above.
        """
        changed = _augment(batch, self.augmentations)
        if 'valid' in changed:
            # An augmentation of values also changes pixels without data
            changed['image'] = changed['image'] * changed['valid'].unsqueeze(1)
        return changed


def _augment(batch: Sample, augmentations: K.AugmentationSequential) -> Sample:
    """Apply augmentations to all keys of a batch together."""
    image: Tensor = batch['image']
    # Kornia resamples keys that begin with "mask" with nearest neighbours. It warps in the
    # data type of the image, which represents 255 exactly, and fills with 0
    inputs = {'image': _flatten(image)}
    if 'mask' in batch:
        inputs['mask'] = 255 - batch['mask'].to(image.dtype)
    if 'valid' in batch:
        inputs['mask_valid'] = batch['valid'].to(image.dtype)
    if 'source' in batch:
        inputs['mask_source'] = _flatten(batch['source'])
    outputs = augmentations(inputs)
    changed = {'image': _unflatten(outputs['image'])}
    if 'mask' in batch:
        changed['mask'] = (255 - outputs['mask']).to(batch['mask'].dtype)
    if 'valid' in batch:
        changed['valid'] = outputs['mask_valid'].bool()
    if 'source' in batch:
        changed['source'] = _unflatten(outputs['mask_source'])
    return {**batch, **changed}


def _flatten(image: Tensor) -> Tensor:
    """Turn pairs (B, 2, C, H, W) into images with 2C channels."""
    if image.ndim != 5 or image.shape[1] != 2:
        raise ValueError(
            f'image has shape {tuple(image.shape)}: expected (B, 2, C, H, W)'
        )
    return rearrange(image, 'b t c h w -> b (t c) h w')


def _unflatten(image: Tensor) -> Tensor:
    """Turn images with 2C channels into pairs (B, 2, C, H, W)."""
    return rearrange(image, 'b (t c) h w -> b t c h w', t=2)


class StrictRandomCrop(K.RandomCrop):  # type: ignore[misc]
    """Random crop that refuses images smaller than the crop.

    Kornia's own crop enlarges them, which silently changes the resolution.
    """

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Draw the position of the crop in each image.

        Args:
            batch_shape: Shape (B, C, H, W) of the images.

        Returns:
            Parameters of the crop.

        Raises:
            ValueError: If the crop is larger than the images.
        """
        height, width = self.flags['size']
        if height > batch_shape[-2] or width > batch_shape[-1]:
            raise ValueError(
                f'crop of {height} x {width} pixels is larger than images of '
                f'{batch_shape[-2]} x {batch_shape[-1]} pixels: expected a smaller one'
            )
        parameters: dict[str, Tensor] = super().generate_parameters(batch_shape)
        return parameters


class RandomQuarterTurn(K.RandomRotation90):  # type: ignore[misc]
    """Randomly rotate square images by 90 degrees, without interpolation.

    Images that are not square do not change, since a rotation would leave parts without
    data. Together with both random flips, all eight orientations are equally likely.
    """

    @checked
    def __init__(self, p: Share = 0.5) -> None:
        """Initialize a new RandomQuarterTurn instance.

        Args:
            p: Probability of rotating an image.
        """
        super().__init__(times=(1, 1), resample='nearest', p=p)

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Draw the number of quarter turns of each image.

        Args:
            batch_shape: Shape (B, C, H, W) of the images.

        Returns:
            Parameters of the rotation.
        """
        parameters: dict[str, Tensor] = super().generate_parameters(batch_shape)
        if batch_shape[-2] != batch_shape[-1]:
            parameters['times'] = torch.zeros_like(parameters['times'])
        return parameters


class RandomRotationOrFlip(K.RandomRotation):  # type: ignore[misc]
    """Randomly rotate an image by a small angle, or mirror it.

    Half of the images are rotated, a quarter is mirrored, and a quarter does not change.
    Square images are mirrored on one of their four axes, with equal probability. Other
    images are mirrored horizontally or vertically, since mirroring on a diagonal would
    leave parts without data.
    """

    @checked
    def __init__(self, degrees: PositiveOrZero = 20.0) -> None:
        """Initialize a new RandomRotationOrFlip instance.

        Args:
            degrees: Largest angle of the rotation in degrees, in either direction.
        """
        super().__init__(degrees, p=1.0)

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Draw the transform of each image.

        Args:
            batch_shape: Shape (B, C, H, W) of the images.

        Returns:
            Angles ``degrees``, and bools ``mirror``, whether to mirror before rotating.
        """
        parameters: dict[str, Tensor] = super().generate_parameters(batch_shape)
        degrees = parameters['degrees']
        draw = torch.rand_like(degrees)
        mirror = draw >= 0.75
        step = 90 if batch_shape[-2] == batch_shape[-1] else 180
        turns = step * torch.randint_like(degrees, 4)
        parameters['degrees'] = torch.where(draw < 0.5, degrees, turns * mirror)
        parameters['mirror'] = mirror
        return parameters

    def compute_transformation(
        self, input: Tensor, params: dict[str, Tensor], flags: dict[str, Any]
    ) -> Tensor:
        """Compute the matrices of the transforms from the drawn parameters.

        Returns:
            Matrices for pixel coordinates (x, y, 1), shape (B, 3, 3).
        """
        rotation: Tensor = super().compute_transformation(input, params, flags)
        mirrored = torch.eye(3).to(rotation)
        mirrored[0] = torch.tensor([-1, 0, input.shape[-1] - 1])
        mirror = params['mirror'].to(input.device)[:, None, None]
        return torch.where(mirror, rotation @ mirrored, rotation)


class PhotometricDistortion(K.IntensityAugmentationBase2D):
    """Randomly change brightness, contrast, saturation, and hue of 8-bit RGB images.

    The two images of a pair change independently. Brightness is added and contrast
    multiplied. Their order affects only values that are clipped.
    """

    @checked
    def __init__(
        self,
        brightness: PositiveOrZero = 10.0,
        contrast: Share = 0.2,
        saturation: Share = 0.2,
        hue: PositiveOrZero = 20.0,
        p: Share = 0.5,
    ) -> None:
        """Initialize a new PhotometricDistortion instance.

        Args:
            brightness: Largest value to add or subtract, for values from 0 to 255.
            contrast: Largest relative change of all values.
            saturation: Largest relative change of the saturation.
            hue: Largest change of the hue in degrees. The original's 10 are in OpenCV's
                unit of 2 degrees.
            p: Probability of each of the four changes.
        """
        super().__init__(p=1.0)
        self.changes = K.ImageSequential(
            K.RandomBrightness((1 - brightness / 255, 1 + brightness / 255), p=p),
            K.RandomContrast((1 - contrast, 1 + contrast), p=p),
            K.RandomSaturation((1 - saturation, 1 + saturation), p=p),
            K.RandomHue((-hue / 360, hue / 360), p=p),
        )

    def apply_transform(
        self,
        input: Tensor,
        params: dict[str, Tensor],
        flags: dict[str, Any],
        transform: Tensor | None = None,
    ) -> Tensor:
        """Distort pairs of shape (B, 6, H, W) with values from 0 to 255.

        Returns:
            Distorted pairs of the same shape and range.
        """
        images = rearrange(input / 255, 'b (t c) h w -> (b t) c h w', t=2)
        changed: Tensor = self.changes(images) * 255
        return rearrange(changed, '(b t) c h w -> b (t c) h w', t=2)


class DropImage(K.IntensityAugmentationBase2D):
    """Set one image of a pair to zero, the mean of standardised images."""

    @checked
    def __init__(self, index: Literal[0, 1], p: Share = 1.0) -> None:
        """Initialize a new DropImage instance.

        Args:
            index: Image to drop: 0 is the optical image, 1 the SAR image.
            p: Probability of dropping the image of a pair.
        """
        super().__init__(p=p)
        self.index = index

    def apply_transform(
        self,
        input: Tensor,
        params: dict[str, Tensor],
        flags: dict[str, Any],
        transform: Tensor | None = None,
    ) -> Tensor:
        """Set one image of pairs of shape (B, 2C, H, W) to zero.

        Returns:
            Pairs of the same shape.
        """
        pair = rearrange(input, 'b (t c) h w -> b t c h w', t=2).clone()
        pair[:, self.index] = 0
        return pair.flatten(1, 2)


class RandomGainOffset(K.IntensityAugmentationBase2D):
    r"""Apply a random gain and offset to each band of standardised images.

    A value :math:`x` becomes :math:`x (1 + \sigma n_1) + \sigma n_2` with
    :math:`n_1, n_2 \sim N(0, 1)` per sample and band.
    """

    @checked
    def __init__(
        self,
        sigma: PositiveOrZero,
        images: Sequence[Literal[0, 1]] = (0, 1),
        p: Share = 1.0,
    ) -> None:
        """Initialize a new RandomGainOffset instance.

        Args:
            sigma: Standard deviation of gain and offset.
            images: Images of a pair to change: 0 is the optical image, 1 the SAR image.
            p: Probability of changing a pair.
        """
        super().__init__(p=p)
        self.sigma = sigma
        self.images = list(images)

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Draw gain and offset of each band.

        Args:
            batch_shape: Shape (B, 2C, H, W) of the pairs.

        Returns:
            Gain and offset, each of shape (B, 2C).
        """
        return {
            'gain': 1 + self.sigma * torch.randn(batch_shape[:2]),
            'offset': self.sigma * torch.randn(batch_shape[:2]),
        }

    def apply_transform(
        self,
        input: Tensor,
        params: dict[str, Tensor],
        flags: dict[str, Any],
        transform: Tensor | None = None,
    ) -> Tensor:
        """Apply gain and offset to pairs of shape (B, 2C, H, W).

        Returns:
            Pairs of the same shape.
        """
        gain, offset = (
            params[name].to(input)[..., None, None] for name in ('gain', 'offset')
        )
        for index in {0, 1} - set(self.images):
            gain.chunk(2, dim=1)[index].fill_(1)
            offset.chunk(2, dim=1)[index].fill_(0)
        return input * gain + offset

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


class PairAugmentation(nn.Module):
    """Change batches of image pairs at random, for training.

    Kornia treats an image of shape (B, 2, C, H, W) as a video and cannot change its frames
    differently. Here, the pair is one image with 2C channels: a geometric transform is the
    same for both images, for the mask, and for the images in source units.

    All but the image is resampled with nearest neighbours and keeps its values and its
    data type. Other keys are left alone. Where a transform brings in no data, images are 0,
    ``valid`` is False, and the mask is 255, to be ignored.
    """

    def __init__(
        self,
        augmentations: Sequence[_AugmentationBase] = (),
        source_augmentations: Sequence[_AugmentationBase] = (),
    ) -> None:
        """Initialize a new PairAugmentation instance.

        Args:
            augmentations: Kornia augmentations of images with 2C channels, as the model
                sees them.
            source_augmentations: The same, of the images in source units, before
                anything is measured of them; not geometric.
        """
        super().__init__()
        self.augmentations = K.AugmentationSequential(*augmentations, data_keys=None)
        self.source_augmentations = K.AugmentationSequential(
            *source_augmentations, data_keys=None
        )

    def change_source(self, batch: Sample) -> Sample:
        """Change images in source units, before a model is shown them.

        Args:
            batch: Batch with ``image`` of shape (B, 2, C, H, W).

        Returns:
            Batch with changed ``image``.
        """
        flat = {'image': _flatten(batch['image'])}
        changed = self.source_augmentations(flat)['image']
        return {**batch, 'image': _unflatten(changed)}

    def forward(self, batch: Sample) -> Sample:
        """Change a batch as the model sees it.

        Args:
            batch: Batch with ``image`` of shape (B, 2, C, H, W) and, optionally, ``mask``
                and ``valid`` of shape (B, 1, H, W), and ``source`` of the shape of images.

        Returns:
            Batch with the same keys changed alike; the size may be another one.

        Raises:
            ValueError: If the image does not have the shape above.
        """
        image: Tensor = batch['image']
        # Keys that begin with mask are resampled with nearest neighbours, and warped in
        # the data type of the image, in which 255 is exact. Warping fills with 0
        inputs = {'image': _flatten(image)}
        if 'mask' in batch:
            inputs['mask'] = 255 - batch['mask'].to(image.dtype)
        if 'valid' in batch:
            inputs['mask_valid'] = batch['valid'].to(image.dtype)
        if 'source' in batch:
            inputs['mask_source'] = _flatten(batch['source'])
        outputs = self.augmentations(inputs)
        changed = {'image': _unflatten(outputs['image'])}
        if 'mask' in batch:
            changed['mask'] = (255 - outputs['mask']).to(batch['mask'].dtype)
        if 'valid' in batch:
            changed['valid'] = outputs['mask_valid'].bool()
            # Also after a change of all values
            changed['image'] = changed['image'] * changed['valid'].unsqueeze(1)
        if 'source' in batch:
            changed['source'] = _unflatten(outputs['mask_source'])
        return {**batch, **changed}


def _flatten(image: Tensor) -> Tensor:
    """Make one image with 2C channels of a pair."""
    if image.ndim != 5 or image.shape[1] != 2:
        raise ValueError(
            f'image has shape {tuple(image.shape)}: expected (B, 2, C, H, W)'
        )
    return rearrange(image, 'b t c h w -> b (t c) h w')


def _unflatten(image: Tensor) -> Tensor:
    """Make a pair of one image with 2C channels."""
    return rearrange(image, 'b (t c) h w -> b t c h w', t=2)


class StrictRandomCrop(K.RandomCrop):  # type: ignore[misc]
    """Random crop which does not enlarge images that are too small.

    Kornia's own would, and so change the size of pixels on the ground without a word.
    """

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Draw the position of the crop in every image.

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
    """Random turn by 90 degrees, exact to the pixel, of square images.

    Images that are not square stay as they are: a turn would leave parts without data.
    Together with both random flips, all eight orientations are equally likely.
    """

    def __init__(self, p: float = 0.5) -> None:
        """Initialize a new RandomQuarterTurn instance.

        Args:
            p: Probability to turn an image.
        """
        super().__init__(times=(1, 1), resample='nearest', p=p)

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Draw the number of turns of every image.

        Args:
            batch_shape: Shape (B, C, H, W) of the images.

        Returns:
            Parameters of the turn.
        """
        parameters: dict[str, Tensor] = super().generate_parameters(batch_shape)
        if batch_shape[-2] != batch_shape[-1]:
            parameters['times'] = torch.zeros_like(parameters['times'])
        return parameters


class RandomRotationOrFlip(K.RandomRotation):  # type: ignore[misc]
    """Random rotation by any small angle, or else a random mirror image.

    Half of the images are rotated. Half of the others are mirrored: in a square, on each
    of its four axes alike; in any other rectangle, horizontally or vertically, since its
    diagonals would leave parts without data.
    """

    def __init__(self, degrees: float = 20.0) -> None:
        """Initialize a new RandomRotationOrFlip instance.

        Args:
            degrees: Largest angle of the rotation, in either direction.
        """
        super().__init__(degrees, p=1.0)

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Draw what happens to every image.

        Args:
            batch_shape: Shape (B, C, H, W) of the images.

        Returns:
            Angles ``degrees``, and ``mirror``, whether to mirror before.
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
        """Compute the matrices of the transforms.

        Args:
            input: Images, shape (B, C, H, W).
            params: Output of :meth:`generate_parameters`.
            flags: Not used.

        Returns:
            Matrices of shape (B, 3, 3), of pixel coordinates (x, y, 1).
        """
        rotation: Tensor = super().compute_transformation(input, params, flags)
        mirrored = torch.eye(3).to(rotation)
        mirrored[0] = torch.tensor([-1, 0, input.shape[-1] - 1])
        mirror = params['mirror'].to(input.device)[:, None, None]
        return torch.where(mirror, rotation @ mirrored, rotation)


class PhotometricDistortion(K.IntensityAugmentationBase2D):
    """Random brightness, contrast, saturation and hue of 8-bit RGB images.

    Each image of a pair changes by itself. Brightness is added, and contrast multiplied:
    its place among the others matters only for values that become too large.
    """

    def __init__(
        self,
        brightness: float = 10.0,
        contrast: float = 0.2,
        saturation: float = 0.2,
        hue: float = 20.0,
        p: float = 0.5,
    ) -> None:
        """Initialize a new PhotometricDistortion instance.

        Args:
            brightness: Largest value to add or subtract, of 255.
            contrast: Largest relative change of all values.
            saturation: Largest relative change of the saturation.
            hue: Largest change of the hue, in degrees; the original's 10 are OpenCV's
                units of 2 degrees.
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
        """Change a batch.

        Args:
            input: Pairs of shape (B, 6, H, W), from 0 to 255.
            params: Not used.
            flags: Not used.
            transform: Not used.

        Returns:
            Changed pairs, same shape and range.
        """
        images = rearrange(input / 255, 'b (t c) h w -> (b t) c h w', t=2)
        changed: Tensor = self.changes(images) * 255
        return rearrange(changed, '(b t) c h w -> b (t c) h w', t=2)


class DropImage(K.IntensityAugmentationBase2D):
    """Set one image of a pair to zero, the mean of standardised images."""

    def __init__(self, index: Literal[0, 1], p: float = 1.0) -> None:
        """Initialize a new DropImage instance.

        Args:
            index: Which image: 0 is the optical one, 1 the SAR image.
            p: Probability to drop the image of a pair.
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
        """Drop the image of a batch.

        Args:
            input: Pairs with 2C channels, shape (B, 2C, H, W).
            params: Not used.
            flags: Not used.
            transform: Not used.

        Returns:
            Pairs, same shape.
        """
        pair = rearrange(input, 'b (t c) h w -> b t c h w', t=2).clone()
        pair[:, self.index] = 0
        return pair.flatten(1, 2)


class RandomGainOffset(K.IntensityAugmentationBase2D):
    r"""Random gain and offset per band, for standardised images.

    :math:`x (1 + \sigma n_1) + \sigma n_2` with :math:`n_1, n_2 \sim N(0, 1)` per
    sample and band.
    """

    def __init__(
        self, sigma: float, images: Sequence[Literal[0, 1]] = (0, 1), p: float = 1.0
    ) -> None:
        """Initialize a new RandomGainOffset instance.

        Args:
            sigma: Standard deviation of gain and offset.
            images: Which images of a pair: 0 is the optical one, 1 the SAR image.
            p: Probability to change an image.
        """
        super().__init__(p=p)
        self.sigma = sigma
        self.images = list(images)

    def generate_parameters(self, batch_shape: tuple[int, ...]) -> dict[str, Tensor]:
        """Draw gain and offset.

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
        """Apply gain and offset to a batch.

        Args:
            input: Pairs with 2C channels, shape (B, 2C, H, W).
            params: Gain and offset.
            flags: Not used.
            transform: Not used.

        Returns:
            Images, same shape.
        """
        gain, offset = (
            params[name].to(input)[..., None, None] for name in ('gain', 'offset')
        )
        for index in {0, 1} - set(self.images):
            gain.chunk(2, dim=1)[index].fill_(1)
            offset.chunk(2, dim=1)[index].fill_(0)
        return input * gain + offset

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Augmentation of image pairs."""

from collections.abc import Sequence
from typing import Any, Literal

import kornia.augmentation as K
import torch
from einops import rearrange
from kornia.augmentation.base import _AugmentationBase
from kornia.filters import otsu_threshold
from torch import Tensor, nn
from torchgeo.datasets.utils import Sample


class PairAugmentation(nn.Module):
    """Apply Kornia augmentations to batches of image pairs and their masks.

    Kornia treats an image of shape (B, 2, C, H, W) as a video and cannot normalize its
    frames differently. Here, the pair is one image with 2C channels, so that a geometric
    transform is the same for both images and for the mask, and that mean and standard
    deviation can have one value per modality and band.

    The mask is resampled with nearest neighbours, so it keeps its values, including
    those to ignore, and its data type. It is optional. Other keys are left alone.

    Where a transform brings in no data, the image is 0 and the mask 255, to be ignored.
    """

    def __init__(self, *augmentations: _AugmentationBase) -> None:
        """Initialize a new PairAugmentation instance.

        Args:
            *augmentations: Kornia augmentations for images with 2C channels.
        """
        super().__init__()
        self.augmentations = K.AugmentationSequential(*augmentations, data_keys=None)

    def forward(self, batch: Sample) -> Sample:
        """Augment a batch.

        Args:
            batch: Batch with ``image`` of shape (B, 2, C, H, W) and, optionally, ``mask``
                of shape (B, 1, H, W).

        Returns:
            Batch with augmented ``image`` and ``mask``; the size may be another one.

        Raises:
            ValueError: If the image does not have the shape above.
        """
        image: Tensor = batch['image']
        if image.ndim != 5 or image.shape[1] != 2:
            raise ValueError(
                f'image has shape {tuple(image.shape)}: expected (B, 2, C, H, W)'
            )
        inputs: dict[str, Any] = {'image': rearrange(image, 'b t c h w -> b (t c) h w')}
        if 'mask' in batch:
            # Warping needs a floating point type; 255 is exact in all of them. It fills
            # with 0, which is 255 when turned back
            inputs['mask'] = 255 - batch['mask'].to(image.dtype)
        outputs = self.augmentations(inputs)
        outputs['image'] = rearrange(outputs['image'], 'b (t c) h w -> b t c h w', t=2)
        if 'mask' in batch:
            outputs['mask'] = (255 - outputs['mask']).to(batch['mask'].dtype)
        return {**batch, **outputs}


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


class StandardizeImage(K.IntensityAugmentationBase2D):
    """Standardise each image of a pair by itself.

    Its mean over all bands and pixels becomes 0, and its standard deviation 1. What
    differs between scenes, like calibration, season and incidence angle, then differs
    less.
    """

    def __init__(self, images: Sequence[Literal[0, 1]] = (0, 1)) -> None:
        """Initialize a new StandardizeImage instance.

        Args:
            images: Which images: 0 is the optical one, 1 the SAR image.
        """
        super().__init__(p=1.0)
        self.images = list(images)

    def apply_transform(
        self,
        input: Tensor,
        params: dict[str, Tensor],
        flags: dict[str, Any],
        transform: Tensor | None = None,
    ) -> Tensor:
        """Standardise a batch.

        Args:
            input: Pairs with 2C channels, shape (B, 2C, H, W).
            params: Not used.
            flags: Not used.
            transform: Not used.

        Returns:
            Standardised pairs, same shape.
        """
        pair = rearrange(input, 'b (t c) h w -> b t c h w', t=2).clone()
        own = pair[:, self.images]
        std, mean = torch.std_mean(own, dim=(2, 3, 4), keepdim=True)
        # A constant image becomes 0
        pair[:, self.images] = (own - mean) / (std + 1e-6)
        return pair.flatten(1, 2)


class AlignThreshold(K.IntensityAugmentationBase2D):
    """Shift the SAR image of a pair so that Otsu's threshold of each band gets one value.

    The threshold divides the image into dark and bright pixels, where there are both
    into water and land. What is dark is then below that value, whatever the calibration,
    the incidence angle and the share of water; the contrast stays as it is.

    Where all bands of the optical image are zero there are no data, as in Sentinel-2's
    products. Such pixels don't count: the border of a SAR image is often white or
    black, and the threshold would part it from all else.

    * https://doi.org/10.1109/TSMC.1979.4310076
    """

    def __init__(self, level: Tensor | float = 0.0) -> None:
        """Initialize a new AlignThreshold instance.

        Args:
            level: Value that the threshold becomes, in the units of the images, a scalar
                or one value per band, shape (C,).
        """
        super().__init__(p=1.0)
        self.level = torch.as_tensor(level).reshape(-1, 1, 1)

    def apply_transform(
        self,
        input: Tensor,
        params: dict[str, Tensor],
        flags: dict[str, Any],
        transform: Tensor | None = None,
    ) -> Tensor:
        """Shift a batch.

        Args:
            input: Pairs with 2C channels, shape (B, 2C, H, W), not normalized yet.
            params: Not used.
            flags: Not used.
            transform: Not used.

        Returns:
            Pairs with shifted SAR image, same shape.
        """
        pair = rearrange(input, 'b (t c) h w -> b t c h w', t=2).clone()
        for optical, sar in pair:
            valid = (optical != 0).any(dim=0)
            # Without any, it doesn't matter
            pixels = sar[:, valid] if valid.any() else sar.flatten(1)
            _, threshold = otsu_threshold(pixels[None, :, :, None])
            sar += self.level.to(sar) - threshold.reshape(-1, 1, 1)
        return pair.flatten(1, 2)


class OpticalDarkness(K.IntensityAugmentationBase2D):
    r"""Reduce the optical image of a pair to what is dark in it.

    A band :math:`x` of limit :math:`l` becomes :math:`2 \min(x / l, 1) - 2`: 0 from the limit
    on, and -2 where it is black. In the near infrared, only water is that dark. A model then
    sees where water was before, and no colours of soil and vegetation: those tell floods that
    it was trained on from their surroundings, and mislead it elsewhere.

    Where all bands are zero there are no data, and the result is 0.
    """

    def __init__(self, limits: Sequence[float]) -> None:
        """Initialize a new OpticalDarkness instance.

        Args:
            limits: Limit of each band, in the units of the images. A band of limit 0 is left
                out: it becomes 0.
        """
        super().__init__(p=1.0)
        self.limits = torch.tensor(limits).reshape(-1, 1, 1)

    def apply_transform(
        self,
        input: Tensor,
        params: dict[str, Tensor],
        flags: dict[str, Any],
        transform: Tensor | None = None,
    ) -> Tensor:
        """Transform a batch.

        Args:
            input: Pairs with 2C channels, shape (B, 2C, H, W), the optical bands not
                normalized.
            params: Not used.
            flags: Not used.
            transform: Not used.

        Returns:
            Pairs with optical values from -2 to 0, same shape.
        """
        optical, sar = input.chunk(2, dim=1)
        limits = self.limits.to(input)
        valid = (optical != 0).any(dim=1, keepdim=True) & (limits > 0)
        darkness = 2 * (optical / limits).clamp(0, 1) - 2
        return torch.cat([torch.where(valid, darkness, 0), sar], dim=1)


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


def pair_normalize(mean: Tensor, std: Tensor) -> K.Normalize:
    """Return the normalization of image pairs, for :class:`PairAugmentation`.

    Args:
        mean: Mean of shape (2, C), optical first, in the units of the images.
        std: Standard deviation of shape (2, C).

    Returns:
        Kornia normalization of images with 2C channels.

    Raises:
        ValueError: If the shapes are not (2, C), or a standard deviation is not positive.
    """
    if mean.ndim != 2 or len(mean) != 2 or mean.shape != std.shape:
        raise ValueError(
            f'mean has shape {tuple(mean.shape)} and std has shape {tuple(std.shape)}: '
            'expected (2, C) for both'
        )
    if not torch.all(std > 0):
        raise ValueError(f'std is {std.tolist()}: expected positive values')
    return K.Normalize(mean=mean.flatten().float(), std=std.flatten().float())

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Base class for all optical-SAR data modules."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast, get_args

import kornia.augmentation as K
import torch
from kornia.augmentation.base import _AugmentationBase
from torch import Tensor
from torchgeo.datamodules import NonGeoDataModule
from torchgeo.datasets import NonGeoDataset

from ..datasets import stack_pair
from ..transforms import (
    AlignThreshold,
    DropImage,
    OpticalDarkness,
    PairAugmentation,
    PhotometricDistortion,
    RandomGainOffset,
    RandomQuarterTurn,
    RandomRotationOrFlip,
    StandardizeImage,
    StrictRandomCrop,
    pair_normalize,
)
from ..utils import check_choice

#: What images are standardised by, see :class:`OpticalSARDataModule`.
Standardize = Literal['dataset', 'image', 'otsu']

#: Which image of a pair a model sees.
Modality = Literal['both', 'optical', 'sar']


class OpticalSARDataModule(NonGeoDataModule):
    """Base class for all optical-SAR data modules.

    Every batch is normalized with one mean and standard deviation per modality and band.
    In training, it is also cropped, flipped, and turned by multiples of 90 degrees
    at random, by default.
    """

    def __init__(
        self,
        dataset_class: type[NonGeoDataset],
        mean: Tensor,
        std: Tensor,
        batch_size: int = 8,
        patch_size: int | tuple[int, int] | None = None,
        num_workers: int = 0,
        test_split: str = 'test',
        standardize: Standardize = 'dataset',
        jitter: float = 0.0,
        modality: Modality = 'both',
        optical_dropout: float = 0.0,
        augmentation: Literal['default', 'original'] = 'default',
        predict_split: str | None = None,
        optical_limits: Sequence[float] | None = None,
        crop_scale: tuple[float, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Initialize a new OpticalSARDataModule instance.

        Args:
            dataset_class: Class used to instantiate a new dataset of image pairs, like
                :class:`~torchgeo_m2cd.datasets.OpticalSARDataset`.
            mean: Mean of shape (2, C) in the units of the dataset, optical first.
            std: Standard deviation of shape (2, C).
            batch_size: Size of each mini-batch.
            patch_size: Size of the random crops in training, either ``size`` or
                ``(height, width)``, at most that of the chips. Whole chips are used if
                None.
            num_workers: Number of workers for parallel data loading.
            test_split: Split used for testing and prediction.
            standardize: Whether to standardise images with *mean* and *std* alone
                (``'dataset'``), or then each by itself (``'image'``), or then the
                optical image by itself and SAR by its threshold (``'otsu'``,
                :class:`~torchgeo_m2cd.transforms.AlignThreshold`).
            jitter: Standard deviation of a random gain and offset per band in training,
                in units of the standardised images; of SAR alone with *optical_limits*.
            modality: Which image the model sees, ``'both'``, ``'optical'`` or ``'sar'``;
                the other one is zero.
            optical_dropout: Probability that the optical image of a pair is zero in
                training: a model is then not lost without what it learns from it.
            augmentation: How training images are changed at random: ``'default'``, as
                above, or ``'original'``, as in the original M²CD: rotated by up to 20
                degrees, mirrored or neither, and their colors distorted, which needs
                8-bit images of 3 bands, and neither *jitter* nor *optical_limits*.
            predict_split: Split used for prediction, if not *test_split*.
            optical_limits: Limit of each optical band, to show of it in place of its
                standardised values no more than what is darker, see
                :class:`~torchgeo_m2cd.transforms.OpticalDarkness`.
            crop_scale: Smallest and largest area of a random crop, as a share of the chip,
                that is resized to *patch_size*. Not resized if None.
            **kwargs: Additional keyword arguments passed to *dataset_class*.

        Raises:
            TypeError: If *dataset_class* does not take one of *kwargs*.
            ValueError: If *standardize*, *modality* or *augmentation* is unknown, the
                shapes of *mean* and *std* are not (2, C), a standard deviation is not
                positive, *patch_size* is not, *optical_limits* are negative, all zero or
                not C, *crop_scale* is not within 0 to 1 or without *patch_size*, or
                ``augmentation='original'`` does not fit.
        """
        # Now, and not when training starts
        inspect.signature(dataset_class).bind_partial(**kwargs)
        super().__init__(dataset_class, batch_size, num_workers, **kwargs)

        self.mean = mean
        self.std = std
        self.patch_size = (
            (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
        )
        self.test_split = test_split
        self.predict_split = predict_split or test_split

        crop: list[_AugmentationBase] = []
        if self.patch_size is not None:
            if min(self.patch_size) < 1:
                raise ValueError(f'patch_size is {patch_size}: expected at least 1')
            crop = [StrictRandomCrop(self.patch_size)]
        if crop_scale is not None:
            low, high = crop_scale
            if self.patch_size is None or not 0 < low <= high <= 1:
                raise ValueError(
                    f'crop_scale is {crop_scale} and patch_size {patch_size}: expected '
                    'two shares from 0 to 1, the smaller one first, and a patch_size'
                )
            ratio = self.patch_size[1] / self.patch_size[0]
            crop = [K.RandomResizedCrop(self.patch_size, (low, high), (ratio, ratio))]
        check_choice('standardize', standardize, get_args(Standardize))
        check_choice('modality', modality, get_args(Modality))
        if optical_dropout and modality != 'both':
            raise ValueError(
                f'optical_dropout is {optical_dropout}, but modality is {modality!r}: '
                "expected 'both'"
            )
        self.standardize = standardize
        self.modality = modality
        self.optical_limits = optical_limits
        # The whole chip counts, as in evaluation, not the crop
        normalize: list[_AugmentationBase] = [pair_normalize(mean, std)]
        limited = optical_limits is not None
        if optical_limits is not None:
            check_limits(optical_limits, mean.shape[1])
            mean, std = mean.clone(), std.clone()
            mean[0], std[0] = 0, 1
            normalize = [pair_normalize(mean, std), OpticalDarkness(optical_limits)]
        if standardize == 'image':
            normalize.append(StandardizeImage([1] if limited else [0, 1]))
        elif standardize == 'otsu':
            # First, in the units of the data: there, 0 is no data
            normalize = [
                AlignThreshold(mean[1]),
                *normalize,
                *([] if limited else [StandardizeImage([0])]),
            ]
        dropped: dict[Modality, list[_AugmentationBase]] = {
            'both': [],
            'optical': [DropImage(1)],
            'sar': [DropImage(0)],
        }
        self.aug = PairAugmentation(*normalize, *dropped[modality])
        check_choice('augmentation', augmentation, ('default', 'original'))
        changes: list[_AugmentationBase] = [
            *normalize,
            *crop,
            *random_changes(jitter, sar_only=limited),
        ]
        if augmentation == 'original':
            if mean.shape[1] != 3 or jitter or limited:
                raise ValueError(
                    "augmentation='original' needs images of 3 bands, no jitter, and no "
                    f'optical_limits, got {mean.shape[1]} bands, jitter={jitter} and '
                    f'optical_limits={optical_limits}'
                )
            rotation = RandomRotationOrFlip()
            changes = [PhotometricDistortion(), *normalize, rotation, *crop]
        if optical_dropout:
            changes.append(DropImage(0, p=optical_dropout))
        self.train_aug = PairAugmentation(*changes, *dropped[modality])

    def setup(self, stage: str) -> None:
        """Set up datasets.

        Args:
            stage: Either 'fit', 'validate', 'test', or 'predict'.

        Raises:
            ValueError: If the training split is smaller than a batch.
        """
        make_dataset = cast(Callable[..., NonGeoDataset], self.dataset_class)
        if stage in ['fit', 'validate']:
            super().setup(stage)
        if stage == 'fit':
            # TorchGeo drops the last batch if it is incomplete: nothing would be left
            samples = len(cast(NonGeoDataset, self.train_dataset))
            if samples < self.batch_size:
                raise ValueError(
                    f'batch_size is {self.batch_size}, but there are only {samples} '
                    'samples to train on'
                )
        if stage in ['test']:
            self.test_dataset = make_dataset(split=self.test_split, **self.kwargs)
        if stage in ['predict']:
            self.predict_dataset = make_dataset(split=self.predict_split, **self.kwargs)


def check_limits(limits: Sequence[float], bands: int) -> None:
    """Check limits of optical bands.

    Args:
        limits: Limits, see :class:`OpticalSARDataModule`.
        bands: Number of bands.

    Raises:
        ValueError: If they are negative, all zero, or not as many as there are bands.
    """
    if len(limits) != bands or min(limits) < 0 or not any(limits):
        raise ValueError(
            f'optical_limits are {list(limits)}: expected {bands}, one per optical band, '
            'not negative and not all zero'
        )


def random_changes(jitter: float, sar_only: bool = False) -> list[_AugmentationBase]:
    """Make the random changes of standardised images that all training has.

    Args:
        jitter: Standard deviation of a random gain and offset per band.
        sar_only: Whether only the SAR image gets them.

    Returns:
        Augmentations: gain and offset, flips, and turns by multiples of 90 degrees.
    """
    return [
        *([RandomGainOffset(jitter, [1] if sar_only else [0, 1])] if jitter else []),
        K.RandomHorizontalFlip(p=0.5),
        K.RandomVerticalFlip(p=0.5),
        RandomQuarterTurn(p=0.5),
    ]


def pair_statistics(values: Sequence[Sequence[float]]) -> Tensor:
    """Arrange statistics of the bands like the channels of a sample.

    Args:
        values: One value per optical band, and one per SAR band.

    Returns:
        Values of shape (2, C), see :func:`~torchgeo_m2cd.datasets.stack_pair`.

    Raises:
        ValueError: If there are not values for two images.
    """
    if len(values) != 2 or not all(len(bands) for bands in values):
        raise ValueError(
            f'got statistics {values}: expected one list for the optical bands '
            'and one for the SAR bands'
        )
    optical, sar = (
        torch.tensor(list(bands), dtype=torch.float32).reshape(-1, 1, 1)
        for bands in values
    )
    return stack_pair(optical, sar).flatten(1)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""OMBRIA data module."""

from collections.abc import Sequence
from typing import Literal

from torchgeo.datasets.utils import Path

from ..datasets import OMBRIA
from ..utils import check_choice
from .base import Modality, OpticalSARDataModule, Standardize, pair_statistics

# Over all pixels of the 551 chips of the training split, rounded to two digits:
# red, green, and blue of the optical image, then SAR
MEAN = ((72.46, 76.26, 32.08), (152.82,))
STD = ((29.30, 26.35, 20.49), (49.99,))


class OMBRIADataModule(OpticalSARDataModule):
    """LightningDataModule implementation for the OMBRIA dataset.

    Uses the train, val, and test splits of the dataset. Set *test_split* to test on the
    floods of 2021: all ('events') or one of them ('albania', 'france', 'guyana',
    'timor').
    """

    def __init__(
        self,
        root: Path = 'data',
        batch_size: int = 8,
        patch_size: int | tuple[int, int] | None = None,
        num_workers: int = 0,
        test_split: str = 'test',
        standardize: Standardize = 'dataset',
        jitter: float = 0.0,
        modality: Modality = 'both',
        optical_dropout: float = 0.0,
        mean: Sequence[Sequence[float]] = MEAN,
        std: Sequence[Sequence[float]] = STD,
        augmentation: Literal['default', 'original'] = 'default',
        download: bool = False,
        checksum: bool = False,
        leave_out: Sequence[str] = (),
        optical_limits: Sequence[float] | None = None,
        crop_scale: tuple[float, float] | None = None,
    ) -> None:
        """Initialize a new OMBRIADataModule instance.

        Args:
            root: Root directory where the dataset is, or is downloaded to.
            batch_size: Size of each mini-batch.
            patch_size: Size of the random crops in training, either ``size`` or
                ``(height, width)``. Whole chips of 256 x 256 pixels are used if None.
            num_workers: Number of workers for parallel data loading.
            test_split: Split used for testing and prediction.
            standardize: Whether to standardise images with *mean* and *std* alone
                (``'dataset'``), or then each by itself (``'image'``), or then the
                optical image by itself and SAR by its threshold (``'otsu'``).
            jitter: Standard deviation of a random gain and offset per band in training,
                in units of the standardised images.
            modality: Which image the model sees, ``'both'``, ``'optical'`` or ``'sar'``;
                the other one is zero.
            optical_dropout: Probability that the optical image of a pair is zero in
                training.
            mean: Mean of each band, first of the optical, then of the SAR bands.
            std: Standard deviation of each band, likewise.
            augmentation: How training images are changed at random, see
                :class:`OpticalSARDataModule`.
            download: Whether to download what is needed and not there yet.
            checksum: Whether to count the files.
            leave_out: Groups of chips not to train and validate on, to test on them, see
                :class:`~torchgeo_m2cd.datasets.OMBRIA`.
            optical_limits: Limit of each optical band, to show of it no more than what is
                darker, see :class:`~torchgeo_m2cd.transforms.OpticalDarkness`.
            crop_scale: Smallest and largest area of a random crop, as a share of the chip,
                that is resized to *patch_size*. Not resized if None.

        Raises:
            ValueError: If *test_split* or *modality* is unknown, or one of *patch_size*,
                *mean*, *std*, *augmentation*, *optical_limits*, and *crop_scale* is not as
                described.
        """
        check_choice('test_split', test_split, OMBRIA.splits)
        if test_split in OMBRIA.groups and test_split not in leave_out:
            raise ValueError(
                f'test_split {test_split!r} is a group of training chips: expected it in '
                f'leave_out, which is {list(leave_out)}'
            )
        for name, values in (('mean', mean), ('std', std)):
            if tuple(map(len, values)) not in ((3, 1), (3, 3)):
                raise ValueError(
                    f'{name} is {values}: expected 3 values for the optical and 1 for '
                    'the SAR image'
                )
        super().__init__(
            OMBRIA,
            mean=pair_statistics(mean),
            std=pair_statistics(std),
            batch_size=batch_size,
            patch_size=patch_size,
            num_workers=num_workers,
            test_split=test_split,
            standardize=standardize,
            jitter=jitter,
            modality=modality,
            optical_dropout=optical_dropout,
            augmentation=augmentation,
            root=root,
            download=download,
            checksum=checksum,
            leave_out=leave_out,
            optical_limits=optical_limits,
            crop_scale=crop_scale,
        )

    def prepare_data(self) -> None:
        """Download the parts of the dataset that are needed and not there yet."""
        if self.kwargs['download']:
            for split in ('train', self.test_split):
                OMBRIA(split=split, **self.kwargs)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""OMBRIA data module."""

from collections.abc import Sequence
from typing import Any

import torch

from ..datasets import OMBRIA
from ..utils import check_choice
from .base import OpticalSARDataModule

# Over all pixels of the 551 chips of the training split, rounded to two digits:
# red, green, and blue of the optical image, then SAR
MEAN = ((72.46, 76.26, 32.08), (152.82, 152.82, 152.82))
STD = ((29.30, 26.35, 20.49), (49.99, 49.99, 49.99))


class OMBRIADataModule(OpticalSARDataModule):
    """LightningDataModule implementation for the OMBRIA dataset.

    Uses the train, val, and test splits of the dataset. Set *test_split* to test on the
    floods of 2021: all ('events') or one of them ('albania', 'france', 'guyana',
    'timor').
    """

    def __init__(
        self,
        batch_size: int = 8,
        patch_size: int | tuple[int, int] | None = None,
        num_workers: int = 0,
        test_split: str = 'test',
        mean: Sequence[Sequence[float]] = MEAN,
        std: Sequence[Sequence[float]] = STD,
        **kwargs: Any,
    ) -> None:
        """Initialize a new OMBRIADataModule instance.

        Args:
            batch_size: Size of each mini-batch.
            patch_size: Size of the random crops in training, either ``size`` or
                ``(height, width)``. Whole chips of 256 x 256 pixels are used if None.
            num_workers: Number of workers for parallel data loading.
            test_split: Split used for testing and prediction.
            mean: Mean per modality and band, (2, 3), within [0, 255].
            std: Standard deviation per modality and band, (2, 3).
            **kwargs: Additional keyword arguments passed to
                :class:`~torchgeo_m2cd.datasets.OMBRIA`.

        Raises:
            ValueError: If *test_split* is unknown, or one of *patch_size*, *mean*,
                and *std* is not as described.
        """
        check_choice('test_split', test_split, OMBRIA.splits)
        super().__init__(
            OMBRIA,
            mean=torch.tensor(mean),
            std=torch.tensor(std),
            batch_size=batch_size,
            patch_size=patch_size,
            num_workers=num_workers,
            test_split=test_split,
            **kwargs,
        )

    def prepare_data(self) -> None:
        """Download the parts of the dataset that are needed and not there yet."""
        if self.kwargs.get('download', False):
            for split in ('train', self.test_split):
                OMBRIA(split=split, **self.kwargs)

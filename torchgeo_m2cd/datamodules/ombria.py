# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""OMBRIA data module."""

from collections.abc import Sequence
from typing import Any

from torchgeo.datasets.utils import Path

from ..datasets import OMBRIA
from ..transforms import Inputs, Standardize
from ..utils import check_choice
from .base import OpticalSARDataModule


class OMBRIADataModule(OpticalSARDataModule):
    """LightningDataModule implementation for the OMBRIA dataset.

    Uses the train, val, and test splits of the dataset. Set *test_split* to test on the
    floods of 2021: all ('events') or one of them ('albania', 'france', 'guyana',
    'timor').
    """

    # Over all pixels of the 551 chips of the training split, rounded to two digits
    optical_mean = (72.46, 76.26, 32.08)
    optical_std = (29.30, 26.35, 20.49)
    sar_mean = (152.82,)
    sar_std = (49.99,)

    def __init__(
        self,
        root: Path = 'data',
        batch_size: int = 8,
        patch_size: int | tuple[int, int] | None = None,
        num_workers: int = 0,
        test_split: str = 'test',
        download: bool = False,
        checksum: bool = False,
        leave_out: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        """Initialize a new OMBRIADataModule instance.

        Args:
            root: Root directory where the dataset is, or is downloaded to.
            batch_size: Size of each mini-batch.
            patch_size: Size of the random crops in training, either ``size`` or
                ``(height, width)``. Whole chips of 256 x 256 pixels are used if None.
            num_workers: Number of workers for parallel data loading.
            test_split: Split used for testing and prediction.
            download: Whether to download what is needed and not there yet.
            checksum: Whether to count the files.
            leave_out: Groups of chips not to train and validate on, to test on them, see
                :class:`~torchgeo_m2cd.datasets.OMBRIA`.
            **kwargs: Additional keyword arguments passed to
                :class:`OpticalSARDataModule`, like *inputs*.

        Raises:
            ValueError: If *test_split* is unknown, or an argument is not as described.
        """
        check_choice('test_split', test_split, OMBRIA.splits)
        if test_split in OMBRIA.groups and test_split not in leave_out:
            raise ValueError(
                f'test_split {test_split!r} is a group of training chips: expected it in '
                f'leave_out, which is {list(leave_out)}'
            )
        super().__init__(
            OMBRIA,
            batch_size=batch_size,
            patch_size=patch_size,
            num_workers=num_workers,
            test_split=test_split,
            root=root,
            download=download,
            checksum=checksum,
            leave_out=leave_out,
            **kwargs,
        )

    def prepare_data(self) -> None:
        """Download the parts of the dataset that are needed and not there yet."""
        if self.kwargs['download']:
            for split in ('train', self.test_split):
                OMBRIA(split=split, **self.kwargs)

    def default_inputs(self) -> Inputs:
        """Return what a new model is shown, if nothing else is said.

        Returns:
            Inputs with the statistics of the training split.
        """
        return Inputs(
            Standardize(self.optical_mean, self.optical_std),
            Standardize(self.sar_mean, self.sar_std),
        )

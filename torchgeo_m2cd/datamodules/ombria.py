# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""OMBRIA data module."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torchgeo.datasets.utils import Path

from ..checks import Count, CountOrZero, Names, Size, checked
from ..datasets import OMBRIA
from ..transforms import Inputs
from ..utils import check_choice
from .base import OpticalSARDataModule


class OMBRIADataModule(OpticalSARDataModule):
    """LightningDataModule implementation for the OMBRIA dataset.

    It uses the train, val, and test splits of the dataset. Set *test_split* to test on all
    floods of 2021 ('events') or on one of them ('albania', 'france', 'guyana', 'timor').
    """

    # Over all pixels of the 551 chips of the training split, rounded to two digits
    means: ClassVar[dict[str, float]] = {
        'R': 72.46,
        'G': 76.26,
        'B': 32.08,
        'VV': 152.82,
    }
    stds: ClassVar[dict[str, float]] = {'R': 29.30, 'G': 26.35, 'B': 20.49, 'VV': 49.99}

    @checked
    def __init__(
        self,
        root: Path = 'data',
        batch_size: Count = 8,
        patch_size: Size | None = None,
        num_workers: CountOrZero = 0,
        test_split: str = 'test',
        download: bool = False,
        checksum: bool = False,
        leave_out: Sequence[str] = (),
        bands: Names = OMBRIA.all_bands,
        **kwargs: Any,
    ) -> None:
        """Initialize a new OMBRIADataModule instance.

        Args:
            root: Root directory of the dataset, to which it can be downloaded.
            batch_size: Size of each mini-batch.
            patch_size: Size of the random crops in training, either ``size`` or
                ``(height, width)``. If None, whole chips of 256 x 256 pixels are used.
            num_workers: Number of workers for parallel data loading.
            test_split: Split used for testing and prediction.
            download: Whether to download the dataset if it is missing.
            checksum: Whether to count the files.
            leave_out: Groups of chips to exclude from training and validation, see
                :class:`~torchgeo_m2cd.datasets.OMBRIA`.
            bands: Optical bands to use, ``['G']`` for the near infrared alone.
            **kwargs: Additional keyword arguments passed to
                :class:`OpticalSARDataModule`, like *inputs*.

        Raises:
            ValueError: If *test_split* is unknown or used for training, a band is
                unknown, or *patch_size* is not positive.
        """
        check_choice('test_split', test_split, OMBRIA.splits)
        if test_split in OMBRIA.groups and test_split not in leave_out:
            raise ValueError(
                f'test_split {test_split!r} is a group of training chips: expected it in '
                f'leave_out, which is {list(leave_out)}'
            )
        for band in bands:
            check_choice('bands', band, OMBRIA.all_bands)
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
            bands=bands,
            **kwargs,
        )
        self.bands = bands

    def prepare_data(self) -> None:
        """Download the dataset if it is missing."""
        if self.kwargs['download']:
            for split in ('train', self.test_split):
                OMBRIA(split=split, **self.kwargs)

    def default_inputs(self) -> Inputs:
        """Return the inputs of a new model if the user gives none.

        Returns:
            Inputs with the statistics of the training split.
        """
        return self._standardized(self.bands, OMBRIA.all_sar_bands)

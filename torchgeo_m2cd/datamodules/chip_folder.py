# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Data module of chips of one's own."""

from typing import Any

from torchgeo.datasets.utils import Path

from ..checks import Count, CountOrZero, Size, checked
from ..datasets import ChipFolder, MaskSource, SARSource, Source
from ..datasets.paths import Paths
from .base import OpticalSARDataModule


class ChipFolderDataModule(OpticalSARDataModule):
    """LightningDataModule implementation for chips of one's own.

    :class:`~torchgeo_m2cd.datasets.ChipFolder` finds them by patterns, or in a table. By
    default, mean and standard deviation of each band are measured on the training split.
    They are saved with the model.

    To predict, no masks are read.
    """

    @checked
    def __init__(
        self,
        root: Path = 'data',
        optical: Source | Paths = '{split}/A/*',
        sar: SARSource | Paths = '{split}/B/*',
        mask: MaskSource | Paths = '{split}/label/*',
        table: Path | None = None,
        splits: dict[str, float | list[str] | str] | None = None,
        seed: CountOrZero = 0,
        batch_size: Count = 8,
        patch_size: Size | None = None,
        num_workers: CountOrZero = 0,
        test_split: str = 'test',
        predict_split: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Initialize a new ChipFolderDataModule instance.

        Args:
            root: Folder that patterns, *table* and list files are relative to.
            optical: Pre-event optical images: a pattern, or a
                :class:`~torchgeo_m2cd.datasets.Source` with other settings, too.
            sar: Post-event SAR images: a pattern, or a
                :class:`~torchgeo_m2cd.datasets.SARSource`.
            mask: Change masks: a pattern, or a
                :class:`~torchgeo_m2cd.datasets.MaskSource` with the class of each value.
            table: Table with a row per chip, in place of the patterns, see
                :class:`~torchgeo_m2cd.datasets.ChipFolder`.
            splits: What each split takes of the chips: a share, a list file, or groups
                (defaults to what patterns or table say).
            seed: Seed of a division by shares.
            batch_size: Size of each mini-batch.
            patch_size: Size of the random crops in training, either ``size`` or
                ``(height, width)``. If None, whole chips are used.
            num_workers: Number of workers for parallel data loading.
            test_split: Split used for testing and prediction.
            predict_split: Split used for prediction (defaults to *test_split*).
            **kwargs: Additional keyword arguments passed to
                :class:`OpticalSARDataModule`, like *inputs*.

        Raises:
            ValueError: If *patch_size* is not positive.
        """
        super().__init__(
            ChipFolder,
            batch_size=batch_size,
            patch_size=patch_size,
            num_workers=num_workers,
            test_split=test_split,
            predict_split=predict_split,
            root=root,
            optical=optical,
            sar=sar,
            mask=mask,
            table=table,
            splits=splits,
            seed=seed,
            **kwargs,
        )

    def setup(self, stage: str) -> None:
        """Set up datasets.

        Args:
            stage: Either 'fit', 'validate', 'test', or 'predict'.

        Raises:
            FileNotFoundError: If nothing matches a pattern, or a file does not exist.
            RuntimeError: If a file cannot be read.
            ValueError: If a split is empty or smaller than a batch, or see
                :class:`~torchgeo_m2cd.datasets.ChipFolder`.
        """
        if stage == 'predict':
            arguments = {**self.kwargs, 'mask': None}
            self.predict_dataset = ChipFolder(split=self.predict_split, **arguments)
        else:
            super().setup(stage)

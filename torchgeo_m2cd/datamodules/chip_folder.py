# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Data module of chips of one's own."""

import random
from typing import Any, cast

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.utils.data import DataLoader
from torchgeo.datasets.utils import Path, Sample

from ..checks import Count, CountOrZero, Size, checked
from ..datasets import ChipFolder, MaskSource, SARSource, Source
from ..datasets.classes import UNKNOWN, Value, list_values, show_setting, show_table
from ..datasets.paths import Paths
from .base import OpticalSARDataModule

# Largest number of masks to look for the classes in
_MOST_MASKS = 2000


class ChipFolderDataModule(OpticalSARDataModule):
    """LightningDataModule implementation for chips of one's own.

    :class:`~torchgeo_m2cd.datasets.ChipFolder` finds them by patterns, or in a table. By
    default, mean and standard deviation of each band are measured on the training split.
    They are saved with the model.

    Before a training, up to 2,000 masks are read until all classes are found, so that a
    wrong mapping of their values is an error, and not a model that has learned nothing. If
    there are more masks, it may be a warning alone. To predict, no masks are read.
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
        self._has_classes = False

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
        if stage == 'fit':
            self._log_counts()

    def _log_counts(self) -> None:
        """Log how many chips a training has."""
        train, val = (
            len(cast(ChipFolder, data))
            for data in (self.train_dataset, self.val_dataset)
        )
        rank_zero_info(f'{train} train, {val} val chips')

    def _dataloader_factory(self, split: str) -> DataLoader[Sample]:
        """Make data loaders, once the masks to train on are checked."""
        if isinstance(self.train_dataset, ChipFolder) and not self._has_classes:
            _check_classes(self.train_dataset, self._count_classes())
            self._has_classes = True
        return super()._dataloader_factory(split)


def _check_classes(train: ChipFolder, num_classes: int | None) -> None:
    """Check that the masks to train on have the classes of the task.

    Warns if they lack one of several, or if those that were read lack one.

    Args:
        train: The training split.
        num_classes: Number of classes, if it is known.

    Raises:
        RuntimeError: If a file cannot be read.
        ValueError: If all masks were read and have one class alone, or if masks have
            classes that the task has not.
    """
    wanted = {*range(num_classes or 2)}
    classes: dict[Value, int] = {}
    # Neighbours mostly have the same classes
    order = random.Random(0).sample(range(len(train)), min(len(train), _MOST_MASKS))
    for index in order:
        classes |= train.mask_classes(index)
        if wanted <= {*classes.values()}:
            break
    is_complete = len(order) == len(train)
    unknown = [value for value, label in classes.items() if label == UNKNOWN]
    found = {*classes.values()} - {UNKNOWN}
    missing = sorted(wanted - found)
    source = cast(MaskSource, train.mask)
    table = source.table
    how = '' if table is None else f' with mask.classes={show_table(table)}'
    not_known = f' ({list_values(unknown)} not known)' if unknown else ''
    has = (
        f'the masks of the training chips have the values {list_values(classes)}'
        f'{not_known},{how} the classes {sorted(found)}'
    )
    if num_classes is not None and not found <= wanted:
        kept = {value: label for value, label in classes.items() if label in wanted}
        raise ValueError(
            f'{has}: expected 0 to {num_classes - 1}, since the task has {num_classes} '
            f'classes, by {show_setting(dict.fromkeys(classes, UNKNOWN) | kept)}'
        )
    if len(found) < 2 and is_complete:
        known = classes.keys() - {*unknown}
        values = sorted(v for v in known if isinstance(v, float))[-2:]
        example: dict[Value, int] = {round(v): i for i, v in enumerate(values)}
        advice = f', such as {show_setting(example)}' if len(example) == 2 else ''
        raise ValueError(
            f'{has}: expected 0 for unchanged and 1 for changed pixels{advice}. Are these '
            'the masks?'
        )
    if missing:
        where = '' if is_complete else f' in {len(order):,} of {len(train):,} masks'
        others = '' if is_complete else ' unless others have some'
        rank_zero_warn(
            f'{has}: no pixel{where} is of {missing}, so a model cannot learn them{others}'
        )

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Base classes for all data modules of image pairs."""

import inspect
from collections.abc import Callable
from typing import Any, cast

import kornia.augmentation as K
from kornia.augmentation.base import _AugmentationBase
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader
from torchgeo.datamodules import BaseDataModule, NonGeoDataModule
from torchgeo.datasets import NonGeoDataset
from torchgeo.datasets.utils import Sample

from ..transforms import (
    Inputs,
    KeepsInputs,
    PairAugmentation,
    RandomQuarterTurn,
    StrictRandomCrop,
)


class PairDataModule(BaseDataModule):
    """Base class for data modules of image pairs: what a model is shown of them.

    Every batch goes through :attr:`inputs`, and in training then through
    :attr:`augmentation`.
    """

    #: What the model is shown; None until it is known, see :meth:`choose_inputs`.
    inputs: Inputs | None

    #: Random changes in training.
    augmentation: PairAugmentation

    def _set_inputs(
        self, inputs: Inputs | None, augmentation: PairAugmentation | None
    ) -> None:
        """Keep the arguments that all data modules of pairs have.

        Args:
            inputs: What the model is shown, if it was given.
            augmentation: Random changes in training (defaults to flips and turns).
        """
        self.inputs = self._given = inputs
        if augmentation is None:
            augmentation = PairAugmentation(
                [
                    K.RandomHorizontalFlip(p=0.5),
                    K.RandomVerticalFlip(p=0.5),
                    RandomQuarterTurn(p=0.5),
                ]
            )
        self.augmentation = augmentation
        self.aug = self._show
        self.train_aug = self._show_and_augment

    def choose_inputs(self, trained: Inputs | None = None) -> Inputs:
        """Decide what the model is shown.

        That is what the argument *inputs* says, or else what the model was trained with,
        or else what the data suggest. Warns if the first two are there and differ.

        Args:
            trained: What the model was trained with, if it was trained.

        Returns:
            The inputs.

        Raises:
            ValueError: If they are for other bands than the data have, or there are none.
        """
        given = self._given
        if given is not None and trained is not None:
            ours, theirs = given.to_dict(), trained.to_dict()
            different = [key for key in ours if ours[key] != theirs[key]]
            if different:
                rank_zero_warn(
                    'the model was trained with other inputs, and those of the data are '
                    'used: '
                    + '; '.join(
                        f'{key} is {ours[key]}, trained with {theirs[key]}'
                        for key in different
                    )
                    + '. Leave the argument inputs of the data out (null) to use those of '
                    'the model'
                )
        inputs = given or trained or self.default_inputs()
        for dataset in (
            self.train_dataset, self.val_dataset, self.test_dataset, self.predict_dataset
        ):  # fmt: skip
            # Datasets of TorchGeo don't say
            counts = getattr(dataset, 'band_counts', None)
            if counts not in (None, inputs.band_counts):
                raise ValueError(
                    'inputs are for {} optical and {} SAR bands, but the data have {} '
                    'and {}'.format(*inputs.band_counts, *counts)
                )
        self.inputs = inputs
        return inputs

    def _agree(self) -> Inputs:
        """Decide with the task, if it keeps them, what the model is shown.

        To be called when there are data loaders to make: only then Lightning has read the
        checkpoint.
        """
        task = None if self.trainer is None else self.trainer.lightning_module
        if isinstance(task, KeepsInputs):
            inputs = self.choose_inputs(task.inputs)
            task.take_inputs(inputs)
            return inputs
        return self.inputs or self.choose_inputs()

    def default_inputs(self) -> Inputs:
        """Return what a new model is shown, if nothing else is said.

        Returns:
            The inputs.
        """
        raise TypeError(f'{type(self).__name__} has no default inputs')

    def _show(self, batch: Sample) -> Sample:
        """Show a batch."""
        inputs = self.inputs or self.choose_inputs()
        return inputs.show(batch)

    def _show_and_augment(self, batch: Sample) -> Sample:
        """Show a training batch, changed at random."""
        shown = self._show(self.augmentation.change_source(batch))
        augmented: Sample = self.augmentation(shown)
        return augmented


class OpticalSARDataModule(PairDataModule, NonGeoDataModule):
    """Base class for all data modules of chips.

    In training, batches are also flipped, turned by multiples of 90 degrees and cropped
    at random, by default.
    """

    def __init__(
        self,
        dataset_class: type[NonGeoDataset],
        batch_size: int = 8,
        patch_size: int | tuple[int, int] | None = None,
        num_workers: int = 0,
        test_split: str = 'test',
        predict_split: str | None = None,
        inputs: Inputs | None = None,
        augmentation: PairAugmentation | None = None,
        **kwargs: Any,
    ) -> None:
        """Initialize a new OpticalSARDataModule instance.

        Args:
            dataset_class: Class used to instantiate a new dataset of image pairs, like
                :class:`~torchgeo_m2cd.datasets.OpticalSARDataset`.
            batch_size: Size of each mini-batch.
            patch_size: Size of the random crops in training, either ``size`` or
                ``(height, width)``, at most that of the chips. Whole chips are used if
                None.
            num_workers: Number of workers for parallel data loading.
            test_split: Split used for testing and prediction.
            predict_split: Split used for prediction, if not *test_split*.
            inputs: What the model is shown (defaults to what it was trained with, and in
                training to one mean and standard deviation per band).
            augmentation: How images are changed at random in training, before they are
                cropped (defaults to flips and turns by multiples of 90 degrees).
            **kwargs: Additional keyword arguments passed to *dataset_class*.

        Raises:
            TypeError: If *dataset_class* does not take one of *kwargs*.
            ValueError: If *patch_size* is not positive.
        """
        # Fail early: datasets are not made before training starts
        inspect.signature(dataset_class).bind_partial(**kwargs)
        super().__init__(dataset_class, batch_size, num_workers, **kwargs)
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
        self.crop = PairAugmentation(crop)
        self._set_inputs(inputs, augmentation)

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

    def _dataloader_factory(self, split: str) -> DataLoader[Sample]:
        """Implement one or more PyTorch DataLoaders."""
        self._agree()
        return super()._dataloader_factory(split)

    def _show_and_augment(self, batch: Sample) -> Sample:
        """Show a training batch, changed and cropped at random."""
        cropped: Sample = self.crop(super()._show_and_augment(batch))
        return cropped

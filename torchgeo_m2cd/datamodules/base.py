# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Base classes for all data modules of image pairs."""

import inspect
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import kornia.augmentation as K
from kornia.augmentation.base import _AugmentationBase
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader
from torchgeo.datamodules import BaseDataModule, NonGeoDataModule
from torchgeo.datasets import NonGeoDataset
from torchgeo.datasets.utils import Sample

from ..checks import Count, CountOrZero, Size, checked
from ..datasets.bands import agree, list_bands
from ..transforms import (
    Inputs,
    KeepsInputs,
    PairAugmentation,
    RandomQuarterTurn,
    Standardize,
    StrictRandomCrop,
)
from .statistics import measure_chips


class PairDataModule(BaseDataModule):
    """Base class for data modules of image pairs.

    Each batch passes through :attr:`inputs`. Training batches are also changed by
    :attr:`augmentation`.
    """

    #: What the model is shown. None until :meth:`choose_inputs` has decided.
    inputs: Inputs | None

    #: Random changes in training.
    augmentation: PairAugmentation

    def _set_inputs(
        self, inputs: Inputs | None, augmentation: PairAugmentation | None
    ) -> None:
        """Set the arguments that all data modules of pairs have.

        Args:
            inputs: What the model is shown, if the user says so.
            augmentation: Random changes in training (defaults to flips and rotations by
                multiples of 90 degrees).
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

    def _check_length(self, samples: int) -> None:
        """Check that there is a batch to train on: TorchGeo drops an incomplete one."""
        if samples < (self.batch_size or 1):
            raise ValueError(
                f'batch_size is {self.batch_size}, but there are only {samples} samples '
                'to train on: expected as many, or a smaller batch_size'
            )

    def choose_inputs(self, trained: Inputs | None = None) -> Inputs:
        """Decide what the model is shown.

        The argument *inputs* comes first, then the inputs that the model was trained with,
        then :meth:`default_inputs`. Warns if the first two exist and differ. In training,
        bands without names get those of the data. Bands of scenes are read by name if
        model and files name them.

        If it is known how many decibels a unit of SAR is, the inputs are those for such
        units, also if the model was trained with others.

        Args:
            trained: Inputs that the model was trained with, if any.

        Returns:
            The inputs.

        Raises:
            ValueError: If the inputs and the data have different bands, or there are no
                inputs at all.
        """
        given = self._given
        if given is not None and trained is not None:
            given = given.named(*trained.band_names)
        inputs = given or trained or self.default_inputs()
        self._match_bands(inputs)
        # TorchGeo's datasets have no names
        if names := getattr(self.train_dataset, 'band_names', None):
            inputs = inputs.named(*names)
        unit = self._find_decibels(inputs)
        if unit is not None:
            inputs = inputs.in_decibels(unit)
        if given is not None and trained is not None:
            if unit is not None:
                trained = trained.in_decibels(unit)
            _warn_of_change(inputs, trained.named(*inputs.band_names))
        self.inputs = inputs
        return inputs

    def _match_bands(self, inputs: Inputs) -> None:
        """Check that the data have the bands of the inputs."""
        for dataset in (
            self.train_dataset, self.val_dataset, self.test_dataset, self.predict_dataset
        ):  # fmt: skip
            names = getattr(dataset, 'band_names', inputs.band_names)
            if not all(map(agree, names, inputs.band_names)):
                both = (*inputs.band_names, *names)
                raise ValueError(
                    'inputs are for {} optical and {} SAR bands, but the data have {} '
                    'and {}: {} and {}, not {} and {}'.format(
                        *map(len, both), *map(list_bands, both)
                    )
                    + _advise_bands(inputs.band_names, names)
                )

    def _find_decibels(self, inputs: Inputs) -> float | None:
        """Find how many decibels a unit of SAR is in the data, None if not known."""
        datasets = (
            self.train_dataset, self.val_dataset, self.test_dataset, self.predict_dataset
        )  # fmt: skip
        units = {getattr(dataset, 'decibels', None) for dataset in datasets if dataset}
        return units.pop() if len(units) == 1 else None

    def _agree(self) -> Inputs:
        """Decide what the model is shown, and tell the task if it keeps inputs.

        Call this when data loaders are made, since Lightning has read the checkpoint only
        then.

        Returns:
            The inputs.
        """
        task = None if self.trainer is None else self.trainer.lightning_module
        if isinstance(task, KeepsInputs):
            inputs = self.choose_inputs(task.inputs)
            task.take_inputs(inputs)
            return inputs
        if self.inputs is None or self.inputs is self._given:
            return self.choose_inputs()
        return self.inputs

    def _count_classes(self) -> int | None:
        """Return the number of classes of the task, None if it is not known."""
        task = None if self.trainer is None else self.trainer.lightning_module
        arguments = {} if task is None else task.hparams
        kind = arguments.get('task')
        if kind not in (None, 'multiclass'):
            return 2
        count = arguments.get('num_classes')
        # One output tells two classes apart
        return 2 if count == 1 else count

    def default_inputs(self) -> Inputs:
        """Return the inputs of a new model if the user gives none.

        Returns:
            Inputs with mean and standard deviation of each band over the training split.

        Raises:
            ValueError: If there is no training split, it has no data, or a band is
                constant.
        """
        if self.train_dataset is None:
            raise ValueError(
                'inputs are not given, and the model has none: expected what it was '
                'trained with'
            )
        return self._measure_inputs()

    @abstractmethod
    def _measure_inputs(self) -> Inputs:
        """Measure the training split."""

    def _show(self, batch: Sample) -> Sample:
        """Turn a batch into what the model is shown."""
        inputs = self.inputs or self.choose_inputs()
        return inputs.show(batch)

    def _show_and_augment(self, batch: Sample) -> Sample:
        """Turn a training batch into what the model is shown, and augment it."""
        inputs = self.inputs or self.choose_inputs()
        # A random change may turn values without data into others, or others into zeros
        valid = inputs.valid(batch['image'], batch.get('valid'))
        land = None
        if self.augmentation.drain is not None:
            land = valid & ~inputs.find_water(inputs.show(batch, valid))
        changed = self.augmentation.change_source({**batch, 'valid': valid}, land)
        shown = inputs.show(changed, changed['valid'])
        augmented: Sample = self.augmentation(shown)
        return augmented


class OpticalSARDataModule(PairDataModule, NonGeoDataModule):
    """Base class for all data modules of chips.

    By default, training batches are randomly flipped, rotated by multiples of 90 degrees,
    and cropped.
    """

    #: Mean of each band in source units, of subclasses that need not measure it.
    means: ClassVar[dict[str, float]]
    #: Standard deviation of each band in source units.
    stds: ClassVar[dict[str, float]]

    @checked
    def __init__(
        self,
        dataset_class: type[NonGeoDataset],
        batch_size: Count = 8,
        patch_size: Size | None = None,
        num_workers: CountOrZero = 0,
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
                ``(height, width)``, at most the size of the chips. If None, whole chips
                are used.
            num_workers: Number of workers for parallel data loading.
            test_split: Split used for testing and prediction.
            predict_split: Split used for prediction (defaults to *test_split*).
            inputs: What the model is shown (defaults to the inputs that it was trained
                with, or for a new model to mean and standard deviation of each band over
                the training split).
            augmentation: Random changes in training before the crop (defaults to flips
                and rotations by multiples of 90 degrees).
            **kwargs: Additional keyword arguments passed to *dataset_class*.

        Raises:
            TypeError: If *dataset_class* does not take one of *kwargs*.
            ValueError: If *patch_size* is not positive.
        """
        # Fail early, since datasets are made only when training starts
        inspect.signature(dataset_class).bind_partial(**kwargs)
        super().__init__(dataset_class, batch_size, num_workers, **kwargs)
        self.patch_size = (
            (patch_size, patch_size) if isinstance(patch_size, int) else patch_size
        )
        self.test_split = test_split
        self.predict_split = predict_split or test_split
        crop: list[_AugmentationBase] = []
        if self.patch_size is not None:
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
            self._check_length(len(cast(NonGeoDataset, self.train_dataset)))
        if stage in ['test']:
            self.test_dataset = make_dataset(split=self.test_split, **self.kwargs)
        if stage in ['predict']:
            self.predict_dataset = make_dataset(split=self.predict_split, **self.kwargs)

    def _measure_inputs(self) -> Inputs:
        """Measure the training split."""
        train = cast(NonGeoDataset, self.train_dataset)
        return measure_chips(train, self.num_workers)

    def _standardized(self, bands: Sequence[str], sar_bands: Sequence[str]) -> Inputs:
        """Make inputs with the mean and standard deviation of each band.

        Args:
            bands: Optical bands, keys of :attr:`means` and :attr:`stds`.
            sar_bands: Bands whose statistics the SAR image gets, one per SAR band.

        Returns:
            The inputs.
        """
        optical, sar = (
            Standardize(
                [self.means[band] for band in names],
                [self.stds[band] for band in names],
            )
            for names in (bands, sar_bands)
        )
        return Inputs(optical, sar)

    def _dataloader_factory(self, split: str) -> DataLoader[Sample]:
        """Make data loaders, once it is known what the model is shown."""
        self._agree()
        return super()._dataloader_factory(split)

    def _show_and_augment(self, batch: Sample) -> Sample:
        """Turn a training batch into what the model is shown, augment it, and crop it."""
        cropped: Sample = self.crop(super()._show_and_augment(batch))
        return cropped


def _advise_bands(
    wanted: Sequence[Sequence[str]], found: Sequence[Sequence[str]]
) -> str:
    """Say how chips are read with the bands of the inputs."""
    settings = []
    for kind, names, others in zip(('optical', 'sar'), wanted, found, strict=True):
        if not agree(names, others):
            numbers = range(1, len(names) + 1)
            bands = ', '.join(
                f'{name}: {number}' if all(names) else str(number)
                for name, number in zip(names, numbers, strict=True)
            )
            braces = '{{{}}}' if all(names) else '[{}]'
            settings.append(f'{kind}.bands: {braces.format(bands)}')
    return (
        f'. Expected these bands, of your own chips for example with '
        f'{" and ".join(settings)}, where the numbers are those of the bands in the '
        'files, or inputs for the bands of the data'
    )


def _warn_of_change(inputs: Inputs, trained: Inputs) -> None:
    """Warn if inputs are others than those that the model was trained with."""
    ours, theirs = inputs.to_dict(), trained.to_dict()
    different = [key for key in ours if ours[key] != theirs[key]]
    if different:
        rank_zero_warn(
            'the model was trained with other inputs than those of the data, '
            'which are used: '
            + '; '.join(
                f'{key} is {ours[key]}, trained with {theirs[key]}' for key in different
            )
            + '. Leave out the inputs of the data (null) to use those of the model'
        )

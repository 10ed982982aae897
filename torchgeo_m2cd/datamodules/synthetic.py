# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Synthetic flood data module."""

from typing import Annotated, Any, ClassVar

from annotated_types import Ge

from ..checks import Count, CountOrZero, Names, Size, checked
from ..datasets import SyntheticFlood
from ..transforms import Inputs
from .base import OpticalSARDataModule


class SyntheticFloodDataModule(OpticalSARDataModule):
    """LightningDataModule implementation for the Synthetic Flood dataset.

    The splits share no landscape.
    """

    # Over all pixels of the first 500 chips of 256 x 256 pixels of the training split, with
    # seed 0 and 4 looks
    means: ClassVar[dict[str, float]] = {
        'B02': 634.12,
        'B03': 866.40,
        'B04': 818.45,
        'B08': 2974.99,
        'VV': -12.448,
        'VH': -18.583,
    }
    stds: ClassVar[dict[str, float]] = {
        'B02': 274.39,
        'B03': 304.58,
        'B04': 512.64,
        'B08': 993.88,
        'VV': 4.755,
        'VH': 4.321,
    }

    @checked
    def __init__(
        self,
        batch_size: Count = 8,
        patch_size: Size | None = None,
        num_workers: CountOrZero = 0,
        length: Count = 1000,
        eval_length: Count = 200,
        bands: Names = SyntheticFlood.all_bands,
        sar_bands: Names = ('VV',),
        size: Annotated[int, Ge(32)] = 256,
        seed: CountOrZero = 0,
        looks: Count = 4,
        **kwargs: Any,
    ) -> None:
        """Initialize a new SyntheticFloodDataModule instance.

        Args:
            batch_size: Size of each mini-batch.
            patch_size: Size of the random crops in training, either ``size`` or
                ``(height, width)``. If None, whole chips are used.
            num_workers: Number of workers for parallel data loading.
            length: Number of training samples.
            eval_length: Number of samples of the validation and of the test split.
            bands: Optical bands to use.
            sar_bands: SAR bands to use.
            size: Height and width of a sample in pixels.
            seed: Seed of all samples.
            looks: Number of looks of the SAR speckle.
            **kwargs: Additional keyword arguments passed to
                :class:`OpticalSARDataModule`, like *inputs*.

        Raises:
            ValueError: If a band is unknown, or if a number is out of its range.
        """
        dataset_kwargs: dict[str, Any] = {
            'bands': bands,
            'sar_bands': sar_bands,
            'size': size,
            'seed': seed,
            'looks': looks,
        }
        # Fail early, since datasets are made only when training starts
        SyntheticFlood(length=min(length, eval_length), **dataset_kwargs)
        super().__init__(
            SyntheticFlood,
            batch_size,
            patch_size,
            num_workers,
            **dataset_kwargs,
            **kwargs,
        )
        self.bands = bands
        self.sar_bands = sar_bands
        self.length = length
        self.eval_length = eval_length

    def setup(self, stage: str) -> None:
        """Set up datasets.

        Args:
            stage: Either 'fit', 'validate', 'test', or 'predict'.
        """
        if stage in ['fit']:
            self._check_length(self.length)
            self.train_dataset = SyntheticFlood('train', self.length, **self.kwargs)
        if stage in ['fit', 'validate']:
            self.val_dataset = SyntheticFlood('val', self.eval_length, **self.kwargs)
        if stage in ['test']:
            self.test_dataset = SyntheticFlood('test', self.eval_length, **self.kwargs)
        if stage in ['predict']:
            self.predict_dataset = SyntheticFlood(
                'test', self.eval_length, **self.kwargs
            )

    def default_inputs(self) -> Inputs:
        """Return the inputs of a new model if the user gives none.

        Returns:
            Inputs with the statistics of the training split.
        """
        return self._standardized(self.bands, self.sar_bands)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Write predictions of chips."""

import math
import os
import pathlib
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torchgeo.datasets.utils import Path, Sample

from ..checks import checked
from ..datasets import ChipFolder
from ..datasets.chip_files import open_chip
from ..datasets.files import write_raster


class ChipWriter(Callback):
    """Write the predictions of chips, each to a GeoTIFF of its own.

    The file ``NAME.tif``, or ``GROUP/NAME.tif`` if chips have groups, holds the probability
    of change, float32, or a band with that of each class, and NaN where there are no data.
    If the optical file of the chip is georeferenced, so is this. The trainer does not keep
    the predictions.

    To be used with :class:`~torchgeo_m2cd.datamodules.ChipFolderDataModule`, or another
    one whose dataset is a :class:`~torchgeo_m2cd.datasets.ChipFolder`, and a task that
    predicts probabilities.
    """

    @checked
    def __init__(self, output: Path, overwrite: bool = False) -> None:
        """Initialize a new ChipWriter instance.

        Args:
            output: Folder to write to, created if missing.
            overwrite: Whether to replace existing files.
        """
        super().__init__()
        self.output = pathlib.Path(os.path.expanduser(output)).absolute()
        self.overwrite = overwrite

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the files to write.

        Args:
            trainer: The trainer.
            pl_module: The task.
            stage: Either 'fit', 'validate', 'test', or 'predict'.

        Raises:
            FileExistsError: If a file exists and *overwrite* is False.
            TypeError: If the data module has no chips in files.
            ValueError: If two chips have the same name, a file would be outside of
                *output*, or is one that is read.
        """
        if stage != 'predict':
            return
        datamodule = getattr(trainer, 'datamodule', None)
        dataset = getattr(datamodule, 'predict_dataset', None)
        if not isinstance(dataset, ChipFolder):
            raise TypeError(
                f'ChipWriter got predictions of {type(datamodule).__name__}: expected '
                'those of ChipFolderDataModule, or of OMBRIA or CAU-Flood'
            )
        self._optical = [chip.optical for chip in dataset.files]
        self._paths = [
            self.output / chip.group / f'{chip.name}.tif' for chip in dataset.files
        ]
        taken = {os.path.realpath(file) for chip in dataset.files for file in chip[:3]}
        for path in self._paths:
            place = os.path.realpath(path)
            if not path.resolve().is_relative_to(self.output.resolve()):
                raise ValueError(
                    f'{path} is not in {self.output}: expected names and groups of chips '
                    'without ..'
                )
            if place in taken:
                raise ValueError(
                    f'{path} is read, or is that of two chips: expected another folder, '
                    'and chips with different names or groups'
                )
            taken.add(place)
            if path.exists() and not self.overwrite:
                raise FileExistsError(
                    f'{path} exists: expected another path, or overwrite=True'
                )
        trainer.predict_loop.return_predictions = False

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Sample,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the files of a batch.

        Args:
            trainer: The trainer.
            pl_module: The task.
            outputs: Probabilities of shape (B, classes, H, W).
            batch: The batch, with ``valid`` and ``index``.
            batch_idx: Index of the batch.
            dataloader_idx: Index of the data loader.

        Raises:
            OSError: If a file cannot be written.
        """
        values = torch.where(batch['valid'], outputs.detach().float(), math.nan).cpu()
        count = values.shape[1]
        names = ['probability of change']
        if count > 1:
            names = [f'probability of class {label}' for label in range(count)]
        for index, image in zip(batch['index'].tolist(), values.numpy(), strict=True):
            with open_chip('optical', self._optical[index]) as src:
                place = src.crs, src.transform
            self._paths[index].parent.mkdir(parents=True, exist_ok=True)
            write_raster(self._paths[index], image, *place, math.nan, names)

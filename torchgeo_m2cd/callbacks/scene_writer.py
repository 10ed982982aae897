# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Writing of predicted scenes."""

import math
import pathlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor
from torchgeo.datasets.utils import Path, Sample

from ..datasets import SceneDataset
from ..datasets.utils import write_raster


class SceneWriter(BasePredictionWriter):
    """Write the predictions of a scene to GeoTIFF files.

    Where patches overlap, their probabilities are averaged with weights that fall
    linearly from the centre of a patch to its edges, where a model sees least.

    To be used with :class:`~torchgeo_m2cd.datamodules.SceneDataModule` and a task
    that predicts probabilities, on one device. The trainer does not keep
    the predictions. A file is written beside its place and renamed when complete.
    """

    def __init__(
        self,
        output: Path,
        mask: Path | None = None,
        threshold: float = 0.5,
        overwrite: bool = False,
    ) -> None:
        """Initialize a new SceneWriter instance.

        Args:
            output: GeoTIFF to write the probabilities to: float32, one band, the
                probability of change, for a binary task, else one per class;
                NaN where not valid.
            mask: GeoTIFF to write the predicted classes to, if any: uint8, 255 where
                not valid.
            threshold: Probability from which on a pixel of a binary task is changed.
            overwrite: Whether to replace existing files.

        Raises:
            ValueError: If *mask* is the same file as *output*.
        """
        super().__init__('batch')
        self.output = pathlib.Path(output)
        self.mask = None if mask is None else pathlib.Path(mask)
        if self.output == self.mask:
            raise ValueError(f'output and mask are the same file {str(output)!r}')
        self.threshold = threshold
        self.overwrite = overwrite
        self._sum: npt.NDArray[np.float32] | None = None
        self._weight: npt.NDArray[np.float32] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the files can be written, before anything is predicted.

        Args:
            trainer: The trainer.
            pl_module: The task.
            stage: Either 'fit', 'validate', 'test', or 'predict'.

        Raises:
            FileExistsError: If a file exists and *overwrite* is False.
            IsADirectoryError: If a file is a folder.
            RuntimeError: If there is more than one device.
        """
        super().setup(trainer, pl_module, stage)
        if stage != 'predict':
            return
        if trainer.world_size > 1:
            raise RuntimeError(
                f'SceneWriter needs one device, got {trainer.world_size}: each would '
                'write a part of the scene to the same file. Set devices=1.'
            )
        for path in self._paths():
            if path.is_dir():
                raise IsADirectoryError(f'{path} is a folder: expected a GeoTIFF')
            if path.exists() and not self.overwrite:
                raise FileExistsError(f'{path} exists and overwrite is False')
            path.parent.mkdir(parents=True, exist_ok=True)
        # They are as large as the scene, several times, and they are in the file
        trainer.predict_loop.return_predictions = False

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the previous scene.

        Args:
            trainer: The trainer.
            pl_module: The task.

        Raises:
            TypeError: If the dataset is not a SceneDataset.
        """
        self._dataset(trainer)
        self._sum = self._weight = None

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Tensor,
        batch_indices: Sequence[int] | None,
        batch: Sample,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Add the predictions of a batch to the scene.

        Args:
            trainer: The trainer.
            pl_module: The task.
            prediction: Probabilities of shape (B, classes, H, W).
            batch_indices: Not used.
            batch: The batch, with ``window`` and ``valid``.
            batch_idx: Not used.
            dataloader_idx: Not used.
        """
        height, width = self._dataset(trainer).shape
        patches = prediction.detach().float().cpu().numpy()
        _, bands, rows, columns = patches.shape
        if self._sum is None or self._weight is None:
            self._sum = np.zeros((bands, height, width), np.float32)
            self._weight = np.zeros((height, width), np.float32)

        pyramid = np.outer(_ramp(rows), _ramp(columns))
        windows = batch['window'].tolist()
        valid = batch['valid'].cpu().numpy()[:, 0]
        for patch, (row, column), weight in zip(
            patches, windows, pyramid * valid, strict=True
        ):
            # Patches may reach beyond the scene
            top, left = max(-row, 0), max(-column, 0)
            bottom, right = min(height - row, rows), min(width - column, columns)
            inside = np.s_[top:bottom, left:right]
            scene = np.s_[row + top : row + bottom, column + left : column + right]
            self._sum[:, *scene] += (patch * weight)[:, *inside]
            self._weight[scene] += weight[inside]

    def on_predict_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        """Write the files.

        Args:
            trainer: The trainer.
            pl_module: The task.

        Raises:
            ValueError: If no pixel is valid.
        """
        if self._sum is None or self._weight is None:
            return
        dataset = self._dataset(trainer)
        known = self._weight > 0
        if not known.any():
            raise ValueError(
                f'{self.output} is not written: no pixel of the scene has data in both '
                'images'
            )
        probability = np.full_like(self._sum, math.nan)
        np.divide(self._sum, self._weight, out=probability, where=known)
        write_raster(self.output, probability, dataset.crs, dataset.transform, math.nan)
        if self.mask is not None:
            classes = (
                probability.argmax(0)
                if len(probability) > 1
                else probability[0] >= self.threshold
            )
            classes = np.where(known, classes, dataset.ignore_index)
            write_raster(
                self.mask,
                classes[None].astype(np.uint8),
                dataset.crs,
                dataset.transform,
                dataset.ignore_index,
            )
        self._sum = self._weight = None

    def _paths(self) -> list[pathlib.Path]:
        """Return the files to write."""
        return [path for path in (self.output, self.mask) if path is not None]

    @staticmethod
    def _dataset(trainer: Trainer) -> SceneDataset:
        """Return the dataset that is predicted."""
        dataset = getattr(trainer.predict_dataloaders, 'dataset', None)
        if not isinstance(dataset, SceneDataset):
            raise TypeError(
                f'SceneWriter got predictions of a {type(dataset).__name__}: expected '
                'a SceneDataset, use SceneDataModule'
            )
        return dataset


def _ramp(length: int) -> npt.NDArray[np.float32]:
    """Return weights that rise to the middle and fall again, within (0, 1]."""
    distance = np.minimum(np.arange(length), np.arange(length)[::-1]) + 0.5
    return (distance / distance.max()).astype(np.float32)

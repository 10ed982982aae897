# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Writing of predicted scenes."""

import hashlib
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from rasterio.io import DatasetWriter
from rasterio.windows import Window
from torch import Tensor
from torchgeo.datasets.utils import Path, Sample

from .. import __version__
from ..datasets import SceneDataset

# GDAL would keep a share of the machine's memory instead
_ENV = {'GDAL_CACHEMAX': 64}  # MiB


class SceneWriter(BasePredictionWriter):
    """Write the predictions of a scene to Cloud-Optimized GeoTIFF files.

    Where patches overlap, their probabilities are averaged with weights that fall
    linearly from the centre of a patch to its edges, where a model sees least.

    Only the rows that patches still to come may change are kept in memory: it needs
    memory for a strip of the scene as high as a patch, however large the scene. The
    trainer does not keep the predictions.

    Files are written beside their places and renamed when all are complete. Their
    tags say which model, checkpoint (path and SHA-256) and images they were made of.

    To be used with :class:`~torchgeo_m2cd.datamodules.SceneDataModule`, whose patches
    come row by row, and a task that predicts probabilities, on one device.
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
        self._scene: _StripedScene | None = None

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
        # They are as large as the scene, several times, and they are in the file
        trainer.predict_loop.return_predictions = False

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that a scene is predicted, and that it is not one of the files.

        Args:
            trainer: The trainer.
            pl_module: The task.

        Raises:
            TypeError: If the dataset is not a SceneDataset.
            ValueError: If a file to write is an image to read.
        """
        files = {
            os.path.realpath(file)
            for images in self._dataset(trainer).datasets
            for file in images.files
        }
        for path in self._paths():
            if os.path.realpath(path) in files:
                raise ValueError(f'{path} is a file of the scene itself')

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

        Raises:
            RuntimeError: If patches do not come row by row from top to bottom.
        """
        patches = prediction.detach().float().cpu().numpy()
        if self._scene is None:
            dataset = self._dataset(trainer)
            self._scene = _StripedScene(
                self.output,
                self.mask,
                dataset,
                patches.shape[1],
                patches.shape[2],
                self.threshold,
                _tags(trainer, pl_module, dataset),
            )
        for patch, valid, (row, column) in zip(
            patches, batch['valid'].cpu().numpy(), batch['window'].tolist(), strict=True
        ):
            self._scene.add(patch, valid[0], row, column)

    def on_predict_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        """Complete the files.

        Args:
            trainer: The trainer.
            pl_module: The task.

        Raises:
            ValueError: If no pixel is valid.
        """
        if self._scene is not None:
            self._scene.finish()
            self._scene = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Remove what was written.

        Args:
            trainer: The trainer.
            pl_module: The task.
            exception: Not used.
        """
        if self._scene is not None:
            self._scene.discard()
            self._scene = None

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


class _StripedScene:
    """A scene that is put together and written strip by strip."""

    def __init__(
        self,
        output: pathlib.Path,
        mask: pathlib.Path | None,
        dataset: SceneDataset,
        bands: int,
        height: int,
        threshold: float,
        tags: dict[str, str],
    ) -> None:
        """Open the files.

        Args:
            output: File of the probabilities.
            mask: File of the classes, if any.
            dataset: The scene.
            bands: Number of classes.
            height: Height of the patches in pixels.
            threshold: See :class:`SceneWriter`.
            tags: Tags of the files.
        """
        self.shape = dataset.shape
        self.threshold = threshold
        self.top = 0
        self.any_valid = False
        self.sum = np.zeros((bands, height, self.shape[1]), np.float32)
        self.weight = np.zeros((height, self.shape[1]), np.float32)
        self.files: dict[pathlib.Path, DatasetWriter] = {}
        self.no_label = dataset.ignore_index
        formats: list[tuple[pathlib.Path | None, int, str, float]] = [
            (output, bands, 'float32', math.nan),
            (mask, 1, 'uint8', dataset.ignore_index),
        ]
        try:
            for path, count, dtype, nodata in formats:
                if path is None:
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                self.files[path] = rasterio.open(
                    _beside(path, 'part'),
                    'w',
                    driver='GTiff',
                    dtype=dtype,
                    count=count,
                    height=self.shape[0],
                    width=self.shape[1],
                    crs=dataset.crs,
                    transform=dataset.transform,
                    nodata=nodata,
                    bigtiff='if_safer',
                )
                self.files[path].update_tags(**tags)
        except BaseException:
            self.discard()
            raise

    def add(
        self,
        patch: npt.NDArray[np.float32],
        valid: npt.NDArray[np.bool_],
        row: int,
        column: int,
    ) -> None:
        """Add a patch.

        Args:
            patch: Probabilities of shape (classes, H, W).
            valid: Which of them count, shape (H, W).
            row: First row of the patch in the scene.
            column: First column of the patch in the scene.
        """
        if row < self.top:
            raise RuntimeError(
                f'got a patch at row {row} after one at row {self.top}: expected '
                'patches row by row from top to bottom, as of SceneDataModule'
            )
        self.write(row)
        # Of a scene that is smaller than a patch, patches reach beyond it
        height, width = patch.shape[1:]
        width = min(width, self.shape[1] - column)
        weight = np.outer(_ramp(height), _ramp(patch.shape[2])) * valid
        columns = slice(column, column + width)
        self.sum[:, :, columns] += (patch * weight)[..., :width]
        self.weight[:, columns] += weight[:, :width]

    def write(self, stop: int) -> None:
        """Write the rows above *stop*, which are complete.

        Args:
            stop: First row that is not.
        """
        rows = min(stop, self.shape[0]) - self.top
        if rows <= 0:
            return
        weight = self.weight[:rows]
        known = weight > 0
        self.any_valid |= bool(known.any())
        probability = np.full_like(self.sum[:, :rows], math.nan)
        np.divide(self.sum[:, :rows], weight, out=probability, where=known)
        classes = (
            probability.argmax(0)
            if len(probability) > 1
            else probability[0] >= self.threshold
        )
        labels = np.where(known, classes, self.no_label).astype(np.uint8)
        window = Window(0, self.top, self.shape[1], rows)
        with rasterio.Env(**_ENV):
            arrays = (probability, labels[None])
            for file, array in zip(self.files.values(), arrays, strict=False):
                file.write(array, window=window)
        for array in (self.sum, self.weight):
            array[..., :-rows, :] = array[..., rows:, :].copy()
            array[..., -rows:, :] = 0
        self.top += rows

    def finish(self) -> None:
        """Write the last rows, make the files Cloud-Optimized, and rename them.

        Raises:
            ValueError: If no pixel is valid.
        """
        self.write(self.shape[0])
        if not self.any_valid:
            raise ValueError(
                f'{next(iter(self.files))} is not written: no pixel of the scene has '
                'data in both images'
            )
        for path, file in self.files.items():
            file.close()
            with rasterio.Env(**_ENV):
                rasterio.shutil.copy(
                    _beside(path, 'part'),
                    _beside(path, 'cog'),
                    driver='COG',
                    compress='deflate',
                    predictor='yes',
                    blocksize=256,
                    bigtiff='if_safer',
                    overview_resampling=(
                        'average' if file.dtypes[0] == 'float32' else 'nearest'
                    ),
                )
        for path in self.files:
            _beside(path, 'cog').replace(path)
        self.discard()

    def discard(self) -> None:
        """Close and remove all that is beside the files."""
        for path, file in self.files.items():
            file.close()
            for step in ('part', 'cog'):
                _beside(path, step).unlink(missing_ok=True)


def _beside(path: pathlib.Path, step: str) -> pathlib.Path:
    """Return a file beside another one, of this process alone."""
    return path.with_name(f'{path.name}.{os.getpid()}.{step}')


def _tags(
    trainer: Trainer, task: LightningModule, dataset: SceneDataset
) -> dict[str, str]:
    """Say what a map was made of."""
    tags = {'TIFFTAG_SOFTWARE': f'torchgeo-m2cd {__version__}'}
    hparams: dict[str, Any] = dict(task.hparams)
    words = [type(task).__name__, hparams.get('model'), hparams.get('backbone')]
    tags['MODEL'] = ', '.join(str(word) for word in words if word)
    if trainer.ckpt_path:
        tags['CHECKPOINT'] = str(trainer.ckpt_path)
        with open(trainer.ckpt_path, 'rb') as file:
            tags['CHECKPOINT_SHA256'] = hashlib.file_digest(file, 'sha256').hexdigest()
    for name, images in zip(('OPTICAL', 'SAR'), dataset.datasets, strict=True):
        tags[name] = ', '.join(map(str, images.files))
    return tags


def _ramp(length: int) -> npt.NDArray[np.float32]:
    """Return weights that rise to the middle and fall again, within (0, 1]."""
    distance = np.minimum(np.arange(length), np.arange(length)[::-1]) + 0.5
    return (distance / distance.max()).astype(np.float32)

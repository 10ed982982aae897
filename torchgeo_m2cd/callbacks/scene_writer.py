# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Writing of predicted scenes."""

import concurrent.futures
import hashlib
import json
import os
import pathlib
from typing import Any

import numpy as np
import rasterio
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from rasterio.errors import RasterioError
from torchgeo.datasets.utils import Path, Sample

from .. import __version__
from ..datamodules import SceneDataModule
from ..samplers import SceneSampler
from .scene_map import MapRow, Outputs, SceneMap


class SceneWriter(Callback):
    """Write the predictions of one or more scenes to Cloud-Optimized GeoTIFF files.

    Where patches overlap, their probabilities are averaged with weights that fall
    smoothly towards the edges of a patch, where a model sees least.

    Every row of patches is kept in the folder ``OUTPUT.parts``. The same command, run
    again after an interruption, goes on where it stopped; several processes share the
    rows, on a file system that all of them see. Memory is needed for two batches of patches,
    however large the scene. The trainer does not keep the predictions.

    Files are written beside their places and renamed when all are complete. Their
    tags say which model (SHA-256 of its weights), inputs, checkpoint and images they were
    made of.

    To be used with :class:`~torchgeo_m2cd.datamodules.SceneDataModule` and a task that
    predicts probabilities.
    """

    def __init__(
        self,
        output: Path,
        mask: Path | None = None,
        polygons: Path | None = None,
        quicklook: Path | None = None,
        threshold: float = 0.5,
        min_area: float = 0.0,
        overwrite: bool = False,
    ) -> None:
        """Initialize a new SceneWriter instance.

        Args:
            output: GeoTIFF to write the probabilities to: float32, one band, the
                probability of change, for a binary task, else one per class;
                NaN where not valid. With several scenes, this path and those below
                hold ``{name}`` for the name of the scene.
            mask: GeoTIFF to write the predicted classes to, if any: uint8, 255 where
                not valid.
            polygons: GeoPackage to write the outlines of what has changed to, if any,
                see :func:`~torchgeo_m2cd.products.write_polygons`.
            quicklook: PNG to draw images and probabilities to, if any.
            threshold: Probability from which on a pixel of a binary task is changed.
            min_area: Smallest area of a polygon in m².
            overwrite: Whether to replace existing files. If not, and there are several
                scenes, those that are complete are left out.

        Raises:
            ValueError: If two of the files are the same, or *threshold* is not within
                [0, 1].
        """
        super().__init__()
        files = [output, mask, polygons, quicklook]
        self.templates = [None if file is None else str(file) for file in files]
        if not 0 <= threshold <= 1:
            raise ValueError(f'threshold is {threshold}: expected a value from 0 to 1')
        names = [name for name in self.templates if name is not None]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f'two of the files to write are the same: {name!r}')
        self.threshold = threshold
        self.min_area = min_area
        self.overwrite = overwrite
        #: Path of the checkpoint, for the tags, if it is not the trainer that reads it.
        self.checkpoint: Path | None = None
        self._maps: dict[int, SceneMap] = {}
        self._row: MapRow | None = None
        self._todo: list[tuple[int, int]] = []
        self._thread: concurrent.futures.ThreadPoolExecutor | None = None
        self._writing: concurrent.futures.Future[None] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell the data module what need not be predicted again.

        Args:
            trainer: The trainer.
            pl_module: The task.
            stage: Either 'fit', 'validate', 'test', or 'predict'.

        Raises:
            TypeError: If the data module is not a SceneDataModule.
            ValueError: If the labels of a pixel do not exclude each other.
        """
        if stage != 'predict':
            return
        if pl_module.hparams.get('task') == 'multilabel' and any(self.templates[1:]):
            raise ValueError(
                "task is 'multilabel': expected an output alone, as there is no single "
                'class of a pixel for mask, polygons and quicklook'
            )
        datamodule = self._datamodule(trainer)
        # Asked when there are data loaders to make, as the checkpoint is not known yet
        datamodule.row_sampler.find_done = lambda: self._prepare(trainer, pl_module)
        # They are as large as the scene, several times, and they are in the file
        trainer.predict_loop.return_predictions = False

    def _prepare(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> set[tuple[int, int]]:
        """Check that the files can be written, before anything is predicted.

        Args:
            trainer: The trainer.
            pl_module: The task.

        Returns:
            Rows of patches that are complete: number of the scene and of the row.

        Raises:
            FileExistsError: If a file exists and *overwrite* is False.
            IsADirectoryError: If a file is a folder.
            ValueError: If a file to write is an image to read, or the same for two scenes.
        """
        datamodule = self._datamodule(trainer)
        samplers = datamodule.row_sampler.samplers
        if len(samplers) > 1 and any(
            template is not None and '{name}' not in template
            for template in self.templates
        ):
            raise ValueError(
                f'there are {len(samplers)} scenes, and the files to write are '
                f'{self.templates}: expected {{name}} in each of them'
            )
        checkpoint = trainer.ckpt_path or self.checkpoint
        model = _describe(pl_module, None if checkpoint is None else str(checkpoint))
        inputs = datamodule.inputs
        assert inputs is not None
        model['INPUTS'] = json.dumps(inputs.to_dict())
        self._maps = {}
        for number, (paths, sampler) in enumerate(
            zip(datamodule.paths, samplers, strict=True)
        ):
            output, *others = (
                None if t is None else pathlib.Path(t.replace('{name}', paths.name))
                for t in self.templates
            )
            assert output is not None
            outputs = Outputs(output, *others)
            plan = _plan(trainer, datamodule, sampler, model)
            products = {'threshold': self.threshold, 'min_area': self.min_area}
            made_of = json.dumps({**plan, **products}).encode()
            digest = hashlib.sha256(made_of).hexdigest()
            tags = {**_tags(model, sampler), 'PLAN_SHA256': digest}
            if len(samplers) > 1 and self._is_complete(outputs, digest):
                rank_zero_info(f'{output} is complete already')
                continue
            self._check(outputs, sampler)
            self._maps[number] = SceneMap(
                sampler, outputs, plan, tags, self.threshold, self.min_area
            )
        for scene in self._maps.values() if trainer.is_global_zero else ():
            scene.prepare()
        trainer.strategy.barrier('SceneWriter')
        return {
            (number, row)
            for number, sampler in enumerate(samplers)
            for row in (
                self._maps[number].done()
                if number in self._maps
                else range(len(sampler.rows))
            )
        }

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the thread that writes.

        Args:
            trainer: The trainer.
            pl_module: The task.

        Raises:
            ValueError: If Lightning would share the patches among processes once more.
        """
        sampler = self._datamodule(trainer).row_sampler
        if getattr(trainer.predict_dataloaders, 'sampler', None) is not sampler:
            raise ValueError(
                'SceneDataModule shares the rows of patches among processes itself: set '
                'use_distributed_sampler=False in the trainer'
            )
        self._row = None
        self._todo = sampler.todo
        self._writing = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Sample,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take the predictions of a batch, and have complete rows written.

        Args:
            trainer: The trainer.
            pl_module: The task.
            outputs: Probabilities of shape (B, classes, H, W).
            batch: The batch, with ``valid``.
            batch_idx: Not used.
            dataloader_idx: Not used.
        """
        if not self._todo:  # A process with nothing to do predicts a batch all the same
            return
        assert self._thread is not None
        number, row = self._todo[0]
        if self._row is None:
            self._row = self._maps[number].row(row)
        patches = outputs.detach().float().cpu().numpy()
        valid = batch['valid'][:, 0].cpu().numpy()
        done = [self._row.add(*pair) for pair in zip(patches, valid, strict=True)]
        # One batch being written: more would fill the memory
        self._wait()
        self._writing = self._thread.submit(self._row.write, np.concatenate(done))
        if self._row.is_complete:
            self._row = None
            self._todo = self._todo[1:]

    def on_predict_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        """Complete the files, each process those of some of the scenes.

        Args:
            trainer: The trainer.
            pl_module: The task.

        Raises:
            RuntimeError: If a row of patches is missing.
            ValueError: If no pixel of a scene is valid.
        """
        self._wait()
        self._stop()
        trainer.strategy.barrier('SceneWriter')
        for scene in list(self._maps.values())[
            trainer.global_rank :: trainer.world_size
        ]:
            scene.finish()
        trainer.strategy.barrier('SceneWriter')

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Stop writing; complete rows are kept.

        Args:
            trainer: The trainer.
            pl_module: The task.
            exception: Not used.
        """
        self._stop()
        if self._row is not None:
            self._row.discard()

    def _wait(self) -> None:
        """Wait for the row that is being written, and raise what went wrong."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _stop(self) -> None:
        """Wait for the thread that writes."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    @staticmethod
    def _datamodule(trainer: Trainer) -> SceneDataModule:
        """Return the data module of the scenes."""
        datamodule = getattr(trainer, 'datamodule', None)
        if not isinstance(datamodule, SceneDataModule):
            raise TypeError(
                f'SceneWriter got predictions of {type(datamodule).__name__}: expected '
                'those of SceneDataModule'
            )
        return datamodule

    def _check(self, outputs: Outputs, sampler: SceneSampler) -> None:
        """Check that the files of a scene can be written."""
        inputs = {
            os.path.realpath(file)
            for files in sampler.dataset.pair_files
            for file in files
        }
        for path in outputs.paths():
            if path.is_dir():
                raise IsADirectoryError(f'{path} is a folder: expected a file')
            if os.path.realpath(path) in inputs:
                raise ValueError(f'{path} is a file of the scene itself')
            if path.exists() and not self.overwrite:
                raise FileExistsError(f'{path} exists and overwrite is False')

    def _is_complete(self, outputs: Outputs, digest: str) -> bool:
        """Whether a map of the same plan is there."""
        if self.overwrite or not all(path.exists() for path in outputs.paths()):
            return False
        try:
            with rasterio.open(outputs.output) as src:
                return bool(src.tags().get('PLAN_SHA256') == digest)
        except RasterioError:
            return False


def _describe(task: LightningModule, checkpoint: str | None) -> dict[str, str]:
    """Say which model it is, down to its weights."""
    hparams: dict[str, Any] = dict(task.hparams)
    words = [type(task).__name__, hparams.get('model'), hparams.get('backbone')]
    model = {'CHECKPOINT': checkpoint} if checkpoint else {}
    model |= {'MODEL': ', '.join(str(word) for word in words if word)}
    weights = hashlib.sha256()
    for value in task.state_dict().values():
        weights.update(value.cpu().reshape(-1).view(torch.uint8).numpy())
    model['WEIGHTS_SHA256'] = weights.hexdigest()
    return model


def _tags(model: dict[str, str], sampler: SceneSampler) -> dict[str, str]:
    """Say what a map was made of."""
    tags = {'TIFFTAG_SOFTWARE': f'torchgeo-m2cd {__version__}', **model}
    for name, files in zip(('OPTICAL', 'SAR'), sampler.dataset.pair_files, strict=True):
        tags[name] = ', '.join(files)
    return tags


def _plan(
    trainer: Trainer,
    datamodule: SceneDataModule,
    sampler: SceneSampler,
    model: dict[str, str],
) -> dict[str, Any]:
    """List all that the probabilities of a scene depend on."""
    files = [file for files in sampler.dataset.pair_files for file in files]
    return {
        'version': __version__,
        'model': {key: value for key, value in model.items() if key != 'CHECKPOINT'},
        'precision': str(trainer.precision),
        'files': [
            # Those on a network have no such things
            [file, *((s.st_size, s.st_mtime_ns) if (s := _stat(file)) else ())]
            for file in files
        ],
        'data': {key: str(value) for key, value in sorted(datamodule.kwargs.items())},
        'shape': list(sampler.dataset.shape),
        'transform': list(sampler.dataset.transform)[:6],
        'size': list(sampler.size),
        'stride': list(sampler.stride),
        'batch_size': datamodule.batch_size,
    }


def _stat(file: Path) -> os.stat_result | None:
    """Return size and time of a local file."""
    return os.stat(file) if os.path.exists(file) else None

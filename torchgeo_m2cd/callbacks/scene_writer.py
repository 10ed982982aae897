# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Write predictions of scenes."""

import concurrent.futures
import json
import pathlib
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from torchgeo.datasets.utils import Path, Sample

from .. import __version__
from ..datamodules import SceneDataModule
from ..maps import MapPlan, Mosaic, Outputs, PatchRow, make_map
from ..samplers import PatchRowSampler, SceneSampler
from ..utils import write_beside


class SceneWriter(Callback):
    """Write the predictions of one or more scenes to Cloud-Optimized GeoTIFF files.

    Where patches overlap, their probabilities are averaged with weights that fall
    smoothly towards the edges of a patch, where a model sees least.

    Every row of patches is kept in the folder ``OUTPUT.parts``. The same command, run
    again after an interruption, goes on where it stopped. Several processes share the
    rows, on a file system that all of them see. Memory holds two batches of patches,
    however large the scene is. The trainer does not keep the predictions.

    Files are written beside their places and renamed when all are complete. Their tags
    say which model (SHA-256 of its weights), inputs, checkpoint and images they were
    made of.

    To be used with :class:`~torchgeo_m2cd.datamodules.SceneDataModule` and a task that
    predicts probabilities.
    """

    def __init__(
        self,
        output: Path,
        classes: Path | None = None,
        polygons: Path | None = None,
        quicklook: Path | None = None,
        threshold: float = 0.5,
        min_area: float = 0.0,
        overwrite: bool = False,
    ) -> None:
        """Initialize a new SceneWriter instance.

        Args:
            output: GeoTIFF of the probabilities to write: float32, one band, the
                probability of change, for a binary task, else one per class; NaN where
                not valid. With several scenes, this path and those below hold ``{name}``
                for the name of the scene.
            classes: GeoTIFF of the predicted classes to write, if any: uint8, 255 where not
                valid.
            polygons: GeoPackage of the outlines of what has changed to write, if any, see
                :func:`~torchgeo_m2cd.maps.write_polygons`.
            quicklook: PNG of images and probabilities to draw, if any.
            threshold: Probability from which on a pixel of a binary task is changed.
            min_area: Smallest area of a polygon in m².
            overwrite: Whether to replace existing files. If not, and there are several
                scenes, those that are complete are left out.

        Raises:
            ValueError: If two of the files are the same, or *threshold* is not within
                [0, 1].
        """
        super().__init__()
        classes, polygons, quicklook = (
            None if file is None else pathlib.Path(file)
            for file in (classes, polygons, quicklook)
        )
        self.outputs = Outputs(
            pathlib.Path(output),
            classes,
            polygons,
            quicklook,
            threshold,
            min_area,
            overwrite,
        )
        #: Path of the checkpoint, for the tags, if the trainer does not read it.
        self.checkpoint: Path | None = None
        self._todo: list[tuple[int, int]] = []
        self._row: PatchRow | None = None
        self._thread: concurrent.futures.ThreadPoolExecutor | None = None
        self._writing: concurrent.futures.Future[None] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the files to write, and tell the data module of them.

        Args:
            trainer: The trainer.
            pl_module: The task.
            stage: Either 'fit', 'validate', 'test', or 'predict'.

        Raises:
            FileExistsError: If the only scene has a file that exists, and *overwrite* is
                False.
            IsADirectoryError: If a file is a folder.
            TypeError: If the data module is not a SceneDataModule.
            ValueError: If a file to write is an image to read, or the same for two
                scenes, or if a pixel may have several labels.
        """
        if stage != 'predict':
            return
        if pl_module.hparams.get('task') == 'multilabel' and self.outputs.paths[1:]:
            raise ValueError(
                "task is 'multilabel': expected an output alone, as there is no single "
                'class of a pixel for classes, polygons and quicklook'
            )
        datamodule = _get_datamodule(trainer)
        several = len(datamodule.entries) > 1
        if several and not all('{name}' in str(path) for path in self.outputs.paths):
            raise ValueError(
                f'there are {len(datamodule.entries)} scenes, and the files to write are '
                f'{[str(path) for path in self.outputs.paths]}: expected {{name}} in each '
                'of them'
            )
        datamodule.outputs = [self.outputs.named(e.name) for e in datamodule.entries]
        for outputs, scene in zip(
            datamodule.outputs, datamodule.scenes.scenes, strict=True
        ):
            outputs.check(scene.files)
            if not several:
                outputs.check_new()
        # They are as large as the scene, several times, and they are in the file
        trainer.predict_loop.return_predictions = False

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare the folders of rows of patches, and start the thread that writes.

        Args:
            trainer: The trainer.
            pl_module: The task.

        Raises:
            ValueError: If Lightning would share the patches among processes once more.
        """
        sampler = getattr(trainer.predict_dataloaders, 'sampler', None)
        if not isinstance(sampler, PatchRowSampler):
            raise ValueError(  # noqa: TRY004, it is a setting that is wrong
                'SceneDataModule shares the rows of patches among processes itself: set '
                'use_distributed_sampler=False in the trainer'
            )
        datamodule = _get_datamodule(trainer)
        for scene in dict(sampler.patch_rows):
            plan = datamodule.plans[scene]
            folder = datamodule.outputs[scene].folder(plan)
            folder.mkdir(parents=True, exist_ok=True)
            write_beside(folder / 'plan.json', plan.write)
        self._todo = list(sampler.patch_rows)
        self._row = self._writing = None
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
        """Add the predictions of a batch to its row, and write what is complete.

        Args:
            trainer: The trainer.
            pl_module: The task.
            outputs: Probabilities of shape (B, classes, H, W).
            batch: The batch, with ``valid``.
            batch_idx: Index of the batch.
            dataloader_idx: Index of the data loader.
        """
        assert self._thread is not None
        if self._row is None:
            scene, number = self._todo.pop(0)
            self._row = _make_mosaic(trainer, scene).patch_row(number)
        patches = outputs.detach().float().cpu().numpy()
        valid = batch['valid'][:, 0].cpu().numpy()
        done = [self._row.add(*pair) for pair in zip(patches, valid, strict=True)]
        # One batch at a time is being written: more would fill the memory
        self._wait()
        self._writing = self._thread.submit(self._row.write, np.concatenate(done))
        if self._row.is_complete:
            self._row = None

    def on_predict_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        """Wait for what is being written.

        Args:
            trainer: The trainer.
            pl_module: The task.
        """
        self._wait()
        self._stop()

    def teardown(
        self, trainer: Trainer, pl_module: LightningModule, stage: str
    ) -> None:
        """Make the files, each process those of some of the scenes.

        Lightning calls this hook also where no row of patches was left to predict.

        Args:
            trainer: The trainer.
            pl_module: The task.
            stage: Either 'fit', 'validate', 'test', or 'predict'.

        Raises:
            RuntimeError: If a row of patches is missing.
            ValueError: If no pixel of a scene is valid.
        """
        if stage != 'predict':
            return
        datamodule = _get_datamodule(trainer)
        trainer.strategy.barrier('SceneWriter')
        scenes = range(len(datamodule.plans))
        for scene in scenes[trainer.global_rank :: trainer.world_size]:
            plan, outputs = datamodule.plans[scene], datamodule.outputs[scene]
            if not outputs.is_complete(plan):
                tags = self._make_tags(trainer, datamodule.samplers[scene], plan)
                make_map(_make_mosaic(trainer, scene), outputs, plan, tags)
        trainer.strategy.barrier('SceneWriter')

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Stop writing; complete rows are kept.

        Args:
            trainer: The trainer.
            pl_module: The task.
            exception: What went wrong.
        """
        self._stop()
        if self._row is not None:
            self._row.discard()

    def _wait(self) -> None:
        """Wait for the batch that is being written, and raise what went wrong."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _stop(self) -> None:
        """Wait for the thread that writes."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def _make_tags(
        self, trainer: Trainer, sampler: SceneSampler, plan: MapPlan
    ) -> dict[str, str]:
        """Say what a map was made of."""
        checkpoint = trainer.ckpt_path or self.checkpoint
        scene = sampler.dataset
        return {
            'TIFFTAG_SOFTWARE': f'torchgeo-m2cd {__version__}',
            **({'CHECKPOINT': str(checkpoint)} if checkpoint else {}),
            **plan.model,
            'INPUTS': json.dumps(plan.inputs),
            'OPTICAL': ', '.join(scene.optical.files),
            'SAR': ', '.join(scene.sar.files),
        }


def _get_datamodule(trainer: Trainer) -> SceneDataModule:
    """Return the data module of the scenes."""
    datamodule = getattr(trainer, 'datamodule', None)
    if not isinstance(datamodule, SceneDataModule):
        raise TypeError(
            f'SceneWriter got predictions of {type(datamodule).__name__}: expected those '
            'of SceneDataModule'
        )
    return datamodule


def _make_mosaic(trainer: Trainer, scene: int) -> Mosaic:
    """Return the mosaic of a scene."""
    datamodule = _get_datamodule(trainer)
    folder = datamodule.outputs[scene].folder(datamodule.plans[scene])
    return Mosaic(datamodule.samplers[scene], folder)

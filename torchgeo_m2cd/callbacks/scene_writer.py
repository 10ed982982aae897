# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Write predictions of scenes."""

import concurrent.futures
import contextlib
import dataclasses
import os
import pathlib
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torchgeo.datasets.utils import Path, Sample

from ..checks import PositiveOrZero, Share, checked
from ..datamodules import SceneDataModule
from ..datasets.paths import public_path
from ..maps import (
    Districts,
    Mosaic,
    Outputs,
    PatchRow,
    Run,
    format_summary,
    make_map,
    read_summary,
    record_warnings,
)
from ..models import Reliability
from ..samplers import PatchRowSampler
from ..utils import write_beside


class SceneWriter(Callback):
    """Write the predictions of one or more scenes to Cloud-Optimized GeoTIFF files.

    Where patches overlap, their probabilities are averaged with weights that fall
    smoothly towards the edges of a patch, where a model sees least.

    Every row of patches is kept in the folder ``OUTPUT.parts``. The same command, run
    again after an interruption, goes on where it stopped. Several processes share the
    rows, on a file system that all of them see. Memory holds two batches of patches,
    however large the scene is. The trainer does not keep the predictions.

    Files are written beside their places and renamed when all are complete. The tags of
    rasters say which model (SHA-256 of its weights), inputs, checkpoint and images they
    were made of. A summary of each map is printed in the end.

    To be used with :class:`~torchgeo_m2cd.datamodules.SceneDataModule` and a task that
    predicts probabilities.
    """

    @checked
    def __init__(
        self,
        output: Path,
        classes: Path | None = None,
        polygons: Path | None = None,
        quicklook: Path | None = None,
        stac: Path | None = None,
        districts: Districts | None = None,
        threshold: Share | None = None,
        min_area: PositiveOrZero = 0.0,
        overwrite: bool = False,
    ) -> None:
        """Initialize a new SceneWriter instance.

        Args:
            output: GeoTIFF of the probabilities to write: float32, one band, the
                probability of change, for a binary task, else one per class; NaN where
                not valid. Beside it, there are always a summary, ``change.json`` for
                ``change.tif``, and a style for QGIS, ``change.qml``. With several scenes,
                this path and those below hold ``{name}`` for the name of the scene.
            classes: GeoTIFF of the predicted classes to write, if any: uint8, 255 where
                not valid. 0 is unchanged. Of a binary task, 1 is changed; if the inputs
                of the model tell where water was before (see
                :class:`~torchgeo_m2cd.transforms.Darkness`), that is 2, permanent water,
                whatever was predicted there. It has a style, too.
            polygons: Vector file of the outlines of the classes but 0 to write, if any:
                ``.gpkg``, ``.geojson``, ``.json``, ``.shp``, ``.fgb``, or ``.parquet``,
                which needs pyarrow. Attributes are ``class``, ``label`` (its name),
                ``area_m2``, on the ellipsoid, and ``mean_probability`` (``mean_prob`` in
                a Shapefile), of change or of the class.
            quicklook: Picture of images and probabilities to draw, if any, in a format
                that Matplotlib knows.
            stac: STAC item of the map to write, if any (JSON).
            districts: Districts to sum up areas in, if any: written to
                ``change.districts.csv`` and to the summary.
            threshold: Probability from which on a pixel of a binary task is changed
                (defaults to that of released weights, or 0.5).
            min_area: Smallest area in m². What is smaller, in pixels of one class that
                share an edge, is unchanged in the classes, polygons and sums.
            overwrite: Whether to replace existing files. If not, and there are several
                scenes, those that are complete are left out.

        Raises:
            ValueError: If two of the files are the same, a suffix cannot be written,
                *threshold* is not within [0, 1], or *min_area* is negative.
        """
        super().__init__()
        classes, polygons, quicklook, stac = (
            None if file is None else pathlib.Path(os.path.expanduser(file))
            for file in (classes, polygons, quicklook, stac)
        )
        self.outputs = Outputs(
            pathlib.Path(os.path.expanduser(output)),
            classes,
            polygons,
            quicklook,
            stac,
            districts,
            0.5 if threshold is None else threshold,
            min_area,
            overwrite,
        )
        self._default_threshold = threshold is None
        #: Summary of the map of each scene, when they are complete.
        self.summaries: list[dict[str, Any]] = []
        #: Path of the checkpoint, for the tags, if the trainer does not read it.
        self.checkpoint: Path | None = None
        self._run = Run()
        self._recording = contextlib.ExitStack()
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
            FileNotFoundError: If the file of the districts does not exist.
            IsADirectoryError: If a file is a folder.
            TypeError: If the data module is not a SceneDataModule.
            ValueError: If a file to write is an image to read, or the same for two
                scenes, if a pixel may have several labels, or if no scene has districts.
        """
        if stage != 'predict':
            return
        reliability: Reliability | None = getattr(pl_module, 'reliability', None)
        if self._default_threshold and reliability is not None:
            self.outputs = dataclasses.replace(
                self.outputs, threshold=reliability.threshold
            )
        self.outputs.check_task(pl_module.hparams.get('task'))
        datamodule = _get_datamodule(trainer)
        self._run = Run(
            warnings=datamodule.warnings,
            progress=trainer.progress_bar_callback is not None
            and trainer.is_global_zero,
            reliability=reliability,
        )
        self._recording.enter_context(record_warnings(self._run.warnings))
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
        if self.outputs.districts is not None:
            self.outputs.districts.check(datamodule.scenes.scenes)
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
        patches = outputs.detach().float()
        datamodule = _get_datamodule(trainer)
        assert datamodule.inputs is not None
        if datamodule.inputs.optical.finds_water:
            water = datamodule.inputs.find_water(batch)
            patches = torch.cat([patches, water.to(patches)], dim=1)
        patches = patches.cpu().numpy()
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
        checkpoint = trainer.ckpt_path or self.checkpoint
        if checkpoint:
            self._run.checkpoint = public_path(os.fspath(checkpoint))
        for scene in scenes[trainer.global_rank :: trainer.world_size]:
            plan, outputs = datamodule.plans[scene], datamodule.outputs[scene]
            if not outputs.is_complete(plan):
                make_map(_make_mosaic(trainer, scene), outputs, plan, self._run)
        trainer.strategy.barrier('SceneWriter')
        self._recording.close()
        self.summaries = [read_summary(outputs) for outputs in datamodule.outputs]
        self._print()

    @rank_zero_only
    def _print(self) -> None:
        """Print the summaries."""
        print('', *map(format_summary, self.summaries), sep='\n', flush=True)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Stop writing; complete rows are kept.

        Args:
            trainer: The trainer.
            pl_module: The task.
            exception: What went wrong.
        """
        self._recording.close()
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
    plan = datamodule.plans[scene]
    folder = datamodule.outputs[scene].folder(plan)
    return Mosaic(datamodule.samplers[scene], folder, plan.water)

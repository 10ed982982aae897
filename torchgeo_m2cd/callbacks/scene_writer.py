# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Write predictions of scenes."""

import contextlib
import dataclasses
import functools
import os
import pathlib
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torchgeo.datasets.utils import Path, Sample

from ..checks import PositiveOrZero, Share, checked
from ..datamodules import SceneDataModule
from ..datasets.paths import public_path
from ..maps import (
    Districts,
    NoDataError,
    Outputs,
    Parts,
    Run,
    RunLock,
    check_districts,
    check_outputs,
    format_summary,
    format_total,
    make_map,
    plan_maps,
    read_summary,
    record_warnings,
    start_maps,
)
from ..maps.row_writer import RowWriter
from ..models import Reliability
from ..samplers import PatchRowSampler
from .compile_model import is_compiled


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
            output: GeoTIFF of the probabilities to write: float32, the probability of
                change, for a binary task, else a band per class; NaN where not valid.
                Beside it, there are always a summary, ``change.json`` for
                ``change.tif``, and a style for QGIS, ``change.qml``. With several scenes,
                this path and those below hold ``{name}`` for the name of the scene. A
                folder, one that exists or a path that ends with a slash, stands for
                ``{name}_change.tif`` in it. If the inputs of a binary model tell where
                water was before, that is a second band: 1, else 0.
            classes: GeoTIFF of the predicted classes to write, if any: uint8, 255 where
                not valid. 0 is unchanged. Of a binary task, 1 is changed; if the inputs
                of the model tell where water was before (see
                :class:`~torchgeo_m2cd.transforms.Darkness`), that is 2, water before,
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
            overwrite: Whether to replace existing files. If not, maps that are complete,
                of the same plan, are left as they are, and only files that are missing
                are made. In both cases, the probabilities of a finished map of the same
                plan are used again.

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
            _find_output(os.path.expanduser(output)),
            classes=classes,
            polygons=polygons,
            quicklook=quicklook,
            stac=stac,
            districts=districts,
            threshold=0.5 if threshold is None else threshold,
            min_area=min_area,
            overwrite=overwrite,
        )
        self._default_threshold = threshold is None
        #: Summary of the map of each scene, when they are complete.
        self.summaries: list[dict[str, Any]] = []
        #: Path of the checkpoint, for the tags, if the trainer does not read it.
        self.checkpoint: Path | None = None
        self._run = Run()
        self._recording = contextlib.ExitStack()
        self._parts: list[Parts] = []
        self._rows: RowWriter | None = None

    def check(
        self, datamodule: SceneDataModule, checkpoint: Path | None = None
    ) -> list[Outputs]:
        """Check that the files to write replace nothing but maps.

        Args:
            datamodule: The scenes; if they were opened, all of their files are known.
            checkpoint: The checkpoint, if there is one.

        Returns:
            The files of each scene.

        Raises:
            FileExistsError: If a file exists that is of no map, and *overwrite* is False.
            IsADirectoryError: If a file is a folder.
            ValueError: If a file to write is read, is something else than a regular file,
                or is the same for two scenes.
        """
        entries = datamodule.entries
        if len(entries) > 1 and not all('{name}' in str(p) for p in self.outputs.paths):
            raise ValueError(
                f'there are {len(entries)} scenes, and the files to write are '
                f'{[str(path) for path in self.outputs.paths]}: expected {{name}} in each '
                "of them, or a folder as output, such as 'maps/'"
            )
        outputs = [self.outputs.named(entry.name) for entry in entries]
        check_outputs(outputs, _list_taken(datamodule, checkpoint or self.checkpoint))
        for each in outputs:
            each.check_early()
        return outputs

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the files to write, and keep what is there from being predicted again.

        Args:
            trainer: The trainer.
            pl_module: The task.
            stage: Either 'fit', 'validate', 'test', or 'predict'.

        Raises:
            FileExistsError: See :meth:`check`.
            FileNotFoundError: If the file of the districts does not exist.
            IsADirectoryError: See :meth:`check`.
            TypeError: If the data module is not a SceneDataModule.
            ValueError: See :meth:`check`; or if a pixel may have several labels, or if no
                scene has districts.
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
        outputs = self.check(datamodule, trainer.ckpt_path)
        if self.outputs.districts is not None:
            check_districts(self.outputs.districts, datamodule.scenes.scenes)
        self._parts = []
        datamodule.list_done = functools.partial(self._start, trainer, outputs)
        # They are as large as the scene, several times, and they are in the file
        trainer.predict_loop.return_predictions = False

    def _start(self, trainer: Trainer, outputs: list[Outputs]) -> set[tuple[int, int]]:
        """Start the maps, and list the rows of patches that need not be predicted."""
        datamodule = _get_datamodule(trainer)
        assert datamodule.inputs is not None
        samplers, batch_size = datamodule.samplers, datamodule.batch_size or 1
        compiled = is_compiled(trainer)
        plans = plan_maps(trainer, datamodule.inputs, samplers, batch_size, compiled)
        lock = RunLock()
        self._parts = [
            Parts(*each, lock) for each in zip(outputs, plans, samplers, strict=True)
        ]
        return start_maps(self._parts, trainer.strategy)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to write rows of patches.

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
        self._rows = RowWriter(
            self._parts[scene].mosaic.patch_row(number)
            for scene, number in sampler.patch_rows
        )

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
        patches = outputs.detach().float()
        datamodule = _get_datamodule(trainer)
        assert datamodule.inputs is not None
        if datamodule.inputs.optical.finds_water:
            water = datamodule.inputs.find_water(batch)
            patches = torch.cat([patches, water.to(patches)], dim=1)
        assert self._rows is not None
        self._rows.add(patches.cpu().numpy(), batch['valid'][:, 0].cpu().numpy())

    def on_predict_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        """Wait for what is being written.

        Args:
            trainer: The trainer.
            pl_module: The task.
        """
        assert self._rows is not None
        self._rows.close()

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
            NoDataError: If no pixel of a scene is valid; the maps of all others are made.
            OSError: If a file cannot be written.
            RuntimeError: If a row of patches is missing, or broken; the maps of all others
                are made.
        """
        if stage != 'predict':
            return
        trainer.strategy.barrier('SceneWriter')
        checkpoint = trainer.ckpt_path or self.checkpoint
        if checkpoint:
            self._run.checkpoint = public_path(os.fspath(checkpoint))
        todo = [parts for parts in self._parts if parts.is_pending]
        trainer.strategy.barrier('SceneWriter')
        failed: list[RuntimeError] = []
        for parts in todo[trainer.global_rank :: trainer.world_size]:
            # A scene that fails does not keep the others from being mapped
            try:
                make_map(parts, self._run)
            except NoDataError:
                pass  # Below, for all processes
            except RuntimeError as error:
                failed.append(error)
        trainer.strategy.barrier('SceneWriter')
        self._recording.close()
        if failed:
            raise failed[0]
        empty = [parts.outputs for parts in todo if parts.is_pending]
        self._release(trainer)
        self.summaries = [
            read_summary(parts.outputs)
            for parts in self._parts
            if parts.outputs not in empty
        ]
        self._print()
        if empty:
            paths = ', '.join(str(outputs.probability) for outputs in empty)
            raise NoDataError(
                f'{paths} {"is" if len(empty) == 1 else "are"} not written: no pixel of '
                'the scene has data in both images'
            )

    @rank_zero_only
    def _print(self) -> None:
        """Print the summaries."""
        lines = ['', *map(format_summary, self.summaries)]
        if len(self.summaries) > 1:
            lines.append(format_total(self.summaries))
        print(*lines, sep='\n', flush=True)

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
        if self._rows is not None:
            self._rows.discard()
        self._release(trainer)

    def _release(self, trainer: Trainer) -> None:
        """Close files, and let other runs write the same maps."""
        datamodule = getattr(trainer, 'datamodule', None)
        if isinstance(datamodule, SceneDataModule):
            datamodule.close()
        for parts in self._parts:
            parts.release()


def _find_output(path: str | pathlib.Path) -> pathlib.Path:
    """Find the raster of a map, which may be in a folder that the user has named."""
    text = os.fspath(path)
    path = pathlib.Path(path)
    if text.endswith(os.sep) or (text and not path.suffix and path.is_dir()):
        return path / '{name}_change.tif'
    return path


def _get_datamodule(trainer: Trainer) -> SceneDataModule:
    """Return the data module of the scenes."""
    datamodule = getattr(trainer, 'datamodule', None)
    if not isinstance(datamodule, SceneDataModule):
        raise TypeError(
            f'SceneWriter got predictions of {type(datamodule).__name__}: expected those '
            'of SceneDataModule'
        )
    return datamodule


def _list_taken(datamodule: SceneDataModule, checkpoint: Path | None) -> dict[str, str]:
    """Say what each file is that is read, by its real path."""
    taken = datamodule.list_files()
    if checkpoint is not None:
        name = os.path.expanduser(checkpoint)
        inside = os.listdir(name) if os.path.isdir(name) else ()
        for path in (name, *(os.path.join(name, file) for file in inside)):
            taken[path] = 'the checkpoint'
    return {os.path.realpath(path): what for path, what in taken.items()}

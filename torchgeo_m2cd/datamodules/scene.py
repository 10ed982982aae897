# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Scene data module."""

import math
import os
from collections.abc import Callable, Collection
from typing import Annotated, Any, cast

import torch
from annotated_types import Ge, Le
from torch.utils.data import DataLoader
from torchgeo.datamodules import GeoDataModule
from torchgeo.datasets.splits import random_grid_cell_assignment
from torchgeo.datasets.utils import Path, Sample
from torchgeo.samplers import GriddedPatchSampler, RandomPatchSampler

from ..checks import Count, CountOrZero, Positive, Share, Size, checked
from ..datasets import MaskSource, SARSource, SceneDataset, SceneList, Source
from ..datasets.catalogue import list_scenes
from ..datasets.files import allow_urls, forbid_urls
from ..datasets.grid_file import OPEN_FILES
from ..datasets.paths import Paths, is_remote, list_paths, local_file, resolve
from ..maps import record_warnings
from ..samplers import PatchRowSampler, SceneSampler, list_patch_rows
from ..transforms import Inputs, PairAugmentation
from .bands import match_bands
from .base import PairDataModule
from .checks import check_mask, check_possible, check_values, no_data
from .contrast import check_contrast, estimate_contrast
from .statistics import measure_statistics


class SceneDataModule(PairDataModule, GeoDataModule):
    """LightningDataModule implementation for georeferenced scenes.

    A scene is an optical and a SAR image where they overlap, see
    :class:`~torchgeo_m2cd.datasets.SceneDataset`.

    To train, validate and test, the scene is divided into cells, each of which belongs
    to one split. Training takes random patches. The other splits take patches on a grid,
    of which only what is within the split counts.

    To predict, one or more scenes are cut into overlapping patches, whose predictions
    :class:`~torchgeo_m2cd.callbacks.SceneWriter` puts together. Several processes share
    the rows of patches; set ``use_distributed_sampler=False`` in the trainer.
    """

    #: Lightning may not refuse a process that has nothing to do.
    allow_zero_length_dataloader_with_multiple_devices = True

    @checked
    def __init__(
        self,
        optical: Source | Paths | None = None,
        sar: SARSource | Paths | None = None,
        mask: MaskSource | Paths | None = None,
        scenes: Path | None = None,
        inputs: Inputs | None = None,
        augmentation: PairAugmentation | None = None,
        batch_size: Count = 4,
        patch_size: Size = 512,
        stride: Size | None = None,
        length: Count | None = None,
        num_workers: CountOrZero = 0,
        splits: tuple[Share, Share, Share] | None = (0.6, 0.2, 0.2),
        grid_size: Annotated[int, Ge(1), Le(100)] = 6,
        split_seed: CountOrZero = 0,
        check: bool = True,
        crs: str | None = None,
        res: Positive | tuple[Positive, Positive] | None = None,
    ) -> None:
        """Initialize a new SceneDataModule instance.

        Args:
            optical: Pre-event optical image: its paths, or a
                :class:`~torchgeo_m2cd.datasets.Source`.
            sar: Post-event SAR image: its paths, or a
                :class:`~torchgeo_m2cd.datasets.SARSource`.
            mask: Change mask, not needed to predict: its paths, or a
                :class:`~torchgeo_m2cd.datasets.MaskSource`.
            scenes: List of scenes to predict: a table (CSV, GeoPackage) with the columns
                ``optical``, ``sar`` and, if the maps are not to have the names of the
                optical files, ``name``; or STAC items (JSON) with the assets ``optical``
                and ``sar``. Tables separate several files by ``;``. Paths are relative to
                the list, which may be remote. If it names no URL, files that it names
                cannot make GDAL open one. *optical* and *sar* then say how to read
                them, without paths.
            inputs: What the model is shown (defaults to what it was trained with, and in
                training to mean and standard deviation of each band over the training
                split). Where something is measured, it is measured around each patch.
            augmentation: How patches are changed at random in training (defaults to flips
                and turns by multiples of 90 degrees).
            batch_size: Size of each mini-batch.
            patch_size: Size of each patch in pixels, either ``size`` or
                ``(height, width)``.
            stride: Distance between patches in prediction, in pixels (defaults to half of
                *patch_size*).
            length: Random patches in an epoch of training (defaults to as many as cover
                the area).
            num_workers: Number of workers for parallel data loading.
            splits: Share of the cells to train, validate and test with. If None, all of
                the scene is validated or tested with, and there is no training.
            grid_size: Rows and columns of cells.
            split_seed: Seed of the assignment of cells to splits.
            check: Whether to look for swapped images, wrong units, values that are
                impossible, and chosen bands that are not those of the model.
            crs: CRS to warp to (defaults to that of the first optical file).
            res: Width and height of a pixel in units of *crs* (defaults to those of the
                first optical file).

        Raises:
            FileNotFoundError: If *scenes* does not exist.
            ValueError: If there are not either *optical* and *sar* or *scenes*,
                *patch_size* is not positive, *stride* is not within [1, *patch_size*], or
                *splits* are not three shares whose sum is 1.
        """
        height, width = size = _to_pair(patch_size)
        steps = (
            (max(height // 2, 1), max(width // 2, 1))
            if stride is None
            else _to_pair(stride)
        )
        if not all(step <= edge for step, edge in zip(steps, size, strict=True)):
            raise ValueError(
                f'stride is {stride}: expected at least 1 and at most patch_size, '
                f'which is {patch_size}, or else pixels are left out'
            )
        if splits is not None and not math.isclose(sum(splits), 1):
            raise ValueError(f'splits is {splits}: expected shares whose sum is 1')
        super().__init__(
            SceneDataset, batch_size, size, length, num_workers, crs=crs, res=res
        )
        self.mask = mask
        self.sar = SARSource.of(sar)
        self.entries = list_scenes(Source.of(optical), self.sar, scenes)
        # Files of a list are not trusted, unless it names URLs itself
        self._is_offline = scenes is not None and not any(
            is_remote(path)
            for entry in self.entries
            for source in (entry.optical, entry.sar)
            for path in list_paths(source.paths)
        )
        self.stride = steps
        self.splits = splits
        self.grid_size = grid_size
        self.split_seed = split_seed
        self.check = check
        #: Lists the rows of patches that need not be predicted, each by the number of its
        #: scene and its own. Called when the inputs are known; the files of the scenes
        #: then stay open until :meth:`close`.
        self.list_done: Callable[[], Collection[tuple[int, int]]] | None = None
        #: List of scenes, if there is one.
        self.catalogue = scenes
        #: Warnings about the scenes to predict.
        self.warnings: list[str] = []
        self._set_inputs(inputs, augmentation)

    def setup(self, stage: str) -> None:
        """Set up datasets and samplers.

        Args:
            stage: Either 'fit', 'validate', 'test', or 'predict'.

        Raises:
            DatasetNotFoundError: If there is no raster file in a folder.
            FileNotFoundError: If a file or folder does not exist.
            ValueError: If a file has no CRS or lacks a band, or the images do not
                overlap; if no mask is given to train, validate or test, or a split
                has no room for a patch.
        """
        stage = str(getattr(stage, 'value', stage))  # The trainer gives an enum
        self._is_prepared = self._is_possible = False
        # Others may have made, or make, all rows of patches
        self.allow_zero_length_dataloader_with_multiple_devices = stage == 'predict'
        if stage == 'predict':
            self._setup_predict()
            return
        if self.mask is None or len(self.entries) != 1:
            raise ValueError(f'{stage} needs one scene and its mask')
        _, optical, sar = self.entries[0]
        scene = SceneDataset(optical, sar, self.mask, **self.kwargs)
        self.scenes = SceneList([scene])
        train, val, test = self._split(scene, stage)
        size = _to_pair(self.patch_size)
        if stage == 'fit':
            self.train_dataset = train
            self.train_sampler = self._sample_randomly(train)
            self._check_length(len(self.train_sampler))
        if stage in ('fit', 'validate'):
            self.val_dataset = val
            self.val_sampler = GriddedPatchSampler(val, size=size)
        if stage == 'test':
            self.test_dataset = test
            self.test_sampler = GriddedPatchSampler(test, size=size)

    def teardown(self, stage: str) -> None:
        """Close the files of the scenes, unless maps are still to be made of them.

        Args:
            stage: Either 'fit', 'validate', 'test', or 'predict'.
        """
        if self.list_done is None:
            self.close()

    def close(self) -> None:
        """Close the files of the scenes, and let GDAL open URLs again."""
        OPEN_FILES.close()
        if self._is_offline:
            allow_urls()

    def on_exception(self, exception: BaseException) -> None:
        """Close the files after an error.

        Args:
            exception: The error.
        """
        self.close()

    def list_files(self) -> dict[str, str]:
        """List the local files of the scenes; if these were opened, all of them.

        Returns:
            What each file is, by its path.
        """
        scenes = self.scenes.scenes if hasattr(self, 'scenes') else ()
        files = [file for scene in scenes for file in scene.files]
        for entry in self.entries:
            for source in (entry.optical, entry.sar):
                files += map(resolve, list_paths(source.paths))
        found = dict.fromkeys(map(local_file, files), 'a file of the scene')
        if self.catalogue is not None:
            name = local_file(resolve(os.fspath(self.catalogue)))
            found[name] = 'the list of scenes'
        return {path: what for path, what in found.items() if path}

    def _dataloader_factory(self, split: str) -> DataLoader[Sample]:
        """Implement one or more PyTorch DataLoaders."""
        self._prepare(split)
        return super()._dataloader_factory(split)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Implement a PyTorch DataLoader for prediction.

        Returns:
            Batches of overlapping patches, one row of patches after the other, scene by
            scene.

        Raises:
            FileExistsError: If a file of a map exists that is of another plan.
            ValueError: If the scenes are not what is expected of them.
        """
        self._prepare('predict')
        trainer = self.trainer
        patch_rows = list_patch_rows(self.samplers)
        if trainer is not None:
            # The processes take turns, whatever was done before
            patch_rows = patch_rows[trainer.global_rank :: trainer.world_size]
        if self.list_done is not None:
            done = self.list_done()
            patch_rows = [row for row in patch_rows if row not in done]
        sampler = PatchRowSampler(self.samplers, patch_rows, self.batch_size or 1)
        return DataLoader(
            self.scenes,
            batch_size=None,  # The sampler makes batches
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=self.collate_fn,
        )

    def _setup_predict(self) -> None:
        """Set up the scenes to predict, and their patches."""
        if self._is_offline:
            forbid_urls()
        self.warnings = []
        with record_warnings(self.warnings):
            self.scenes = SceneList(self._open_scenes())
        self.predict_dataset = cast(Any, self.scenes)
        size = _to_pair(self.patch_size)
        self.samplers = [
            SceneSampler(scene, size, self.stride) for scene in self.scenes.scenes
        ]
        self.list_done = None

    def _open_scenes(self) -> list[SceneDataset]:
        """Open all scenes, and tell at once which of a list cannot be opened."""
        scenes, failed = [], []
        for name, optical, sar in self.entries:
            try:
                scenes.append(SceneDataset(optical, sar, **self.kwargs))
            except (OSError, RuntimeError, ValueError) as error:
                if self.catalogue is None:
                    raise
                failed.append(f'{name}: {error}')
        if failed:
            raise ValueError(
                f'{len(failed)} of {len(self.entries)} scenes cannot be opened: '
                + '; '.join(failed)
            )
        return scenes

    def _match_bands(self, inputs: Inputs) -> None:
        """Read the bands of the inputs, in their order."""
        for scene in self._all_scenes():
            match_bands(scene, inputs, self.check)

    def _find_decibels(self, inputs: Inputs) -> float | None:
        """Find the decibels of a unit, estimated for pictures if the inputs need it."""
        scenes = self._all_scenes()
        if inputs.sar.decibels is not None and self.sar.scale is None:
            for scene in scenes:
                source = cast(SARSource, scene.sar.source)
                if source.unit not in (None, 1.0):
                    scene.sar.set_contrast([source.unit] * scene.sar.band_count)
                elif source.unit is None:
                    estimate_contrast(scene.sar)
        # All have the same settings, or are in dB
        return cast(SARSource, scenes[0].sar.source).unit

    def _all_scenes(self) -> list[SceneDataset]:
        """List the scenes, and their splits."""
        splits = (self.train_dataset, self.val_dataset, self.test_dataset)
        return [
            s for s in (*self.scenes.scenes, *splits) if isinstance(s, SceneDataset)
        ]

    def _measure_inputs(self) -> Inputs:
        """Measure random patches of the training split."""
        self._check_possible()
        train = cast(SceneDataset, self.train_dataset)
        return measure_statistics(train, _to_pair(self.patch_size))

    def _prepare(self, split: str) -> None:
        """Check the scenes, and say what is to be measured of them.

        Not done before there are data loaders to make: only then the checkpoint is read.
        """
        if self._is_prepared:
            return
        inputs = self._agree()
        self._check_possible()
        for scene in self.scenes.scenes if self.check else ():
            if check_values(scene, inputs.check) == 0 and split != 'predict':
                raise no_data(split, scene)
            if self.sar.scale == 'other' and inputs.sar.decibels is not None:
                check_contrast(scene.sar, inputs.sar.decibels)
            if scene.mask is not None:
                check_mask(scene, self._count_classes())
        for dataset in self._all_scenes():
            dataset.measure = inputs.measure if inputs.measures else None
            dataset.window = inputs.window
        self._is_prepared = True

    def _check_possible(self) -> None:
        """Look for impossible values once, before anything is measured."""
        if self.check and not self._is_possible:
            for scene in self.scenes.scenes:
                check_possible(scene)
            self._is_possible = True

    def _split(self, scene: SceneDataset, stage: str) -> list[SceneDataset]:
        """Divide a scene into the splits to train, validate and test with."""
        if self.splits is None:
            if stage == 'fit':
                raise ValueError('fit needs splits, got None')
            return [scene] * 3
        generator = torch.Generator().manual_seed(self.split_seed)
        splits = random_grid_cell_assignment(
            scene, self.splits, self.grid_size, generator
        )
        return cast(list[SceneDataset], splits)

    def _sample_randomly(self, train: SceneDataset) -> RandomPatchSampler:
        """Sample random patches of the training split."""
        height, width = size = _to_pair(self.patch_size)
        sampler = RandomPatchSampler(train, size=size, length=self.length)
        if sampler.series.is_empty.all():
            raise ValueError(
                f'no cell of the training split has room for a patch of {height} x '
                f'{width} pixels: the scene has {train.shape[0]} x {train.shape[1]}, '
                f'divided into {self.grid_size} x {self.grid_size} cells. Expected a '
                'smaller patch_size or grid_size'
            )
        return sampler


def _to_pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return height and width."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Scene data module."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import geopandas as gpd
import pandas as pd
import torch
from lightning.pytorch.utilities import rank_zero_warn
from pyproj import CRS
from torch.utils.data import DataLoader
from torchgeo.datamodules import GeoDataModule
from torchgeo.datasets import RasterDataset
from torchgeo.datasets.splits import random_grid_cell_assignment
from torchgeo.datasets.utils import Path, Sample
from torchgeo.samplers import GriddedPatchSampler, RandomPatchSampler

from ..datasets import SceneDataset, SceneList
from ..datasets.scene import SARScale
from ..samplers import SceneRowSampler, SceneSampler
from ..transforms import Inputs, PairAugmentation, Standardize, estimate_decibels
from ..utils import list_paths, name_paths
from .base import PairDataModule


class ScenePaths(NamedTuple):
    """The files of one scene."""

    name: str
    optical: list[str]
    sar: list[str]


class SceneDataModule(PairDataModule, GeoDataModule):
    """LightningDataModule implementation for georeferenced scenes.

    A scene is the overlap of an optical and a SAR scene, see
    :class:`~torchgeo_m2cd.datasets.SceneDataset`.

    To train, validate and test, the scene is divided into cells, each of which belongs
    to one split. Training takes random patches, the other splits patches on a grid, of
    which only what is within the split counts.

    To predict, one or more scenes are cut into overlapping patches, whose
    predictions :class:`~torchgeo_m2cd.callbacks.SceneWriter` puts together. Several
    processes share the rows of patches; set ``use_distributed_sampler=False`` in the
    trainer.
    """

    #: Lightning may not refuse a process that has nothing to do.
    allow_zero_length_dataloader_with_multiple_devices = True

    def __init__(
        self,
        optical: Path | Sequence[Path] | None = None,
        sar: Path | Sequence[Path] | None = None,
        mask: Path | Sequence[Path] | None = None,
        scenes: Path | None = None,
        inputs: Inputs | None = None,
        augmentation: PairAugmentation | None = None,
        batch_size: int = 4,
        patch_size: int | tuple[int, int] = 512,
        stride: int | tuple[int, int] | None = None,
        length: int | None = None,
        num_workers: int = 0,
        splits: Sequence[float] | None = (0.6, 0.2, 0.2),
        grid_size: int = 6,
        split_seed: int = 0,
        check: bool = True,
        optical_bands: Sequence[int] | Sequence[str] | None = None,
        sar_bands: Sequence[int] | Sequence[str] | None = None,
        sar_scale: SARScale = 'db',
        optical_class: type[RasterDataset] | None = None,
        sar_class: type[RasterDataset] | None = None,
        optical_nodata: float | None = None,
        sar_nodata: float | None = None,
        mask_label: str | None = None,
        crs: str | None = None,
        res: float | tuple[float, float] | None = None,
        sar_decibels: float | None = None,
    ) -> None:
        """Initialize a new SceneDataModule instance.

        Args:
            optical: Pre-event optical scene: one or more files, folders or patterns.
            sar: Post-event SAR scene, likewise.
            mask: Change mask, likewise, raster or vector files; not needed to predict.
            scenes: List of scenes to predict, instead of *optical* and *sar*: a table
                (CSV, GeoPackage) with the columns ``optical``, ``sar`` and, if the maps
                are not to have the names of the optical files, ``name``; or STAC items
                (JSON) with the assets ``optical`` and ``sar``. Several files
                are separated by ``;``. Paths are relative to the list.
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
            splits: Share of the cells to train, validate and test with. All of the scene
                is for the stage at hand if None, in which case
                there is no training.
            grid_size: Rows and columns of cells.
            split_seed: Seed of the assignment of cells to splits.
            check: Whether to look for swapped or wrong inputs, see
                :meth:`~torchgeo_m2cd.datasets.SceneDataset.check`.
            optical_bands: See :class:`~torchgeo_m2cd.datasets.SceneDataset`.
            sar_bands: Likewise.
            sar_scale: Likewise.
            optical_class: Likewise.
            sar_class: Likewise.
            optical_nodata: Likewise.
            sar_nodata: Likewise.
            mask_label: Likewise.
            crs: Likewise.
            res: Likewise.
            sar_decibels: Decibels of one unit of the SAR files, if ``sar_scale='other'``
                (defaults to those of the images that the model was trained with), see
                :func:`~torchgeo_m2cd.transforms.estimate_decibels`.

        Raises:
            FileNotFoundError: If *scenes* does not exist.
            ValueError: If there are not either *optical* and *sar* or *scenes*,
                *patch_size* is not positive, *stride* is not within [1, *patch_size*], or
                *splits* are not three.
        """
        height, width = size = _to_pair(patch_size)
        steps = (
            (max(height // 2, 1), max(width // 2, 1))
            if stride is None
            else _to_pair(stride)
        )
        if min(size) < 1:
            raise ValueError(f'patch_size is {patch_size}: expected at least 1')
        if not all(1 <= step <= edge for step, edge in zip(steps, size, strict=True)):
            raise ValueError(
                f'stride is {stride}: expected at least 1 and at most patch_size, '
                f'which is {patch_size}, or else pixels are left out'
            )
        if splits is not None and len(splits) != 3:
            raise ValueError(
                f'splits is {splits}: expected the shares to train, validate and test '
                'with'
            )
        super().__init__(
            SceneDataset,
            batch_size,
            size,
            length,
            num_workers,
            optical_bands=optical_bands,
            sar_bands=sar_bands,
            sar_scale=sar_scale,
            optical_class=optical_class,
            sar_class=sar_class,
            optical_nodata=optical_nodata,
            sar_nodata=sar_nodata,
            mask_label=mask_label,
            crs=None if crs is None else CRS.from_user_input(crs),
            res=res,
        )
        self.paths = _list_scenes(optical, sar, scenes)
        self.mask = mask
        self.stride = steps
        self.splits = splits
        self.grid_size = grid_size
        self.split_seed = split_seed
        self.check = check
        self.sar_decibels = sar_decibels
        self._set_inputs(inputs, augmentation)

    def setup(self, stage: str) -> None:
        """Set up datasets and samplers.

        Args:
            stage: Either 'fit', 'validate', 'test', or 'predict'.

        Raises:
            DatasetNotFoundError: If there is no raster file in a folder.
            FileNotFoundError: If a file or folder does not exist.
            ValueError: If a file has no CRS or lacks a band, or the scenes do not
                overlap; if no mask is given to train, validate or test, or a split
                has no room for a patch.
        """
        stage = str(getattr(stage, 'value', stage))  # The trainer gives an enum
        self._is_prepared = False
        if stage == 'predict':
            self._setup_predict()
            return
        if self.mask is None or len(self.paths) != 1:
            raise ValueError(f'{stage} needs one scene and its mask')
        paths = self.paths[0]
        scene = SceneDataset(paths.optical, paths.sar, self.mask, **self.kwargs)
        self.scenes = SceneList([scene])
        train, val, test = self._split(scene, stage)
        size = _to_pair(self.patch_size)
        if stage == 'fit':
            self.train_dataset = train
            self.train_sampler = self._sample_randomly(train)
        if stage in ('fit', 'validate'):
            self.val_dataset = val
            self.val_sampler = GriddedPatchSampler(val, size=size)
        if stage == 'test':
            self.test_dataset = test
            self.test_sampler = GriddedPatchSampler(test, size=size)

    def _dataloader_factory(self, split: str) -> DataLoader[Sample]:
        """Implement one or more PyTorch DataLoaders."""
        self._prepare(split)
        return super()._dataloader_factory(split)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Implement a PyTorch DataLoader for prediction.

        Returns:
            Batches of overlapping patches, row by row, scene by scene.

        Raises:
            ValueError: If the scenes are not what is expected of them.
        """
        self._prepare('predict')
        return DataLoader(
            self.scenes,
            batch_size=None,  # The sampler makes batches
            sampler=self.row_sampler,
            num_workers=self.num_workers,
            collate_fn=self.collate_fn,
        )

    def _setup_predict(self) -> None:
        """Set up the scenes to predict, and their patches."""
        self.scenes = SceneList(
            [SceneDataset(p.optical, p.sar, **self.kwargs) for p in self.paths]
        )
        self.predict_dataset = cast(Any, self.scenes)
        size = _to_pair(self.patch_size)
        trainer = self.trainer
        self.row_sampler = SceneRowSampler(
            [SceneSampler(scene, size, self.stride) for scene in self.scenes.scenes],
            self.batch_size or 1,
            trainer.global_rank if trainer else 0,
            trainer.world_size if trainer else 1,
        )

    def choose_inputs(self, trained: Inputs | None = None) -> Inputs:
        """Decide what the model is shown, see :meth:`PairDataModule.choose_inputs`.

        Scenes in decibels are shown as such, also to a model that was trained with other
        units of which it is known how many decibels they are.

        Args:
            trained: What the model was trained with, if it was trained.

        Returns:
            The inputs.

        Raises:
            ValueError: If they are for other bands than the data have, or there are none.
        """
        inputs = super().choose_inputs(trained)
        unit = self.sar_decibels
        if self.kwargs['sar_scale'] != 'other':
            unit = 1.0
        if unit is not None:
            self.inputs = inputs = inputs.in_decibels(unit)
        return inputs

    def default_inputs(self) -> Inputs:
        """Return what a new model is shown, if nothing else is said.

        Warns if no pixel that was looked at is changed.

        Returns:
            Inputs with mean and standard deviation of random patches of the training split.

        Raises:
            ValueError: If there is no training split, or it has no data.
        """
        if self.train_dataset is None:
            raise ValueError(
                'inputs are not given, and the model has none: expected what it was '
                'trained with'
            )
        return self._measure_statistics(cast(SceneDataset, self.train_dataset))

    def _prepare(self, split: str) -> None:
        """Check the scenes, and say what is to be measured of them.

        Not done before there are data loaders to make: only then the checkpoint is read.
        """
        if self._is_prepared:
            return
        inputs = self._agree()
        for scene, paths in zip(self.scenes.scenes, self.paths, strict=True):
            if not self.check:
                continue
            if scene.check(inputs.check) == 0 and split != 'predict':
                raise _no_data(split, paths)
            if self.kwargs['sar_scale'] == 'other' and inputs.sar.decibels is not None:
                _check_contrast(scene, paths, inputs.sar.decibels)
        splits = (self.train_dataset, self.val_dataset, self.test_dataset)
        for dataset in (*self.scenes.scenes, *splits):
            if isinstance(dataset, SceneDataset):
                dataset.measure = inputs.measure if inputs.measures else None
                dataset.window = inputs.window
        self._is_prepared = True

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

    def _measure_statistics(self, train: SceneDataset) -> Inputs:
        """Measure mean and standard deviation on random patches of the training split."""
        size = _to_pair(self.patch_size)
        pixels = []
        found: set[int] = set()
        for x, y in RandomPatchSampler(train, size=size, length=64, generator=0):
            sample = train[x, y]
            # Neighbours say little that is new
            pixels.append(sample['image'][:, :, sample['valid'][0]][..., ::97])
            found |= set(torch.unique(sample['mask']).tolist())
        values = torch.cat(pixels, dim=-1)
        if values.shape[-1] == 0:
            raise _no_data('train', self.paths[0])
        if not found - {0, train.ignore_index}:
            rank_zero_warn(
                f'mask file {name_paths(list_paths(self.mask or ()))} has the values '
                f'{sorted(found)} where it was looked at: expected 0 where unchanged, 1 '
                f'where changed, and {train.ignore_index} only where it is not known'
            )
        std, mean = torch.std_mean(values, dim=-1)
        optical, sar = (
            Standardize(mean[i, :count].tolist(), std[i, :count].tolist())
            for i, count in enumerate(train.band_counts)
        )
        return Inputs(optical, sar)


def _check_contrast(scene: SceneDataset, paths: ScenePaths, decibels: float) -> None:
    """Warn if speckle says that the units of SAR are not those that are assumed."""
    size = min(256, *scene.shape)
    row, column = ((length - size) // 2 for length in scene.shape)
    x, y = scene.pixel_slice(row, column, size, size)
    sample = scene[x, y]
    try:
        found = estimate_decibels(sample['image'][1, 0], sample['valid'][0])
    except ValueError:  # Too small, or hardly any data
        return
    if not 1 / 1.6 < found / decibels < 1.6:
        rank_zero_warn(
            f'by its speckle, a unit of SAR file {name_paths(paths.sar)} is about '
            f'{found:.2g} dB, but it is taken for {decibels:.2g} dB: the contrast of water '
            'and land would be another one than in training. Expected sar_decibels, or '
            'files in dB or linear power (sar_scale)'
        )


def _no_data(split: str, paths: ScenePaths) -> ValueError:
    """Make the error that there is nothing to work on."""
    return ValueError(
        f'{split} needs pixels with data in both {name_paths(paths.optical)} and '
        f'{name_paths(paths.sar)}, but there are none where they were looked for'
    )


def _list_scenes(
    optical: Path | Sequence[Path] | None,
    sar: Path | Sequence[Path] | None,
    scenes: Path | None,
) -> list[ScenePaths]:
    """List the files of each scene.

    Raises:
        FileNotFoundError: If the list does not exist.
        ValueError: If it holds no scenes, or lacks a column.
    """
    if scenes is None:
        if optical is None or sar is None:
            raise ValueError('expected optical and sar, or scenes')
        first, second = list_paths(optical), list_paths(sar)
        return [ScenePaths(pathlib.PurePath(first[0]).stem, first, second)]
    if optical is not None or sar is not None:
        raise ValueError('got scenes, and optical or sar: expected one of them')

    path = pathlib.Path(scenes)
    if not path.is_file():
        raise FileNotFoundError(f'list of scenes {str(path)!r} does not exist')
    try:
        match path.suffix.lower():
            case '.csv':
                table = pd.read_csv(
                    path, dtype=str, keep_default_na=False, na_values=['']
                )
            case '.json' | '.geojson':
                table = _read_stac(json.loads(path.read_text()))
            case _:
                table = gpd.read_file(path)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f'list of scenes {str(path)!r} cannot be read: {error}'
        ) from error
    missing = sorted({'optical', 'sar'} - set(table.columns))
    if missing or not len(table) or table[['optical', 'sar']].isna().any(axis=None):
        raise ValueError(
            f'list of scenes {str(path)!r} has {len(table)} rows with the columns '
            f'{list(table.columns)}: expected one row or more, with values for optical '
            'and sar'
        )

    def files(value: str) -> list[str]:
        items = [item.strip() for item in value.split(';')]
        if not all(items):
            raise ValueError(
                f'list of scenes {str(path)!r} has the files {value!r}: expected one '
                'path or more, separated by semicolons'
            )
        return [
            item
            if '://' in item or item.startswith('/vsi')
            else str(path.parent / item)
            for item in items
        ]

    stems = [pathlib.PurePath(files(v)[0]).stem for v in table['optical']]
    names = pd.Series(stems, table.index)
    if 'name' in table:
        names = table['name'].fillna(names).astype(str)
    for name in names:
        # It becomes part of a path, and must not lead to another folder
        if name != pathlib.PurePath(name).name or '\\' in name or name == '..':
            raise ValueError(
                f'list of scenes {str(path)!r} has the name {name!r}: expected one '
                'without slashes'
            )
    if names.duplicated().any():
        raise ValueError(
            f'list of scenes {str(path)!r} has two scenes of the name '
            f'{names[names.duplicated()].iloc[0]!r}: expected a column name that tells '
            'them apart'
        )
    return [
        ScenePaths(name, files(first), files(second))
        for name, first, second in zip(
            names, table['optical'], table['sar'], strict=True
        )
    ]


def _read_stac(document: Any) -> pd.DataFrame:
    """Read STAC items: one, or a collection of them."""
    items = document.get('features', [document])
    return pd.DataFrame(
        [
            {
                'name': item.get('id'),
                **{
                    key: asset.get('href')
                    for key, asset in item.get('assets', {}).items()
                    if key in ('optical', 'sar')
                },
            }
            for item in items
        ]
    )


def _to_pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return height and width."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])

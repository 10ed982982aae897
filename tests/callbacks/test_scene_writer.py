# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import hashlib
import json
import math
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import shapely
import torch
import torchgeo.main
from lightning.pytorch import LightningModule, Trainer
from pyproj import Transformer
from rasterio.transform import from_origin
from torch import Tensor

from torchgeo_m2cd.callbacks import SceneWriter
from torchgeo_m2cd.datamodules import SceneDataModule
from torchgeo_m2cd.datasets import Source, SyntheticFlood
from torchgeo_m2cd.maps import Districts, NoDataError, format_summary
from torchgeo_m2cd.models import Reliability
from torchgeo_m2cd.tasks import ChangeDetectionTask
from torchgeo_m2cd.transforms import (
    Darkness,
    Inputs,
    Relative,
    RelativeDarkness,
    Standardize,
    StandardizeImage,
)

MEAN = [600.0, 900.0, 800.0, 3000.0]
STD = [300.0, 300.0, 500.0, 1000.0]
INPUTS = Inputs(Standardize(MEAN, STD), Standardize([-12.0], [5.0]))


class PixelTask(LightningModule):
    """A model of single pixels, whose result does not depend on patches."""

    def __init__(self, classes: int = 1) -> None:
        super().__init__()
        self.classes = classes
        self.reliability: Reliability | None = None

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.probabilities(batch['image'])

    def probabilities(self, image: Tensor) -> Tensor:
        logits = image[:, 1, :1] - image[:, 0, 3:]
        if self.classes == 1:
            return logits.sigmoid()
        return torch.cat([logits * i for i in range(self.classes)], 1).softmax(1)


class EdgeTask(PixelTask):
    """A model that is right in the middle of a patch and wrong at its edges."""

    def probabilities(self, image: Tensor) -> Tensor:
        probabilities = torch.ones_like(image[:, 0, :1])
        probabilities[..., 8:-8, 8:-8] = 0
        return probabilities


@pytest.fixture(scope='module', params=['EPSG:32633', 'EPSG:32632'])
def paths(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Images in one CRS, or in two, which leaves pixels without data."""
    folder = tmp_path_factory.mktemp('scene')
    return SyntheticFlood().write_scene(folder, size=160, sar_crs=request.param)


def predict(
    paths: dict[str, Path], writer: SceneWriter, task: LightningModule, **kwargs: Any
) -> SceneDataModule:
    optical = replace(kwargs.pop('optical', Source()), paths=paths['optical'])
    kwargs = {'batch_size': 25, 'inputs': INPUTS, **kwargs}
    datamodule = SceneDataModule(optical, paths['sar'], **kwargs)
    trainer = Trainer(
        accelerator='cpu', callbacks=[writer], logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, barebones=False,
    )  # fmt: skip
    assert trainer.predict(task, datamodule=datamodule) is None
    return datamodule


#: A map, its style and its summary.
MAP = ['change.json', 'change.qml', 'change.tif']


def names(folder: Path) -> list[str]:
    """List what is in a folder."""
    return sorted(path.name for path in folder.iterdir())


def read(path: Path) -> Any:
    with rasterio.open(path) as src:
        return src.read()


class TestSceneWriter:
    @pytest.mark.parametrize('classes', [1, 3])
    @pytest.mark.parametrize(
        ('patch_size', 'stride'), [(64, None), ((48, 64), (31, 64)), (300, None)]
    )
    def test_equals_one_pass(
        self, classes: int, patch_size: Any, stride: Any, paths: dict[str, Path],
        tmp_path: Path,
    ) -> None:  # fmt: skip
        output, mask = tmp_path / 'new' / 'change.tif', tmp_path / 'mask.tif'
        task = PixelTask(classes)
        datamodule = predict(
            paths, SceneWriter(output, mask), task, patch_size=patch_size, stride=stride
        )

        # Predict the whole scene at once
        (dataset,) = datamodule.scenes.scenes
        x, y, _ = dataset.bounds
        sample = dataset[x.start : x.stop, y.start : y.stop]
        batch = {key: value.unsqueeze(0) for key, value in sample.items()}
        expected = task.probabilities(datamodule.aug(batch)['image'])[0]
        valid = sample['valid'][0].numpy()

        with rasterio.open(output) as src:
            probability = src.read()
            assert src.crs == 'EPSG:32633'
            assert src.transform == dataset.transform
            assert src.shape == dataset.shape
            assert src.dtypes == ('float32',) * classes
            assert math.isnan(src.nodata)
            assert src.profile['compress'] == 'deflate'
            assert src.profile['tiled']
            assert src.tags(ns='IMAGE_STRUCTURE')['LAYOUT'] == 'COG'
            assert src.tags()['OPTICAL'] == str(paths['optical'])
            assert src.tags()['SAR'] == str(paths['sar'])
            assert src.tags()['MODEL'] == 'PixelTask'
            assert src.tags()['TIFFTAG_SOFTWARE'].startswith('torchgeo-m2cd')
            assert 'CHECKPOINT' not in src.tags()
        assert np.array_equal(np.isnan(probability[0]), ~valid)
        np.testing.assert_allclose(
            probability[:, valid], expected.numpy()[:, valid], rtol=1e-5, atol=1e-7
        )
        with rasterio.open(mask) as src:
            change = src.read(1)
            assert src.transform == dataset.transform
            assert src.dtypes == ('uint8',)
            assert src.nodata == 255
        labels = expected.argmax(0) if classes > 1 else (expected[0] >= 0.5).long()
        assert (change[~valid] == 255).all()
        assert (change[valid] == labels.numpy()[valid]).mean() > 0.999
        assert names(tmp_path) == ['mask.qml', 'mask.tif', 'new']
        assert names(output.parent) == MAP

    def test_strips(
        self, paths: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The number of rows of pixels written at once does not matter."""
        whole, strips = tmp_path / 'whole.tif', tmp_path / 'strips.tif'
        predict(paths, SceneWriter(whole), PixelTask(), patch_size=32)
        monkeypatch.setattr('torchgeo_m2cd.maps.mosaic._STRIP', 7)
        predict(paths, SceneWriter(strips), PixelTask(), patch_size=32)
        assert strips.read_bytes() == whole.read_bytes()

    def test_georeference(self, paths: dict[str, Path], tmp_path: Path) -> None:
        """Pixels of the map lie on those of the optical image."""

        class Red(PixelTask):
            def probabilities(self, image: Tensor) -> Tensor:
                return image[:, 0, 2:3]

        predict(paths, SceneWriter(tmp_path / 'red.tif'), Red(), patch_size=32)
        with (
            rasterio.open(paths['optical']) as optical,
            rasterio.open(tmp_path / 'red.tif') as red,
        ):
            places = [red.xy(row, column) for row, column in ((90, 70), (40, 100))]
            for expected, found in zip(
                optical.sample(places, 3), red.sample(places), strict=True
            ):
                assert found[0] * 500 + 800 == pytest.approx(expected[0], rel=1e-4)

    @pytest.mark.parametrize('crs', ['EPSG:32632', 'EPSG:3035', 'EPSG:4326'])
    def test_known_place(self, crs: str, tmp_path: Path) -> None:
        """A lake of a SAR image on another grid is mapped at its known place."""
        lon, lat = 15.0085, 47.8445
        x, y = Transformer.from_crs(4326, crs, always_xy=True).transform(lon, lat)
        step = 17.0 if crs != 'EPSG:4326' else 17 / 111_320
        rows, columns = np.mgrid[:201, :201] - 100
        sar = np.where(np.hypot(rows, columns) < 20, -25, -5).astype(np.float32)
        files: dict[str, tuple[Any, Any, str]] = {
            'optical': (
                np.full((4, 160, 160), 3000, np.uint16),
                from_origin(500_000, 5_300_000, 10, 10),
                'EPSG:32633',
            ),
            'sar': (sar[None], from_origin(x - 100.5 * step, y + 100.5 * step, step, step), crs),
        }  # fmt: skip
        for name, (values, transform, file_crs) in files.items():
            with rasterio.open(
                tmp_path / f'{name}.tif', 'w', driver='GTiff', dtype=values.dtype,
                count=len(values), height=values.shape[1], width=values.shape[2],
                crs=file_crs, transform=transform,
            ) as dst:  # fmt: skip
                dst.write(values)

        class Water(PixelTask):
            def probabilities(self, image: Tensor) -> Tensor:
                return (image[:, 1, :1] < -0.6).float()  # Below -15 dB

        polygons = tmp_path / 'lake.gpkg'
        writer = SceneWriter(tmp_path / 'lake.tif', polygons=polygons)
        paths = {name: tmp_path / f'{name}.tif' for name in files}
        predict(paths, writer, Water(), patch_size=64, check=False)
        (lake,) = gpd.read_file(polygons).geometry
        place = Transformer.from_crs(4326, 32633, always_xy=True).transform(lon, lat)
        assert math.dist((lake.centroid.x, lake.centroid.y), place) < 5
        # A circle in degrees is an ellipse in metres
        width = 40 * 17 * (math.cos(math.radians(lat)) if crs == 'EPSG:4326' else 1)
        assert lake.bounds[2] - lake.bounds[0] == pytest.approx(width, abs=30)

    def test_weights(self, paths: dict[str, Path], tmp_path: Path) -> None:
        """Where patches overlap, wrong values at their edges do not count."""
        output = tmp_path / 'change.tif'
        predict(paths, SceneWriter(output), EdgeTask(), patch_size=64, stride=32)
        probability = read(output)[0]
        inside = probability[8:-8, 8:-8]
        assert (inside[np.isfinite(inside)] == 0).all()
        assert (probability[0][np.isfinite(probability[0])] == 1).all()

    @pytest.mark.parametrize('own', [True, False])
    def test_threshold(self, own: bool, paths: dict[str, Path], tmp_path: Path) -> None:
        """The threshold is that of the user, or else that of the model."""
        output, mask = tmp_path / 'change.tif', tmp_path / 'mask.tif'
        task = PixelTask()
        task.reliability = Reliability(threshold=0.9 if own else 0.2)
        writer = SceneWriter(output, mask, threshold=None if own else 0.9)
        predict(paths, writer, task)
        with rasterio.open(output) as src:
            probability = src.read(1)
        with rasterio.open(mask) as src:
            change = src.read(1)
        assert np.array_equal(change == 1, probability >= 0.9)
        assert 0 < (change == 1).mean() < 0.5

    @pytest.mark.parametrize(
        'step', [Darkness([0, 0, 0, 2500]), RelativeDarkness([0, 0, 0, 0.6])]
    )
    def test_water_before(
        self, step: Any, paths: dict[str, Path], tmp_path: Path
    ) -> None:
        """Water in the optical image is a class of its own."""
        inputs = Inputs(step, INPUTS.sar, window=300)
        writer = SceneWriter(tmp_path / 'change.tif', tmp_path / 'mask.tif')
        datamodule = predict(paths, writer, PixelTask(), inputs=inputs, patch_size=64)
        (dataset,) = datamodule.scenes.scenes
        sample = dataset[dataset.bounds]
        optical, valid = sample['image'][0], sample['valid'][0]
        limit = 2500.0
        if isinstance(step, RelativeDarkness):  # All patches have the same window
            limit = 0.6 * float(sample['reference_optical'][3])
        dark = (optical[3] < limit).numpy()
        change = read(tmp_path / 'mask.tif')[0]
        changed = read(tmp_path / 'change.tif')[0] >= 0.5
        known = valid.numpy()
        assert 0.01 < dark[known].mean() < 0.5
        assert (changed & dark)[known].any()
        np.testing.assert_array_equal(change[known] == 2, dark[known])
        np.testing.assert_array_equal(change[known] == 1, (changed & ~dark)[known])
        (summary,) = writer.summaries
        assert summary['classes']['2'] == 'water before'
        pixel = summary['mapped_km2'] / known.sum()
        for key, mask in (
            ('water_before_km2', dark),
            ('flooded_km2', changed & ~dark),
            ('flooded_km2_with_water_before', changed),
        ):
            assert summary[key] == pytest.approx(mask[known].sum() * pixel, rel=1e-4)

    def test_summary(
        self, paths: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The summary is printed, kept and in a file, with the warnings of the run."""

        class Odd(PixelTask):
            def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
                warnings.warn('this is odd', stacklevel=1)
                return super().predict_step(batch, batch_idx)

        writer = SceneWriter(tmp_path / 'change.tif')
        with pytest.warns(UserWarning, match='this is odd'):
            predict(paths, writer, Odd(), patch_size=64)
        (summary,) = writer.summaries
        assert summary == json.loads((tmp_path / 'change.json').read_text())
        assert summary['warnings'] == ['this is odd']
        out = capsys.readouterr().out
        assert out == f'\n{format_summary(summary)}\n'
        assert 'WARNING    this is odd' in out

    def test_home(
        self, paths: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """``~`` is the home folder, not a folder of that name."""
        monkeypatch.setenv('HOME', str(tmp_path))
        writer = SceneWriter('~/{name}.tif', '~/{name}_classes.tif')
        predict(paths, writer, PixelTask())
        assert {'optical.tif', 'optical_classes.tif'} < set(names(tmp_path))

    def test_districts(self, paths: dict[str, Path], tmp_path: Path) -> None:
        """Districts are checked before anything is predicted."""
        districts = Districts(tmp_path / 'districts.gpkg', 'name')
        writer = SceneWriter(tmp_path / 'change.tif', districts=districts)
        with pytest.raises(
            FileNotFoundError, match=r'districts file .* does not exist'
        ):
            predict(paths, writer, PixelTask())
        assert not list(tmp_path.iterdir())
        with rasterio.open(paths['optical']) as src:
            table = gpd.GeoDataFrame(
                {'name': ['All']}, geometry=[shapely.box(*src.bounds)], crs=src.crs
            )
        table.to_file(districts.path)
        predict(paths, writer, PixelTask())
        (summary,) = writer.summaries
        (row,) = summary['districts']
        assert row['mapped_km2'] == summary['mapped_km2']

    @pytest.mark.parametrize('name', ['change.tif', 'mask.tif'])
    def test_overwrite(self, name: str, paths: dict[str, Path], tmp_path: Path) -> None:
        files = (tmp_path / 'change.tif', tmp_path / 'mask.tif')
        (tmp_path / name).write_text('precious')
        with pytest.raises(FileExistsError, match=f'{name} exists'):
            predict(paths, SceneWriter(*files), PixelTask())
        # Existing files do not matter to `fit`
        SceneWriter(*files).setup(Mock(), PixelTask(), 'fit')
        SceneWriter(*files).teardown(Mock(), PixelTask(), 'fit')
        assert (tmp_path / name).read_text() == 'precious'
        assert [path.name for path in tmp_path.iterdir()] == [name]

        predict(paths, SceneWriter(*files, overwrite=True), PixelTask())
        assert len(read(tmp_path / name)) == 1

    @pytest.mark.parametrize('threshold', [-0.1, 50, math.nan])
    def test_invalid_threshold(self, threshold: float) -> None:
        message = r'threshold is .*: expected (from 0 to 1|a finite number)'
        with pytest.raises(ValueError, match=message):
            SceneWriter('change.tif', threshold=threshold)

    def test_multilabel(self, paths: dict[str, Path], tmp_path: Path) -> None:
        task = ChangeDetectionTask(
            'fcn', in_channels=[4, 1], task='multilabel', num_labels=2
        )
        writer = SceneWriter(tmp_path / 'change.tif', tmp_path / 'mask.tif')
        with pytest.raises(ValueError, match="'multilabel': expected an output alone"):
            predict(paths, writer, task)
        predict(paths, SceneWriter(tmp_path / 'change.tif'), task)
        assert len(read(tmp_path / 'change.tif')) == 2

    def test_twice(self, paths: dict[str, Path], tmp_path: Path) -> None:
        """A second prediction does not add to the first one."""
        output = tmp_path / 'change.tif'
        writer = SceneWriter(output, overwrite=True)
        predict(paths, writer, PixelTask(3))
        first = output.read_bytes()
        predict(paths, writer, PixelTask(3))
        assert output.read_bytes() == first

    @pytest.mark.slow
    def test_resume(self, paths: dict[str, Path], tmp_path: Path) -> None:
        """After an interruption, only missing rows of patches are predicted."""

        class Counting(PixelTask):
            batches, stop_after = 0, 4

            def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
                self.batches += 1
                if self.batches > self.stop_after:
                    raise KeyboardInterrupt
                return super().predict_step(batch, batch_idx)

        args: dict[str, Any] = {'patch_size': 16, 'batch_size': 6}
        whole = Counting()
        whole.stop_after = 10**6
        datamodule = predict(paths, SceneWriter(tmp_path / 'whole.tif'), whole, **args)
        (sampler,) = datamodule.samplers
        batches = -(-len(sampler.lefts) // 6)
        assert whole.batches == batches * len(sampler.tops)

        output = tmp_path / 'change.tif'
        counts = []
        for stop_after in (4, 5, 10**6):
            task = Counting()
            task.stop_after = stop_after
            try:
                predict(paths, SceneWriter(output), task, **args)
            except (KeyboardInterrupt, SystemExit):
                assert not output.exists()
                assert not list(tmp_path.rglob('*.part'))
            counts.append(task.batches)
        done = (4 // batches + 5 // batches) * batches  # complete rows of patches only
        assert counts == [5, 6, whole.batches - done]
        assert output.read_bytes() == (tmp_path / 'whole.tif').read_bytes()
        whole_files = [name.replace('change', 'whole') for name in MAP]
        assert names(tmp_path) == MAP + whole_files

    def test_nothing_left_to_predict(
        self, paths: dict[str, Path], tmp_path: Path
    ) -> None:
        """The first run fails while it writes the map."""
        output = tmp_path / 'change.tif'
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                'torchgeo_m2cd.maps.products.write_cog',
                Mock(side_effect=OSError('No space left on device')),
            )
            with pytest.raises(OSError, match='No space left'):
                predict(paths, SceneWriter(output), PixelTask(), patch_size=64)
        assert [path.name for path in tmp_path.iterdir()] == ['change.tif.parts']
        parts = sorted(tmp_path.rglob('*.npy'))
        predict(paths, SceneWriter(output), PixelTask(), patch_size=64)
        assert len(parts) > 1
        assert names(tmp_path) == MAP

    @pytest.mark.parametrize(
        'changed',
        [
            {'stride': 48},
            {'batch_size': 1},
            {'optical': Source(nodata=0)},
            {'inputs': Inputs(INPUTS.optical, Relative([5.0]))},
            {'inputs': Inputs(INPUTS.optical, INPUTS.sar, window=100)},
        ],
    )
    def test_another_plan(
        self, changed: dict[str, Any], paths: dict[str, Path], tmp_path: Path
    ) -> None:
        """Rows of patches of another plan are not used."""
        output = tmp_path / 'change.tif'
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                'torchgeo_m2cd.maps.products.write_cog',
                Mock(side_effect=OSError('No space left on device')),
            )
            with pytest.raises(OSError, match='No space left'):
                predict(paths, SceneWriter(output), PixelTask(), patch_size=64)
        (path,) = tmp_path.glob('change.tif.parts/*/plan.json')
        plan = json.loads(path.read_text())
        assert plan['stride'] == [32, 32]
        for path in tmp_path.rglob('*.npy'):
            np.save(path, np.load(path) * 0)
        predict(paths, SceneWriter(output), PixelTask(), patch_size=64, **changed)
        assert np.nanmax(read(output)) > 0
        # They are removed, too
        assert names(tmp_path) == MAP

    def test_full_disk(
        self, paths: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def write(file: Any, header: Any) -> None:
            file.write(b'half')
            raise OSError(28, 'No space left on device')

        monkeypatch.setattr('numpy.lib.format.write_array_header_1_0', write)
        output = tmp_path / 'change.tif'
        with pytest.raises(OSError, match='No space left on device'):
            predict(paths, SceneWriter(output), PixelTask(), patch_size=32)
        left = [path.name for path in tmp_path.rglob('*') if path.is_file()]
        assert left == ['plan.json']

    def test_folder_of_somebody_else(
        self, paths: dict[str, Path], tmp_path: Path
    ) -> None:
        precious = tmp_path / 'change.tif.parts' / 'precious.txt'
        precious.parent.mkdir()
        precious.write_text('')
        predict(paths, SceneWriter(tmp_path / 'change.tif'), PixelTask())
        assert (tmp_path / 'change.tif').exists()
        assert list(precious.parent.iterdir()) == [precious]

    def test_incomplete(self, paths: dict[str, Path], tmp_path: Path) -> None:
        datamodule = SceneDataModule(
            paths['optical'], paths['sar'], inputs=INPUTS, patch_size=64
        )
        trainer = Trainer(
            accelerator='cpu', callbacks=[SceneWriter(tmp_path / 'change.tif')],
            logger=False, enable_progress_bar=False, limit_predict_batches=1,
        )  # fmt: skip
        with pytest.raises(RuntimeError, match='3 of 4 rows of patches are missing'):
            trainer.predict(PixelTask(), datamodule=datamodule)

    def test_files_that_cannot_be_opened(
        self, paths: dict[str, Path], tmp_path: Path
    ) -> None:
        (tmp_path / 'file').touch()
        writer = SceneWriter(tmp_path / 'file' / 'change.tif')
        with pytest.raises((FileExistsError, NotADirectoryError)):
            predict(paths, writer, PixelTask())
        writer = SceneWriter(tmp_path / 'change.tif', tmp_path / 'file' / 'mask.tif')
        with pytest.raises((FileExistsError, NotADirectoryError)):
            predict(paths, writer, PixelTask())
        assert not (tmp_path / 'change.tif').exists()
        assert not list(tmp_path.glob('*.cog'))

    def test_checkpoint(self, paths: dict[str, Path], tmp_path: Path) -> None:
        """Tags name the checkpoint, its weights and the inputs."""
        checkpoint, output = tmp_path / 'model.ckpt', tmp_path / 'change.tif'
        datamodule = SceneDataModule(paths['optical'], paths['sar'])
        trainer = Trainer(
            accelerator='cpu', callbacks=[SceneWriter(output)], logger=False,
            enable_progress_bar=False,
        )  # fmt: skip
        task = ChangeDetectionTask('fcn', in_channels=4)
        task.inputs = INPUTS
        trainer.strategy.connect(task)
        trainer.save_checkpoint(checkpoint)
        weights = hashlib.sha256()
        for value in torch.load(checkpoint, weights_only=True)['state_dict'].values():
            weights.update(value.numpy().tobytes())
        # Has other weights and no inputs until the checkpoint is loaded
        other = ChangeDetectionTask('fcn', in_channels=4)
        trainer.predict(
            other, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True
        )
        with rasterio.open(output) as src:
            tags = src.tags()
        assert tags['CHECKPOINT'] == str(checkpoint)
        assert tags['WEIGHTS_SHA256'] == weights.hexdigest()
        assert json.loads(tags['INPUTS']) == INPUTS.to_dict()
        assert 'CHECKPOINT_SHA256' not in tags

    def test_moved_checkpoint(self, paths: dict[str, Path], tmp_path: Path) -> None:
        """Parts are used although the checkpoint has another path."""
        output = tmp_path / 'change.tif'
        for name in ('a', 'b'):
            writer = SceneWriter(output)
            writer.checkpoint = tmp_path / f'{name}.ckpt'
            with pytest.MonkeyPatch.context() as patch:
                if name == 'a':
                    error = Mock(side_effect=OSError('No space left on device'))
                    patch.setattr('torchgeo_m2cd.maps.products.write_cog', error)
                    with pytest.raises(OSError, match='No space left'):
                        predict(paths, writer, PixelTask(), patch_size=64)
                    # Complete rows of patches are not predicted again
                    for path in tmp_path.rglob('*.npy'):
                        np.save(path, np.load(path) * 0)
                else:
                    predict(paths, writer, PixelTask(), patch_size=64)
        with rasterio.open(output) as src:
            assert src.tags()['CHECKPOINT'] == str(tmp_path / 'b.ckpt')
            assert np.nanmax(src.read()) == 0

    def test_other_weights(self, paths: dict[str, Path], tmp_path: Path) -> None:
        """Tags identify the weights of models, also without a checkpoint."""
        tags = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            task = PixelTask()
            task.extra = torch.nn.Linear(1, 1)
            predict(paths, SceneWriter(tmp_path / 'a.tif', overwrite=True), task)
            with rasterio.open(tmp_path / 'a.tif') as src:
                tags.append(src.tags()['WEIGHTS_SHA256'])
                assert 'CHECKPOINT' not in src.tags()
        assert tags[0] == tags[1] != tags[2]

    def test_own_input(self, paths: dict[str, Path]) -> None:
        writer = SceneWriter(paths['sar'], overwrite=True)
        with pytest.raises(
            ValueError, match=r'sar\.tif is a file of the scene itself: expected'
        ):
            predict(paths, writer, PixelTask())

    def test_other_data_module(self, tmp_path: Path) -> None:
        trainer = Mock(datamodule=Mock(spec=['setup']))
        writer = SceneWriter(tmp_path / 'change.tif')
        with pytest.raises(TypeError, match='expected those of SceneDataModule'):
            writer.setup(trainer, PixelTask(), 'predict')
        writer.on_exception(trainer, PixelTask(), TypeError())  # Nothing to close

    def test_shared_by_lightning(self, paths: dict[str, Path], tmp_path: Path) -> None:
        datamodule = SceneDataModule(paths['optical'], paths['sar'], inputs=INPUTS)
        datamodule.setup('predict')
        trainer = Mock(datamodule=datamodule)  # With another sampler
        with pytest.raises(ValueError, match='use_distributed_sampler=False'):
            SceneWriter(tmp_path / 'a.tif').on_predict_start(trainer, PixelTask())

    def test_invalid(self, paths: dict[str, Path], tmp_path: Path) -> None:
        with pytest.raises(ValueError, match='files to write are the same'):
            SceneWriter(tmp_path / 'a.tif', str(tmp_path / 'a.tif'))
        (tmp_path / 'folder.tif').mkdir()
        writer = SceneWriter(tmp_path / 'folder.tif', overwrite=True)
        with pytest.raises(IsADirectoryError, match='is a folder: expected a file'):
            predict(paths, writer, PixelTask())

    def test_no_inputs(self, paths: dict[str, Path], tmp_path: Path) -> None:
        writer = SceneWriter(tmp_path / 'change.tif')
        task = ChangeDetectionTask('fcn', in_channels=4)
        with pytest.raises(ValueError, match='inputs are not given, and the model has'):
            predict(paths, writer, task, inputs=None)
        assert not list(tmp_path.iterdir())

    def test_nothing_valid(self, paths: dict[str, Path], tmp_path: Path) -> None:
        sar, output = tmp_path / 'sar.tif', tmp_path / 'change.tif'
        with rasterio.open(paths['sar']) as src:
            profile, shape = src.profile, (src.count, *src.shape)
        with rasterio.open(sar, 'w', **profile) as dst:
            dst.write(np.full(shape, np.nan, np.float32))
        with pytest.raises(ValueError, match=r'change\.tif is not written: no pixel'):
            predict({**paths, 'sar': sar}, SceneWriter(output), PixelTask())
        assert not output.exists()
        assert not list(tmp_path.glob('change.tif.*.*'))


@pytest.fixture(scope='module')
def two_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a list of two scenes of different sizes."""
    folder = tmp_path_factory.mktemp('scenes')
    lines = ['name,optical,sar']
    for i, size in enumerate((96, 160)):
        SyntheticFlood().write_scene(folder / str(i), size=size, index=i)
        lines.append(f'scene{i},{i}/optical.tif,{i}/sar.tif')
    (folder / 'scenes.csv').write_text('\n'.join(lines))
    return folder / 'scenes.csv'


class TestSeveralScenes:
    def test_equals_one_by_one(self, two_scenes: Path, tmp_path: Path) -> None:
        inputs = Inputs(StandardizeImage(MEAN, STD), Relative([5.0]), window=64)
        datamodule = SceneDataModule(scenes=two_scenes, inputs=inputs, patch_size=48)
        trainer = Trainer(
            accelerator='cpu',
            callbacks=[SceneWriter(tmp_path / '{name}' / 'change.tif')],
            logger=False, enable_progress_bar=False,
        )  # fmt: skip
        trainer.predict(PixelTask(), datamodule=datamodule)
        for i in range(2):
            paths = {
                name: two_scenes.parent / str(i) / f'{name}.tif'
                for name in ('optical', 'sar')
            }
            output = tmp_path / f'{i}.tif'
            predict(
                paths, SceneWriter(output), PixelTask(), batch_size=8, patch_size=48,
                inputs=inputs,
            )  # fmt: skip
            np.testing.assert_array_equal(
                read(tmp_path / f'scene{i}' / 'change.tif'), read(output)
            )

    def test_complete_ones_are_left_out(
        self, two_scenes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        def run(threshold: float = 0.5, **kwargs: Any) -> None:
            datamodule = SceneDataModule(
                scenes=two_scenes, patch_size=48, **{'inputs': INPUTS, **kwargs}
            )
            writer = SceneWriter(tmp_path / '{name}.tif', threshold=threshold)
            trainer = Trainer(
                accelerator='cpu', callbacks=[writer], logger=False,
                enable_progress_bar=False,
            )  # fmt: skip
            trainer.predict(PixelTask(), datamodule=datamodule)

        run()
        first, second = tmp_path / 'scene0.tif', tmp_path / 'scene1.tif'
        before = second.read_bytes(), second.stat().st_mtime_ns
        for path in tmp_path.glob('scene0.*'):
            path.unlink()
        run()
        assert first.exists()
        assert (second.read_bytes(), second.stat().st_mtime_ns) == before
        # All maps are complete, and the summaries are those of the first run
        capfd.readouterr()
        run()
        out = capfd.readouterr().out
        assert out.startswith(
            '2 of 2 maps are complete already, and left as they are\n'
        )
        assert [line for line in out.splitlines() if line.startswith('/')] == [
            str(first), str(second)
        ]  # fmt: skip
        # Maps of other settings, or a broken map
        with pytest.raises(FileExistsError, match=r'scene0\.tif exists'):
            run(stride=48)
        with pytest.raises(FileExistsError, match=r'scene0\.tif exists'):
            run(threshold=0.4)
        with pytest.raises(FileExistsError, match=r'scene0\.tif exists'):
            run(inputs=Inputs(INPUTS.optical, Standardize([-12.0], [6.0])))
        first.write_text('broken')
        with pytest.raises(FileExistsError, match=r'scene0\.tif exists'):
            run()

    def test_empty_scene(self, two_scenes: Path, tmp_path: Path) -> None:
        """An empty scene is named in the end; the others are mapped."""
        lines = two_scenes.read_text().splitlines()
        with rasterio.open(two_scenes.parent / '0' / 'sar.tif') as src:
            profile, shape = src.profile, (src.count, *src.shape)
        with rasterio.open(tmp_path / 'empty.tif', 'w', **profile) as dst:
            dst.write(np.full(shape, np.nan, np.float32))
        folder = two_scenes.parent
        rows = [
            f'empty,{folder}/0/optical.tif,empty.tif',
            *(line.replace(',', f',{folder}/') for line in lines[1:]),
        ]
        scenes = tmp_path / 'scenes.csv'
        scenes.write_text('\n'.join([lines[0], *rows]))
        for run in range(2):
            datamodule = SceneDataModule(scenes=scenes, inputs=INPUTS, patch_size=96)
            writer = SceneWriter(tmp_path / 'maps' / '{name}.tif')
            trainer = Trainer(
                accelerator='cpu', callbacks=[writer], logger=False,
                enable_progress_bar=False,
            )  # fmt: skip
            match = r'empty\.tif is not written: no pixel of the scene has data'
            with pytest.raises(NoDataError, match=match):
                trainer.predict(PixelTask(), datamodule=datamodule)
            maps = sorted(path.name for path in (tmp_path / 'maps').glob('*.tif'))
            assert maps == ['scene0.tif', 'scene1.tif'], run
            assert len(writer.summaries) == 2
        # Another run may write the same maps
        assert not list((tmp_path / 'maps').glob('*/lock'))

    def test_damaged_map(self, two_scenes: Path, tmp_path: Path) -> None:
        """It keeps no other scene from being mapped."""

        def run(threshold: float) -> None:
            datamodule = SceneDataModule(
                scenes=two_scenes, inputs=INPUTS, patch_size=48
            )
            writer = SceneWriter(
                tmp_path / '{name}.tif', threshold=threshold, overwrite=True
            )
            trainer = Trainer(
                accelerator='cpu', callbacks=[writer], logger=False,
                enable_progress_bar=False,
            )  # fmt: skip
            trainer.predict(PixelTask(), datamodule=datamodule)

        run(0.5)
        damaged = tmp_path / 'scene0.tif'
        content = damaged.read_bytes()
        damaged.write_bytes(content[: len(content) // 2])
        with pytest.raises(RuntimeError, match=r'scene0\.tif is damaged: remove it'):
            run(0.4)
        thresholds = [
            json.loads((tmp_path / f'scene{i}.json').read_bytes())['threshold']
            for i in range(2)
        ]
        assert thresholds == [0.5, 0.4]
        assert not list(tmp_path.glob('*.parts/lock'))
        damaged.unlink()
        run(0.4)
        assert damaged.exists()

    def test_list_is_not_replaced(self, two_scenes: Path, tmp_path: Path) -> None:
        """A map never replaces the list of scenes or the checkpoint, by any path."""
        (tmp_path / 'a.json').write_text(two_scenes.read_text())
        text = two_scenes.read_text().splitlines()
        scenes = tmp_path / 'scene0.csv'
        scenes.write_text('\n'.join(text[:2]))
        datamodule = SceneDataModule(scenes=scenes, inputs=INPUTS)
        writer = SceneWriter(
            tmp_path / 'a.tif', districts=None, quicklook=tmp_path / 'a.png',
            overwrite=True,
        )  # fmt: skip
        datamodule.catalogue = tmp_path / 'x' / '..' / 'a.json'
        with pytest.raises(ValueError, match=r'a\.json is the list of scenes itself'):
            writer.check(datamodule)
        datamodule.catalogue = None
        writer.check(datamodule)
        for checkpoint in (tmp_path, tmp_path / 'a.json'):
            with pytest.raises(ValueError, match=r'a\.json is the checkpoint itself'):
                writer.check(datamodule, checkpoint)

    def test_names(self, two_scenes: Path, tmp_path: Path) -> None:
        datamodule = SceneDataModule(scenes=two_scenes, inputs=INPUTS)
        trainer = Trainer(
            accelerator='cpu', callbacks=[SceneWriter(tmp_path / 'change.tif')],
            logger=False, enable_progress_bar=False,
        )  # fmt: skip
        with pytest.raises(ValueError, match=r'expected \{name\} in each of them'):
            trainer.predict(PixelTask(), datamodule=datamodule)

    @pytest.mark.slow
    def test_two_processes(
        self, two_scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two processes of torchrun write the same files as one process."""
        checkpoint = tmp_path / 'model.ckpt'
        trainer = Trainer(accelerator='cpu', logger=False, enable_checkpointing=False)
        task = ChangeDetectionTask(
            'm2cd',
            'mit_b0',
            in_channels=[4, 1],
            model_args={'experts': {'stages': [4]}},
        )
        trainer.strategy.connect(task)
        trainer.save_checkpoint(checkpoint)
        config = {
            'seed_everything': 0,
            'ckpt_path': str(checkpoint),
            'trainer': {
                'accelerator': 'cpu',
                'logger': False,
                'strategy': 'auto',
                'use_distributed_sampler': False,
                'enable_progress_bar': False,
                'callbacks': [
                    {
                        'class_path': 'torchgeo_m2cd.callbacks.SceneWriter',
                        'init_args': {'output': 'one/{name}.tif'},
                    }
                ],
            },
            'model': {'class_path': 'torchgeo_m2cd.tasks.ChangeDetectionTask'},
            'data': {
                'class_path': 'torchgeo_m2cd.datamodules.SceneDataModule',
                'init_args': {
                    'scenes': str(two_scenes),
                    'inputs': {
                        'class_path': 'torchgeo_m2cd.transforms.Inputs',
                        'init_args': INPUTS.to_dict(),
                    },
                    'patch_size': 64,
                    'batch_size': 2,
                },
            },
        }
        (tmp_path / 'config.json').write_text(json.dumps(config))
        command = ['predict', '--config', 'config.json']
        monkeypatch.chdir(tmp_path)
        with patch.dict(os.environ):
            torchgeo.main.main(command)
        launcher = ['torch.distributed.run', '--standalone', '--nproc-per-node=2']
        several = [
            '--trainer.strategy=ddp', '--trainer.devices=2',
            '--trainer.callbacks.output=two/{name}.tif',
        ]  # fmt: skip
        result = subprocess.run(
            [sys.executable, '-m', *launcher, '-m', 'torchgeo', *command, *several],
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr[-2000:]
        for name in ('scene0.tif', 'scene1.tif'):
            one, two = (tmp_path / n / name for n in ('one', 'two'))
            assert one.read_bytes() == two.read_bytes()
        assert names(tmp_path / 'one') == names(tmp_path / 'two')
        assert len(names(tmp_path / 'two')) == 6

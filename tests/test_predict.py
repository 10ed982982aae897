# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import builtins
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from shapely.geometry import box
from torch import Tensor, nn

from torchgeo_m2cd.datamodules import SceneDataModule, SyntheticFloodDataModule
from torchgeo_m2cd.datasets import SceneDataset, SyntheticFlood, stack_pair
from torchgeo_m2cd.models import M2CD, M2CD_Weights, PhysicalO2SP, m2cd
from torchgeo_m2cd.predict import predict_pair, predict_scene
from torchgeo_m2cd.tasks import ChangeDetectionTask, load_task
from torchgeo_m2cd.transforms import (
    Darkness,
    Inputs,
    Relative,
    RelativeDarkness,
    Standardize,
)

CPU: dict[str, Any] = {'accelerator': 'cpu', 'enable_progress_bar': False}
CHIPS = Path(__file__).parents[2] / 'shared' / 'data' / 'sen1floods11'


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('model')
    trainer = Trainer(
        accelerator='cpu', logger=False, enable_checkpointing=False, max_steps=1,
        limit_val_batches=1, default_root_dir=folder, enable_progress_bar=False,
    )  # fmt: skip
    task = ChangeDetectionTask('unet', 'resnet18', in_channels=[4, 1])
    datamodule = SyntheticFloodDataModule(
        size=64, length=2, eval_length=2, batch_size=2
    )
    trainer.fit(task, datamodule=datamodule)
    trainer.save_checkpoint(folder / 'model.ckpt')
    return folder / 'model.ckpt'


def test_all_files(checkpoint: Path, tmp_path: Path) -> None:
    paths = SyntheticFlood().write_scene(tmp_path / 'scene', size=128)
    files = {
        name: tmp_path / 'maps' / f'change{suffix}'
        for name, suffix in (
            ('output', '.tif'), ('classes', '_classes.tif'), ('polygons', '.gpkg'),
            ('quicklook', '.png'),
        )
    }  # fmt: skip
    summary = predict_scene(
        paths['optical'], paths['sar'], weights=checkpoint, **files, threshold=0.4,  # type: ignore[arg-type]
        data_args={'batch_size': 4, 'patch_size': 64},
        trainer_args=CPU,
    )  # fmt: skip
    made = {path.name for path in (tmp_path / 'maps').iterdir()}
    beside = {'change.json', 'change.qml', 'change_classes.qml'}
    assert made == {path.name for path in files.values()} | beside
    with rasterio.open(files['output']) as src, rasterio.open(files['classes']) as mask:
        np.testing.assert_array_equal(mask.read() == 1, src.read() >= 0.4)
        assert src.tags()['CHECKPOINT'] == str(checkpoint)
        pixels = (mask.read() == 1).sum()
    table = gpd.read_file(files['polygons'])
    assert table.area.sum() == pixels * 100
    assert isinstance(summary, dict)
    assert summary['flooded_km2'] == pytest.approx(table.area_m2.sum() / 1e6, abs=1e-6)
    assert sum(summary['polygons'].values()) == len(table)
    assert summary == json.loads((tmp_path / 'maps' / 'change.json').read_text())
    assert summary['model']['checkpoint'] == str(checkpoint)
    assert files['quicklook'].read_bytes().startswith(b'\x89PNG')
    with pytest.raises(FileExistsError, match=r'change\.tif exists'):
        predict_scene(paths['optical'], paths['sar'], files['output'], checkpoint)


def test_list_of_scenes(checkpoint: Path, tmp_path: Path) -> None:
    """A list of scenes gives a list of summaries, also for one scene."""
    SyntheticFlood().write_scene(tmp_path / 'scene', size=64)
    scenes = tmp_path / 'scenes.csv'
    scenes.write_text('name,optical,sar\nhere,scene/optical.tif,scene/sar.tif\n')
    summaries = predict_scene(
        output=tmp_path / '{name}.tif', weights=checkpoint, scenes=scenes,
        trainer_args=CPU, data_args={'patch_size': 64},
    )  # fmt: skip
    assert isinstance(summaries, list)
    (summary,) = summaries
    assert summary['files']['output'] == str(tmp_path / 'here.tif')


def test_inputs_of_the_checkpoint(tmp_path: Path) -> None:
    """The inputs of the training scene also apply to another scene."""
    paths = SyntheticFlood().write_scene(tmp_path / 'scene', size=96)
    other = SyntheticFlood().write_scene(tmp_path / 'other', size=96, index=1)
    inputs = Inputs(Darkness([0, 0, 0, 2500]), Relative([5.0], decibels=0.4), 48)
    trainer = Trainer(
        accelerator='cpu', logger=False, enable_progress_bar=False, max_steps=1,
        limit_val_batches=1, default_root_dir=tmp_path,
    )  # fmt: skip
    task = ChangeDetectionTask('fcn', in_channels=4)
    trained = SceneDataModule(
        paths['optical'], paths['sar'], paths['mask'], patch_size=16, grid_size=3,
        inputs=inputs,
    )  # fmt: skip
    trainer.fit(task, datamodule=trained)
    (checkpoint,) = tmp_path.rglob('*.ckpt')
    # Scenes are in decibels
    expected = inputs.to_dict()
    expected['sar']['init_args']['decibels'] = 1
    # Files have the names of their bands
    expected |= {'bands': ['B02', 'B03', 'B04', 'B08'], 'sar_bands': ['VV']}
    assert torch.load(checkpoint, weights_only=True)['inputs'] == expected

    images: list[torch.Tensor] = []

    class Record(Callback):
        def on_predict_batch_start(self, *args: Any) -> None:
            images.append(args[2]['image'])

    predict_scene(
        other['optical'], other['sar'], tmp_path / 'change.tif', checkpoint,
        data_args={'patch_size': 48},
        trainer_args={**CPU, 'callbacks': [Record()]},
    )  # fmt: skip
    with rasterio.open(tmp_path / 'change.tif') as src:
        assert json.loads(src.tags()['INPUTS']) == expected
    shown = torch.cat(images)
    assert (shown[:, 0, :3] == 0).all()
    assert -2 <= shown[:, 0, 3].min() < 0 == shown[:, 0, 3].max()


def test_imports_nothing_that_a_checkpoint_names(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's command line marks checkpoints such that their classes are imported."""
    (tmp_path / 'trap.py').write_text("raise SystemExit('imported')")
    content = torch.load(checkpoint, weights_only=True)
    assert '_instantiator' not in content['hyper_parameters']
    content['hyper_parameters'] |= {
        '_instantiator': 'lightning.pytorch.cli.instantiate_module',
        'o2sp': {'class_path': 'trap.O2SP', 'init_args': {}},
    }
    torch.save(content, tmp_path / 'crafted.ckpt')
    monkeypatch.syspath_prepend(tmp_path)
    match = r"unknown .*'trap\.O2SP': expected one of"
    with pytest.raises(ValueError, match=match):
        predict_scene('a.tif', 'b.tif', tmp_path / 'c.tif', tmp_path / 'crafted.ckpt')
    assert 'trap' not in sys.modules


def test_opens_the_checkpoint_once(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = SyntheticFlood().write_scene(tmp_path / 'scene', size=64)
    opened: list[str] = []
    plain = builtins.open

    def spy(file: Any, *args: Any, **kwargs: Any) -> Any:
        opened.append(str(file))
        return plain(file, *args, **kwargs)

    monkeypatch.setattr('builtins.open', spy)
    output = tmp_path / 'change.tif'
    predict_scene(
        paths['optical'], paths['sar'], output, checkpoint, trainer_args=CPU,
        data_args={'patch_size': 64},
    )  # fmt: skip
    assert output.exists()
    assert opened.count(str(checkpoint)) == 1


def test_without_inputs(checkpoint: Path, tmp_path: Path) -> None:
    paths = SyntheticFlood().write_scene(tmp_path / 'scene', size=64)
    contents = torch.load(checkpoint, weights_only=True)
    del contents['inputs']
    torch.save(contents, tmp_path / 'old.ckpt')
    args = (paths['optical'], paths['sar'], tmp_path / 'change.tif')
    with pytest.raises(ValueError, match='inputs are not given, and the model has'):
        predict_scene(*args, tmp_path / 'old.ckpt')
    assert not (tmp_path / 'change.tif').exists()
    # Without them, the caller has to give inputs
    inputs = Inputs.from_dict(torch.load(checkpoint, weights_only=True)['inputs'])
    predict_scene(
        *args, tmp_path / 'old.ckpt', trainer_args=CPU,
        data_args={'patch_size': 64, 'inputs': inputs},
    )  # fmt: skip
    predict_scene(
        *args[:2], tmp_path / 'new.tif', checkpoint, trainer_args=CPU,
        data_args={'patch_size': 64},
    )  # fmt: skip
    maps = []
    for name in ('change', 'new'):
        with rasterio.open(tmp_path / f'{name}.tif') as src:
            maps.append(src.read())
    np.testing.assert_array_equal(*maps)


@pytest.mark.skipif(
    not CHIPS.is_dir(), reason='needs the real chip in ../shared/data/sen1floods11'
)
def test_real_chip(tmp_path: Path) -> None:
    optical, sar, labels = (
        CHIPS / f'Spain_7370579_{name}Hand.tif' for name in ('S2', 'S1', 'Label')
    )
    trainer = Trainer(
        accelerator='cpu', logger=False, enable_checkpointing=False, max_steps=4,
        limit_val_batches=1, enable_progress_bar=False,
    )  # fmt: skip
    task = ChangeDetectionTask('m2cd', 'mit_b0', in_channels=[13, 2])
    datamodule = SceneDataModule(optical, sar, labels, patch_size=64, length=32)
    trainer.fit(task, datamodule=datamodule)
    trainer.save_checkpoint(tmp_path / 'model.ckpt')

    files = {name: tmp_path / f'change.{name}' for name in ('tif', 'gpkg')}
    predict_scene(
        optical, sar, files['tif'], tmp_path / 'model.ckpt',
        polygons=files['gpkg'], threshold=0.1,
        trainer_args=CPU,
    )  # fmt: skip
    with (
        rasterio.open(files['tif']) as src,
        rasterio.open(optical) as before,
        rasterio.open(sar) as after,
    ):
        assert (src.crs, src.transform) == (before.crs, before.transform)
        assert src.shape == before.shape
        known = before.dataset_mask().astype(bool) & np.isfinite(after.read()).all(0)
        known &= (before.read_masks() > 0).all(0)
        np.testing.assert_array_equal(np.isfinite(src.read(1)), known)
        footprint = box(*src.bounds)
    table = gpd.read_file(files['gpkg'])
    assert table.crs == 'EPSG:4326'
    assert table.within(footprint.buffer(1e-9)).all()
    # Independent areas: in the UTM zone of the chip
    areas = table.to_crs('EPSG:32630').area
    np.testing.assert_allclose(table['area_m2'], areas, rtol=0.01)


class Pixels(nn.Module):
    """A model whose output depends on the pixel itself only."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, image: Tensor) -> Tensor:
        return self.gain * (image[:, 1, :1] - image[:, 0, 3:4])


def chips(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    """Make optical and SAR images in source units."""
    dataset = SyntheticFlood('test', count, size=64)
    images = [dataset[i]['image'] for i in range(count)]
    return [(image[0], image[1, :1]) for image in images]


class TestPredictPair:
    @pytest.fixture
    def task(self) -> ChangeDetectionTask:
        """Make a task whose probabilities are easy to compute, in training mode."""
        task = ChangeDetectionTask('fcn', in_channels=4).train()
        task.model = Pixels()
        task.hparams['model'] = 'm2cd'  # It takes pairs
        task.inputs = Inputs(
            Standardize([600, 900, 800, 3000], [300, 300, 500, 1000]),
            Standardize([-12], [5]),
        )
        return task

    @staticmethod
    def expected(optical: Tensor, sar: Tensor) -> Tensor:
        return ((sar[0] + 12) / 5 - (optical[3] - 3000) / 1000).sigmoid()

    def test_layouts(self, task: ChangeDetectionTask) -> None:
        optical, sar = chips(1)[0]
        optical, sar = optical[:, :50, :41], sar[:, :50, :41]
        expected = self.expected(optical, sar)
        for first, second in (
            (optical, sar),
            (optical.permute(1, 2, 0), sar.permute(1, 2, 0)),
            (optical.short(), sar[0]),
            (optical.double(), sar.double()),
        ):
            found = predict_pair(task, first, second)
            assert isinstance(found, Tensor)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
            arrays = predict_pair(task, first.numpy(), second.numpy())
            assert isinstance(arrays, np.ndarray)
            assert arrays.dtype == np.float32
            np.testing.assert_array_equal(arrays, found.numpy())
        assert task.training

    def test_no_data(self, task: ChangeDetectionTask) -> None:
        optical, sar = (image.clone() for image in chips(1)[0])
        expected = self.expected(optical, sar)
        optical[1, 3, 4] = math.nan
        sar[0, 5, 6] = -math.inf
        optical[:, 7, :9] = 0
        optical[0, 8, 8] = 0  # In one band only
        known = torch.ones(64, 64, dtype=torch.bool)
        known[3, 4] = known[5, 6] = False
        known[7, :9] = False
        found = predict_pair(task, optical, sar)
        assert torch.equal(found.isfinite(), known)
        torch.testing.assert_close(found[known], expected[known])
        # The caller may know of further pixels without data, and that zeros are data
        known[7, :9] = True
        valid = torch.rand(64, 64) < 0.5
        for given in (valid, valid.int()):
            found = predict_pair(task, optical, sar, given)
            assert torch.equal(found.isfinite(), known & valid)
        assert (known & valid)[7, :9].any()
        expected = self.expected(optical, sar)
        torch.testing.assert_close(found[known & valid], expected[known & valid])
        arrays = predict_pair(task, optical.numpy(), sar.numpy(), valid.numpy())
        np.testing.assert_array_equal(np.isfinite(arrays), (known & valid).numpy())
        assert predict_pair(task, optical, sar, valid & False).isnan().all()

    def test_no_data_do_not_count(self, checkpoint: Path) -> None:
        """Pixels without data affect neither the references nor what the model sees."""
        task = ChangeDetectionTask.load_from_checkpoint(checkpoint, weights_only=True)
        task.inputs = Inputs(RelativeDarkness([0, 0, 0, 0.4]), Relative([5.0], [0.5]))
        optical, sar = chips(1)[0]
        valid = torch.rand(64, 64) < 0.8
        found = predict_pair(task, optical, sar, valid)
        for value in (0.0, 1e4, math.nan):
            changed = [
                torch.where(valid, image, value * sign)
                for image, sign in ((optical, 1), (sar, -1))
            ]
            other = predict_pair(task, changed[0], changed[1], valid)
            torch.testing.assert_close(other, found, rtol=0, atol=0, equal_nan=True)
        # Computed independently
        land = optical[3, valid]
        land = land[land >= 0.4 * torch.quantile(land, 0.85)]
        limit = 0.4 * land.median()
        darkness = torch.zeros_like(optical)
        darkness[3] = 2 * (optical[3] / limit).clamp(0, 1) - 2
        dry = sar[0, valid & (optical[3] >= limit)]
        contrast = (sar - torch.quantile(dry, 0.5)) / 5
        image = torch.cat([darkness, contrast.expand(4, -1, -1)]) * valid
        with torch.inference_mode():
            expected = task.eval().model(image[None]).sigmoid()[0, 0]
        torch.testing.assert_close(found[valid], expected[valid], rtol=0, atol=1e-4)

    @pytest.mark.parametrize('size', [(64, 96), (33, 64), (70, 45), (1, 2)])
    def test_sizes(self, size: tuple[int, int]) -> None:
        """The image is padded with zeros, which models see as no data."""
        model = M2CD('mit_b0', in_channels=(4, 1), experts=None, classes=3)
        model.inputs = Inputs(Standardize([0] * 4, [1] * 4), Standardize([0], [1]))
        height, width = size
        optical = torch.randn(4, height, width)
        sar = torch.randn(1, height, width)
        found = predict_pair(model.train(), optical, sar)
        assert model.training
        assert found.shape == (3, height, width)
        torch.testing.assert_close(found.sum(dim=0), torch.ones(height, width))
        image = torch.zeros(1, 2, 4, 96, 96)
        rows, columns = -(-height // 32) * 32, -(-width // 32) * 32
        image = image[..., :rows, :columns]
        image[0, :, :, :height, :width] = stack_pair(optical, sar)
        with torch.inference_mode():
            expected = model.eval()(image).softmax(dim=1)[0, :, :height, :width]
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)

    @pytest.mark.parametrize('activation', ['sigmoid', nn.Sigmoid, 'identity', None])
    def test_activation(self, activation: Any) -> None:
        model = M2CD(
            'mit_b0', in_channels=(4, 1), experts=None, activation=activation,
            decoder='fpn',
        )  # fmt: skip
        model.inputs = Inputs(Standardize([0] * 4, [1] * 4), Standardize([0], [1]))
        optical, sar = torch.randn(4, 32, 32), torch.randn(1, 32, 32)
        with torch.inference_mode():
            (expected,) = model.eval()(stack_pair(optical, sar)[None])[0]
        if activation in ('identity', None):
            expected = 1 / (1 + (-expected).exp())
        torch.testing.assert_close(predict_pair(model, optical, sar), expected)

    def test_multilabel(self, task: ChangeDetectionTask) -> None:
        labels = ChangeDetectionTask(
            'm2cd', 'mit_b0', in_channels=[4, 1], task='multilabel', num_labels=2
        )
        labels.inputs = task.inputs
        found = predict_pair(labels, *chips(1)[0])
        assert found.shape == (2, 64, 64)
        assert not torch.allclose(found.sum(dim=0), torch.ones(64, 64))

    @pytest.mark.parametrize(
        ('optical', 'sar', 'match'),
        [
            (
                (3, 64, 64),
                (1, 64, 64),
                r'optical has shape \(3, 64, 64\): expected 4 ba',
            ),
            (
                (4, 64, 4),
                (1, 64, 4),
                r'optical has shape .* \(4, H, W\) or \(H, W, 4\)',
            ),
            ((64, 64), (1, 64, 64), r'optical has shape \(64, 64\): expected 4 bands'),
            ((1, 4, 64, 64), (1, 64, 64), r'optical has shape \(1, 4, 64, 64\)'),
            (
                (4, 64, 64),
                (2, 64, 64),
                r'sar has shape \(2, 64, 64\): expected 1 bands',
            ),
            ((4, 64, 64), (64,), r'sar has shape \(64,\)'),
            ((4, 64, 64), (1, 64, 32), 'expected the same height and width'),
        ],
    )
    def test_shapes(
        self,
        optical: tuple[int, ...],
        sar: tuple[int, ...],
        match: str,
        task: ChangeDetectionTask,
    ) -> None:
        with pytest.raises(ValueError, match=match):
            predict_pair(task, torch.zeros(optical), torch.zeros(sar))
        with pytest.raises(ValueError, match=match):
            predict_pair(task, np.zeros(optical), np.zeros(sar))

    def test_shape_of_valid(self, task: ChangeDetectionTask) -> None:
        match = r'valid has shape \(1, 64, 64\): expected \(64, 64\)'
        with pytest.raises(ValueError, match=match):
            predict_pair(task, *chips(1)[0], torch.ones(1, 64, 64))

    @pytest.mark.parametrize('kind', ['task', 'model'])
    def test_no_inputs(self, kind: str) -> None:
        task = ChangeDetectionTask('m2cd', 'mit_b0', in_channels=4)
        model = task if kind == 'task' else task.model
        match = f'{type(model).__name__} has no inputs, .*: expected a model of a check'
        with pytest.raises(ValueError, match=match):
            predict_pair(model, *chips(1)[0])


INPUTS = Inputs(
    RelativeDarkness([0, 0, 0.5, 0.4]), Relative([5.0], ['otsu', 0.85]), window=64
)


def make_m2cd() -> ChangeDetectionTask:
    return ChangeDetectionTask(
        'm2cd', 'resnet18', in_channels=[4, 2], model_args={'experts': {'stages': [4]}}
    )


def make_chips() -> SyntheticFloodDataModule:
    return SyntheticFloodDataModule(size=64, length=2, eval_length=3, batch_size=2)


@pytest.fixture(scope='module')
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('m2cd')
    trainer = Trainer(
        **CPU, logger=False, enable_checkpointing=False, max_steps=8,
        limit_val_batches=1, default_root_dir=folder,
    )  # fmt: skip
    task = ChangeDetectionTask(
        'm2cd', 'resnet18', in_channels=[4, 2], lr=1e-4, o2sp=PhysicalO2SP(),
        model_args={'experts': {'stages': [4]}},
    )  # fmt: skip
    datamodule = SyntheticFloodDataModule(
        size=64, length=16, eval_length=2, batch_size=2, inputs=INPUTS
    )
    trainer.fit(task, datamodule=datamodule)
    trainer.save_checkpoint(folder / 'model.ckpt')
    return folder / 'model.ckpt'


@pytest.fixture(scope='module')
def expected(path: Path) -> Tensor:
    """Predict as ``torchgeo predict`` does."""
    trainer = Trainer(**CPU, logger=False, enable_checkpointing=False)
    predictions: Any = trainer.predict(
        make_m2cd(), datamodule=make_chips(), ckpt_path=path, weights_only=True
    )
    probability = torch.cat(predictions)[:, 0]
    assert probability.shape == (3, 64, 64)
    assert ((probability > 0.01) & (probability < 0.99)).float().mean() > 0.5
    assert probability.std() > 0.01
    return probability


class TestAgreement:
    """All ways to predict the same chips give the same values."""

    @staticmethod
    def load(path: Path) -> ChangeDetectionTask:
        return ChangeDetectionTask.load_from_checkpoint(
            path, map_location='cpu', weights_only=True
        )

    def check(self, found: list[Tensor], expected: Tensor) -> None:
        torch.testing.assert_close(torch.stack(found), expected, rtol=0, atol=1e-4)

    def test_task(self, path: Path, expected: Tensor) -> None:
        task = self.load(path)
        self.check([predict_pair(task, *pair) for pair in chips()], expected)

    def test_loss(self, path: Path, expected: Tensor) -> None:
        """``torchgeo test`` computes its loss on the same values."""
        trainer = Trainer(**CPU, logger=False, enable_checkpointing=False)
        (metrics,) = trainer.test(
            make_m2cd(), datamodule=make_chips(), ckpt_path=path, weights_only=True
        )
        dataset = SyntheticFlood('test', 3, size=64)
        masks = torch.cat([dataset[i]['mask'] for i in range(3)])
        known = masks != dataset.ignore_index
        losses = [
            F.binary_cross_entropy(expected[i][known[i]], masks[i][known[i]].float())
            for i in range(3)
        ]
        # The mean over batches, weighted by batch size
        batches = [torch.stack(losses[:2]).mean() * 2, losses[2]]
        assert known.all()
        loss = float(sum(batches)) / 3
        assert metrics['test_loss'] == pytest.approx(loss, rel=1e-4)

    def test_from_pretrained(
        self, path: Path, expected: Tensor, tmp_path: Path
    ) -> None:
        self.load(path).model.save_pretrained(tmp_path)
        model = M2CD.from_pretrained(tmp_path)
        names = ['B02', 'B03', 'B04', 'B08'], ['VV']
        assert model.inputs.to_dict() == INPUTS.named(*names).to_dict()
        found = [
            torch.from_numpy(
                predict_pair(model, optical.permute(1, 2, 0).numpy(), sar[0].numpy())
            )
            for optical, sar in chips()
        ]
        self.check(found, expected)

    def test_scene(self, path: Path, tmp_path: Path) -> None:
        """A scene of one patch gives the same as a chip."""
        paths = SyntheticFlood().write_scene(
            tmp_path, size=64, sar_crs='EPSG:32633', sar_resolution=10
        )
        predict_scene(
            paths['optical'], paths['sar'], tmp_path / 'change.tif', path,
            data_args={'patch_size': 64}, trainer_args=CPU,
        )  # fmt: skip
        dataset = SceneDataset(paths['optical'], paths['sar'])
        x, y, _ = dataset.bounds
        sample = dataset[x.start : x.stop, y.start : y.stop]
        with rasterio.open(tmp_path / 'change.tif') as src:
            probability = torch.from_numpy(src.read(1))
        found = predict_pair(
            self.load(path), sample['image'][0], sample['image'][1, :1],
            sample['valid'][0],
        )  # fmt: skip
        assert found.isfinite().any()
        torch.testing.assert_close(
            found, probability, rtol=0, atol=1e-4, equal_nan=True
        )


@pytest.fixture(scope='module')
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    paths = SyntheticFlood().write_scene(tmp_path_factory.mktemp('scene'), size=96)
    return paths['optical'], paths['sar']


class TestWeights:
    """``predict_scene`` takes released weights, folders and checkpoints."""

    def map(
        self, scene: tuple[Path, Path], output: Path, weights: Any
    ) -> dict[str, Any]:
        summary = predict_scene(
            *scene, output, weights, data_args={'patch_size': 64}, trainer_args=CPU
        )
        assert isinstance(summary, dict)
        return summary

    def test_released(
        self, scene: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two arguments are enough if the optical file names its bands."""
        monkeypatch.chdir(tmp_path)
        # One patch, filled up with zeros as predict_pair does
        summary = predict_scene(*scene, data_args={'patch_size': 96}, trainer_args=CPU)
        assert isinstance(summary, dict)
        with rasterio.open('change.tif') as src:
            tags, change = src.tags(), src.read(1)
        assert tags['MODEL'].endswith(f', {M2CD_Weights.DEFAULT}')
        assert 'CHECKPOINT' not in tags
        dataset = SceneDataset(*scene)
        x, y, _ = dataset.bounds
        sample = dataset[x.start : x.stop, y.start : y.stop]
        # B08 is the last of the four bands
        expected = predict_pair(
            m2cd(M2CD_Weights.DEFAULT), sample['image'][0, 3], sample['image'][1, 0],
            sample['valid'][0],
        )  # fmt: skip
        found = torch.from_numpy(change)
        assert found.isfinite().any()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4, equal_nan=True)

    def test_names(self, scene: tuple[Path, Path], tmp_path: Path) -> None:
        maps = []
        for number, weights in enumerate(
            ('M2CD_Weights.DEFAULT', 'DEFAULT', M2CD_Weights.DEFAULT)
        ):
            self.map(scene, tmp_path / f'{number}.tif', weights)
            maps.append((tmp_path / f'{number}.tif').read_bytes())
        assert maps[0] == maps[1] == maps[2]

    def test_home(
        self, checkpoint: Path, scene: tuple[Path, Path], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        monkeypatch.setenv('HOME', str(checkpoint.parent))
        summary = self.map(scene, tmp_path / 'change.tif', f'~/{checkpoint.name}')
        assert summary['model']['checkpoint'] == str(checkpoint)

    @pytest.mark.parametrize('classes', [1, 3])
    def test_folder(
        self, scene: tuple[Path, Path], tmp_path: Path, classes: int
    ) -> None:
        """The map of a saved model is that of its weights."""
        model = m2cd(M2CD_Weights.DEFAULT, classes=classes)
        model.save_pretrained(tmp_path / 'model')
        summary = self.map(scene, tmp_path / 'a.tif', str(tmp_path / 'model'))
        assert summary['model']['checkpoint'] == str(tmp_path / 'model')
        with rasterio.open(tmp_path / 'a.tif') as src:
            found = src.read()
        assert len(found) == max(classes, 2)  # One, and where water was before
        if classes == 1:
            self.map(scene, tmp_path / 'b.tif', M2CD_Weights.DEFAULT)
            with rasterio.open(tmp_path / 'b.tif') as src:
                np.testing.assert_array_equal(found, src.read())

    def test_rule(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[dict[str, Any]] = []
        monkeypatch.setattr(
            'torchgeo_m2cd.tasks.load.ChangeDetectionTask', lambda **k: asked.append(k)
        )
        load_task('threshold')
        assert asked == [{'model': 'threshold'}]

    def test_model_without_inputs(self, tmp_path: Path) -> None:
        M2CD('mit_b0', experts=None).save_pretrained(tmp_path)
        assert load_task(tmp_path).inputs is None

    @pytest.mark.parametrize(
        ('name', 'content', 'error', 'message'),
        [
            ('no.ckpt', None, FileNotFoundError, "no.ckpt' do not exist: expected the"),
            ('a.ckpt', b'', ValueError, "a.ckpt' is empty: expected a checkpoint"),
            ('a.tif', b'II*\0', ValueError, "a.tif' begins with b'II*"),
            ('a.pt', {}, ValueError, "a.pt' has no state_dict and no hyper_parameters"),
            (
                'a.ckpt',
                {'state_dict': {}, 'hyper_parameters': {'depth': 3}},
                ValueError,
                "a.ckpt' has no pytorch-lightning_version: expected a checkpoint of",
            ),
            ('a/b.txt', b'', ValueError, "a' is not the folder of a model that save_p"),
        ],
    )
    def test_wrong_file(
        self,
        tmp_path: Path,
        name: str,
        content: Any,
        error: type[Exception],
        message: str,
    ) -> None:
        """A wrong file of weights is reported before the images, which do not exist."""
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        weights = path.parent if path.suffix == '.txt' else path
        with pytest.raises(error, match=re.escape(message)):
            predict_scene('no.tif', 'no.tif', tmp_path / 'c.tif', weights)

    def test_unknown_name(self) -> None:
        with pytest.raises(
            ValueError, match=r"unknown M2CD_Weights 'OMBRIA', did you mean"
        ):
            predict_scene('no.tif', 'no.tif', weights='M2CD_Weights.OMBRIA')

    @pytest.mark.parametrize('error', [PermissionError, ValueError])
    def test_unreadable(
        self, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The error of the operating system is passed on."""

        def refuse(*args: Any, **kwargs: Any) -> None:
            raise error('not yours')

        monkeypatch.setattr(M2CD, 'from_pretrained', refuse)
        with pytest.raises(error, match=r'^not yours'):
            load_task(tmp_path)

    def test_activation(self, tmp_path: Path) -> None:
        M2CD('mit_b0', experts=None, activation='sigmoid').save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="has the activation 'sigmoid': expected"):
            load_task(tmp_path)

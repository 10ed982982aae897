# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import hashlib
import math
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import rasterio
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from torchgeo_m2cd.callbacks import SceneWriter
from torchgeo_m2cd.datamodules import SceneDataModule
from torchgeo_m2cd.datasets import SceneDataset, SyntheticFlood

MEAN = [[600.0, 900.0, 800.0, 3000.0], [-12.0]]
STD = [[300.0, 300.0, 500.0, 1000.0], [5.0]]


class PixelTask(LightningModule):
    """A model that looks at each pixel alone: patches cannot change its result."""

    def __init__(self, classes: int = 1) -> None:
        super().__init__()
        self.classes = classes

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.probabilities(batch['image'])

    def probabilities(self, image: Tensor) -> Tensor:
        logits = image[:, 1, :1] - image[:, 0, 3:]
        if self.classes == 1:
            return logits.sigmoid()
        return torch.cat([logits * i for i in range(self.classes)], 1).softmax(1)


class EdgeTask(PixelTask):
    """A model that is right in the middle and wrong at the edges of a patch."""

    def probabilities(self, image: Tensor) -> Tensor:
        probabilities = torch.ones_like(image[:, 0, :1])
        probabilities[..., 8:-8, 8:-8] = 0
        return probabilities


@pytest.fixture(scope='module', params=['EPSG:32633', 'EPSG:32632'])
def paths(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Scenes of the same CRS, and of different ones, thus with pixels without data."""
    folder = tmp_path_factory.mktemp('scene')
    return SyntheticFlood().write_scene(folder, size=160, sar_crs=request.param)


def predict(
    paths: dict[str, Path], writer: SceneWriter, task: LightningModule, **kwargs: Any
) -> SceneDataModule:
    datamodule = SceneDataModule(
        paths['optical'], paths['sar'], MEAN, STD, batch_size=25, **kwargs
    )
    trainer = Trainer(
        accelerator='cpu', callbacks=[writer], logger=False, enable_progress_bar=False,
        enable_checkpointing=False, enable_model_summary=False, barebones=False,
    )  # fmt: skip
    assert trainer.predict(task, datamodule=datamodule) is None
    return datamodule


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

        # The whole scene at once
        dataset = datamodule.predict_dataset
        assert isinstance(dataset, SceneDataset)
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
        assert sorted(tmp_path.rglob('*')) == [mask, output.parent, output]

    def test_georeference(self, paths: dict[str, Path], tmp_path: Path) -> None:
        """Pixels are where the same optical pixels are."""

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

    def test_weights(self, paths: dict[str, Path], tmp_path: Path) -> None:
        """What is wrong at the edge of a patch counts little where patches overlap."""
        output = tmp_path / 'change.tif'
        predict(paths, SceneWriter(output), EdgeTask(), patch_size=64, stride=16)
        with rasterio.open(output) as src:
            probability = src.read(1)[40:100, 40:100]
        # With equal weights 1 - (3 / 4) ** 2, each pixel being near an edge in a quarter
        # of the patches, along both axes
        assert 0 < probability.max() < 0.25

    def test_threshold(self, paths: dict[str, Path], tmp_path: Path) -> None:
        output, mask = tmp_path / 'change.tif', tmp_path / 'mask.tif'
        predict(paths, SceneWriter(output, mask, threshold=0.9), PixelTask())
        with rasterio.open(output) as src:
            probability = src.read(1)
        with rasterio.open(mask) as src:
            change = src.read(1)
        assert np.array_equal(change == 1, probability >= 0.9)
        assert 0 < (change == 1).mean() < 0.5

    @pytest.mark.parametrize('name', ['change.tif', 'mask.tif'])
    def test_overwrite(self, name: str, paths: dict[str, Path], tmp_path: Path) -> None:
        files = (tmp_path / 'change.tif', tmp_path / 'mask.tif')
        (tmp_path / name).write_text('precious')
        task = Mock(wraps=PixelTask(), spec=PixelTask)
        trainer = Mock(world_size=1)
        with pytest.raises(FileExistsError, match=f'{name} exists'):
            SceneWriter(*files).setup(trainer, task, 'predict')
        # It does not matter unless there is something to write
        SceneWriter(*files).setup(trainer, task, 'fit')
        assert (tmp_path / name).read_text() == 'precious'

        predict(paths, SceneWriter(*files, overwrite=True), PixelTask())
        with rasterio.open(tmp_path / name) as src:
            assert src.count == 1

    def test_twice(self, paths: dict[str, Path], tmp_path: Path) -> None:
        """A second prediction does not add up with the first one."""
        output = tmp_path / 'change.tif'
        writer = SceneWriter(output, overwrite=True)
        predict(paths, writer, PixelTask(3))
        first = output.read_bytes()
        predict(paths, writer, PixelTask(3))
        assert output.read_bytes() == first

    def test_failure(self, paths: dict[str, Path], tmp_path: Path) -> None:
        """Nothing is written if a prediction or the writing fails."""

        class Failing(PixelTask):
            def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
                if batch_idx == 1:
                    raise RuntimeError('out of memory')
                return super().predict_step(batch, batch_idx)

        output = tmp_path / 'change.tif'
        with pytest.raises(RuntimeError, match='out of memory'):
            predict(paths, SceneWriter(output), Failing(), patch_size=16)
        assert not list(tmp_path.iterdir())

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                'pathlib.Path.replace', Mock(side_effect=OSError('disk full'))
            )
            with pytest.raises(OSError, match='disk full'):
                predict(paths, SceneWriter(output), PixelTask())
        assert not list(tmp_path.iterdir())

    def test_files_that_cannot_be_opened(
        self, paths: dict[str, Path], tmp_path: Path
    ) -> None:
        (tmp_path / 'file').touch()
        writer = SceneWriter(tmp_path / 'change.tif', tmp_path / 'file' / 'mask.tif')
        with pytest.raises((FileExistsError, NotADirectoryError)):
            predict(paths, writer, PixelTask())
        assert [path.name for path in tmp_path.iterdir()] == ['file']

    def test_checkpoint(self, paths: dict[str, Path], tmp_path: Path) -> None:
        checkpoint, output = tmp_path / 'model.ckpt', tmp_path / 'change.tif'
        datamodule = SceneDataModule(paths['optical'], paths['sar'], MEAN, STD)
        trainer = Trainer(
            accelerator='cpu', callbacks=[SceneWriter(output)], logger=False,
            enable_progress_bar=False,
        )  # fmt: skip
        task = PixelTask()
        trainer.strategy.connect(task)
        trainer.save_checkpoint(checkpoint)
        trainer.predict(task, datamodule=datamodule, ckpt_path=checkpoint)
        digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
        with rasterio.open(output) as src:
            assert src.tags()['CHECKPOINT'] == str(checkpoint)
            assert src.tags()['CHECKPOINT_SHA256'] == digest

    def test_memory_is_that_of_a_strip(
        self, paths: dict[str, Path], tmp_path: Path
    ) -> None:
        class Watching(PixelTask):
            def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
                if writer._scene is not None:
                    shapes.add(writer._scene.sum.shape[:2])
                return super().predict_step(batch, batch_idx)

        shapes: set[tuple[int, ...]] = set()
        writer = SceneWriter(tmp_path / 'change.tif')
        predict(paths, writer, Watching(), patch_size=16)
        assert shapes == {(1, 16)}

    def test_order(self, paths: dict[str, Path], tmp_path: Path) -> None:
        dataset = SceneDataset(paths['optical'], paths['sar'])
        windows: Any = [dataset.pixel_slice(row, 0, 16, 16) for row in (8, 0)]
        trainer = Trainer(
            accelerator='cpu', callbacks=[SceneWriter(tmp_path / 'change.tif')],
            logger=False, enable_progress_bar=False, enable_checkpointing=False,
        )  # fmt: skip
        loader = DataLoader(dataset, sampler=windows)
        with pytest.raises(RuntimeError, match='at row 0 after one at row 8'):
            trainer.predict(PixelTask(), loader)
        assert not list(tmp_path.iterdir())

    def test_own_input(self, paths: dict[str, Path]) -> None:
        writer = SceneWriter(paths['sar'], overwrite=True)
        with pytest.raises(ValueError, match=r'sar\.tif is a file of the scene itself'):
            predict(paths, writer, PixelTask())

    def test_nothing_predicted(self, tmp_path: Path) -> None:
        SceneWriter(tmp_path / 'change.tif').on_predict_epoch_end(Mock(), Mock())
        assert not list(tmp_path.iterdir())

    def test_other_dataset(self, tmp_path: Path) -> None:
        trainer = Trainer(
            accelerator='cpu', callbacks=[SceneWriter(tmp_path / 'change.tif')],
            logger=False, enable_progress_bar=False, enable_checkpointing=False,
        )  # fmt: skip
        loader = DataLoader(SyntheticFlood(size=32))
        with pytest.raises(
            TypeError, match='a SyntheticFlood: expected a SceneDataset'
        ):
            trainer.predict(PixelTask(), loader)

    def test_invalid(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match='are the same file'):
            SceneWriter(tmp_path / 'a.tif', str(tmp_path / 'a.tif'))
        writer = SceneWriter(tmp_path / 'a.tif')
        with pytest.raises(RuntimeError, match='needs one device, got 2'):
            writer.setup(Mock(world_size=2), PixelTask(), 'predict')
        writer = SceneWriter(tmp_path, overwrite=True)
        with pytest.raises(IsADirectoryError, match='is a folder: expected a GeoTIFF'):
            writer.setup(Mock(world_size=1), PixelTask(), 'predict')

    def test_nothing_valid(self, paths: dict[str, Path], tmp_path: Path) -> None:
        sar, output = tmp_path / 'sar.tif', tmp_path / 'change.tif'
        with rasterio.open(paths['sar']) as src:
            profile, shape = src.profile, (src.count, *src.shape)
        with rasterio.open(sar, 'w', **profile) as dst:
            dst.write(np.full(shape, np.nan, np.float32))
        with pytest.raises(ValueError, match=r'change\.tif is not written: no pixel'):
            predict({**paths, 'sar': sar}, SceneWriter(output), PixelTask())
        assert not output.exists()

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
from lightning.pytorch import Trainer
from shapely.geometry import box

from torchgeo_m2cd.datamodules import SceneDataModule, SyntheticFloodDataModule
from torchgeo_m2cd.datasets import SyntheticFlood
from torchgeo_m2cd.predict import predict_scene
from torchgeo_m2cd.tasks import ChangeDetectionTask

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
            ('output', '.tif'), ('mask', '_mask.tif'), ('polygons', '.gpkg'),
            ('quicklook', '.png'),
        )
    }  # fmt: skip
    predict_scene(
        checkpoint, paths['optical'], paths['sar'], **files, threshold=0.4,  # type: ignore[arg-type]
        data_args={'batch_size': 4, 'patch_size': 64},
        trainer_args={'accelerator': 'cpu', 'enable_progress_bar': False},
    )  # fmt: skip
    assert sorted((tmp_path / 'maps').iterdir()) == sorted(files.values())
    with rasterio.open(files['output']) as src, rasterio.open(files['mask']) as mask:
        np.testing.assert_array_equal(mask.read() == 1, src.read() >= 0.4)
        assert src.tags()['CHECKPOINT'] == str(checkpoint)
        pixels = (mask.read() == 1).sum()
    table = gpd.read_file(files['polygons'])
    assert table.area.sum() == pixels * 100
    assert files['quicklook'].read_bytes().startswith(b'\x89PNG')
    with pytest.raises(FileExistsError, match=r'change\.tif exists'):
        predict_scene(checkpoint, paths['optical'], paths['sar'], files['output'])


def test_statistics_of_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    saved = torch.load(checkpoint, weights_only=True)['statistics']
    module = SyntheticFloodDataModule()
    for name in ('mean', 'std'):
        optical, sar = saved[name]
        assert optical == getattr(module, name)[0].tolist()
        assert sar == getattr(module, name)[1, :1].tolist()
    assert saved['standardize'] == 'dataset'

    paths = SyntheticFlood().write_scene(tmp_path / 'scene', size=64)
    datamodule = SceneDataModule(paths['optical'], paths['sar'])
    datamodule.trainer = Trainer(accelerator='cpu', logger=False)
    datamodule.trainer.ckpt_path = str(checkpoint)
    datamodule.setup('predict')
    datamodule.predict_dataloader()
    torch.testing.assert_close(datamodule.mean, module.mean)
    assert datamodule.standardize == 'dataset'


@pytest.mark.parametrize('given', [False, True])
def test_optical_limits_of_the_checkpoint(given: bool, tmp_path: Path) -> None:
    """The model saw only what is dark, and so it does in a scene."""
    paths = SyntheticFlood().write_scene(tmp_path / 'scene', size=96)
    limits = [0.0, 0, 0, 2500]
    trainer = Trainer(
        accelerator='cpu', logger=False, enable_progress_bar=False, max_steps=1,
        limit_val_batches=1, default_root_dir=tmp_path,
    )  # fmt: skip
    task = ChangeDetectionTask('fcn', in_channels=4)
    trained = SceneDataModule(
        paths['optical'], paths['sar'], paths['mask'], patch_size=16, grid_size=3,
        optical_limits=limits, standardize='otsu',
    )  # fmt: skip
    trainer.fit(task, datamodule=trained)
    (checkpoint,) = tmp_path.rglob('*.ckpt')

    # Also with statistics of one's own
    statistics: dict[str, Any] = {
        name: [values[0].tolist(), values[1, :1].tolist()]
        for name, values in (('mean', trained.mean), ('std', trained.std))
    }
    datamodule = SceneDataModule(
        paths['optical'], paths['sar'], **(statistics if given else {})
    )
    datamodule.trainer = Trainer(accelerator='cpu', logger=False)
    datamodule.trainer.ckpt_path = str(checkpoint)
    datamodule.setup('predict')
    batch = next(iter(datamodule.predict_dataloader()))
    assert datamodule.optical_limits == limits
    assert datamodule.standardize == 'otsu'
    optical = datamodule.aug(batch)['image'][:, 0]
    assert (optical[:, :3] == 0).all()
    assert -2 <= optical[:, 3].min() < 0 == optical[:, 3].max()


def test_without_statistics(checkpoint: Path, tmp_path: Path) -> None:
    paths = SyntheticFlood().write_scene(tmp_path / 'scene', size=64)
    contents = torch.load(checkpoint, weights_only=True)
    del contents['statistics']
    torch.save(contents, tmp_path / 'old.ckpt')
    args = (paths['optical'], paths['sar'], tmp_path / 'change.tif')
    with pytest.raises(ValueError, match=r'mean and std are not given.*old\.ckpt has'):
        predict_scene(tmp_path / 'old.ckpt', *args)
    datamodule = SceneDataModule(paths['optical'], paths['sar'])
    datamodule.setup('predict')
    with pytest.raises(ValueError, match='not given, and there is no checkpoint'):
        datamodule.predict_dataloader()


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
        tmp_path / 'model.ckpt', optical, sar, files['tif'],
        polygons=files['gpkg'], threshold=0.1,
        trainer_args={'accelerator': 'cpu', 'enable_progress_bar': False},
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
    # By another way than that of the file: in the UTM zone of the chip
    areas = table.to_crs('EPSG:32630').area
    np.testing.assert_allclose(table['area_m2'], areas, rtol=0.01)

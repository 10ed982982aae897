# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from lightning.pytorch import Trainer
from rasterio.transform import from_origin

from tests.data.chips.data import SIZE, make_chips
from torchgeo_m2cd.callbacks import ChipWriter
from torchgeo_m2cd.datamodules import ChipFolderDataModule, SyntheticFloodDataModule
from torchgeo_m2cd.predict import predict_pair
from torchgeo_m2cd.tasks import ChangeDetectionTask
from torchgeo_m2cd.transforms import Inputs, StandardizeImage

pytestmark = pytest.mark.filterwarnings('ignore:Dataset has no geotransform')

TRANSFORM = from_origin(500_000, 5_000_000, 10, 10)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Chips of which the first is georeferenced, and black in its first row."""
    root = tmp_path / 'chips'
    make_chips(root, {'train': 1, 'test': 3})
    with rasterio.open(root / 'test' / 'A' / '1.tif', 'r+') as dst:
        dst.crs, dst.transform = 'EPSG:32633', TRANSFORM
        values = dst.read()
        values[:, 0] = 0
        dst.write(values)
    return root


def make_task(**kwargs: Any) -> ChangeDetectionTask:
    return ChangeDetectionTask('m2cd', 'resnet18', in_channels=(4, 2), **kwargs)


def predict(
    writer: ChipWriter, datamodule: Any, task: ChangeDetectionTask | None = None
) -> Any:
    trainer = Trainer(
        accelerator='cpu', logger=False, enable_checkpointing=False,
        enable_progress_bar=False, callbacks=writer,
    )  # fmt: skip
    return trainer.predict(task or make_task(), datamodule)


def make(root: Path, **kwargs: Any) -> ChipFolderDataModule:
    inputs = Inputs(
        StandardizeImage([1] * 4, [1] * 4), StandardizeImage([1] * 2, [1] * 2)
    )
    return ChipFolderDataModule(root, inputs=inputs, batch_size=2, **kwargs)


class TestChipWriter:
    def test_files(self, root: Path, tmp_path: Path) -> None:
        """Each file holds what is predicted of its chip, at its place."""
        task, datamodule = make_task(), make(root)
        assert predict(ChipWriter(tmp_path / 'maps'), datamodule, task) is None
        files = sorted((tmp_path / 'maps').iterdir())
        assert [file.name for file in files] == ['1.tif', '2.tif', '3.tif']
        for number, file in enumerate(files):
            with rasterio.open(file) as src:
                values = src.read()
                assert np.isnan(src.nodata)
                assert src.descriptions == ('probability of change',)
                is_first = number == 0
                assert (src.crs == 'EPSG:32633') == is_first
                assert (src.transform == TRANSFORM) == is_first
            assert values.dtype == np.float32
            assert datamodule.predict_dataset is not None
            sample = datamodule.predict_dataset[number]
            optical, sar = sample['image'][0], sample['image'][1, :2]
            expected = predict_pair(task, optical, sar, sample['valid'][0])
            np.testing.assert_allclose(values[0], expected, atol=1e-5)
            assert np.isnan(values).sum() == (SIZE if number == 0 else 0)

    def test_classes(self, root: Path, tmp_path: Path) -> None:
        """Chips of groups are in folders, and each class has a band."""
        task = make_task(task='multiclass', num_classes=3, loss='ce')
        datamodule = make(
            root,
            optical='{group}/A/*.tif',
            sar='{group}/B/*.tif',
            splits={'test': ['test']},
        )
        writer = ChipWriter(tmp_path / 'maps')
        predict(writer, datamodule, task)
        with rasterio.open(tmp_path / 'maps' / 'test' / '2.tif') as src:
            assert src.descriptions[2] == 'probability of class 2'
            np.testing.assert_allclose(src.read().sum(axis=0), 1, atol=1e-5)
        with pytest.raises(
            FileExistsError, match=r'1\.tif exists: expected another path'
        ):
            predict(writer, datamodule, task)
        predict(ChipWriter(tmp_path / 'maps', overwrite=True), datamodule, task)

    def test_other_stage(self, root: Path, tmp_path: Path) -> None:
        ChipWriter(tmp_path).setup(Trainer(logger=False), make_task(), 'fit')

    @pytest.mark.parametrize(
        ('names', 'match'),
        [
            (['a', 'a'], r'a\.tif is read, or is that of two chips'),
            (['../a', 'b'], r'a\.tif is not in .*maps: expected names and groups of'),
        ],
    )
    def test_bad_names(
        self, root: Path, tmp_path: Path, names: list[str], match: str
    ) -> None:
        rows = [
            f'test/A/{i}.tif,test/B/{i}.tif,{name},new'
            for i, name in enumerate(names, 1)
        ]
        table = root / 'chips.csv'
        table.write_text('\n'.join(['optical,sar,name,split', *rows]))
        datamodule = make(root, table=table, predict_split='new')
        with pytest.raises(ValueError, match=match):
            predict(ChipWriter(tmp_path / 'maps'), datamodule)

    def test_chips_are_kept(self, root: Path) -> None:
        writer = ChipWriter(root / 'test' / 'B', overwrite=True)
        with pytest.raises(ValueError, match=r'B/1\.tif is read, or'):
            predict(writer, make(root))

    def test_no_chips(self, tmp_path: Path) -> None:
        task = ChangeDetectionTask('m2cd', 'resnet18', in_channels=4)
        datamodule = SyntheticFloodDataModule(length=1, eval_length=1, size=32)
        with pytest.raises(
            TypeError, match='predictions of SyntheticFloodDataModule: e'
        ):
            predict(ChipWriter(tmp_path), datamodule, task)

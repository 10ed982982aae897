# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import logging
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer
from torchgeo.datamodules import BaseDataModule

from tests.data.cau_flood.data import write
from tests.data.chips.data import SIZE, arrays, make_chips
from torchgeo_m2cd.configs import read_configs
from torchgeo_m2cd.datamodules import ChipFolderDataModule, chip_folder
from torchgeo_m2cd.datasets import ChipFolder, MaskSource, SARSource, Source
from torchgeo_m2cd.tasks import ChangeDetectionTask
from torchgeo_m2cd.transforms import Inputs, LeftOut, Standardize

MASK = MaskSource(classes={0: 0, 255: 1})
MULTICLASS: Any = {'task': 'multiclass', 'num_classes': 3, 'loss': 'ce'}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_chips(tmp_path)
    return tmp_path


def make(root: Path, **kwargs: Any) -> ChipFolderDataModule:
    return ChipFolderDataModule(root, **{'mask': MASK, 'batch_size': 2, **kwargs})


def make_with_task(root: Path, task: Any, **kwargs: Any) -> ChipFolderDataModule:
    """Make a data module for the training of a task with some arguments."""
    datamodule = make(root, **kwargs)
    datamodule.trainer = Trainer(accelerator='cpu', logger=False)
    datamodule.trainer.strategy.connect(
        ChangeDetectionTask('unet', 'resnet18', in_channels=4, **task)
    )
    datamodule.setup('fit')
    return datamodule


class TestChipFolderDataModule:
    @pytest.mark.parametrize(
        ('stage', 'split', 'length'),
        [('fit', 'train', 4), ('validate', 'val', 2), ('test', 'test', 2)],
    )
    def test_stages(self, root: Path, stage: str, split: str, length: int) -> None:
        datamodule = make(root, inputs=Inputs(LeftOut(4), LeftOut(2)))
        datamodule.prepare_data()
        datamodule.setup(stage)
        batches = list(getattr(datamodule, f'{split}_dataloader')())
        assert sum(len(batch['image']) for batch in batches) == length
        assert batches[0]['image'].shape == (2, 2, 4, SIZE, SIZE)
        assert set(batches[0]['mask'].unique().tolist()) == {0, 1}

    def test_predict(self, root: Path) -> None:
        """Chips to predict have no masks."""
        for kind, array in zip('AB', arrays(9), strict=False):
            write(root / f'new/{kind}/1.tif', array)
        inputs = Inputs(LeftOut(4), LeftOut(2))
        datamodule = make(root, inputs=inputs, predict_split='new')
        datamodule.setup('predict')
        (batch,) = datamodule.predict_dataloader()
        assert set(batch) == {'image', 'index', 'valid'}
        assert batch['image'].shape == (1, 2, 4, SIZE, SIZE)

    def test_statistics(self, root: Path) -> None:
        """Statistics are those of the training chips, in the units of the samples."""
        datamodule = make(
            root,
            optical=Source(bands=[4, 1], gain=0.1),
            sar=SARSource(bands=[2]),
            splits={'train': 0.5},
            patch_size=8,
        )
        datamodule.setup('fit')
        assert isinstance(datamodule.train_dataset, ChipFolder)
        train = {int(chip.name) for chip in datamodule.train_dataset.files}
        assert len(train) == 2
        inputs = datamodule.choose_inputs()
        pairs = [arrays(number)[:2] for number in train]
        optical, sar = (np.stack(images) for images in zip(*pairs, strict=True))
        for step, images in (
            (inputs.optical, optical[:, [3, 0]] / 10),
            (inputs.sar, sar[:, [1]]),
        ):
            assert isinstance(step, Standardize)
            assert step.mean == pytest.approx(images.mean(axis=(0, 2, 3)), rel=1e-4)
            assert step.std == pytest.approx(images.std(axis=(0, 2, 3)), rel=1e-3)
        assert datamodule.train_aug is not None
        batch = datamodule.train_aug(next(iter(datamodule.train_dataloader())))
        assert batch['image'].shape == (2, 2, 2, 8, 8)
        assert datamodule.choose_inputs(inputs) is inputs

    @pytest.mark.parametrize(
        ('classes', 'kwargs', 'match'),
        [
            (None, {}, r"label/\d\.png' has the value 255: expected mask\.classes"),
            (
                {0: 0, 255: 0},
                {},
                (
                    r'masks of the training chips have the values 0, 255, with mask\.classes={0: '
                    r'0, 255: 0} the classes \[0\]: expected 0 for unchanged and 1 for changed '
                    r'pixels, such as mask\.classes={0: 0, 255: 1} .*YAML.*\. Are these the masks'
                ),
            ),
            (
                {0: 0, 255: 255},
                {},
                (
                    r'have the values 0, 255 \(255 not known\), with mask\.classes={0: 0, 255: '
                    r'255} the classes \[0\]: expected 0 for unchanged and 1 for changed '
                    r'pixels\. Are these the masks'
                ),
            ),
            ({0: 255, 255: 255}, {}, r'the classes \[\]: expected'),
            ({0: 255, 255: 1}, MULTICLASS, r'es \[1\]: '),
            (
                {0: 0, 255: 2},
                {},
                r'es \[0, 2\]: expected 0 to 1, since the task has 2 ',
            ),
        ],
    )
    def test_wrong_classes(
        self, root: Path, classes: Any, kwargs: Any, match: str
    ) -> None:
        """They are an error before the training, also if inputs need not be measured."""
        for inputs in (None, Inputs(LeftOut(4), LeftOut(2))):
            datamodule = make_with_task(
                root, kwargs, mask=MaskSource(classes=classes), inputs=inputs
            )
            with pytest.raises(ValueError, match=match):
                datamodule.val_dataloader()

    @pytest.mark.parametrize(
        ('dtype', 'nodata', 'other', 'match'),
        [
            ('uint8', None, 0, '0, '),
            ('uint8', 255, 255, r'0, 255 \(255 not known\), '),
            ('float32', None, math.nan, r'0, nan \(nan not known\), '),
        ],
    )
    def test_other_masks(
        self, dtype: str, nodata: float | None, other: float, match: str, root: Path
    ) -> None:
        """Masks of one value are likely not those that were meant; no data is no value."""
        for path in (root / 'train' / 'label').iterdir():
            path.unlink()
            mask = np.zeros((1, SIZE, SIZE), dtype)
            mask[:, :3] = other
            write(path.with_suffix('.tif'), mask)
            with rasterio.open(path.with_suffix('.tif'), 'r+') as src:
                src.nodata = nodata
        datamodule = make(root, mask='{split}/label/*')
        datamodule.setup('fit')
        match = (
            rf'the values {match}the classes \[0\]: .* changed pixels\. Are these the'
        )
        with pytest.raises(ValueError, match=match):
            datamodule.train_dataloader()

    def test_rare_class(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A class may be in masks that were not read."""
        for path in (root / 'train' / 'label').iterdir():
            write(path, np.zeros((1, SIZE, SIZE), np.uint8))
        monkeypatch.setattr(chip_folder, '_MOST_MASKS', 3)
        datamodule = make(root, inputs=Inputs(LeftOut(4), LeftOut(2)))
        datamodule.setup('fit')
        match = (
            r'have the values 0, .* no pixel in 3 of 4 masks is of \[1\], so a model cannot '
            'learn them unless others have some'
        )
        with pytest.warns(UserWarning, match=match):
            datamodule.train_dataloader()

    def test_one_output(self, root: Path) -> None:
        """A task with one output, which is not ours, has two classes, too."""
        datamodule = make(root, inputs=Inputs(LeftOut(4), LeftOut(2)))
        datamodule.trainer = Trainer(accelerator='cpu', logger=False)
        task = LightningModule()
        task.save_hyperparameters({'num_classes': 1})
        datamodule.trainer.strategy.connect(task)
        datamodule.setup('fit')
        with warnings.catch_warnings(action='error'):
            datamodule.train_dataloader()

    def test_absent_class(self, root: Path) -> None:
        datamodule = make_with_task(
            root, MULTICLASS, inputs=Inputs(LeftOut(4), LeftOut(2))
        )
        match = r'the classes \[0, 1\]: no pixel is of \[2\], so a model cannot learn'
        with pytest.warns(UserWarning, match=match):
            datamodule.train_dataloader()
        # Once
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            datamodule.train_dataloader()

    @pytest.mark.parametrize(
        ('kwargs', 'line'),
        [
            ({}, '4 train, 2 val chips'),
            ({'splits': {'train': 0.5, 'val': 0.25}}, '2 train, 1 val chips'),
            ({'test_split': 'none'}, '4 train, 2 val chips'),
        ],
    )
    def test_counts(
        self, root: Path, caplog: pytest.LogCaptureFixture, kwargs: Any, line: str
    ) -> None:
        """Splits are counted once, when a training begins, which opens no others."""
        with caplog.at_level(logging.INFO, 'lightning.pytorch'):
            make(root, **kwargs).setup('fit')
            make(root, **kwargs).setup('validate')
        assert [record.message for record in caplog.records] == [line]

    @pytest.mark.parametrize(
        ('given', 'expected'),
        [
            ('val: 0.1', {'val': 0.1}),
            ('{train: 0.8, val: 0}', {'train': 0.8, 'val': 0}),
            ('val: val.txt', {'val': 'val.txt'}),
            ('val: [a, b]', {'val': ['a', 'b']}),
            ("val: ['1']", {'val': ['1']}),
            ('null', None),
        ],
    )
    def test_splits_in_yaml(self, given: str, expected: Any, tmp_path: Path) -> None:
        values = yaml.safe_load(read_configs('chips'))['data']
        values['init_args']['splits'] = yaml.safe_load(given)
        config = tmp_path / 'config.yaml'
        config.write_text(yaml.safe_dump({'data': values}))
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(BaseDataModule, 'data')
        parser.add_argument('--config', action='config')
        arguments = ['--config', str(config), '--data.optical', '{split}/A/{name}.tif']
        parsed = parser.parse_args(arguments)
        kwargs = parser.instantiate_classes(parsed).data.kwargs
        assert kwargs['splits'] == expected
        assert Source.of(kwargs['optical']).paths == '{split}/A/{name}.tif'
        mask = MaskSource('{split}/label/*', classes={0: 0, 255: 1})
        assert kwargs['mask'] == mask

    def test_crop(self, root: Path) -> None:
        with pytest.raises(ValueError, match='patch_size is 0'):
            make(root, patch_size=0)
        with pytest.raises(TypeError, match="unexpected keyword argument 'bands'"):
            make(root, bands=[1])

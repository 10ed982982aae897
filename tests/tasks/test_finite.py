# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import math
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import rasterio
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torchgeo.datasets.utils import Sample

from tests.data.chips.data import make_chips
from torchgeo_m2cd.datamodules import (
    ChipFolderDataModule,
    SyntheticFloodDataModule,
    synthetic,
)
from torchgeo_m2cd.datasets import ChipFolder, MaskSource, SyntheticFlood
from torchgeo_m2cd.tasks import ChangeDetectionTask
from torchgeo_m2cd.tasks.finite import check_finite, check_weights
from torchgeo_m2cd.transforms import Inputs, Standardize

MODEL = nn.Conv2d(1, 1, 1)


def make_batch() -> dict[str, Tensor]:
    return {'image': torch.ones(3, 2, 1, 4, 4)}


class TestCheckFinite:
    def test_finite(self) -> None:
        check_finite(MODEL, make_batch(), 0, torch.ones(3, 1, 4, 4))
        check_finite(MODEL, make_batch(), 0, torch.ones(3, 1, 4, 4), torch.tensor(1e30))

    @pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
    def test_input(self, value: float) -> None:
        """It may spoil the outputs of the whole batch."""
        batch = make_batch()
        batch['image'][1, 1, 0, 0, 0] = value
        output = torch.full((3, 1, 4, 4), math.nan)
        message = f'input of the model is not finite in batch 7: sample 1 has .*{value}'
        with pytest.raises(ValueError, match=message):
            check_finite(MODEL, batch, 7, output, torch.tensor(math.nan))

    def test_place(self) -> None:
        batch = make_batch()
        batch['source'] = 100 * batch['image'].clone()
        batch['image'][2, 0, 0, 3, 3] = math.inf
        batch['window'] = torch.tensor([[0, 0], [0, 64], [64, 128]])
        output = torch.ones(3, 1, 4, 4)
        match = r'sample 2 \(row 64, column 128\) has optical from 100 to 100, SAR from'
        with pytest.raises(ValueError, match=match):
            check_finite(MODEL, batch, 0, output)
        batch['scene'] = torch.tensor([0, 0, 5])
        with pytest.raises(ValueError, match=r'sample 2 \(.* of scene 5\) has'):
            check_finite(MODEL, batch, 0, output)

    def test_chip(self, tmp_path: Path) -> None:
        """In a training on chips, in random order, the file is named."""
        make_chips(tmp_path)
        data = ChipFolderDataModule(
            tmp_path,
            mask=MaskSource(classes={0: 0, 255: 1}),
            batch_size=2,
            inputs=Inputs(
                Standardize([0] * 4, [1] * 4), Standardize([0] * 2, [0.1] * 2)
            ),
        )
        data.setup('fit')
        chip = cast(ChipFolder, data.train_dataset).files[1]
        with rasterio.open(chip.sar, 'r+') as src:
            src.write(np.full((2, *src.shape), 3e38, np.float32))
        trainer = Trainer(
            accelerator='cpu', max_epochs=1, logger=False, num_sanity_val_steps=0,
            enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        task = ChangeDetectionTask('fcn', in_channels=4, model_args={'num_filters': 2})
        with pytest.raises(ValueError, match=r'\(files\[1\] of its dataset\) has'):
            trainer.fit(task, datamodule=data)

    def test_output(self) -> None:
        """Of several, the sample with the largest input is named."""
        batch = make_batch()
        batch['image'][1] = -1e30
        output = torch.full((3, 1, 4, 4), math.nan)
        match = r'output of the model is not finite in batch 0: sample 1 has .*-1e\+30'
        with pytest.raises(ValueError, match=match):
            check_finite(MODEL, batch, 0, output)

    def test_loss(self) -> None:
        output = torch.ones(3, 1, 4, 4)
        output[2] = -1e30
        match = 'the loss of batch 4 is not finite: sample 2 has .*output from -1e'
        with pytest.raises(ValueError, match=match):
            check_finite(MODEL, make_batch(), 4, output, torch.tensor(math.inf))

    def test_weights(self) -> None:
        model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1))
        nn.init.constant_([*model.parameters()][2], math.nan)
        with pytest.raises(ValueError, match=r'^1\.weight of the model has NaN or'):
            check_finite(model, make_batch(), 0, torch.full((3, 1), math.nan))


class Spoilt(SyntheticFlood):
    """Has one NaN in one sample of a split."""

    where = 'train'

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        if self.split == self.where and index == 1:
            sample['image'][1, 0, 5, 5] = math.nan
        return sample


class TestTask:
    """Trainings and predictions end, and no checkpoint has NaN."""

    def make(self, folder: Path) -> tuple[Trainer, ChangeDetectionTask]:
        checkpoint = ModelCheckpoint(folder, monitor='val_IoU', filename='best')
        trainer = Trainer(
            accelerator='cpu', max_epochs=1, logger=False, callbacks=[checkpoint],
            default_root_dir=folder, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0,
        )  # fmt: skip
        task = ChangeDetectionTask('fcn', in_channels=4, model_args={'num_filters': 2})
        return trainer, task

    @pytest.mark.parametrize('split', ['train', 'val'])
    def test_fit(
        self, split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(synthetic, 'SyntheticFlood', Spoilt)
        monkeypatch.setattr(Spoilt, 'where', split)
        trainer, task = self.make(tmp_path)
        data = SyntheticFloodDataModule(batch_size=2, length=2, eval_length=2, size=32)
        with pytest.raises(
            ValueError, match='input of the model is not finite in batch'
        ):
            trainer.fit(task, datamodule=data)
        assert not [*tmp_path.rglob('*.ckpt')]
        check_weights(task.state_dict())

    def test_weights(self, tmp_path: Path) -> None:
        """They are neither used, nor saved, nor loaded."""
        trainer, task = self.make(tmp_path)
        data = SyntheticFloodDataModule(batch_size=2, length=2, eval_length=2, size=32)
        trainer.strategy.connect(task)
        trainer.save_checkpoint(tmp_path / 'a.ckpt')
        parameter = next(task.parameters())
        nn.init.constant_(parameter, math.nan)
        for run in (trainer.test, trainer.predict):
            with pytest.raises(ValueError, match='of the model has NaN or infinite'):
                run(task, datamodule=data)
        with pytest.raises(ValueError, match='of the model has NaN or infinite'):
            trainer.save_checkpoint(tmp_path / 'b.ckpt')
        assert not (tmp_path / 'b.ckpt').exists()
        checkpoint = torch.load(tmp_path / 'a.ckpt', weights_only=True)
        next(iter(checkpoint['state_dict'].values())).fill_(math.inf)
        torch.save(checkpoint, tmp_path / 'c.ckpt')
        with pytest.raises(ValueError, match='of the model has NaN or infinite'):
            ChangeDetectionTask.load_from_checkpoint(
                tmp_path / 'c.ckpt', weights_only=True
            )

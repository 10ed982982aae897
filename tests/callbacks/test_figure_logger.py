# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter
from torchgeo.datasets.utils import Sample

from torchgeo_m2cd.callbacks import FigureLogger
from torchgeo_m2cd.datamodules import SyntheticFloodDataModule
from torchgeo_m2cd.tasks import ChangeDetectionTask


@pytest.fixture
def task() -> ChangeDetectionTask:
    return ChangeDetectionTask(backbone='mit_b0', in_channels=4)


@pytest.fixture
def datamodule() -> SyntheticFloodDataModule:
    return SyntheticFloodDataModule(batch_size=2, length=2, eval_length=4, size=64)


class TestFigureLogger:
    def validate(self, folder: Path, **kwargs: Any) -> list[str]:
        tags: list[str] = []
        self.samples: list[Sample] = []
        datamodule: SyntheticFloodDataModule = kwargs.pop('datamodule')
        plot = datamodule.plot

        def spy(sample: Sample) -> Figure | None:
            self.samples.append(sample)
            return plot(sample)

        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(datamodule, 'plot', spy)
            monkeypatch.setattr(
                SummaryWriter, 'add_figure', lambda _, tag, *a, **k: tags.append(tag)
            )
            trainer = Trainer(
                accelerator='cpu',
                logger=kwargs.pop('logger', TensorBoardLogger(folder)),
                callbacks=[FigureLogger(**kwargs)],
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.validate(self.task, datamodule=datamodule, verbose=False)
        return tags

    @pytest.fixture(autouse=True)
    def _task(self, task: ChangeDetectionTask) -> None:
        self.task = task

    def test_figures(
        self, tmp_path: Path, datamodule: SyntheticFloodDataModule
    ) -> None:
        assert self.validate(tmp_path, datamodule=datamodule) == ['val/0', 'val/1']
        for i, sample in enumerate(self.samples):
            expected = datamodule.val_dataset[i]  # type: ignore[index]
            # In the units of the source again
            torch.testing.assert_close(
                sample['image'], expected['image'], rtol=1e-4, atol=1e-2
            )
            assert set(sample['prediction'].unique().tolist()) <= {0, 1}

    def test_number(self, tmp_path: Path, datamodule: SyntheticFloodDataModule) -> None:
        tags = self.validate(tmp_path, datamodule=datamodule, num_samples=1)
        assert tags == ['val/0']

    def test_multiclass(
        self, tmp_path: Path, datamodule: SyntheticFloodDataModule
    ) -> None:
        self.task = ChangeDetectionTask(
            backbone='mit_b0',
            in_channels=4,
            task='multiclass',
            num_classes=2,
            loss='ce',
        )
        assert len(self.validate(tmp_path, datamodule=datamodule)) == 2
        assert self.samples[0]['prediction'].shape == (1, 64, 64)

    def test_logger_without_figures(
        self, tmp_path: Path, datamodule: SyntheticFloodDataModule
    ) -> None:
        tags = self.validate(
            tmp_path, datamodule=datamodule, logger=CSVLogger(tmp_path)
        )
        assert tags == []
        assert self.samples == []

    def test_nothing_to_draw(
        self,
        tmp_path: Path,
        datamodule: SyntheticFloodDataModule,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        # As data modules of TorchGeo whose dataset has no plot
        monkeypatch.setattr(datamodule, 'plot', lambda sample: None)
        assert self.validate(tmp_path, datamodule=datamodule) == []
        assert len(self.samples) == 2

    def test_no_rgb_bands(self, tmp_path: Path) -> None:
        datamodule = SyntheticFloodDataModule(
            batch_size=2, length=2, eval_length=2, size=64, bands=['B08']
        )
        self.task = ChangeDetectionTask(backbone='mit_b0', in_channels=1)
        assert self.validate(tmp_path, datamodule=datamodule) == []
        assert len(self.samples) == 1

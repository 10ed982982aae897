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
from torchgeo.datamodules import NonGeoDataModule
from torchgeo.datasets.utils import Sample

from torchgeo_m2cd.callbacks import FigureLogger
from torchgeo_m2cd.datamodules import SyntheticFloodDataModule
from torchgeo_m2cd.datasets import SyntheticFlood
from torchgeo_m2cd.predict import predict_pair
from torchgeo_m2cd.tasks import ChangeDetectionTask
from torchgeo_m2cd.transforms import Darkness, Inputs, StandardizeImage


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
            # The figure shows source units
            assert torch.equal(sample['image'], expected['image'])
            assert set(sample['prediction'].unique().tolist()) <= {0, 1}

    @pytest.mark.parametrize('num_samples', [1, 2])
    def test_prediction(
        self, num_samples: int, tmp_path: Path, datamodule: SyntheticFloodDataModule
    ) -> None:
        """The prediction comes from the inputs, although the figure shows source units."""
        datamodule = SyntheticFloodDataModule(
            batch_size=2, length=2, eval_length=4, size=64,
            inputs=Inputs(Darkness([0, 0, 0, 2500]), StandardizeImage([-12], [5])),
        )  # fmt: skip
        self.validate(tmp_path, datamodule=datamodule, num_samples=num_samples)
        assert len(self.samples) == num_samples
        for sample in self.samples:
            assert sample['image'][0].min() > 0
            probability = predict_pair(
                self.task, sample['image'][0], sample['image'][1, :1]
            )
            assert torch.equal(sample['prediction'][0].bool(), probability >= 0.5)
        assert datamodule.inputs is self.task.inputs

    def test_other_data_module(self, tmp_path: Path) -> None:
        """TorchGeo's data modules keep no source units: the figure shows the batch."""

        class Module(NonGeoDataModule):
            def setup(self, stage: str) -> None:
                self.val_dataset = SyntheticFlood('val', 2, 64)

        datamodule: Any = Module(SyntheticFlood, batch_size=2)
        datamodule.aug = lambda batch: {**batch, 'image': batch['image'] / 100}
        assert self.validate(tmp_path, datamodule=datamodule) == ['val/0', 'val/1']
        for i, sample in enumerate(self.samples):
            image = datamodule.val_dataset[i]['image']
            torch.testing.assert_close(sample['image'], image / 100)

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
        # Like data modules of TorchGeo whose dataset cannot plot
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

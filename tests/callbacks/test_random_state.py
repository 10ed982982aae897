# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from torchgeo_m2cd.callbacks import RandomState
from torchgeo_m2cd.datamodules import SyntheticFloodDataModule
from torchgeo_m2cd.tasks import ChangeDetectionTask


def draw() -> list[float]:
    numbers = [random.random(), np.random.rand()]  # noqa: NPY002
    return [*numbers, *torch.rand(2).tolist()]


class Batches(Callback):
    """Record what the model is shown."""

    def __init__(self) -> None:
        self.sums: list[float] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        weights = torch.arange(batch['image'][0].numel(), dtype=torch.float64)
        self.sums += (batch['image'].flatten(1).double() @ weights).tolist()


class TestRandomState:
    @pytest.mark.parametrize('world_size', [1, 2])
    def test_generators(self, world_size: int, tmp_path: Path) -> None:
        """The plain values of a checkpoint are restored once, in a single process only."""
        trainer: Any = SimpleNamespace(world_size=world_size)
        task: Any = None
        callback = RandomState()
        torch.save(callback.state_dict(), tmp_path / 'a.ckpt')
        expected = draw()
        callback.on_fit_start(trainer, task)
        assert draw() != expected
        callback.load_state_dict(torch.load(tmp_path / 'a.ckpt', weights_only=True))
        callback.on_fit_start(trainer, task)
        assert (draw() == expected) is (world_size == 1)
        # Only once
        callback.on_fit_start(trainer, task)
        assert draw() != expected

    def test_cuda(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """States of missing devices are skipped."""
        restored: list[tuple[int, int]] = []
        states = [torch.tensor([5]), torch.tensor([6])]
        monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
        monkeypatch.setattr(torch.cuda, 'get_rng_state_all', lambda: states)
        monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
        monkeypatch.setattr(
            torch.cuda,
            'set_rng_state',
            lambda state, device: restored.append((int(state), device)),
        )
        callback = RandomState()
        callback.load_state_dict(callback.state_dict())
        trainer: Any = SimpleNamespace(world_size=1)
        task: Any = None
        callback.on_fit_start(trainer, task)
        assert restored == [(5, 0)]

    @pytest.mark.filterwarnings('ignore:The .*dataloader.* does not have many')
    def test_resumed(self, tmp_path: Path) -> None:
        """A resumed run has the batches, augmentation and weights of a whole run."""

        def fit(name: str, epochs: int, path: str | None = None) -> Any:
            seed_everything(1 if path is None else 2)
            batches, folder = Batches(), tmp_path / name
            last = ModelCheckpoint(folder, filename='last')
            trainer = Trainer(
                accelerator='cpu', max_epochs=epochs, logger=False,
                callbacks=[last, RandomState(), batches], enable_progress_bar=False,
                enable_model_summary=False, default_root_dir=folder,
            )  # fmt: skip
            task = ChangeDetectionTask(
                'fcn', in_channels=4, model_args={'num_filters': 2}
            )
            data = SyntheticFloodDataModule(
                batch_size=2, length=8, eval_length=2, size=32
            )
            trainer.fit(task, datamodule=data, ckpt_path=path, weights_only=True)
            return batches.sums, task.state_dict(), last.best_model_path

        sums, weights, _ = fit('whole', 2)
        first, _, path = fit('first', 1)
        second, resumed, _ = fit('second', 2, path)
        assert first + second == sums
        assert all(torch.equal(resumed[name], weights[name]) for name in weights)

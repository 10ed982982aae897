# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import operator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau
from torchgeo.tasks import ChangeDetection

from torchgeo_m2cd.datamodules import SyntheticFloodDataModule
from torchgeo_m2cd.tasks import (
    ChangeDetectionTask,
    Cosine,
    Optimization,
    Plateau,
    Polynomial,
    Schedule,
)


class Momentum(Optimization):
    """An optimizer that a user wrote."""

    def make_optimizer(self, groups: list[dict[str, Any]], lr: float) -> Optimizer:
        return SGD(groups, lr=lr, momentum=0.9)


class Rates(Callback):
    """Record the learning rate of every step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]['lr'])


def make_task(schedule: Schedule | None = None, **kwargs: Any) -> ChangeDetectionTask:
    optimization = Optimization(schedule)
    defaults: dict[str, Any] = {'model': 'fcn', 'in_channels': 4, 'lr': 0.1}
    return ChangeDetectionTask(**(defaults | {'optimization': optimization} | kwargs))


def fit(
    folder: Path, task: ChangeDetectionTask, max_epochs: int, **kwargs: Any
) -> tuple[list[float], Trainer]:
    """Train with two steps per epoch, and return the learning rate of every step."""
    rates = Rates()
    checkpoint = ModelCheckpoint(folder, 'last', enable_version_counter=False)
    trainer = Trainer(
        accelerator='cpu',
        max_epochs=max_epochs,
        callbacks=[rates, checkpoint],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    datamodule = SyntheticFloodDataModule(
        batch_size=2, length=4, eval_length=2, size=64
    )
    trainer.fit(task, datamodule=datamodule, weights_only=True, **kwargs)
    return rates.rates, trainer


class TestSchedule:
    @pytest.mark.parametrize('warmup', [0, 2])
    def test_polynomial(self, tmp_path: Path, warmup: int) -> None:
        rates, trainer = fit(tmp_path, make_task(Polynomial(warmup)), 3)
        expected = [
            0.1 * (1e-6 + (1 - 1e-6) * step / 2)
            if step < warmup
            else 0.1 * (6 - step) / (6 - warmup)
            for step in range(6)
        ]
        assert rates == pytest.approx(expected)
        assert trainer.optimizers[0].param_groups[0]['lr'] == pytest.approx(0)

    @pytest.mark.parametrize('interval', ['epoch', 'step'])
    def test_cosine(self, tmp_path: Path, interval: Any) -> None:
        """Rates equal those of PyTorch's schedule with the right length."""
        optimizer = AdamW([nn.Parameter(torch.zeros(()))], lr=0.1)
        scheduler = CosineAnnealingLR(optimizer, T_max=3 if interval == 'epoch' else 6)
        expected = []
        for step in range(6):
            expected.append(optimizer.param_groups[0]['lr'])
            optimizer.step()
            if interval == 'step' or step % 2 == 1:
                scheduler.step()
        rates, trainer = fit(tmp_path, make_task(Cosine(interval)), 3)
        assert rates == pytest.approx(expected)
        assert trainer.optimizers[0].param_groups[0]['lr'] == pytest.approx(0)

    def test_cosine_warmup(self) -> None:
        schedule = Cosine('step', warmup_steps=4)
        factors = [schedule.factor(step, 8) for step in range(9)]
        assert factors[:4] == pytest.approx([0, 0.25, 0.5, 0.75], abs=1e-5)
        assert factors[4:] == pytest.approx([1, 0.8535534, 0.5, 0.1464466, 0])

    @pytest.mark.parametrize(
        'schedule', [Cosine(), Cosine('step', 1), Polynomial(), Polynomial(2)]
    )
    def test_resume_with_more_epochs(self, tmp_path: Path, schedule: Schedule) -> None:
        """A resumed run has the rates of the longer training."""
        expected, _ = fit(tmp_path / 'whole', make_task(schedule), 4)
        first, _ = fit(tmp_path, make_task(schedule), 3)
        resumed, _ = fit(
            tmp_path, make_task(schedule), 4, ckpt_path=tmp_path / 'last.ckpt'
        )
        assert first != pytest.approx(expected[:6])
        assert resumed == pytest.approx(expected[6:])

    @pytest.mark.parametrize(
        ('schedule', 'steps', 'match'),
        [
            (
                Polynomial(),
                -1,
                'Polynomial needs the end of the training: expected max',
            ),
            (Cosine('step'), -1, 'Cosine needs the end of the training: expected max'),
            (Cosine(), 10, "Cosine with interval='epoch' needs the number of epochs"),
            (Polynomial(10), 10, 'warmup_steps is 10: .* less than the 10 steps'),
        ],
    )
    def test_does_not_fit(self, schedule: Schedule, steps: int, match: str) -> None:
        task = make_task(schedule)
        task.trainer = Trainer(
            accelerator='cpu', max_epochs=-1, max_steps=steps, logger=False
        )
        with pytest.raises(ValueError, match=match):
            task.configure_optimizers()

    def test_bad_arguments(self) -> None:
        with pytest.raises(ValueError, match='patience is -1: expected at least 0'):
            Plateau(-1)
        with pytest.raises(ValueError, match='warmup_steps is -1: expected at least 0'):
            Polynomial(-1)
        with pytest.raises(ValueError, match="warmup_steps needs interval='step', got"):
            Cosine(warmup_steps=5)
        with pytest.raises(ValueError, match="'stp', did you mean 'step'"):
            Cosine('stp')  # type: ignore[arg-type]


class TestOptimization:
    def test_default(self) -> None:
        """The default is that of TorchGeo."""
        task = make_task(None, optimization=None)
        theirs = ChangeDetection('fcn', in_channels=4, lr=0.1, patience=10)
        actual: Any = task.configure_optimizers()
        expected: Any = theirs.configure_optimizers()
        (group,) = actual['optimizer'].param_groups
        (expected_group,) = expected['optimizer'].param_groups
        expected_group.pop('params')
        parameters = group.pop('params')
        assert len(parameters) == len(list(task.parameters()))
        assert all(map(operator.is_, parameters, task.parameters()))
        assert group == expected_group
        scheduler = actual['lr_scheduler']['scheduler']
        assert isinstance(scheduler, ReduceLROnPlateau)
        assert (
            scheduler.state_dict() == expected['lr_scheduler']['scheduler'].state_dict()
        )
        assert actual['lr_scheduler']['monitor'] == expected['lr_scheduler']['monitor']

    def test_description(self) -> None:
        optimization = Optimization(Cosine('step', 3), 0.1, 10)
        described = optimization.to_dict()
        assert described == {
            'class_path': 'torchgeo_m2cd.tasks.Optimization',
            'init_args': {
                'schedule': {
                    'class_path': 'torchgeo_m2cd.tasks.Cosine',
                    'init_args': {'interval': 'step', 'warmup_steps': 3},
                },
                'weight_decay': 0.1,
                'head_lr_factor': 10,
            },
        }
        assert Optimization.from_dict(described).to_dict() == described
        with pytest.raises(ValueError, match=r"unknown schedule 'torch\.Tensor'"):
            Optimization({'class_path': 'torch.Tensor'})

    def test_other_optimizer(self, tmp_path: Path) -> None:
        task = make_task(optimization=Momentum(Polynomial()))
        rates, trainer = fit(tmp_path, task, 1)
        assert rates == pytest.approx([0.1, 0.05])
        assert trainer.optimizers[0].param_groups[0]['momentum'] == 0.9
        loaded = ChangeDetectionTask.load_from_checkpoint(
            tmp_path / 'last.ckpt', weights_only=True
        )
        assert isinstance(loaded.optimization, Momentum)

    @pytest.mark.parametrize('model', ['m2cd', 'unet'])
    def test_parameter_groups(self, model: Any) -> None:
        backbone = {'m2cd': 'mit_b0', 'unet': 'resnet18'}[model]
        task = make_task(
            model=model,
            backbone=backbone,
            lr=0.5,
            optimization=Optimization(weight_decay=0.1, head_lr_factor=10),
        )
        optimizer: Any = task.configure_optimizers()
        settings = {
            parameter: (group['lr'], group['weight_decay'])
            for group in optimizer['optimizer'].param_groups
            for parameter in group['params']
        }
        modules = dict(task.model.named_modules())
        norms = (nn.LayerNorm, nn.BatchNorm2d)
        for name, parameter in task.model.named_parameters():
            module, _, last = name.rpartition('.')
            # The temperature of a gate is a scalar: no weight decay
            decays = not (
                isinstance(modules[module], norms) or last in ('bias', 'temperature')
            )
            lr = 0.5 if name.startswith('encoder.') else 5.0
            assert settings.pop(parameter) == (lr, 0.1 if decays else 0), name
        assert not settings

    def test_parameter_groups_of_a_frozen_encoder(self) -> None:
        task = make_task(
            model='unet',
            backbone='resnet18',
            freeze_backbone=True,
            lr=1e-3,
            optimization=Optimization(weight_decay=0.0, head_lr_factor=10),
        )
        optimizer: Any = task.configure_optimizers()
        # timm 1.0.12 keeps biases in a group of their own, also without weight decay
        for group in optimizer['optimizer'].param_groups:
            assert group['lr'] == pytest.approx(1e-2)
            assert group['weight_decay'] == 0

    def test_bad_arguments(self) -> None:
        with pytest.raises(ValueError, match='weight_decay is -1: expected at least 0'):
            Optimization(weight_decay=-1)
        with pytest.raises(ValueError, match='head_lr_factor is -1: expected at least'):
            Optimization(head_lr_factor=-1)
        task = make_task(optimization=Optimization(head_lr_factor=2))
        with pytest.raises(ValueError, match='expected 1, FCN has no encoder'):
            task.configure_optimizers()

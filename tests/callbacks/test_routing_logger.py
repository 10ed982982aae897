# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import csv
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchgeo.datasets.utils import Sample

from torchgeo_m2cd.callbacks import RoutingLogger, mutual_information, plot_routing
from torchgeo_m2cd.datamodules import SyntheticFloodDataModule
from torchgeo_m2cd.models import OriginalO2SP
from torchgeo_m2cd.tasks import ChangeDetectionTask

STAGES = (1, 2, 3, 4)

pytestmark = pytest.mark.filterwarnings('ignore:The .* does not have many workers')


def definition(shares: list[list[float]]) -> float:
    """Sum the mutual information term by term, in bits."""
    joint = [[share / len(shares) for share in row] for row in shares]
    total = 0.0
    for row in joint:
        for expert, p in enumerate(row):
            if p > 0:
                total += p * math.log2(p / sum(row) / sum(r[expert] for r in joint))
    return total


class TestMutualInformation:
    @pytest.mark.parametrize(
        ('shares', 'expected'),
        [
            ([[0.1, 0.4, 0.5], [0.1, 0.4, 0.5]], 0.0),
            ([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.3, 0.7]], 1.0),
            ([[1.0, 0.0], [0.5, 0.5]], 0.311278),  # H(1/4) - 1/2
        ],
    )
    def test_known(self, shares: list[list[float]], expected: float) -> None:
        assert mutual_information(torch.tensor(shares)).item() == pytest.approx(
            expected, abs=1e-6
        )
        assert definition(shares) == pytest.approx(expected, abs=1e-6)

    def test_definition(self) -> None:
        shares = torch.rand(5, 3, 4, dtype=torch.float64).softmax(dim=-1)
        expected = [definition(s.tolist()) for s in shares]
        assert mutual_information(shares).tolist() == pytest.approx(expected)

    def test_not_negative(self) -> None:
        row = torch.rand(1000, 1, 7).softmax(dim=-1)
        assert mutual_information(row.expand(-1, 3, -1)).min() >= 0


def test_plot_routing() -> None:
    shares = {
        2: {'optical': torch.tensor([0.97, 0.03]), 'sar': torch.tensor([0.25, 0.75])},
        4: {
            'optical': torch.tensor([1.0, 0.0]),
            'sar': torch.tensor([0.0, 1.0]),
            'simulated': torch.tensor([0.5, 0.5]),
        },
    }
    figure = plot_routing(shares)
    assert [ax.get_title() for ax in figure.axes] == [
        f'stage 2\n{definition([[0.97, 0.03], [0.25, 0.75]]):.3f} bit',
        'stage 4\n1.000 bit',
    ]
    for ax, branches in zip(figure.axes, shares.values(), strict=True):
        assert len(ax.get_xticks()) == len(branches)
        bars = [bars for bars in ax.containers if isinstance(bars, BarContainer)]
        for expert, container in enumerate(bars):
            heights = [bar.get_height() for bar in container]
            expected = [s[expert].item() for s in branches.values()]
            assert heights == pytest.approx(expected)
            for bar in container:
                # The bars are stacked, the last on top
                assert bar.get_y() + bar.get_height() == pytest.approx(1) or expert == 0
    # The thin bar has no label
    labels = [text.get_text() for text in figure.axes[0].texts]
    assert labels == ['0: 97%', '0: 25%', '', '1: 75%']


class Recorder(Callback):
    """Keep the gates of all tokens, and run the model where gates must not count."""

    def __init__(self, task: ChangeDetectionTask) -> None:
        self.gates: dict[tuple[str, int], list[Tensor]] = {}
        self.split = ''
        for stage in task.model.encoder.moe:
            task.model.encoder.moe[stage].register_forward_hook(
                lambda _module, _args, output, stage=int(stage): self.gates.setdefault(
                    (self.split, stage), []
                ).append(output.gates)
            )

    def shares(self, split: str, stage: int, branch: int) -> list[float]:
        gates = torch.cat([g[branch] for g in self.gates[split, stage]])
        return gates.mean(dim=0).tolist()

    def on_train_batch_start(self, *args: Any) -> None:
        self.split = 'train'

    def on_validation_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self.split = 'sanity' if trainer.sanity_checking else 'val'

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Sample,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.split = ''
        zeros = torch.zeros_like(batch['image'])
        pl_module.predict_step({'image': zeros, 'source': zeros}, 0)

    on_validation_batch_end = on_train_batch_end


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def shares(rows: list[dict[str, str]], split: str, stage: int, path: str) -> Any:
    values = [
        float(row['value'])
        for row in rows
        if (row['split'], row['stage'], row['path']) == (split, str(stage), path)
    ]
    return pytest.approx(values, abs=2e-6)


class TestRoutingLogger:
    def make_task(self, **kwargs: Any) -> ChangeDetectionTask:
        kwargs.setdefault('backbone', 'mit_b0')
        return ChangeDetectionTask(in_channels=4, **kwargs)

    def make_trainer(self, callbacks: list[Callback], **kwargs: Any) -> Trainer:
        defaults: dict[str, Any] = {
            'accelerator': 'cpu',
            'logger': False,
            'max_epochs': 1,
            'log_every_n_steps': 1,
            'enable_checkpointing': False,
            'enable_progress_bar': False,
            'enable_model_summary': False,
        }
        return Trainer(callbacks=callbacks, **defaults | kwargs)

    @pytest.fixture
    def datamodule(self) -> SyntheticFloodDataModule:
        # The last batch is smaller and must weigh less
        return SyntheticFloodDataModule(batch_size=2, length=4, eval_length=3, size=64)

    def test_fit(
        self,
        tmp_path: Path,
        datamodule: SyntheticFloodDataModule,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        figures: dict[str, Figure] = {}
        monkeypatch.setattr(
            SummaryWriter,
            'add_figure',
            lambda _, tag, f, step: figures.update({tag: f}),
        )
        task, path = (
            self.make_task(o2sp=OriginalO2SP()),
            tmp_path / 'new' / 'routing.csv',
        )
        recorder = Recorder(task)
        logger = TensorBoardLogger(tmp_path)
        trainer = self.make_trainer([recorder, RoutingLogger(path)], logger=logger)
        trainer.fit(task, datamodule=datamodule)

        rows = read(path)
        assert {(row['epoch'], row['step']) for row in rows} == {('0', '2')}
        assert Counter(row['quantity'] for row in rows) == {
            'share': 4 * (3 + 2) * 4,
            'mutual_information': 4 * 2,
        }
        events = EventAccumulator(logger.log_dir)
        events.Reload()
        scalars = {
            tag: events.Scalars(tag)[-1]
            for tag in events.Tags()['scalars']
            if tag.startswith('routing/')
        }
        assert len(scalars) == 4 * (3 * 4 + 1)
        assert {scalar.step for scalar in scalars.values()} == {2}
        for stage in STAGES:
            for split, paths in {
                'train': ('optical', 'sar', 'simulated'),
                'val': ('optical', 'sar'),
            }.items():
                expected = [recorder.shares(split, stage, i) for i in range(len(paths))]
                for name, values in zip(paths, expected, strict=True):
                    assert values == shares(rows, split, stage, name)
                    if split == 'val' or name == 'simulated':
                        tags = [
                            f'routing/stage{stage}/{name}/expert{e}' for e in range(4)
                        ]
                        logged = [scalars[tag].value for tag in tags]
                        assert logged == pytest.approx(values, abs=2e-6)
                information = definition(expected[:2])
                assert [information] == shares(rows, split, stage, '')
            logged = [scalars[f'routing/stage{stage}/mutual_information'].value]
            assert logged == pytest.approx([information], abs=2e-6)
            assert not task.model.encoder._forward_hooks
        assert [ax.get_title()[:7] for ax in figures['routing'].axes] == [
            f'stage {stage}' for stage in STAGES
        ]
        assert [path.name for path in path.parent.iterdir()] == ['routing.csv']

    def test_validate(
        self, tmp_path: Path, datamodule: SyntheticFloodDataModule
    ) -> None:
        """Without training, no file is written."""
        task = self.make_task(
            o2sp=OriginalO2SP(),
            model_args={
                'optical_index': 1,
                'experts': {'stages': [3], 'num_experts': 2},
            },
        )
        recorder, logger = Recorder(task), CSVLogger(tmp_path)
        trainer = self.make_trainer(
            [recorder, RoutingLogger(tmp_path / 'routing.csv')], logger=logger
        )
        (results,) = trainer.validate(task, datamodule=datamodule, verbose=False)
        assert not any(key.startswith('routing') for key in results)
        assert not (tmp_path / 'routing.csv').exists()
        logger.save()
        row = read(Path(logger.log_dir, 'metrics.csv'))[0]
        for i, path in enumerate(('sar', 'optical')):
            values = [float(row[f'routing/stage3/{path}/expert{e}']) for e in (0, 1)]
            assert values == pytest.approx(recorder.shares('val', 3, i), abs=1e-6)
        assert 'routing/stage1/mutual_information' not in row

    def test_processes(
        self,
        tmp_path: Path,
        datamodule: SyntheticFloodDataModule,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The gates of another process, whose tokens all use the first expert, count."""
        task, path = self.make_task(), tmp_path / 'routing.csv'
        recorder = Recorder(task)
        trainer = self.make_trainer([recorder, RoutingLogger(path)])

        def reduce(mass: Tensor, reduce_op: str) -> Tensor:
            if mass.ndim == 0:  # called by the trainer
                return mass
            assert reduce_op == 'sum'
            other = torch.zeros_like(mass)
            other[:, 0] = mass.sum(dim=1)
            return mass + other

        monkeypatch.setattr(trainer.strategy, 'reduce', reduce)
        trainer.fit(task, datamodule=datamodule)
        rows = read(path)
        for split in ('train', 'val'):
            own = recorder.shares(split, 1, 1)
            expected = [(own[0] + 1) / 2, *(share / 2 for share in own[1:])]
            assert expected == shares(rows, split, 1, 'sar')
        assert not any(row['path'] == 'simulated' for row in rows)

    def test_one_process_writes(
        self,
        tmp_path: Path,
        datamodule: SyntheticFloodDataModule,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        trainer = self.make_trainer([RoutingLogger(tmp_path / 'routing.csv')])
        monkeypatch.setattr(type(trainer.strategy), 'is_global_zero', False)
        trainer.fit(self.make_task(), datamodule=datamodule)
        assert not (tmp_path / 'routing.csv').exists()

    def test_resume(self, tmp_path: Path, datamodule: SyntheticFloodDataModule) -> None:
        path = tmp_path / 'routing.csv'

        def fit(epochs: int, checkpoint: Path | None = None) -> Trainer:
            trainer = self.make_trainer([RoutingLogger(path)], max_epochs=epochs)
            trainer.fit(
                self.make_task(o2sp=OriginalO2SP()),
                datamodule=datamodule,
                ckpt_path=checkpoint,
                weights_only=False,
            )
            return trainer

        fit(1).save_checkpoint(tmp_path / 'last.ckpt')
        first = read(path)
        # An interrupted run wrote this after its last checkpoint
        with path.open('a') as file:
            file.write('7,99,val,1,sar,0,share,0.5\n')
        fit(2, tmp_path / 'last.ckpt')
        rows = read(path)
        assert rows[: len(first)] == first
        assert {(row['epoch'], row['step']) for row in rows[len(first) :]} == {
            ('1', '4')
        }
        fit(1)
        assert {row['step'] for row in read(path)} == {'2'}

    @pytest.mark.parametrize(
        'kwargs',
        [{'model_args': {'experts': None}}, {'model': 'unet', 'backbone': 'resnet18'}],
    )
    def test_no_experts(
        self,
        tmp_path: Path,
        datamodule: SyntheticFloodDataModule,
        kwargs: dict[str, Any],
    ) -> None:
        logger = CSVLogger(tmp_path)
        path = tmp_path / 'routing.csv'
        trainer = self.make_trainer([RoutingLogger(path)], logger=logger)
        trainer.fit(self.make_task(**kwargs), datamodule=datamodule)
        assert not path.exists()
        for row in read(Path(logger.log_dir, 'metrics.csv')):
            assert not any('routing' in key for key in row)

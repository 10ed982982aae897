# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""``torchgeo-m2cd fit``, ``validate``, ``test`` and ``predict``."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from torchgeo_m2cd import cli
from torchgeo_m2cd.checkpoints import AtomicCheckpointIO
from torchgeo_m2cd.configs import config_path
from torchgeo_m2cd.task_cli import TaskCLI
from torchgeo_m2cd.tasks import ChangeDetectionTask

pytestmark = pytest.mark.filterwarnings('ignore:The .*dataloader.* does not have many')


def arguments(command: str, folder: Path, *args: str) -> list[str]:
    return [
        *(command, '--config', str(config_path('synthetic'))),
        *('--trainer.accelerator', 'cpu', '--trainer.default_root_dir', str(folder)),
        *('--trainer.enable_progress_bar', 'false', '--trainer.logger', 'false'),
        *('--trainer.enable_model_summary', 'false', '--trainer.max_epochs', '1'),
        *('--data.batch_size', '2', '--data.size', '32'),
        *('--data.length', '2', '--data.eval_length', '2'),
        *('--model.model', 'fcn', '--model.model_args', '{num_filters: 2}', *args),
    ]


@pytest.fixture(scope='module')
def last(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('fit')
    fitted = TaskCLI(arguments('fit', folder))
    assert isinstance(fitted.trainer.strategy.checkpoint_io, AtomicCheckpointIO)
    (path,) = folder.rglob('last.ckpt')
    return path


def fail(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run a command that fails, and return its message."""
    with pytest.raises(SystemExit) as caught:
        cli.main(list(args))
    assert caught.value.code == 2
    errors = capsys.readouterr().err
    assert 'Traceback' not in errors
    line: str = errors.splitlines()[-1]
    assert line.startswith('torchgeo-m2cd: error: ')
    return line


class TestCheckpoint:
    """A wrong checkpoint is reported before the data, which do not exist."""

    data = (
        *('--data', 'torchgeo_m2cd.datamodules.OMBRIADataModule'),
        *('--data.root', '/no/such/folder'),
    )

    @pytest.mark.parametrize('command', ['fit', 'validate', 'test', 'predict'])
    @pytest.mark.parametrize(
        ('content', 'message'),
        [
            (None, "last.ckpt' does not exist"),
            (b'', "last.ckpt' is empty"),
            (b'text', "last.ckpt' begins with b'text'"),
            ({'a': 1}, "last.ckpt' has no state_dict and no hyper_parameters"),
        ],
    )
    def test_unreadable(
        self,
        command: str,
        content: Any,
        message: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        path = tmp_path / 'last.ckpt'
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            torch.save(content, path)
        args = arguments(command, tmp_path, '--ckpt_path', str(path), *self.data)
        assert message in fail(capsys, *args)

    @pytest.mark.parametrize('task', ['os.system', 'torchgeo.tasks.ChangeDetection'])
    def test_other_class(
        self, task: str, last: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        content = torch.load(last, weights_only=True)
        content['hyper_parameters']['_class_path'] = task
        torch.save(content, tmp_path / 'a.ckpt')
        args = ('--ckpt_path', str(tmp_path / 'a.ckpt'), *self.data)
        message = fail(capsys, *arguments('test', tmp_path, *args))
        assert f"is of the class '{task}': expected 'torchgeo_m2cd.tasks.Cha" in message

    @pytest.mark.parametrize(
        'more',
        [{'class_path': 'no.such.Class'}, {'a': [{'class_path': 'no.such.Class'}]}],
    )
    def test_hidden_class(
        self, more: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Nothing that a checkpoint names is imported."""
        torch.save({'hyper_parameters': more}, tmp_path / 'a.ckpt')
        args = [
            *('test', '--model', 'torchgeo.tasks.ChangeDetection', *self.data),
            *('--ckpt_path', str(tmp_path / 'a.ckpt')),
        ]
        message = "names the class 'no.such.Class', which would be imported"
        assert message in fail(capsys, *args)

    @pytest.mark.parametrize(
        'content', [{'hyper_parameters': {'lr': 0.1}}, {'hyper_parameters': {}}, {}]
    )
    def test_other_task(
        self, content: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Only the file and the class are checked for tasks of TorchGeo."""
        torch.save(content, tmp_path / 'a.ckpt')
        args = [
            *('test', '--model', 'torchgeo.tasks.ChangeDetection', *self.data),
            *('--ckpt_path', str(tmp_path / 'a.ckpt')),
        ]
        assert '/no/such/folder' in fail(capsys, *args)

    def test_debug(self, tmp_path: Path) -> None:
        args = arguments('test', tmp_path, '--ckpt_path', 'no.ckpt', '--debug')
        with pytest.raises(FileNotFoundError, match=r"ckpt_path 'no\.ckpt' does not"):
            cli.main(args)

    def test_words(self, tmp_path: Path) -> None:
        """Lightning resolves the words for checkpoints itself."""
        args = arguments('test', tmp_path, '--ckpt_path', 'best', '--debug')
        with pytest.raises(ValueError, match=r'did not find|no path|not configured'):
            cli.main(args)


class TestInterrupt:
    """After Ctrl-C, the message says how to go on."""

    @pytest.fixture
    def interrupt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Interrupt the second epoch of a training, or the first batch of a test."""

        def stop(self: Any, *args: Any) -> None:
            if self.current_epoch == 1 or self.trainer.testing:
                raise KeyboardInterrupt

        monkeypatch.setattr(ChangeDetectionTask, 'on_train_epoch_start', stop)
        monkeypatch.setattr(ChangeDetectionTask, 'on_test_start', stop)
        # Lightning ignores further signals
        monkeypatch.setattr('signal.signal', lambda *args: None)

    @pytest.mark.usefixtures('interrupt')
    def test_fit(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        command = arguments('fit', tmp_path, '--trainer.max_epochs', '2')
        with pytest.raises(SystemExit) as caught:
            cli.main(command)
        assert caught.value.code == 130
        (path,) = tmp_path.rglob('last.ckpt')
        last = capsys.readouterr().err.splitlines()[-1]
        assert last == f'torchgeo-m2cd: interrupted. Go on with --ckpt_path {path}'
        with pytest.raises(SystemExit):
            cli.main([*command, '--trainer.enable_checkpointing', 'false',
                      '--trainer.callbacks', '[]'])  # fmt: skip
        last = capsys.readouterr().err.splitlines()[-1]
        assert last == 'torchgeo-m2cd: interrupted. No checkpoint was written'

    @pytest.mark.usefixtures('interrupt')
    def test_test(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments('test', tmp_path))
        assert caught.value.code == 130
        last = capsys.readouterr().err.splitlines()[-1]
        assert last == 'torchgeo-m2cd: interrupted. Run the same command again'

    @pytest.mark.parametrize(
        ('place', 'message'),
        [
            (
                'TaskCLI.instantiate_classes',
                'It had not begun: run the same command again',
            ),
            # A second one
            ('Trainer.fit', 'No checkpoint was written'),
        ],
    )
    def test_elsewhere(
        self,
        place: str,
        message: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Lightning handles Ctrl-C only within a run."""

        def stop(*args: Any, **kwargs: Any) -> None:
            raise KeyboardInterrupt

        owner, method = place.split('.')
        monkeypatch.setattr(
            {'TaskCLI': TaskCLI, 'Trainer': Trainer}[owner], method, stop
        )
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments('fit', tmp_path))
        assert caught.value.code == 130
        last = capsys.readouterr().err.splitlines()[-1]
        assert last == f'torchgeo-m2cd: interrupted. {message}'

    def test_exit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another exit stays what it is."""
        monkeypatch.setattr(Trainer, 'fit', lambda *args, **kwargs: sys.exit(3))
        with pytest.raises(SystemExit) as caught:
            cli.main(arguments('fit', tmp_path))
        assert caught.value.code == 3


class TestRun:
    def test_test(
        self, last: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        cli.main(arguments('test', tmp_path, '--ckpt_path', str(last)))
        (line,) = (x for x in capsys.readouterr().out.splitlines() if 'test_IoU' in x)
        assert 0 <= float(line.split()[-1].strip('│ ')) <= 1

    def test_damaged(self, last: Path, tmp_path: Path) -> None:
        """If the last checkpoint is damaged, training continues from the best one."""
        path = tmp_path / 'last.ckpt'
        path.write_bytes(last.read_bytes()[:1000])
        (tmp_path / 'best.ckpt').write_bytes(last.with_name('best.ckpt').read_bytes())
        args = ('--ckpt_path', str(path), '--trainer.max_epochs', '2')
        with pytest.warns(
            UserWarning, match=r"is damaged.*Going on from '.*best\.ckpt'"
        ):
            result = TaskCLI(arguments('fit', tmp_path / 'again', *args))
        callbacks = result.trainer.checkpoint_callbacks
        assert all(isinstance(callback, ModelCheckpoint) for callback in callbacks)
        (new,) = (tmp_path / 'again').rglob('last.ckpt')
        assert torch.load(new, weights_only=True)['epoch'] == 1

    def test_bug(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An error of a library during training keeps its traceback."""

        def fail(*args: Any, **kwargs: Any) -> None:
            torch.ones(2) @ torch.ones(3)

        monkeypatch.setattr(Trainer, 'fit', fail)
        with pytest.raises(RuntimeError, match='inconsistent tensor size'):
            cli.main(arguments('fit', tmp_path))

    def test_mistake(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Mistakes in arguments and in data are one line, too."""
        args = arguments('fit', tmp_path, '--data.bathc_size', '2')
        assert 'bathc_size' in fail(capsys, *args)
        args = arguments('fit', tmp_path, '--data.seed', '-1')
        assert 'seed is -1: expected at least 0' in fail(capsys, *args)

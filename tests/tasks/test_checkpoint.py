# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

from torchgeo_m2cd.tasks import ChangeDetectionTask, load_task
from torchgeo_m2cd.tasks.checkpoint import read_task, rebuild


@pytest.fixture(scope='module')
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The content of a checkpoint."""
    folder = tmp_path_factory.mktemp('saved')
    trainer = Trainer(
        accelerator='cpu', logger=False, default_root_dir=folder, barebones=True
    )
    trainer.strategy.connect(
        ChangeDetectionTask('fcn', in_channels=4, model_args={'num_filters': 2})
    )
    trainer.save_checkpoint(folder / 'a.ckpt')
    content: dict[str, Any] = torch.load(folder / 'a.ckpt', weights_only=True)
    return content


def argue(name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    """Change an argument of the task."""
    return lambda c: {**c, 'hyper_parameters': {**c['hyper_parameters'], name: value}}


class TestRebuild:
    def test_same(self, saved: dict[str, Any], tmp_path: Path) -> None:
        """Other files that the checkpoint names are not read."""
        content = argue('init_from', 'no.ckpt')(argue('weights', 'no.pth')(saved))
        content = argue('_class_path', 'os.system')(content)
        torch.save(content, tmp_path / 'a.ckpt')
        task = rebuild(str(tmp_path / 'a.ckpt'), 'weights', ChangeDetectionTask)
        assert task.hparams['model_args'] == {'num_filters': 2}
        weights = task.state_dict()
        for name, value in saved['state_dict'].items():
            assert torch.equal(weights[name], value)

    @pytest.mark.parametrize(
        ('change', 'message'),
        [
            (
                lambda c: [1],
                'has no state_dict and no hyper_parameters and no pytorch-',
            ),
            (lambda c: torch.zeros(2), 'has no state_dict and no hyper'),
            (lambda c: c['state_dict'], 'has no state_dict and no hyper_parameters'),
            (lambda c: {**c, 'hyper_parameters': [1]}, 'has no hyper_parameters: exp'),
            (
                lambda c: {k: v for k, v in c.items() if 'version' not in k},
                'has no pytorch-lightning_version: expected a checkpoint of ChangeDet',
            ),
            (
                lambda c: {**c, 'state_dict': {'a': 'b'}},
                'has other values than tensors in state_dict',
            ),
            (lambda c: {**c, 'state_dict': {}}, 'is not the checkpoint of a Change'),
            (
                argue('backbon', 'mit_b0'),
                "has an unknown argument of ChangeDetectionTask 'backbon', did you mean",
            ),
            (argue('model', 'm3cd'), "unknown model 'm3cd', did you mean 'm2cd'"),
            (
                argue('model_args', {'filters': 2}),
                "unknown key of model_args 'filters'",
            ),
            (
                argue('in_channels', 'four'),
                'is not the checkpoint of a ChangeDetection',
            ),
            (
                argue('optimization', {'class_path': 'os.system'}),
                "unknown optimization 'os.system'",
            ),
            (lambda c: {**c, 'inputs': 'x'}, 'inputs have the keys'),
            (
                lambda c: {
                    **c,
                    'inputs': {
                        'optical': {'class_path': 'os.system'},
                        'sar': {},
                        'window': 1,
                    },
                },
                "unknown input step 'os.system'",
            ),
        ],
    )
    def test_other(
        self,
        change: Callable[[dict[str, Any]], Any],
        message: str,
        saved: dict[str, Any],
        tmp_path: Path,
    ) -> None:
        """The file is named."""
        path = tmp_path / 'a.ckpt'
        torch.save(change(saved), path)
        with pytest.raises(ValueError, match=r"^weights '.*a\.ckpt' ") as caught:
            load_task(path)
        assert message in str(caught.value)


class Mine(ChangeDetectionTask):
    """A task that passes arguments on."""

    def __init__(self, variant: str = 'a', **kwargs: Any) -> None:
        super().__init__(**kwargs)


def test_subclass(saved: dict[str, Any], tmp_path: Path) -> None:
    """Its own arguments and those that it passes on are known."""
    path = str(tmp_path / 'a.ckpt')
    torch.save(argue('variant', 'b')(saved), path)
    assert rebuild(path, 'weights', Mine).hparams['backbone'] is not None
    torch.save(argue('bakbone', 'b')(saved), tmp_path / 'b.ckpt')
    with pytest.raises(ValueError, match=r"b\.ckpt' is not .* of a Mine: .*'bakbone'"):
        rebuild(str(tmp_path / 'b.ckpt'), 'weights', Mine)
    # The weights are good for other tasks, too
    small = {'num_filters': 2}
    task = ChangeDetectionTask('fcn', in_channels=4, model_args=small, init_from=path)
    for name, value in task.state_dict().items():
        torch.testing.assert_close(value, saved['state_dict'][name])


def test_read_task(saved: dict[str, Any], tmp_path: Path) -> None:
    path = str(tmp_path / 'a.ckpt')
    with pytest.raises(FileNotFoundError, match=r"^init_from '.*a\.ckpt' does not exi"):
        read_task(path, 'init_from', ChangeDetectionTask)
    torch.save(saved, path)
    found = read_task(path, 'init_from', ChangeDetectionTask)
    arguments = saved['hyper_parameters']
    assert arguments.keys() - found['hyper_parameters'].keys() == {
        *('weights', 'init_from', '_class_path')
    }

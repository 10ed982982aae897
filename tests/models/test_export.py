# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import json
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import onnxruntime
import pytest
import torch
from torch import nn

from tests.models.test_m2cd import untraced
from torchgeo_m2cd.datasets import stack_pair
from torchgeo_m2cd.models import M2CD, export_onnx
from torchgeo_m2cd.predict import predict_pair
from torchgeo_m2cd.transforms import Inputs, Relative, Standardize

INPUTS = Inputs(Standardize([0.3, 0.2, 0.1], [0.1] * 3), Relative([5.0], ['otsu', 0.5]))


export = torch.onnx.export


def fast_export(*args: Any, **kwargs: Any) -> Any:
    """Export without measuring coverage, which makes it much slower."""
    with untraced():
        return export(*args, **kwargs)


@pytest.fixture(scope='module')
def model() -> M2CD:
    torch.manual_seed(0)
    model: M2CD = M2CD(
        'mit_b0', in_channels=(3, 2), classes=2, experts={'stages': [4]}, inputs=INPUTS
    )
    # The blocks of a stage are alike, and each is slow to export: one is enough
    for stage in range(1, 5):
        blocks = model.encoder.backbone.get_submodule(f'block{stage}')
        assert isinstance(blocks, nn.Sequential)
        del blocks[1:]
    model.train()
    return model


@pytest.fixture(scope='module')
def exported(model: M2CD, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('onnx') / 'model.onnx'
    path.write_text('old')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('torch.onnx.export', fast_export)
        export_onnx(model, path, size=64)
    return path


@pytest.mark.slow
class TestExportONNX:
    def test_metadata(self, exported: Path) -> None:
        session = onnxruntime.InferenceSession(exported)
        metadata = session.get_modelmeta().custom_metadata_map
        values = json.loads(metadata['inputs'])
        assert values['sar']['init_args']['references'] == ['otsu', 0.5]
        assert Inputs.from_dict(values).to_dict() == INPUTS.to_dict()
        (image,), (logits,) = session.get_inputs(), session.get_outputs()
        assert (image.name, image.type) == ('image', 'tensor(float)')
        assert logits.name == 'logits'
        # Only the two images and the channels are fixed
        assert [d for d in image.shape if isinstance(d, int)] == [2, 3]

    @pytest.mark.parametrize(
        'shape', [(1, 64, 64), (2, 64, 64), (1, 96, 160), (3, 128, 32)]
    )
    def test_any_batch_and_size(
        self, shape: tuple[int, int, int], model: M2CD, exported: Path
    ) -> None:
        batch, height, width = shape
        image = torch.randn(batch, 2, 3, height, width)
        session = onnxruntime.InferenceSession(exported)
        (logits,) = session.run(None, {'image': image.numpy()})
        with torch.inference_mode():
            expected = model.eval()(image)
        model.train()
        assert logits.shape == (batch, 2, height, width)
        torch.testing.assert_close(
            torch.from_numpy(logits), expected, rtol=0, atol=1e-4
        )

    def test_agrees(self, model: M2CD, exported: Path) -> None:
        """A reader of the file alone gets the probabilities of ``predict_pair``."""
        optical, sar = torch.rand(3, 64, 64), 5 * torch.randn(1, 64, 64)
        expected = predict_pair(model, optical, sar)
        session = onnxruntime.InferenceSession(exported)
        metadata = session.get_modelmeta().custom_metadata_map
        inputs = Inputs.from_dict(json.loads(metadata['inputs']))
        image = inputs(stack_pair(optical, sar)[None])
        (logits,) = session.run(None, {'image': image.numpy()})
        probabilities = torch.from_numpy(logits)[0].softmax(0)
        assert probabilities.std() > 0.01
        torch.testing.assert_close(probabilities, expected, rtol=0, atol=1e-4)

    def test_nothing_else(self, model: M2CD, exported: Path) -> None:
        """The export replaces the old file and writes no other."""
        assert list(exported.parent.iterdir()) == [exported]
        # The model can still be trained
        assert model.training
        assert all(p.requires_grad for p in model.parameters())

    @pytest.mark.parametrize('training', [True, False])
    def test_bad_arguments(self, training: bool, tmp_path: Path) -> None:
        model = M2CD('mit_b0', experts=None).train(training)
        with pytest.raises(ValueError, match='has no inputs, so that nobody could use'):
            export_onnx(model, tmp_path / 'model.onnx')
        model.inputs = INPUTS
        with pytest.raises(RuntimeError, match='divisible by 32'):
            export_onnx(model, tmp_path / 'model.onnx', size=50)
        assert list(tmp_path.iterdir()) == []
        assert model.training == training

    @pytest.mark.parametrize('name', ['export', 'save'])
    def test_failure(
        self, name: str, model: M2CD, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A failed export leaves the old file, and nothing half-written."""

        def fail(*args: Any, **kwargs: Any) -> None:
            if name == 'save':
                Path(args[0]).write_text('half')
            raise OSError('No space left on device')

        program = MagicMock(save=fail)
        monkeypatch.setattr(
            'torch.onnx.export', fail if name == 'export' else lambda *_, **__: program
        )
        path = tmp_path / 'model.onnx'
        path.write_text('old')
        with pytest.raises(OSError, match='No space left'):
            export_onnx(model, str(path), size=64)
        assert list(tmp_path.iterdir()) == [path]
        assert path.read_text() == 'old'
        assert model.training
        # The next export succeeds
        program = MagicMock(save=lambda part: Path(part).write_text('new'))
        monkeypatch.setattr('torch.onnx.export', lambda *_, **__: program)
        export_onnx(model, str(path), size=64)
        assert list(tmp_path.iterdir()) == [path]
        assert path.read_text() == 'new'

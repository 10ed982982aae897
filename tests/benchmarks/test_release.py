# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from lightning.pytorch import Trainer
from safetensors.torch import load_file

from benchmarks import release
from torchgeo_m2cd.models import M2CD
from torchgeo_m2cd.predict import predict_pair
from torchgeo_m2cd.tasks import ChangeDetectionTask
from torchgeo_m2cd.transforms import Inputs, Relative, RelativeDarkness

#: Pixels by outcome of two chips and two seeds.
COUNTS = [
    {'dataset': 'all', 'split': 'val', 'model': 'm', 'seed': seed, 'chip': chip}
    | {'tp': 3, 'fp': 1, 'fn': 1 + seed, 'tn': 5}
    for seed in (0, 1)
    for chip in ('a', 'b')
]
#: A small model without experts, whose stem is a plain convolution.
SMALL = {
    'backbone': 'tu-mobilenetv3_small_050',
    'model_args': {'experts': None, 'decoder_args': {'channels': 8}},
}


def save(path: Path, inputs: Inputs | None, seed: int = 0, **kwargs: Any) -> Path:
    """Save the checkpoint of a random model, and give each norm random statistics."""
    torch.manual_seed(seed)
    task = ChangeDetectionTask(**(SMALL | kwargs))
    for name, value in task.model.state_dict().items():
        if 'running' in name:
            value.uniform_(0.5, 1.5)
    if inputs is not None:
        task.take_inputs(inputs)
    trainer = Trainer(accelerator='cpu', logger=False, enable_model_summary=False)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(path)
    return path


def run(
    folder: Path, *paths: Path, temperature: float = 1.0, offset: float = 0.0
) -> tuple[M2CD, dict[str, Any]]:
    """Release weights, and read them without the help of the package."""
    pd.DataFrame(COUNTS).to_csv(folder / 'counts.csv')
    reliability = {'class_path': 'x'}
    calibration = {'temperature': temperature, 'offset': offset}
    text = json.dumps({**calibration, 'reliability': reliability})
    (folder / 'calibration.json').write_text(text)
    arguments = [
        *('name', *paths, '--counts', folder / 'counts.csv'),
        *('--calibration', folder / 'calibration.json', '--folder', folder),
        *(
            '--table',
            folder / 'table.csv',
            '--data',
            'chips',
            '--licence',
            'MIT',
            '--url',
            'https://hf.co/x',
        ),
    ]
    release.main([*map(str, arguments)])
    description = json.loads((folder / 'name.json').read_text())
    model: M2CD = M2CD(**description['model'], inputs=description['inputs'])
    model.load_state_dict(load_file(folder / 'name.safetensors'))
    return model.eval(), description


def make_inputs(share: float = 0.5) -> Inputs:
    return Inputs(
        RelativeDarkness([share]), Relative([10.0], ['otsu', 0.85], decibels=0.2),
        bands=['nir'], sar_bands=['VV'],
    )  # fmt: skip


def logits(probability: torch.Tensor) -> torch.Tensor:
    return torch.logit(probability.double())


def test_release(tmp_path: Path) -> None:
    """The released model computes the calibrated logits of the checkpoint, from dB."""
    path = save(tmp_path / 'a.ckpt', make_inputs(), in_channels=[1, 2])
    model, description = run(tmp_path, path, temperature=1.5, offset=0.25)
    task = ChangeDetectionTask.load_from_checkpoint(path, weights_only=True)
    optical, sar = torch.rand(1, 96, 96) * 200 + 1, torch.randn(1, 96, 96) * 5
    expected = logits(predict_pair(task, optical, sar))
    # In dB, whereas the checkpoint has 5 source units per dB
    found = logits(predict_pair(model, optical, sar * 0.2))
    assert expected.std() > 0.01
    torch.testing.assert_close(
        found, expected / 1.5 + 0.25, rtol=0, atol=0.05 * float(expected.std())
    )
    # Vectors, such as the statistics of norms, are not rounded
    own = task.model.state_dict()
    for name, value in load_file(tmp_path / 'name.safetensors').items():
        assert value.dtype == (torch.float16 if value.ndim > 1 else own[name].dtype)

    content = (tmp_path / 'name.safetensors').read_bytes()
    assert description['bytes'] == len(content)
    assert description['sha256'] == hashlib.sha256(content).hexdigest()
    assert description['inputs'] == make_inputs().in_decibels().to_dict()
    assert re.fullmatch('[0-9a-f]{40}', description['commit'])
    assert description['command'].startswith('python -m benchmarks.release name')
    assert description['reliability'] == {'class_path': 'x'}
    figure = description['figures']['val']
    assert figure['IoU'] == pytest.approx((6 / 10 + 6 / 12) / 2)
    assert figure['interval'] == [0.5, 0.6]
    (row,) = pd.read_csv(tmp_path / 'table.csv').to_dict('records')
    assert row == {'split': 'val', 'm': '0.550 [0.50, 0.60]', 'seeds': 2}
    assert (description['url'], figure['seeds']) == ('https://hf.co/x', 2)


def test_average(tmp_path: Path) -> None:
    paths = [
        save(tmp_path / f'{i}.ckpt', make_inputs(), i, in_channels=[1, 2])
        for i in (0, 1)
    ]
    model, _ = run(tmp_path, *paths)
    states = [torch.load(p, weights_only=True)['state_dict'] for p in paths]
    for name, value in model.state_dict().items():
        pair = [state[f'model.{name}'].double() for state in states]
        torch.testing.assert_close(value.double(), sum(pair) / 2, rtol=1e-3, atol=1e-7)


class TestErrors:
    @pytest.mark.parametrize('model', ['m2cd', 'unet'])
    def test_model(self, tmp_path: Path, model: str) -> None:
        """Only M²CD with inputs can be released."""
        path = save(tmp_path / 'a.ckpt', None, model=model, backbone='resnet18')
        with pytest.raises(ValueError, match='is not the checkpoint of an M²CD with'):
            run(tmp_path, path)

    def test_different_inputs(self, tmp_path: Path) -> None:
        paths = [
            save(tmp_path / f'{share}.ckpt', make_inputs(share), in_channels=[1, 2])
            for share in (0.5, 0.6)
        ]
        with pytest.raises(ValueError, match='different inputs'):
            run(tmp_path, *paths)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import json
from pathlib import Path

import pytest
import rasterio

from benchmarks.scenes import cost, make_checkpoint, run_child, write_scene


@pytest.mark.parametrize('what', ['model', 'map'])
def test_job(
    what: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr('benchmarks.scenes.PATCH_SIZE', 64)
    monkeypatch.setattr('benchmarks.scenes.TILE', 128)
    write_scene(tmp_path, 96)
    job = {
        'what': what, 'scene': str(tmp_path), 'processes': 1, 'workers': 0, 'stride': 32,
        'checkpoint': str(make_checkpoint(tmp_path, 'm2cd', 'resnet18')),
        'device': 'cpu', 'precision': '32-true', 'batch_size': 4,
        'output': str(tmp_path / 'change.tif'),
    }  # fmt: skip
    run_child(job)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 < result['seconds'] < 60
    assert result['MiB'] > 0
    if what == 'map':
        with rasterio.open(tmp_path / 'change.tif') as src:
            assert src.shape == (96, 96)


def test_cost() -> None:
    rows = {row['country']: row for row in cost(1000)}
    # 28,748 km² at 1,000 km² per hour and core
    assert rows['Albania']['core hours'] == '28.7'

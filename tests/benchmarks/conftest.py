# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torchgeo.main
import yaml

from benchmarks import evaluate
from tests.data.ombria.data import make_ombria


@pytest.fixture
def matrix(tmp_path: Path) -> dict[str, Any]:
    make_ombria(tmp_path / 'data')
    return {
        'config': 'ombria',
        'arguments': {
            'data.root': str(tmp_path / 'data'),
            'data.batch_size': 2,
            'data.patch_size': None,
            'data.augmentation': None,
            'data.inputs': {
                'class_path': 'torchgeo_m2cd.transforms.Inputs',
                'init_args': {
                    'optical': {
                        'class_path': 'torchgeo_m2cd.transforms.LeftOut',
                        'init_args': {'bands': 3},
                    },
                    'sar': {
                        'class_path': 'torchgeo_m2cd.transforms.Standardize',
                        'init_args': {'mean': [150], 'std': [50]},
                    },
                },
            },
        },
        'datasets': {'OMBRIA': {'splits': ['test', 'albania']}},
        'models': {'Global': {'threshold': 'global', 'seeds': [1]}},
        'seeds': [0, 1],
    }


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train and test cells in this process: a new one imports torch for seconds.

    test_failing_cell and test_rule start processes.
    """
    mains: dict[str, Callable[[list[str]], None]] = {
        'torchgeo': torchgeo.main.main,
        'benchmarks.evaluate': evaluate.main,
    }

    def run(command: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        _, _, module, *arguments = command
        with (
            # The commands set environment variables
            patch.dict(os.environ),
            log.open('a') as file,
            contextlib.redirect_stdout(file),
            contextlib.redirect_stderr(file),
        ):
            mains[module](arguments)

    monkeypatch.setattr('benchmarks.compare._run', run)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Write a matrix to a file."""

    def _write(matrix: dict[str, Any]) -> Path:
        path = tmp_path / 'matrix.yaml'
        path.write_text(yaml.safe_dump(matrix, sort_keys=False))
        return path

    return _write

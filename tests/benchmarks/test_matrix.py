# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.matrix import fit_arguments, read_matrix

Write = Callable[[dict[str, Any]], Path]


class TestReadMatrix:
    def test_cells(self, matrix: dict[str, Any], write: Write, tmp_path: Path) -> None:
        matrix['models']['M²CD, MoE'] = {'arguments': {'data.batch_size': 4}}
        cells = read_matrix(write(matrix), tmp_path / 'out')
        assert [(cell.model, cell.seed) for cell in cells] == [
            ('M²CD, MoE', 0),
            ('Global', 1),
            ('M²CD, MoE', 1),
        ]
        assert cells[0].path == tmp_path / 'out' / 'ombria' / 'm2cd-moe' / '0'
        assert cells[0].arguments['data.batch_size'] == 4
        assert cells[1].arguments['data.batch_size'] == 2
        assert '--data.batch_size=4' in fit_arguments(cells[0])
        assert '--seed_everything=0' in fit_arguments(cells[0])
        # A row may have seeds that no other row has
        matrix['models']['Global']['seeds'] = [1, 7]
        cells = read_matrix(write(matrix), tmp_path / 'out')
        assert [(cell.model, cell.seed) for cell in cells[3:]] == [('Global', 7)]

    def test_resume(self, matrix: dict[str, Any], write: Write, tmp_path: Path) -> None:
        matrix['models'] = {'U-Net': None}
        cell, _ = read_matrix(write(matrix), tmp_path)
        last = cell.path / 'fit' / 'checkpoints' / 'last.ckpt'
        last.parent.mkdir(parents=True)
        assert not any('ckpt_path' in a for a in fit_arguments(cell))
        last.touch()
        assert f'--ckpt_path={last}' in fit_arguments(cell)

    @pytest.mark.parametrize(
        ('key', 'match'), [('model', 'models'), ('seed', 'seeds'), ('x', 'config')]
    )
    def test_unknown_key(
        self, matrix: dict[str, Any], write: Write, tmp_path: Path, key: str, match: str
    ) -> None:
        matrix[key] = {}
        with pytest.raises(ValueError, match=f"unknown key '{key}'.*{match}"):
            read_matrix(write(matrix), tmp_path)

    def test_same_name(
        self, matrix: dict[str, Any], write: Write, tmp_path: Path
    ) -> None:
        matrix['models'] = {'U-Net': None, 'u net': None}
        with pytest.raises(ValueError, match='differ in punctuation only'):
            read_matrix(write(matrix), tmp_path)

    def test_no_best(
        self, matrix: dict[str, Any], write: Write, tmp_path: Path
    ) -> None:
        """A missing checkpoint is an error before training."""
        config = tmp_path / 'mine.yaml'
        config.write_text('trainer: {callbacks: [{class_path: a.B}]}')
        matrix |= {'config': str(config), 'models': {'U-Net': None}}
        with pytest.raises(
            ValueError, match=r'mine\.yaml does not save the best check'
        ):
            read_matrix(write(matrix), tmp_path)

    def test_unknown_after(
        self, matrix: dict[str, Any], write: Write, tmp_path: Path
    ) -> None:
        matrix['models'] = {'a': {'after': 'U-Nt'}, 'U-Net': None}
        with pytest.raises(
            ValueError, match="unknown after 'U-Nt', did you mean 'U-Net'"
        ):
            read_matrix(write(matrix), tmp_path)

    def test_unknown_threshold(
        self, matrix: dict[str, Any], write: Write, tmp_path: Path
    ) -> None:
        matrix['models'] = {'Rule': {'threshold': 'rul'}}
        with pytest.raises(ValueError, match="'rul', did you mean 'rule'"):
            read_matrix(write(matrix), tmp_path)

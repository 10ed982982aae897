# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from benchmarks import compare, report
from benchmarks.matrix import best_checkpoint, read_matrix
from benchmarks.scores import check

Write = Callable[[dict[str, Any]], Path]


@pytest.mark.slow
@pytest.mark.usefixtures('in_process')
@pytest.mark.filterwarnings('ignore:The .*dataloader.* does not have many workers')
def test_trained_cell(matrix: dict[str, Any], write: Write, tmp_path: Path) -> None:
    matrix['models'] = {
        'FCN': {
            'variants': ['optical swapped', 'orientations averaged'],
            'arguments': {
                'trainer.max_epochs': 1,
                'trainer.accelerator': 'cpu',
                'model.model': 'fcn',
                'data.inputs': None,
            },
        }
    }
    # It comes first in the file, but has to wait for the cell that it starts from
    second = {'arguments': matrix['models']['FCN']['arguments'], 'after': 'FCN'}
    matrix['models'] = {'FCN, second stage': second, **matrix['models']}
    matrix['seeds'] = [3]
    path, output = write(matrix), tmp_path / 'out'
    assert compare.main([str(path), str(output)]) == 0
    counts = pd.read_csv(output / 'counts.csv')
    models = [
        *('FCN, second stage', 'FCN'),
        *('FCN, optical swapped', 'FCN, orientations averaged'),
    ]
    assert list(dict.fromkeys(counts['model'])) == models
    assert set(counts['seed']) == {3}
    cells = read_matrix(path, output)
    config = yaml.safe_load((cells[0].path / 'fit' / 'config.yaml').read_text())
    first = best_checkpoint(cells[1].path)
    assert config['model']['init_args']['init_from'] == str(first)
    # A score other than that of TorchMetrics is an error
    assert check(cells) < 1e-3
    scores = json.loads((cells[0].path / 'scores.json').read_text())
    scores['albania']['test_IoU'] += 0.1
    (cells[0].path / 'scores.json').write_text(json.dumps(scores))
    with pytest.raises(ValueError, match=r'IoU differs by 0\.1'):
        check(cells)
    scores['albania']['test_IoU'] -= 0.1
    (cells[0].path / 'scores.json').write_text(json.dumps(scores))
    report.main(
        [str(path), str(output), '--output', str(tmp_path / 'o'), '--events', 'albania']
    )
    names = {file.name for file in tmp_path.glob('o*') if file.is_file()}
    assert {'o.csv', 'o.md', 'o.tex', 'o-iou.svg', 'o-chips.png'} <= names
    table = pd.read_csv(tmp_path / 'o.csv')
    levels = pd.read_csv(tmp_path / 'o-levels.csv')
    assert list(levels)[-2:] == ['albania', 'albania gain']
    assert list(table['model']) == models
    assert list(table['mean of albania']) == list(table['albania'])


@pytest.mark.slow
def test_failing_cell(
    matrix: dict[str, Any],
    write: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    matrix['arguments']['data.root'] = str(tmp_path / 'nowhere')
    matrix['models'] = {'FCN': {'arguments': {'model.model': 'fcn'}, 'seeds': [1]}}
    assert compare.main([str(write(matrix)), str(tmp_path / 'out')]) == 1
    output = capsys.readouterr().out
    assert 'fit.log: exit code 1' in output
    assert 'nowhere' in output
    assert not (tmp_path / 'out' / 'counts.csv').exists()

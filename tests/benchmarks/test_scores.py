# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torchmetrics.classification import BinaryJaccardIndex

from benchmarks.matrix import Cell
from benchmarks.scores import best_levels, bootstrap, sort_by_share, summarize


def test_difference() -> None:
    """If models err on the same chips, the interval of their difference is narrow."""
    rows = []
    for chip, right in enumerate(np.random.default_rng(0).integers(1, 60, 40)):
        for model, more in (('base', 0), ('better', 20), ('better still', 40)):
            for split in ('a', 'b'):
                outcome = {
                    'tp': right + more,
                    'fp': 100 - right - more,
                    'fn': 0,
                    'tn': 5,
                }
                where = {'dataset': 'D', 'split': split, 'model': model, 'seed': 0}
                rows.append({**where, 'chip': chip, **outcome})
    scores = summarize(pd.DataFrame(rows), ['a', 'b'], 'base')
    minus = scores[scores['split'] == 'minus base'].set_index('model')
    for name, expected in (('base', 0), ('better', 0.2), ('better still', 0.4)):
        for column in ('IoU', 'low', 'high'):
            assert minus.loc[name, column] == pytest.approx(expected)
    mean = scores[scores['split'] == 'mean of a, b']
    assert (mean['high'] - mean['low'] > 0.05).all()
    with pytest.raises(
        ValueError, match="unknown reference 'bas', did you mean 'base'"
    ):
        summarize(pd.DataFrame(rows), ['a', 'b'], 'bas')


def test_sort_by_share() -> None:
    """Group chips of 100 pixels by the number of flooded pixels."""
    flooded = [5, 40, 10, 0, 29, 30, 100]
    rows = [
        {
            'dataset': 'D', 'split': 'a', 'model': 'm', 'seed': 0, 'chip': chip,
            'tp': flood - flood // 2, 'fn': flood // 2, 'fp': 0, 'tn': 100 - flood,
        }
        for chip, flood in enumerate(flooded)
    ]  # fmt: skip
    table = sort_by_share(pd.DataFrame(rows), [0.1, 0.3])
    found = {split: list(part['chip']) for split, part in table.groupby('split')}
    assert found == {
        'flooded 0 to 0.1': [0, 3],
        'flooded 0.1 to 0.3': [2, 4],
        'flooded 0.3 to 1': [1, 5, 6],
    }


def test_best_levels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cells = []
    for seed in (0, 1):
        mask = rng.choice([0, 1, 255], size=(3, 20, 20)).astype(np.uint8)
        # Probabilities of floods are too low
        probability = (mask == 1) * 50 + rng.integers(90, size=mask.shape)
        folder = tmp_path / str(seed)
        (folder / 'predictions').mkdir(parents=True)
        np.savez(
            folder / 'predictions' / 'a.npz',
            probability=probability.astype(np.uint8),
            mask=mask,
        )
        cells.append(Cell(str(folder), 'D', 'model', seed, 'ombria', {}, ['a']))
    files = [np.load(cell.path / 'predictions' / 'a.npz') for cell in cells]
    p, m = (
        torch.from_numpy(np.stack([file[key] for file in files]))
        for key in ('probability', 'mask')
    )
    scores = [
        BinaryJaccardIndex(ignore_index=255)((p >= level).int(), m.int()).item()
        for level in range(256)
    ]
    best = int(np.argmax(scores))
    table = best_levels(cells)
    assert table.to_dict('records') == [
        {
            'model': 'model',
            'a': f'{scores[best]:.3f} at {best / 255:.2f}',
            'a gain': f'{scores[best] - scores[128]:.3f}',
        }
    ]
    assert 40 < best < 128


def test_bootstrap() -> None:
    # Chips of one size with IoU 1 or 0: the mean of a draw is binomial
    counts = np.zeros((1, 100, 4))
    counts[0, :50, 0] = counts[0, 50:, 1] = 10
    draws = bootstrap(counts)
    assert draws.mean() == pytest.approx(0.5, abs=0.01)
    assert draws.std() == pytest.approx(0.05, rel=0.1)
    # One seed is always right, one always wrong: half of the draws have both
    counts = np.zeros((2, 3, 4))
    counts[0, :, 0] = counts[1, :, 1] = 10
    draws = bootstrap(counts)
    assert {round(float(v), 3) for v in draws} == {0.0, 0.5, 1.0}
    assert (draws == 0.5).mean() == pytest.approx(0.5, abs=0.05)

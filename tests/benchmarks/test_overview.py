# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import shutil
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import overview

RESULTS = Path(__file__).parents[2] / 'docs' / 'results'


def test_main(tmp_path: Path) -> None:
    """The tables of the page are those that the script makes of the others."""
    for name in ('compare.csv', 'release.csv'):
        shutil.copy(RESULTS / name, tmp_path)
    overview.main(['--folder', str(tmp_path)])
    for name in ('overview.csv', 'overview-intervals.csv'):
        assert (tmp_path / name).read_text() == (RESULTS / name).read_text()
    assert (tmp_path / 'overview.svg').stat().st_size > 10_000
    # By hand: '0.563 [0.50, 0.62]'
    table = pd.read_csv(tmp_path / 'overview.csv', index_col='model')
    assert table.loc['M²CD without experts', 'Test'] == 0.563
    intervals = pd.read_csv(tmp_path / 'overview-intervals.csv', index_col='model')
    interval = intervals.loc['M²CD without experts', 'Test']
    assert interval == '0.50 to 0.62'


def test_missing_model(tmp_path: Path) -> None:
    shutil.copy(RESULTS / 'release.csv', tmp_path)
    table = pd.read_csv(RESULTS / 'compare.csv')
    table[table['model'] != 'SegFormer MiT-b0'].to_csv(tmp_path / 'compare.csv')
    with pytest.raises(KeyError, match='SegFormer MiT-b0'):
        overview.read_scores(tmp_path)

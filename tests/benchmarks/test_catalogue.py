# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import pandas as pd
import pytest

from benchmarks import catalogue
from torchgeo_m2cd.models import M2CD

RESULTS = Path(__file__).parents[2] / 'docs' / 'results'


def read(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / f'{name}.csv', index_col=0, dtype=str).fillna('')


def test_main(tmp_path: Path) -> None:
    """The tables of the pages are those that the script makes."""
    catalogue.main(['datasets', 'weights', '--folder', str(tmp_path)])
    for name in ('datasets', 'weights'):
        made = (tmp_path / f'{name}.csv').read_text()
        assert made == (RESULTS / f'{name}.csv').read_text()
    # By hand: 624 + 70 chips, and 22, 88, 30 and 10 of the events
    datasets = read(tmp_path, 'datasets')
    ombria = datasets.loc[':class:`~torchgeo_m2cd.datasets.OMBRIA`']
    assert ombria['Chips'] == '844'
    assert ombria['SAR, after'] == 'Sentinel-1: VV'
    bright = datasets.loc[':class:`~torchgeo.datasets.BRIGHTDFC2025`']
    assert bright['Optical, before'].endswith('R, G, B')
    # As the model card says
    weights = read(tmp_path, 'weights').loc['``M2CD_Weights.OMBRIA_V1``']
    assert weights['MB'] == '7.6'
    assert weights['albania'] == '0.555'


@pytest.mark.slow
def test_families(tmp_path: Path) -> None:
    """The page lists the encoders that are taken and those that are refused."""
    catalogue.main(['families', '--folder', str(tmp_path)])
    text = (tmp_path / 'families.csv').read_text()
    assert text == (RESULTS / 'families.csv').read_text()
    families = pd.read_csv(tmp_path / 'families.csv')
    assert [*families['M²CD']] == ['takes', 'refuses'] * 2
    encoders = [cell.strip('`').split('``, ``') for cell in families['Encoders']]
    for taken, refused in (encoders[:2], encoders[2:]):
        assert not {*taken} & {*refused}
        M2CD(taken[0])
        with pytest.raises(ValueError, match=r'no known stages|nsupported'):
            M2CD(refused[0])


def test_some_encoders(tmp_path: Path) -> None:
    """Others than those that are named keep their rows."""
    path = tmp_path / 'encoders.csv'
    lines = (RESULTS / 'encoders.csv').read_text().splitlines()
    old = [line if 'mit_b0,' not in line else 'mit_b0,x,0,0,0,0,0' for line in lines]
    path.write_text('\n'.join(old) + '\n')
    catalogue.main(['encoders', '--encoders', 'mit_b0', '--folder', str(tmp_path)])
    assert path.read_text().splitlines() == lines
    with pytest.raises(SystemExit):
        catalogue.main(['encoders', '--encoders', 'mit_b9', '--folder', str(tmp_path)])


@pytest.mark.parametrize('encoder', ['mit_b0', 'tu-mobilenetv3_small_100'])
def test_encoders(encoder: str) -> None:
    """The counts of the page are those of the models."""
    encoders = read(RESULTS, 'encoders')
    assert [*encoders.index] == [*catalogue.ENCODERS]
    measured = catalogue.measure_encoder(encoder)
    assert list(measured)[1:] == [*encoders.columns]
    row = [*map(str, encoders.loc[encoder])]
    assert list(measured.values())[1:] == row

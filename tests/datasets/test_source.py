# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchgeo.datasets import Sentinel2

from torchgeo_m2cd.datasets import MaskSource, SARSource, Source
from torchgeo_m2cd.datasets.paths import Paths
from torchgeo_m2cd.datasets.radiometry import Radiometry


class TestSource:
    @pytest.mark.parametrize('paths', ['a.tif', Path('a.tif'), ['a.tif', 'b.tif']])
    def test_of_paths(self, paths: Paths) -> None:
        assert Source.of(paths) == Source(paths)
        assert SARSource.of(paths) == SARSource(paths, scale=None)
        assert MaskSource.of(paths) == MaskSource(paths, classes=None)

    def test_of(self) -> None:
        source = SARSource('a.tif', scale='power')
        assert SARSource.of(source) is source
        assert Source.of(None) == Source()
        with pytest.raises(TypeError, match='got a Source: expected a SARSource'):
            SARSource.of(Source('a.tif'))

    def test_no_values(self) -> None:
        with pytest.raises(ValueError, match='gain is 0: expected a factor'):
            Source('a.tif', gain=0)

    def test_find_paths(self, tmp_path: Path) -> None:
        for name in ('b.tif', 'a.tif', 'c.txt'):
            (tmp_path / name).touch()
        names = ['b.tif', '*.tif', 'a.tif']
        found = Source([tmp_path / name for name in names]).find_paths('optical')
        assert [Path(path).name for path in found] == [
            'b.tif',
            'a.tif',
            'b.tif',
            'a.tif',
        ]
        remote = ['https://host/a.tif', '/vsis3/bucket/b.tif']
        assert Source(remote).find_paths('optical') == remote
        with pytest.raises(ValueError, match=r'SAR has no paths: .* as sar\.paths'):
            SARSource(bands=[1]).find_paths('SAR')

    def test_describe(self) -> None:
        """The description holds all settings that change values, and no paths."""
        assert Source('a.tif', ['B02'], Sentinel2, 0).describe() == {
            'bands': ['B02'], 'naming': 'Sentinel2', 'nodata': 0,
            'gain': None, 'offset': None, 'date': None, 'trim': 0,
        }  # fmt: skip
        description = SARSource('a.tif', scale='other', decibels=0.2).describe()
        assert description['scale'] == 'other'
        assert description['decibels'] == 0.2


class TestSARSource:
    def test_unit(self) -> None:
        assert SARSource(scale='power', decibels=0.5).unit == 1
        assert SARSource(scale='other', decibels=0.5).unit == 0.5
        assert SARSource(scale='other').unit is None

    def test_convert(self) -> None:
        values = np.array([[1.0, 0.1, 0.0, -0.1, math.nan]], np.float32)
        nan = math.nan
        expected = [[0.0, -10.0, -40.0, -40.0, nan]]
        power = SARSource(scale='power').convert(values, 'x')
        np.testing.assert_allclose(power, expected, atol=1e-6)
        amplitude = SARSource(scale='amplitude').convert(values, 'x')
        np.testing.assert_allclose(
            amplitude, [[0.0, -20.0, -40.0, -40.0, nan]], atol=1e-6
        )
        for scale in (SARSource(scale='db'), SARSource(scale='other'), Source()):
            assert scale.convert(values, 'x') is values
        with pytest.raises(ValueError, match="SAR file 'x' has the value -"):
            SARSource(scale='power').convert(-12 * values[:, :2], "SAR file 'x'")


@pytest.mark.parametrize(
    ('scale', 'dtypes', 'factors', 'expected'),
    [
        (None, ['uint8', 'uint16'], [Radiometry()], 'other'),
        (None, ['uint8'], [Radiometry(0.1, -30)], 'db'),
        (None, ['uint16', 'float32'], [Radiometry()], 'db'),
        (None, ['int16'], [Radiometry()], 'db'),
        ('power', ['uint16'], [Radiometry()], 'power'),
    ],
)
def test_settle(
    scale: Any, dtypes: list[str], factors: list[Radiometry], expected: str
) -> None:
    """Values that are never negative are not dB."""
    assert SARSource(scale=scale).settle(dtypes, factors).scale == expected
    assert Source().settle(dtypes, factors) == Source()

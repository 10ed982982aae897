# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from tests.data.geotiff import write
from tests.maps.helpers import make_plan, map_values
from torchgeo_m2cd.datasets import SARSource, SceneDataset
from torchgeo_m2cd.maps import Outputs, Run, check_map
from torchgeo_m2cd.maps.check import Check, _tiles
from torchgeo_m2cd.models import Look, Reliability, rule_inputs
from torchgeo_m2cd.transforms import Inputs, LeftOut, Standardize

SHAPE = (600, 300)
#: Flooded are the first 100 columns of pixels; the last 50 were water before.
FLOOD, WATER = np.s_[:, :100], np.s_[:, 250:]


@pytest.fixture(scope='module')
def scene(tmp_path_factory: pytest.TempPathFactory) -> SceneDataset:
    folder = tmp_path_factory.mktemp('scene')
    rng = np.random.default_rng(0)
    optical = np.full(SHAPE, 2000, np.float32)
    sar = rng.normal(-9, 1.5, SHAPE).astype(np.float32)
    optical[WATER] = 100
    sar[FLOOD] -= 11
    sar[WATER] -= 11
    # The corner has no data
    sar[:50, :50] = np.nan
    return SceneDataset(
        write(folder / 'optical.tif', optical[None]),
        write(folder / 'sar.tif', sar[None]),
    )


def make_classes(path: Path, *flooded: Any) -> Path:
    classes = np.zeros((1, *SHAPE), np.uint8)
    for part in flooded:
        classes[0][part] = 1
    classes[0][WATER] = 2
    classes[0, :50, :50] = 255
    write(path, classes)
    with rasterio.open(path, 'r+') as dst:
        dst.nodata = 255
    return path


class TestCheckMap:
    def test_agrees(self, scene: SceneDataset, tmp_path: Path) -> None:
        classes = make_classes(tmp_path / 'classes.tif', FLOOD)
        check = check_map(scene, classes, rule_inputs(), True, Reliability())
        found = check.to_dict()
        assert found is not None
        assert check.compared == 600 * 300 - 50 * 50
        share = (600 * 100 - 50 * 50) / check.compared
        assert found['flooded_share'] == pytest.approx(share, abs=1e-4)
        assert found['flooded_share_by_rule'] == pytest.approx(share, rel=0.05)
        assert found['iou'] > 0.95
        assert check.warn(None) == check.warn(Reliability()) == []
        assert len(check.looks) == 2

    def test_disagrees(self, scene: SceneDataset, tmp_path: Path) -> None:
        """Water before the flood does not count in the comparison."""
        classes = make_classes(tmp_path / 'classes.tif', np.s_[:, 120:150], WATER)
        check = check_map(scene, classes, rule_inputs(), True)
        (warning,) = check.warn(None)
        assert warning == (
            'the map floods 10 % of the area, a simple rule (dark in SAR, not water '
            'before) 32 %, and they share only 0 % of what either floods: look at both '
            'images before you use the map'
        )
        assert check.looks == []

    def test_only_look(self, scene: SceneDataset, tmp_path: Path) -> None:
        classes = make_classes(tmp_path / 'classes.tif', FLOOD)
        reliability = Reliability(land=(-30, -20), water=(0, 1), speckle=(1, 2))
        check = check_map(scene, classes, rule_inputs(), False, reliability)
        assert check.to_dict() is None
        (warning,) = check.warn(reliability)
        assert 'land is at -9' in warning or 'land is at -10' in warning

    @pytest.mark.parametrize('scale', ['db', 'other'])
    def test_unknown_bands(
        self, scale: Any, scene: SceneDataset, tmp_path: Path
    ) -> None:
        """The rule needs near infrared and dB."""
        sar = SARSource(scene.sar.source.paths, scale=scale)
        other = SceneDataset(scene.optical.source, sar)
        step = Standardize([0], [1])
        like = Inputs(LeftOut() if scale == 'db' else step, step, bands=None)
        classes = make_classes(tmp_path / 'classes.tif', FLOOD)
        assert check_map(other, classes, like, True, Reliability()) == Check()

    def test_uncalibrated(self, scene: SceneDataset, tmp_path: Path) -> None:
        """The level of land is known in dB only."""
        sar = SARSource(scene.sar.source.paths, scale='other', decibels=1)
        other = SceneDataset(scene.optical.source, sar)
        classes = make_classes(tmp_path / 'classes.tif', FLOOD)
        reliability = Reliability(land=(-30, -20))
        check = check_map(other, classes, rule_inputs(), True, reliability)
        assert check.iou > 0.95
        assert check.warn(reliability) == []


class TestCheck:
    def test_small(self) -> None:
        """Maps of nearly no flood are not compared."""
        assert Check(1000, 5, 9, 0).warn(None) == []
        assert len(Check(1000, 5, 10, 0).warn(None)) == 1
        assert Check(1000, 100, 120, 40).warn(None) == []
        assert Check(1000, 0, 0, 0).iou == 1

    def test_unlike(self) -> None:
        reliability = Reliability(water=(0, 0.5))
        check = Check(looks=[Look(-9, 0.9, 2), Look(-9, 0.7, 2)])
        (warning,) = check.warn(reliability)
        assert '80 % was water before' in warning
        assert Check().warn(reliability) == []


class TestTiles:
    @pytest.mark.parametrize('shape', [(600, 300), (4096, 4096), (512, 1025), (3, 5)])
    def test_all(self, shape: tuple[int, int]) -> None:
        """The patches cover each pixel once."""
        count = np.zeros(shape, int)
        for window, new in _tiles(*shape):
            rows, columns = window.toslices()
            count[rows, columns][new] += 1
        assert (count == 1).all()

    @pytest.mark.parametrize(
        'shape', [(10_980, 10_980), (512, 100_000), (100_000, 500), (4097, 4097)]
    )
    def test_some(self, shape: tuple[int, int]) -> None:
        """The patches reach from one end of a large scene to the other."""
        windows = [window for window, _ in _tiles(*shape)]
        assert 40 <= len(windows) <= 64
        assert len({(w.row_off, w.col_off) for w in windows}) == len(windows)
        assert min(w.row_off for w in windows) == min(w.col_off for w in windows) == 0
        assert max(w.row_off + w.height for w in windows) == shape[0]
        assert max(w.col_off + w.width for w in windows) == shape[1]


def test_make_map(scene: SceneDataset, tmp_path: Path) -> None:
    """The summary has the comparison, the interval, and the warnings."""
    values = np.full((1, *SHAPE), 0.1, np.float32)
    values[0][FLOOD] = 0.9
    run = Run(warnings=['odd'], reliability=Reliability((0.5, 2), (-30, -20)))
    inputs = rule_inputs().to_dict()
    plan = make_plan(scene, inputs=inputs)
    summary = map_values(scene, values, Outputs(tmp_path / 'a.tif'), plan, run)
    assert summary['rule']['iou'] > 0.9
    flooded = summary['flooded_km2']
    assert flooded == pytest.approx(6, rel=0.01)
    assert summary['flooded_km2_90'] == pytest.approx(
        [flooded / 2, 2 * flooded], rel=1e-3
    )
    first, second = summary['warnings']
    assert first == 'odd'
    assert 'land is at' in second

    # Another threshold has another interval. The rule is not compared with itself
    plan = make_plan(scene, inputs=inputs, arguments={'model': 'threshold'})
    outputs = Outputs(tmp_path / 'b.tif', threshold=0.4)
    summary = map_values(scene, values, outputs, plan, run)
    assert summary['flooded_km2_90'] is summary['rule'] is None

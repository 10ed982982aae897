# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from tests.maps.helpers import make_plan, make_scene, map_values
from torchgeo_m2cd.maps import Outputs, Run, format_summary, format_total
from torchgeo_m2cd.maps.summary import to_json
from torchgeo_m2cd.models import Reliability

SUMMARY: dict[str, Any] = {
    'files': {'output': 'maps/change.tif', 'summary': 'maps/change.json'},
    'mapped_km2': 12045.5,
    'optical_share': 0.9951,
    'valid_share': 0.987654,
    'flooded_km2': 345.678,
    'flooded_km2_90': None,
    'flooded_km2_90_missing': 'it was not measured',
    'flooded_km2_with_water_before': 400.1,
    'rule': None,
    'water_before_km2': 80.0,
    'polygons': {'flood': 300, 'water before': 21},
    'districts': [
        {'name': 'Here', 'flooded_km2': 1.0, 'mapped_share': 1.0},
        {'name': 'There', 'flooded_km2': 2.0, 'mapped_share': 0.25},
    ],
    'threshold': 0.5,
    'min_area_m2': 1000.0,
    'grid': {
        'crs': 'EPSG:32633', 'resolution': [10.0, 10.0], 'unit': 'metre',
        'shape': [100, 200],
    },
    'optical': {
        'files': ['a/B02.tif', 'a/B03.tif'], 'dates': ['2024-09-19'], 'bands': ['B02', 'B03'],
        'assumed': ['a sample is value - 1000', '0 in all bands is taken for no data'],
    },
    'sar': {
        'files': ['b.tif'], 'dates': [], 'scale': 'db', 'bands': [1], 'assumed': [],
    },
    'model': {'name': 'm2cd', 'weights_sha256': '0123456789', 'checkpoint': None},
    'seconds': 59.7,
    'warnings': ['odd units'],
}  # fmt: skip


class TestFormatSummary:
    def test_lines(self) -> None:
        assert format_summary(SUMMARY).splitlines() == [
            'maps/change.tif',
            '  flooded    346 km², 2.87 % of what was mapped',
            '             no interval: it was not measured',
            '  water      80 km² before the event, not counted',
            '  mapped     12,046 km², 98.8 % of the scene has data',
            '  polygons   300 flood, 21 water before, from 1000 m²',
            '  districts  2, most in There: 2 km², 25 % of it is mapped',
            '  grid       EPSG:32633, 10 x 10 m, 200 x 100 pixels',
            '  optical    B02.tif and 1 more, 2024-09-19, B02 B03',
            '             assumed: a sample is value - 1000',
            '             assumed: 0 in all bands is taken for no data',
            '  SAR        b.tif, db',
            '  model      m2cd, weights 01234567, threshold 0.5',
            '  files      change.tif change.json',
            '  time       60 s since the start',
            '  WARNING    odd units',
        ]

    def test_part_of_the_image(self) -> None:
        districts = [{'name': 'Here', 'flooded_km2': 1.0, 'mapped_share': 0.996}]
        part = {'optical_share': 0.4321, 'districts': districts}
        lines = format_summary({**SUMMARY, **part}).splitlines()
        assert '  districts  1, most in Here: 1 km²' in lines
        assert lines[4:6] == [
            '  mapped     12,046 km², 98.8 % of the scene has data',
            '             the scene is where both images are: 43.2 % of the optical one',
        ]

    def test_total(self) -> None:
        text = format_total([SUMMARY, {**SUMMARY, 'mapped_km2': 954.5}])
        assert text == (
            '2 maps: 13,000 km² mapped, 691 km² flooded (what is in two scenes counts '
            'twice)'
        )
        text = format_total([SUMMARY, {**SUMMARY, 'water_before_km2': None}])
        assert '691 km² changed' in text
        text = format_total([SUMMARY, {**SUMMARY, 'flooded_km2': None}])
        assert text == '2 maps: 24,091 km² mapped'

    def test_control_characters(self) -> None:
        """A name cannot control the terminal."""
        text = format_summary({**SUMMARY, 'warnings': ['\x1b[31mred\x07']})
        assert text.endswith(r'WARNING    \x1b[31mred\x07')

    def test_check(self) -> None:
        rule = {
            'flooded_share': 0.0287, 'flooded_share_by_rule': 0.031, 'iou': 0.7149,
            'flooded_km2': 373.4,
        }  # fmt: skip
        checked = {**SUMMARY, 'flooded_km2_90': [241.9, 518.6], 'rule': rule}
        assert format_summary(checked).splitlines()[1:5] == [
            '  flooded    346 km², 2.87 % of what was mapped',
            '             in nine of ten cases 242 km² to 519 km²',
            '  water      80 km² before the event, not counted',
            '  rule       373 km² (no interval is known), 3.1 % where the map floods 2.87 %, IoU of both 0.71',
        ]

    def test_unknown(self) -> None:
        """A map without water before and without classes."""
        nothing = {'water_before_km2': None, 'polygons': None, 'districts': None}
        lines = format_summary({**SUMMARY, **nothing}).splitlines()
        assert lines[1:4] == [
            '  changed    346 km², 2.87 % of what was mapped, water before included',
            '             no interval: it was not measured',
            '  mapped     12,046 km², 98.8 % of the scene has data',
        ]
        assert lines[4].startswith('  grid')
        lines = format_summary({**SUMMARY, **nothing, 'flooded_km2': None}).splitlines()
        assert lines[1].startswith('  mapped')


class TestSummarize:
    def test_contents(self, tmp_path: Path) -> None:
        names = ('S2_20240919.tif', 'S1_20241030T053012.tif')
        scene = make_scene(tmp_path / 'in', names=names)
        values = np.full((1, 64, 64), 0.9, np.float32)
        outputs = Outputs(tmp_path / 'a.tif', polygons=tmp_path / 'p.gpkg')
        run = Run('best.ckpt', ['odd units'])
        summary = map_values(scene, values, outputs, run=run)
        assert summary['files'] == {
            'output': str(tmp_path / 'a.tif'), 'polygons': str(tmp_path / 'p.gpkg'),
            'summary': str(tmp_path / 'a.json'), 'style': str(tmp_path / 'a.qml'),
        }  # fmt: skip
        assert summary['optical']['files'] == [str(tmp_path / 'in' / names[0])]
        assert summary['sar']['dates'] == ['2024-10-30']
        assert summary['grid']['resolution'] == [10, 10]
        assert summary['grid']['shape'] == [64, 64]
        assert summary['model'] == {
            'name': 'Nothing', 'weights_sha256': '0123456789abcdef',
            'checkpoint': 'best.ckpt',
        }  # fmt: skip
        assert summary['polygons'] == {'changed': 1}
        assert summary['classes'] == {'0': 'unchanged', '1': 'changed'}
        assert summary['warnings'] == ['odd units']
        assert 0 <= summary['seconds'] < 60
        with rasterio.open(tmp_path / 'a.tif') as src:
            assert 'seconds' not in str(src.tags()).lower()

    @pytest.mark.parametrize(
        ('model', 'area', 'threshold', 'missing'),
        [
            ('m2cd', [0.5, 2], 0.3, None),
            ('m2cd', [0.5, 2], 0.5, 'it is known for the threshold 0.3 only'),
            ('m2cd', None, 0.3, 'areas was not measured for this model'),
            ('threshold', None, 0.5, 'for the rule, IoU was measured'),
        ],
    )
    def test_interval(
        self, model: str, area: Any, threshold: float, missing: str | None,
        tmp_path: Path,
    ) -> None:  # fmt: skip
        """Where there is none, the summary says why."""
        scene = make_scene(tmp_path / 'in')
        summary = map_values(
            scene,
            np.full((1, 64, 64), 0.9, np.float32),
            Outputs(tmp_path / 'a.tif', threshold=threshold),
            make_plan(scene, arguments={'model': model}),
            Run(reliability=Reliability(area, threshold=0.3)),
        )
        text = format_summary(summary)
        if missing is None:
            ends = pytest.approx([0.2048, 0.8192], rel=1e-3)
            assert summary['flooded_km2_90'] == ends
            assert summary['flooded_km2_90_missing'] is None
            assert 'no interval: ' not in text
        else:
            assert summary['flooded_km2_90'] is None
            assert missing in summary['flooded_km2_90_missing']
            assert f'no interval: {summary["flooded_km2_90_missing"]}' in text

    def test_multilabel(self, tmp_path: Path) -> None:
        scene = make_scene(tmp_path / 'in')
        plan = make_plan(scene, arguments={'task': 'multilabel'})
        values = np.full((2, 64, 64), 0.9, np.float32)
        summary = map_values(scene, values, Outputs(tmp_path / 'a.tif'), plan)
        with rasterio.open(tmp_path / 'a.tif') as src:
            assert src.descriptions[0] == 'probability of label 0'
        assert summary['flooded_km2'] is summary['class_km2'] is None
        assert summary['mapped_km2'] == pytest.approx(0.4096, rel=1e-3)


def test_to_json() -> None:
    """Values that JSON does not support become text."""
    values = {
        'a': float('nan'), 'b': (1, 2.5, None, True), 'c': Path('x'), 'd': [float('inf')],
        1: 'Å',
    }  # fmt: skip
    assert json.loads(to_json(values)) == {
        'a': 'nan', 'b': [1, 2.5, None, True], 'c': 'x', 'd': ['inf'], '1': 'Å',
    }  # fmt: skip

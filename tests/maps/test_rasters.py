# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import math
from pathlib import Path

import numpy as np
import pytest
import rasterio

from tests.data.geotiff import write
from tests.maps.helpers import make_plan, make_scene, map_values
from torchgeo_m2cd.maps import Outputs, write_cog
from torchgeo_m2cd.maps.styles import color_classes


class TestWriteCOG:
    @pytest.mark.parametrize('average', [True, False])
    def test_overviews(self, average: bool, tmp_path: Path) -> None:
        values = np.random.default_rng(0).random((600, 200), np.float32)
        values[100:120] = math.nan
        classes = np.where(np.isnan(values), 255, values >= 0.5).astype(np.uint8)
        source = (
            write(tmp_path / 'a.tif', values, nodata=math.nan)
            if average
            else write(tmp_path / 'a.tif', classes, nodata=255)
        )
        output = tmp_path / 'cog.tif'
        write_cog(source, output)
        with rasterio.open(source) as src, rasterio.open(output) as cog:
            assert cog.tags(ns='IMAGE_STRUCTURE')['LAYOUT'] == 'COG'
            np.testing.assert_array_equal(cog.read(), src.read())
            assert cog.overviews(1)
            small = cog.read(1, out_shape=(300, 100))
            if average:
                assert small[0, 0] == pytest.approx(values[:2, :2].mean())
            else:
                assert set(np.unique(small)) <= {0, 1, 255}


class TestRasters:
    def test_water(self, tmp_path: Path) -> None:
        """Water before is a class of its own, whatever was predicted there."""
        scene = make_scene(
            tmp_path / 'in', names=('S2_20240919.tif', 'S1_20241030.tif')
        )
        values = np.zeros((2, 64, 64), np.float32)
        values[0] = np.linspace(0, 1, 64)
        values[1, :16] = 1  # Water before
        values[1, 16:18] = 0.4  # Fewer than half of the patches say so
        values[:, 60:] = math.nan
        outputs = Outputs(tmp_path / 'a.tif', tmp_path / 'c.tif', threshold=0.7)
        summary = map_values(scene, values, outputs, make_plan(scene, water=True))
        changed = values[0, 0] >= 0.7
        with rasterio.open(tmp_path / 'c.tif') as src:
            classes = src.read(1)
            assert (classes[:16] == 2).all()
            assert (classes[16:60] == changed).all()
            assert (classes[60:] == 255).all()
            table = src.colormap(1)
            labels = {0: 'dry', 1: 'flood', 2: 'water before'}
            for value, color in color_classes(labels).items():
                assert '#{:02x}{:02x}{:02x}'.format(*table[value]) == color
            assert src.descriptions == ('class: 0 dry, 1 flood, 2 water before',)
            assert src.tags(ns='IMAGE_STRUCTURE')['LAYOUT'] == 'COG'
            assert float(src.tags(1)['STATISTICS_MEAN']) == pytest.approx(
                classes[:60].mean(), rel=1e-8
            )
        with rasterio.open(tmp_path / 'a.tif') as src:
            np.testing.assert_array_equal(src.read(1), values[0])
            before = np.where(np.isfinite(values[0]), values[1] >= 0.5, math.nan)
            np.testing.assert_array_equal(src.read(2), before)
            assert src.descriptions == ('probability of change', 'water before')
            assert src.units == ('1', '1')
            tags = src.tags(1)
            known = values[0, :60].astype(np.float64)
            for name, number in (
                ('MINIMUM', 0.0), ('MAXIMUM', 1.0), ('MEAN', known.mean()),
                ('STDDEV', known.std()), ('VALID_PERCENT', 93.75),
            ):  # fmt: skip
                assert float(tags[f'STATISTICS_{name}']) == pytest.approx(
                    number, rel=1e-8
                )
            tags = src.tags()
            assert tags['THRESHOLD'] == '0.7'
            assert tags['MIN_AREA_M2'] == '0.0'
            assert tags['OPTICAL_DATES'] == '2024-09-19'
            assert tags['SAR_DATES'] == '2024-10-30'
        pixel = 1e-4 / 0.9996**2
        count = changed.sum()
        for key, pixels in (
            ('flooded_km2', 44 * count),
            ('flooded_km2_with_water_before', 60 * count),
            ('water_before_km2', 16 * 64),
            ('mapped_km2', 60 * 64),
        ):
            assert summary[key] == pytest.approx(pixels * pixel, rel=1e-5)
        assert summary['valid_share'] == 0.9375

    def test_local_crs(self, tmp_path: Path) -> None:
        """A CRS without a place on the Earth has areas, too."""
        scene = make_scene(tmp_path / 'in', crs='LOCAL_CS["here",UNIT["metre",1]]')
        values = np.full((1, 64, 64), 0.9, np.float32)
        summary = map_values(scene, values, Outputs(tmp_path / 'a.tif', min_area=1))
        assert summary['flooded_km2'] == 0.4096

    @pytest.mark.parametrize('water', [False, True])
    def test_classes(self, water: bool, tmp_path: Path) -> None:
        """Where there are several classes, class 2 is another one."""
        scene = make_scene(tmp_path / 'in')
        values = np.zeros((3, 64, 64), np.float32)
        values[0] = 0.5
        values[1, :10] = values[2, 10:30] = 0.9
        if water:
            values = np.concatenate([values, np.ones((1, 64, 64), np.float32)])
        outputs = Outputs(tmp_path / 'a.tif', tmp_path / 'c.tif', threshold=0.95)
        summary = map_values(scene, values, outputs, make_plan(scene, water))
        with rasterio.open(tmp_path / 'c.tif') as src:
            np.testing.assert_array_equal(src.read(1), values[:3].argmax(0))
        with rasterio.open(tmp_path / 'a.tif') as src:
            assert src.count == 3
            assert src.descriptions[2] == 'probability of class 2'
        assert summary['water_before_km2'] is None
        pixel = 1e-4 / 0.9996**2
        assert summary['flooded_km2'] == pytest.approx(30 * 64 * pixel, rel=1e-5)
        assert summary['flooded_km2_with_water_before'] == summary['flooded_km2']
        assert summary['class_km2']['class 2'] == pytest.approx(
            20 * 64 * pixel, rel=1e-5
        )

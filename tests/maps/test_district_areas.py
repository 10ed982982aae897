# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from rasterio.transform import Affine, from_origin
from shapely.geometry import Point, box

from tests.maps.helpers import FIJI, make_plan, make_scene, map_values
from torchgeo_m2cd.maps import Districts, Outputs, Parts, check_districts
from torchgeo_m2cd.samplers import SceneSampler


def write_districts(
    path: Path, boxes: dict[Any, Any], crs: Any = 'EPSG:32633', **kwargs: Any
) -> Districts:
    table = gpd.GeoDataFrame(
        {'NAME': list(boxes)}, geometry=list(boxes.values()), crs=crs
    )
    table.to_file(path, **kwargs)
    return Districts(path, 'NAME')


class TestAreas:
    def test_by_hand(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A scene of 640 m with flood in the west, water before in the north."""
        monkeypatch.setattr('torchgeo_m2cd.maps.mosaic._STRIP', 16)
        scene = make_scene(tmp_path / 'in')
        x, y = scene.transform.c, scene.transform.f
        districts = write_districts(
            tmp_path / 'in' / 'd.gpkg',
            {
                'West, partly outside': box(x - 5000, y - 640, x + 320, y + 5000),
                'East': box(x + 320, y - 640, x + 640, y),
                'North': box(x, y - 160, x + 640, y),  # They overlap
                # One district of two parts
                'Islands': shapely.union_all(
                    [box(x, y - 100, x + 100, y), box(x + 400, y - 600, x + 500, y - 500)]
                ),
                'Far away': box(x + 9000, y, x + 9999, y + 999),
                'Touches': box(x + 640, y - 640, x + 700, y),
            },
        )  # fmt: skip
        values = np.zeros((2, 64, 64), np.float32)
        values[0, :, :20] = 0.9
        values[1, :16] = 1
        values[:, 60:, 60:] = np.nan
        outputs = Outputs(tmp_path / 'a.tif', districts=districts)
        summary = map_values(scene, values, outputs, make_plan(scene, water=True))
        table = pd.read_csv(tmp_path / 'a.districts.csv').set_index('name')
        pixel = summary['mapped_km2'] / (64 * 64 - 16)
        assert pixel == pytest.approx(1e-4, rel=1e-3)
        expected = {
            # Flooded, water before, mapped
            'West, partly outside': (20 * 48, 16 * 32, 64 * 32),
            'East': (0, 16 * 32, 64 * 32 - 16),
            'North': (0, 16 * 64, 16 * 64),
            'Islands': (0, 100, 200),
        }
        assert set(table.index) == set(expected)
        for name, pixels in expected.items():
            found = table.loc[name].to_numpy()
            np.testing.assert_allclose(found[:3], np.array(pixels) * pixel, atol=1e-6)
            assert found[3] == pytest.approx(pixels[0] / pixels[2], abs=1e-4)
        areas = table['area_km2'].to_numpy()
        expected_km2 = [5.32 * 5.64, 0.2048, 0.1024, 0.02]
        order = ['West, partly outside', 'East', 'North', 'Islands']
        np.testing.assert_allclose(
            table.loc[order, 'area_km2'], expected_km2, rtol=2e-3
        )
        shares = table['mapped_km2'] / areas
        np.testing.assert_allclose(
            table['mapped_share'], shares.clip(upper=1), atol=1e-4
        )
        rows = json.loads((tmp_path / 'a.json').read_text())['districts']
        assert rows == summary['districts']
        assert {row['name'] for row in rows} == set(expected)
        assert summary['flooded_km2'] == pytest.approx(20 * 48 * pixel, abs=1e-6)

    @pytest.mark.parametrize(
        ('crs', 'transform'),
        [
            ('EPSG:32760', FIJI),
            ('EPSG:4326', from_origin(179.99, -16.8, 3e-4, 3e-4)),
            ('EPSG:4326', from_origin(-180.01, -16.8, 3e-4, 3e-4)),
        ],
    )
    def test_across_180_degrees(
        self, crs: str, transform: Affine, tmp_path: Path
    ) -> None:
        """Districts as atlases have them: cut at 180 degrees, or a world apart."""
        scene = make_scene(tmp_path / 'in', (128, 256), transform, crs)
        parts = [box(179, -18, 180, -16), box(-180, -18, -179, -16)]
        districts = write_districts(
            tmp_path / 'in' / 'd.geojson',
            {
                'Both': shapely.MultiPolygon(parts),
                'East': parts[1],
                'World': box(-180, -90, 180, 90),
            },
            'EPSG:4326',
        )
        values = np.full((1, 128, 256), 0.9, np.float32)
        outputs = Outputs(tmp_path / 'a.tif', districts=districts)
        summary = map_values(scene, values, outputs)
        rows = {row['name']: row for row in summary['districts']}
        for name in ('Both', 'World'):
            assert rows[name]['mapped_km2'] == pytest.approx(
                summary['mapped_km2'], rel=1e-5
            )
        assert rows['Both']['water_before_km2'] is None
        assert rows['World']['area_km2'] == pytest.approx(
            510.07e6, rel=1e-4
        )  # The Earth
        assert 0.1 < rows['East']['mapped_km2'] / summary['mapped_km2'] < 0.9

    def test_no_data(self, tmp_path: Path) -> None:
        scene = make_scene(tmp_path / 'in')
        x, y = scene.transform.c, scene.transform.f
        values = np.zeros((1, 64, 64), np.float32)
        values[:, :, :32] = np.nan
        districts = write_districts(
            tmp_path / 'in' / 'd.gpkg', {'West': box(x, y - 640, x + 320, y)}
        )
        outputs = Outputs(tmp_path / 'a.tif', districts=districts)
        (row,) = map_values(scene, values, outputs)['districts']
        assert row['mapped_km2'] == row['mapped_share'] == 0
        assert row['area_km2'] == pytest.approx(0.2048, rel=1e-3)
        assert row['flooded_share'] is None


class TestCheck:
    @pytest.fixture
    def boxes(self) -> dict[str, Any]:
        return {'a': box(500_000, 5_299_000, 500_300, 5_300_000)}

    def check(self, districts: Districts, tmp_path: Path) -> None:
        check_districts(districts, [make_scene(tmp_path / 'in')])

    def test_layers(self, boxes: dict[str, Any], tmp_path: Path) -> None:
        path = tmp_path / 'd.gpkg'
        for name in ('areaOfInterest', 'districts'):
            write_districts(path, boxes, layer=name)
        match = (
            r"has the layers \['areaOfInterest', 'districts'\].*expected one of them"
        )
        layers: tuple[str | None, ...] = (None, 'district')
        for layer in layers:
            with pytest.raises(ValueError, match=match):
                self.check(Districts(path, 'NAME', layer), tmp_path)
        self.check(Districts(path, 'NAME', 'districts'), tmp_path)

    @pytest.mark.parametrize(
        ('boxes', 'crs', 'match'),
        [
            ({'a': Point(500_000, 5_300_000)}, 32633, r"types \['Point'\]: expected poly"),
            ({'a': box(0, 0, 1, 1)}, None, 'CRS None .*: expected polygons with a CRS'),
            ({None: box(0, 0, 1, 1)}, 32633, "1 polygons without 'NAME': expected a name"),
            ({'a': box(0, 0, 1, 1)}, 32633, 'no polygon where the scene is: expected'),
        ],
    )  # fmt: skip
    def test_contents(
        self, boxes: dict[Any, Any], crs: Any, match: str, tmp_path: Path
    ) -> None:
        districts = write_districts(tmp_path / 'd.gpkg', boxes, crs)
        with pytest.raises(ValueError, match=match):
            self.check(districts, tmp_path)

    def test_attribute(self, boxes: dict[str, Any], tmp_path: Path) -> None:
        path = tmp_path / 'd.gpkg'
        write_districts(path, boxes)
        match = r"unknown attribute of districts .*'NAM', did you mean 'NAME'\?"
        with pytest.raises(ValueError, match=match):
            self.check(Districts(path, 'NAM'), tmp_path)

    def test_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"'.*d\.gpkg' does not exist"):
            self.check(Districts(tmp_path / 'd.gpkg', 'NAME'), tmp_path)
        (tmp_path / 'd.csv').write_text('NAME\na')
        with pytest.raises(ValueError, match=r'has the layers \[\]'):
            self.check(Districts(tmp_path / 'd.csv', 'NAME'), tmp_path)
        (tmp_path / 'd.gpkg').write_text('broken')
        with pytest.raises(ValueError, match=r'd\.gpkg\' cannot be read'):
            self.check(Districts(tmp_path / 'd.gpkg', 'NAME'), tmp_path)

    def test_own_file(self, boxes: dict[str, Any], tmp_path: Path) -> None:
        districts = write_districts(tmp_path / 'd.gpkg', boxes)
        outputs = Outputs(
            tmp_path / 'a.tif', polygons=tmp_path / 'd.gpkg', districts=districts
        )
        with pytest.raises(ValueError, match='is the file of the districts itself'):
            outputs.check({})

    def test_digest(self, boxes: dict[str, Any], tmp_path: Path) -> None:
        """Other districts are other products of the same probabilities."""
        districts = write_districts(tmp_path / 'd.gpkg', boxes)
        scene = make_scene(tmp_path / 'in')
        plan = make_plan(scene)
        digests = {Outputs(tmp_path / 'a.tif').digest(plan)}
        outputs = Outputs(tmp_path / 'a.tif', districts=districts)
        digests.add(outputs.digest(plan))
        write_districts(tmp_path / 'd.gpkg', {**boxes, 'b': boxes['a']})
        digests.add(outputs.digest(plan))
        assert len(digests) == 3
        sampler = SceneSampler(scene, scene.shape, scene.shape)
        folders = {
            Parts(each, plan, sampler).folder
            for each in (outputs, Outputs(tmp_path / 'a.tif'))
        }
        assert len(folders) == 1

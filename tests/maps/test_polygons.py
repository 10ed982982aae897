# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import json
import math
from pathlib import Path
from unittest.mock import Mock

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import shapely
import torch
from kornia.filters import gaussian_blur2d
from pyproj import CRS, Geod
from torch import Tensor

from tests.data.geotiff import GRID, write
from tests.maps.helpers import FIJI, make_plan, make_scene, map_values
from torchgeo_m2cd.datasets.grid import Grid
from torchgeo_m2cd.maps import (
    Areas,
    Outputs,
    find_polygons,
    mean_probability,
    save_polygons,
)
from torchgeo_m2cd.maps.polygons import FORMATS

AREAS = Areas(Grid(CRS('EPSG:32633'), GRID), (600, 200))


def label(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Number the regions of pixels that share an edge, pixel by pixel."""
    regions = np.zeros(mask.shape, np.int64)
    for start in zip(*np.nonzero(mask), strict=True):
        if regions[start]:
            continue
        number = regions.max() + 1
        todo = [start]
        while todo:
            row, column = place = todo.pop()
            if (
                0 <= row < mask.shape[0]
                and 0 <= column < mask.shape[1]
                and mask[place]
                and not regions[place]
            ):
                regions[place] = number
                todo += [(row + 1, column), (row - 1, column)]
                todo += [(row, column + 1), (row, column - 1)]
    return regions


@pytest.fixture(scope='module')
def values() -> npt.NDArray[np.float32]:
    """Probabilities of several strips, with pixels without data, shape (1, H, W)."""
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.normal(size=(1, 1, 600, 200)))
    smooth: Tensor = gaussian_blur2d(noise, (65, 65), (8.0, 8.0))
    probability = torch.sigmoid(60 * smooth)[0].numpy().astype(np.float32)
    probability[:, 100:120] = math.nan
    return probability


class TestFindPolygons:
    def test_equals_labelling(
        self, values: npt.NDArray[np.float32], tmp_path: Path
    ) -> None:
        """Another library finds the same connected regions in the whole array."""
        probability = values[0]
        classes = np.where(np.isnan(probability), 255, probability >= 0.5)
        paths = (
            write(tmp_path / 'p.tif', values, nodata=math.nan),
            write(tmp_path / 'c.tif', classes.astype(np.uint8), nodata=255),
        )
        table = find_polygons(paths[1], AREAS, {1: 'flood'})
        table['mean_probability'] = mean_probability(*paths, table)
        regions = label(classes == 1)
        assert len(table) == regions.max()
        assert table.crs.to_epsg() == 32633
        assert (table['class'] == 1).all()
        assert (table['label'] == 'flood').all()
        for region in table.itertuples():
            # Where a point of the polygon is, the same region is
            point = region.geometry.representative_point()
            column, row = ~GRID @ (point.x, point.y)
            inside = regions == regions[int(row), int(column)]
            assert region.geometry.area == inside.sum() * 100
            assert region.mean_probability == pytest.approx(
                probability[inside].mean(), rel=1e-4
            )
            area, _ = Geod(ellps='WGS84').geometry_area_perimeter(
                gpd.GeoSeries([region.geometry], crs=table.crs).to_crs(4326).iloc[0]
            )
            assert region.area_m2 == pytest.approx(abs(area), rel=1e-6)

    def test_classes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr('torchgeo_m2cd.maps.mosaic._STRIP', 2)
        probability = np.zeros((3, 20, 20), np.float32)
        probability[0] = 0.8
        probability[:, :5, :5] = np.array([0.1, 0.6, 0.3])[:, None, None]
        probability[:, 10:, 10:] = np.array([0.2, 0.1, 0.7])[:, None, None]
        paths = (
            write(tmp_path / 'p.tif', probability, nodata=math.nan),
            write(tmp_path / 'c.tif', probability.argmax(0).astype(np.uint8), nodata=255),
        )  # fmt: skip
        table = find_polygons(paths[1], AREAS, {1: 'one', 2: 'two'})
        table['mean_probability'] = mean_probability(*paths, table)
        table = table.set_index('class')
        assert sorted(table.index) == [1, 2]
        assert table.label[2] == 'two'
        assert table.mean_probability[1] == pytest.approx(0.6)
        assert table.mean_probability[2] == pytest.approx(0.7)


class TestMinArea:
    @pytest.mark.parametrize('water', [False, True])
    def test_raster_agrees(
        self, water: bool, values: npt.NDArray[np.float32], tmp_path: Path
    ) -> None:
        """Small regions are removed from polygons, raster and sums."""
        scene = make_scene(tmp_path / 'in', (600, 200))
        if water:
            dark = np.roll(values, 30, axis=2) > 0.7
            values = np.concatenate([values, dark])
        plan = make_plan(scene, water)
        tables, rasters, sums = [], [], []
        for name, min_area in (('all', 0.0), ('large', 30_000.0)):
            outputs = Outputs(
                tmp_path / f'{name}.tif',
                tmp_path / f'{name}_classes.tif',
                tmp_path / f'{name}.gpkg',
                min_area=min_area,
            )
            sums.append(map_values(scene, values, outputs, plan))
            assert outputs.classes is not None
            with rasterio.open(outputs.classes) as src:
                rasters.append(src.read(1))
            tables.append(gpd.read_file(outputs.polygons))
        everything, large = tables
        assert 0 < len(large) < len(everything)
        assert large.area_m2.min() >= 30_000
        assert len(large) == (everything.area_m2 >= 30_000).sum()
        assert sums[1]['polygons'] == large.groupby('label').size().to_dict()
        for value in (1, 2) if water else (1,):
            regions = label(rasters[0] == value)
            areas = np.bincount(regions.ravel()) * 99.92  # The scale of UTM
            expected = np.where((areas[regions] >= 30_000) & (regions > 0), value, 0)
            found = rasters[1]
            np.testing.assert_array_equal(found == value, expected == value)
            for raster, table in zip(rasters, tables, strict=True):
                part = table[table['class'] == value]
                assert part.area.sum() == (raster == value).sum() * 100
        assert large[large['class'] == 1].area_m2.sum() / 1e6 == pytest.approx(
            sums[1]['flooded_km2'], abs=1e-6
        )
        np.testing.assert_array_equal(rasters[0] == 255, rasters[1] == 255)

    def test_without_polygons(
        self, values: npt.NDArray[np.float32], tmp_path: Path
    ) -> None:
        scene = make_scene(tmp_path / 'in', (600, 200))
        outputs = Outputs(
            tmp_path / 'a.tif', tmp_path / 'c.tif', min_area=10_000_000, threshold=0.5
        )
        summary = map_values(scene, values, outputs)
        assert summary['flooded_km2'] == summary['flooded_km2_with_water_before'] == 0
        assert summary['polygons'] is None
        with rasterio.open(tmp_path / 'c.tif') as src:
            assert set(np.unique(src.read())) == {0, 255}

    def test_one_of_two(self, tmp_path: Path) -> None:
        """Strips without small regions are unchanged."""
        scene = make_scene(tmp_path / 'in', (600, 20))
        values = np.zeros((1, 600, 20), np.float32)
        values[:, 3, 3] = values[:, 400:410] = 0.9
        outputs = Outputs(tmp_path / 'a.tif', tmp_path / 'c.tif', min_area=1000)
        map_values(scene, values, outputs)
        with rasterio.open(tmp_path / 'c.tif') as src:
            classes = src.read(1)
        assert classes.sum() == 200
        assert (classes[400:410] == 1).all()


def make_table() -> gpd.GeoDataFrame:
    """Make polygons, one of them across 180 degrees."""
    left, top = 810_000, 8_140_000
    boxes = [shapely.box(left, top, left + 20_000, top + 1000), shapely.box(left, 0, left + 9, 9)]  # fmt: skip
    return gpd.GeoDataFrame(
        {
            'class': np.array([1, 2], np.int32),
            'label': ['flood', 'water before'],
            'area_m2': [20e6, 81.0],
            'mean_probability': [0.75, 0.25],
        },
        geometry=boxes,
        crs='EPSG:32760',
    )


class TestSavePolygons:
    @pytest.mark.parametrize('suffix', sorted(FORMATS))
    @pytest.mark.parametrize('count', [0, 2])
    def test_formats(self, suffix: str, count: int, tmp_path: Path) -> None:
        """Each file has the format of its suffix and the same content."""
        if suffix == '.parquet':
            pytest.importorskip('pyarrow')
        table, path = make_table()[:count], tmp_path / f'change{suffix}'
        save_polygons(table, path)
        start = {
            '.gpkg': b'SQLite format 3', '.shp': b'\x00\x00\x27\x0a', '.fgb': b'fgb',
            '.geojson': b'{', '.json': b'{', '.parquet': b'PAR1',
        }  # fmt: skip
        assert path.read_bytes().startswith(start[suffix])
        read = gpd.read_parquet if suffix == '.parquet' else gpd.read_file
        found = read(path)
        assert len(found) == count
        if not count:
            return
        found = found.sort_values('class', ignore_index=True)
        mean = 'mean_prob' if suffix == '.shp' else 'mean_probability'
        assert {'class', 'label', 'area_m2', mean} < set(found.columns)
        assert list(found['label']) == ['flood', 'water before']
        assert list(found[mean]) == [0.75, 0.25]
        same = found.to_crs(table.crs).geometry
        # GeoJSON has seven digits of a degree, a centimetre
        assert same[1].symmetric_difference(table.geometry[1]).area < 1
        if 'json' not in suffix:
            assert found.crs.to_epsg() == 32760

    def test_geojson(self, tmp_path: Path) -> None:
        """WGS84, cut at 180 degrees, rings against the clock (RFC 7946)."""
        save_polygons(make_table(), tmp_path / 'a.geojson')
        content = json.loads((tmp_path / 'a.geojson').read_text())
        assert 'crs' not in content
        shape = shapely.geometry.shape(content['features'][0]['geometry'])
        assert shape.geom_type == 'MultiPolygon'
        west, east = sorted(shape.geoms, key=lambda part: part.bounds[0])
        assert west.bounds[0] == -180
        assert east.bounds[2] == 180
        assert east.bounds[0] > 179
        assert west.bounds[2] < -179
        assert all(part.exterior.is_ccw for part in shape.geoms)
        geod = Geod(ellps='WGS84')
        area = sum(geod.geometry_area_perimeter(part)[0] for part in shape.geoms)
        expected = Areas(Grid(CRS('EPSG:32760'), FIJI), (64, 64))
        assert area == pytest.approx(
            expected.polygons(make_table().geometry.to_numpy()[:1])[0], rel=1e-4
        )

    def test_no_pyarrow(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr('importlib.util.find_spec', Mock(return_value=None))
        with pytest.raises(ValueError, match='no pyarrow to write it with'):
            Outputs(tmp_path / 'a.tif', polygons=tmp_path / 'a.parquet')

    def test_parquet(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Parquet is written by geopandas; this test needs no pyarrow."""
        monkeypatch.setattr('importlib.util.find_spec', Mock())
        Outputs(tmp_path / 'a.tif', polygons=tmp_path / 'a.parquet')
        write_parquet = Mock()
        monkeypatch.setattr(gpd.GeoDataFrame, 'to_parquet', write_parquet)
        save_polygons(make_table(), tmp_path / 'a.parquet')
        write_parquet.assert_called_once_with(tmp_path / 'a.parquet')

    def test_shapefile(self, tmp_path: Path) -> None:
        """All of its files are made, checked and replaced together."""
        scene = make_scene(tmp_path / 'in')
        values = np.full((1, 64, 64), 0.9, np.float32)
        outputs = Outputs(tmp_path / 'a.tif', polygons=tmp_path / 'Flood.SHP')
        assert map_values(scene, values, outputs)['polygons'] == {'changed': 1}
        made = {path.name for path in tmp_path.iterdir()} - {'in'}
        assert made == {
            'a.tif', 'a.json', 'a.qml', 'Flood.SHP', 'Flood.shx', 'Flood.dbf',
            'Flood.prj', 'Flood.cpg',
        }  # fmt: skip
        assert len(gpd.read_file(tmp_path / 'Flood.SHP')) == 1
        for path in tmp_path.glob('*'):
            if path.name != 'Flood.dbf' and path.is_file():
                path.unlink()
        with pytest.raises(FileExistsError, match=r'Flood\.dbf exists'):
            outputs.check_new()

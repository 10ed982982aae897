# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import datetime
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import shapely
from pyproj import Transformer
from rasterio.transform import Affine, from_origin

from tests.data.geotiff import GRID
from tests.maps.helpers import FIJI, make_plan, make_scene, map_values
from torchgeo_m2cd.maps import Outputs


def make_item(
    folder: Path, water: bool = False, classes: str | None = 'c.tif', **kwargs: Any
) -> dict[str, Any]:
    scene = make_scene(folder / 'in', **kwargs)
    values = np.full((1 + water, 64, 64), 0.9, np.float32)
    outputs = Outputs(
        folder / 'maps' / 'a.tif',
        folder / 'maps' / classes if classes else None,
        folder / 'a.gpkg',
        stac=folder / 'stac' / 'a.json',
    )
    map_values(scene, values, outputs, make_plan(scene, water))
    item: dict[str, Any] = json.loads((folder / 'stac' / 'a.json').read_text())
    return item


class TestMakeItem:
    @pytest.mark.parametrize('water', [False, True])
    def test_contents(self, water: bool, tmp_path: Path) -> None:
        item = make_item(tmp_path, water, names=('o.tif', 'S1_20241030.tif'))
        read = pystac.Item.from_file(tmp_path / 'stac' / 'a.json')
        assert read.datetime == datetime.datetime(2024, 10, 30, tzinfo=datetime.UTC)
        assert read.properties['description'] == 'The date is that of the SAR image.'
        assert read.ext.proj.code == 'EPSG:32633'
        assert read.ext.proj.shape == [64, 64]
        assert read.ext.proj.transform == list(GRID)[:6]
        assert set(read.assets) == {
            'output', 'classes', 'polygons', 'summary', 'style', 'classes_style',
        }  # fmt: skip
        for asset in read.assets.values():
            path = Path(asset.get_absolute_href() or '')
            assert path.stat().st_size == asset.ext.file.size
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            assert asset.ext.file.checksum == f'1220{digest}'
        band, *more = item['assets']['output']['bands']
        assert len(more) == water
        assert band['statistics']['mean'] == pytest.approx(0.9)
        classes = read.assets['classes'].ext.classification.classes
        assert [c.value for c in classes or ()] == list(range(2 + water))
        sources = [link.target for link in read.get_links('derived_from')]
        assert sources == [
            str(tmp_path / 'in' / name) for name in ('o.tif', 'S1_20241030.tif')
        ]

    @pytest.mark.filterwarnings('ignore:.*LocalValidator.* is deprecated')
    def test_schema(self, tmp_path: Path) -> None:
        """The item fits the core schemas, which pystac ships."""
        validation = pytest.importorskip('pystac.validation.local_validator')
        item = make_item(tmp_path, water=True)
        errors = validation.LocalValidator().item_validator(item['stac_version'])
        assert list(errors.iter_errors(item)) == []
        del item['properties']['datetime']
        assert list(errors.iter_errors(item)) != []

    def test_unknown_date(self, tmp_path: Path) -> None:
        before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1)
        item = pystac.Item.from_dict(make_item(tmp_path, classes=None))
        assert set(item.assets) == {'output', 'polygons', 'summary', 'style'}
        assert item.datetime is not None
        assert before <= item.datetime <= datetime.datetime.now(datetime.UTC)
        assert 'is not known' in item.properties['description']

    @pytest.mark.parametrize('crs', ['EPSG:32760', 'EPSG:4326', 'EPSG:3857'])
    def test_across_180_degrees(self, crs: str, tmp_path: Path) -> None:
        transform = FIJI @ Affine.translation(100, 0)
        if crs == 'EPSG:4326':
            transform = from_origin(179.998, -16.8, 1e-4, 1e-4)
        if crs == 'EPSG:3857':
            transform = from_origin(20_037_508 - 300, -1_894_000, 10, 10)
        item = make_item(tmp_path, crs=crs, transform=transform)
        shape = shapely.geometry.shape(item['geometry'])
        assert shape.geom_type == 'MultiPolygon'
        west, south, east, north = item['bbox']
        assert -17 < south < north < -16.7
        assert 179.9 < west < 180
        assert -180 < east < -179.9
        # Each corner is on one of both sides
        corners = shapely.box(0, 0, 64, 64).exterior.coords
        move = Transformer.from_crs(crs, 4326, always_xy=True)
        for column, row in corners:
            lon, lat = move.transform(*transform @ (column, row))
            lon = (lon + 180) % 360 - 180
            assert shape.distance(shapely.Point(lon, lat)) < 1e-5

    def test_pole(self, tmp_path: Path) -> None:
        """A scene around the pole holds all longitudes."""
        grid = from_origin(-320, 320, 10, 10)
        item = make_item(tmp_path, crs='EPSG:3413', transform=grid)
        west, south, east, north = item['bbox']
        assert (west, east, north) == (-180, 180, 90)
        assert 89.99 < south < 90

    def test_own_crs(self, tmp_path: Path) -> None:
        """A CRS that no authority has."""
        crs = '+proj=laea +lat_0=47 +lon_0=15 +datum=WGS84 +units=m'
        item = make_item(tmp_path, crs=crs, transform=from_origin(0, 0, 10, 10))
        assert item['properties']['proj:code'] is None
        assert 'Lambert Azimuthal' in item['properties']['proj:wkt2']

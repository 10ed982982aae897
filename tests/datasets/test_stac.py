# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.data.server import serve
from tests.data.stac import data
from torchgeo_m2cd.datasets.granules import Band, Granule
from torchgeo_m2cd.datasets.stac import is_stac, load_items, locate_asset, read_items

OPTICAL = [
    'B01',
    'B02',
    'B03',
    'B04',
    'B05',
    'B06',
    'B07',
    'B08',
    'B8A',
    'B09',
    'B11',
    'B12',
]


def read(folder: Path, *items: dict[str, Any]) -> list[Granule]:
    return read_items(data.write_items(folder / 'item.json', *items))


def calibration(granule: Granule) -> set[tuple[float | None, float | None]]:
    return {(band.gain, band.offset) for band in granule.bands}


def images(**assets: dict[str, Any]) -> dict[str, Any]:
    """An item with other assets."""
    return data.item('x', {k: {'href': f'{k}.tif', **a} for k, a in assets.items()})


class TestCatalogues:
    @pytest.mark.parametrize(
        ('applied', 'baseline', 'offset'),
        [
            (True, '05.09', 0),  # The offset in raster:bands is wrong
            (False, '05.09', -0.1),
            (None, '05.09', -0.1),  # sentinel-2-c1-l2a has no flag
            (False, '03.01', 0),
        ],
    )
    def test_earth_search_s2(
        self, applied: bool | None, baseline: str, offset: float, tmp_path: Path
    ) -> None:
        (granule,) = read(tmp_path, data.earth_search_s2(applied, baseline))
        assert [band.name for band in granule.bands] == OPTICAL
        # The Cloud-Optimized GeoTIFFs, not their sources
        assert [band.path for band in granule.bands] == [
            f'https://host/{name}.tif' for name in OPTICAL
        ]
        assert calibration(granule) == {(0.0001, offset)}
        assert granule.date == '2023-06-28'

    @pytest.mark.parametrize(('baseline', 'offset'), [('05.09', -0.1), ('02.12', 0)])
    def test_planetary_s2(self, baseline: str, offset: float, tmp_path: Path) -> None:
        token = '?st=2023&sig=a%2Fb%3D'
        (granule,) = read(tmp_path, data.planetary_s2(baseline, token))
        assert [band.name for band in granule.bands] == OPTICAL
        for band in granule.bands:
            assert f'_{band.name}_' in band.path
            assert band.path.endswith(f'm.tif{token}')
        assert calibration(granule) == {(0.0001, offset)}

    def test_cdse_s2(self, tmp_path: Path) -> None:
        (granule,) = read(tmp_path, data.cdse_s2())
        assert [band.name for band in granule.bands] == OPTICAL
        finest = dict(data.BANDS.values())
        for band in granule.bands:
            assert band.path.endswith(f'_{band.name}_{finest[band.name]}m.jp2')
        assert calibration(granule) == {(0.0001, -0.1)}
        assert granule.date == '2025-03-30'

    def test_planetary_s1_rtc(self, tmp_path: Path) -> None:
        (granule,) = read(tmp_path, data.planetary_s1_rtc())
        folder = 'https://host/measurement'
        assert granule == Granule(
            (
                Band(f'{folder}/iw-vv.rtc.tiff', 1, 'VV'),
                Band(f'{folder}/iw-vh.rtc.tiff', 1, 'VH'),
            ),
            '2023-06-29',
        )

    def test_earth_search_s1_grd(self, tmp_path: Path) -> None:
        (granule,) = read(tmp_path, data.earth_search_s1_grd())
        assert [band.name for band in granule.bands] == ['VV', 'VH']
        assert [band.path[-10:] for band in granule.bands] == [
            'iw-vv.tiff',
            'iw-vh.tiff',
        ]
        assert granule.date == '2023-06-29'

    def test_hls(self, tmp_path: Path) -> None:
        (granule,) = read(tmp_path, data.hls('S30'))
        assert [band.name for band in granule.bands] == ['B02', 'B03', 'B04', 'B05']
        assert calibration(granule) == {(None, None)}  # The files say it
        # Band 5 of Landsat is not that of Sentinel-2
        with pytest.raises(
            ValueError, match=r"has the assets \['B02', .*: expected images"
        ):
            read(tmp_path, data.hls('L30'))

    def test_landsat(self, tmp_path: Path) -> None:
        (granule,) = read(tmp_path, data.landsat())
        assert [(band.name, band.path[-9:]) for band in granule.bands] == [
            ('B04', 'SR_B4.TIF'), ('B8A', 'SR_B5.TIF'), ('B11', 'SR_B6.TIF')
        ]  # fmt: skip
        assert calibration(granule) == {(2.75e-05, -0.2)}

    def test_old_earth_search(self, tmp_path: Path) -> None:
        """The first version has no raster:bands, and names of its own for the flag."""
        for flag, expected in ((True, {(0.0001, 0)}), (False, {(None, None)})):
            item = images(B04={}, B02={})
            item['properties']['sentinel:boa_offset_applied'] = flag
            assert calibration(read(tmp_path, item)[0]) == expected


class TestReadItems:
    def test_several(self, tmp_path: Path) -> None:
        items = [data.planetary_s2(), data.planetary_s1_rtc()]
        dates = [granule.date for granule in read(tmp_path, *items)]
        assert dates == ['2023-06-28', '2023-06-29']

    def test_bands_of_one_file(self, tmp_path: Path) -> None:
        """Bands of one file stay together; without a gain, values are unchanged."""
        bands = [{'name': 'nir'}, {'name': 'quality'}, {'name': 'red', 'offset': -5}]
        item = images(data={'eo:bands': bands}, blue={})
        item['properties']['datetime'] = None
        assert read(tmp_path, item) == [
            Granule(
                (
                    Band(str(tmp_path / 'blue.tif'), 1, 'B02'),
                    Band(str(tmp_path / 'data.tif'), 1, 'B08'),
                    Band(str(tmp_path / 'data.tif'), 3, 'B04', 1, -5),
                )
            )
        ]

    def test_polarizations_of_one_file(self, tmp_path: Path) -> None:
        item = images(data={'sar:polarizations': ['VH', 'VV']})
        (granule,) = read(tmp_path, item)
        assert [(b.number, b.name) for b in granule.bands] == [(1, 'VH'), (2, 'VV')]

    def test_no_names(self, tmp_path: Path) -> None:
        """One asset without names is the image; several are ambiguous."""
        document = {'href': 'a.json', 'roles': ['metadata']}
        (granule,) = read(tmp_path, images(data={}, document=document))
        assert granule.bands == (Band(str(tmp_path / 'data.tif'), 0),)
        with pytest.raises(
            ValueError, match=r"'x' of .* has the assets \['a', 'b'\]: exp"
        ):
            read(tmp_path, images(a={}, b={}))

    @pytest.mark.parametrize(
        ('coarse', 'fine'),
        [
            ({'gsd': 20}, {'gsd': 10}),
            ({'raster:spatial_resolution': 20}, {'gsd': 10}),
            ({'proj:transform': [20, 0, 0, 0, -20, 0]}, {'gsd': 10}),
            ({'href': 'B04_20m.tif'}, {'href': 'R10m/B04.tif'}),
            ({'href': 'B04_60m.tif'}, {'href': 'B04.tif'}),
        ],
    )
    def test_finest(
        self, coarse: dict[str, Any], fine: dict[str, Any], tmp_path: Path
    ) -> None:
        item = images(red_coarse=coarse, red_fine=fine, red_again=coarse)
        item['properties']['gsd'] = 10
        (granule,) = read(tmp_path, item)
        expected = item['assets']['red_fine']['href']
        assert [band.path for band in granule.bands] == [str(tmp_path / expected)]

    def test_url(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv('NO_PROXY', '127.0.0.1')
        data.write_items(
            tmp_path / 'items' / 'a.json', images(B04={'href': '../a.tif'})
        )
        with serve(tmp_path) as url:
            for prefix in ('', '/vsicurl/'):
                (granule,) = read_items(f'{prefix}{url}/items/a.json?sig=secret')
                assert granule.bands[0].path == f'{prefix}{url}/a.tif'
            match = r"/no\.json' cannot be read: expected one or more STAC items"
            with pytest.raises(ValueError, match=match) as error:
                read_items(f'{url}/no.json?sig=secret')
            assert 'secret' not in str(error.value)

    @pytest.mark.parametrize(
        ('text', 'match'),
        [
            ('{"type": ', r"item\.json' cannot be read: .* \(JSONDecodeError: "),
            ('[]', 'cannot be read: expected one or more STAC items'),
            (
                '{"type": "Collection", "id": "x"}',
                'cannot be read: expected one or more',
            ),
            ('{"type": "Feature"}', "cannot be read: expected one or more .*'assets'"),
            (
                json.dumps(data.item('x', {}, datetime='yesterday')),
                'cannot be read: .*ValueError: ',
            ),
            ('{"type": "FeatureCollection", "features": []}', r"json' holds no items"),
            (json.dumps(data.item('x', {})), r'has the assets \[\]: expected images'),
        ],
    )
    def test_invalid(self, text: str, match: str, tmp_path: Path) -> None:
        (tmp_path / 'item.json').write_text(text)
        with pytest.raises(ValueError, match=f'(?s){match}'):
            read_items(str(tmp_path / 'item.json'))

    @pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs pipes with names')
    def test_pipe(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / 'item.json')
        with pytest.raises(ValueError, match=r"STAC file '.*item\.json' is a pipe"):
            read_items(str(tmp_path / 'item.json'))

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"STAC file '.*no\.json' does not"):
            read_items(str(tmp_path / 'no.json'))


class TestLocateAsset:
    def test_self_link(self, tmp_path: Path) -> None:
        """Files that are not beside a downloaded item are taken from its self link."""
        item = data.item('x', {k: {'href': f'./{k}.tif'} for k in 'ab'})
        item['links'] = [{'rel': 'self', 'href': 'https://host/items/x'}]
        path = data.write_items(tmp_path / 'x.json', item)
        (tmp_path / 'a.tif').touch()
        (loaded,) = load_items(path)
        assert locate_asset(loaded, 'a', path) == str(tmp_path / 'a.tif')
        assert locate_asset(loaded, 'b', path) == 'https://host/items/b.tif'
        item['links'] = [{'rel': 'self', 'href': './x.json'}]
        (loaded,) = load_items(data.write_items(tmp_path / 'x.json', item))
        assert locate_asset(loaded, 'b', path) == str(tmp_path / 'b.tif')


def test_is_stac() -> None:
    assert is_stac('S2.json')
    assert is_stac('https://host/S2.GEOJSON?token=1')
    api = 'https://host/v1/collections/hls2-s30'
    assert is_stac(f'{api}/items/HLS.S30.T33UWP.v2.0')
    assert is_stac(f'{api}/items?ids=S2A_39QTA')
    assert is_stac('https://host/v1/search?collections=a&ids=b')
    for path in ('S2.tif', f'{api}/items/a.tif?sig=1', 'collections/a/items/b', api):
        assert not is_stac(path)

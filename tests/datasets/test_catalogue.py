# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import json
from pathlib import Path

import geopandas as gpd
import pandas as pd
import pytest

from tests.data.server import serve
from torchgeo_m2cd.datamodules import SceneDataModule
from torchgeo_m2cd.datasets import SARSource, Source
from torchgeo_m2cd.datasets.catalogue import list_scenes

# How to read the images of all scenes
OPTICAL, SAR = Source(bands=[3]), SARSource(scale='power')


class TestListScenes:
    def test_formats(self, tmp_path: Path) -> None:
        rows = {
            'name': ['a', 'b'],
            'optical': ['optical.tif'] * 2,
            'sar': ['sar.tif'] * 2,
        }
        table = pd.DataFrame(rows)
        table.to_csv(tmp_path / 'list.csv', index=False)
        gpd.GeoDataFrame(table, geometry=gpd.points_from_xy([0, 1], [0, 1])).to_file(
            tmp_path / 'list.gpkg'
        )
        items = [
            {
                'type': 'Feature',
                'id': name,
                'assets': {
                    'optical': {'href': 'optical.tif'},
                    'sar': {'href': './sar.tif'},
                    'thumbnail': {'href': 'small.png'},
                },
            }
            for name in 'ab'
        ]
        (tmp_path / 'list.json').write_text(
            json.dumps({'type': 'FeatureCollection', 'features': items})
        )
        (tmp_path / 'item.geojson').write_text(json.dumps(items[0]))
        for name in ('list.csv', 'list.gpkg', 'list.json', 'item.geojson'):
            entries = list_scenes(OPTICAL, SAR, tmp_path / name)
            assert [entry.name for entry in entries] == (
                ['a'] if name == 'item.geojson' else ['a', 'b']
            )
            for entry in entries:
                assert entry.optical == Source([str(tmp_path / 'optical.tif')], [3])
                assert entry.sar == SARSource(
                    [str(tmp_path / 'sar.tif')], scale='power'
                )

    def test_paths(self, tmp_path: Path) -> None:
        (tmp_path / 'list.csv').write_text(
            'optical,sar\na.tif;b.tif,https://host/sar.tif\n/abs/c.tif,/vsis3/d.tif\n'
        )
        first, second = list_scenes(OPTICAL, SAR, tmp_path / 'list.csv')
        assert first.optical.paths == [str(tmp_path / 'a.tif'), str(tmp_path / 'b.tif')]
        assert first.sar.paths == ['https://host/sar.tif']
        assert (first.name, second.name) == ('a', 'c')
        # Names are text, and may be left out
        (tmp_path / 'list.csv').write_text(
            'name,optical,sar\nNA,a.tif,b.tif\n,c.tif ; d.tif,e.tif\n007,f.tif,g.tif\n'
        )
        entries = list_scenes(OPTICAL, SAR, tmp_path / 'list.csv')
        assert [entry.name for entry in entries] == ['NA', 'c', '007']
        assert entries[1].optical.paths == [
            str(tmp_path / 'c.tif'),
            str(tmp_path / 'd.tif'),
        ]
        assert (second.optical.paths, second.sar.paths) == (
            ['/abs/c.tif'],
            ['/vsis3/d.tif'],
        )

    def test_names_of_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv('HOME', str(tmp_path))
        folder = tmp_path / 'lists'
        folder.mkdir()
        (folder / 'list.csv').write_text(
            'optical,sar\n'
            '~/a.tif,NETCDF:b.nc:vv\n'
            'zip://c.zip!d.tif,file:///data/e%20f.tif\n'
            's2/item.json,https://host/g.json?sig=1\n'
            'C:\\data\\h.tif,s1\\i.tif\n'
            'https://host/j.tif?sig=1/2,k.tif\n'
        )
        entries = list_scenes(OPTICAL, SAR, '~/lists/list.csv')
        found = [(e.name, e.optical.paths, e.sar.paths) for e in entries]
        assert found == [
            ('a', [f'{tmp_path}/a.tif'], [f'NETCDF:{folder}/b.nc:vv']),
            ('d', [f'zip://{folder}/c.zip!d.tif'], ['/data/e f.tif']),
            ('item', [f'{folder}/s2/item.json'], ['https://host/g.json?sig=1']),
            ('h', ['C:\\data\\h.tif'], [f'{folder}/s1\\i.tif']),
            ('j', ['https://host/j.tif?sig=1/2'], [f'{folder}/k.tif']),
        ]

    def test_url(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv('NO_PROXY', '127.0.0.1')
        (tmp_path / 'list.csv').write_text('optical,sar\ns2/a.tif,/data/b.tif\n')
        assets = {'optical': {'href': 's2/a.tif'}, 'sar': {'href': '/data/b.tif'}}
        (tmp_path / 'list.json').write_text(
            json.dumps({'type': 'Feature', 'id': 'a', 'assets': assets})
        )
        with serve(tmp_path) as url:
            for name in ('list.csv', 'list.json'):
                (entry,) = list_scenes(OPTICAL, SAR, f'{url}/{name}?sig=secret')
                assert entry.name == 'a'
                assert entry.optical.paths == [f'{url}/s2/a.tif']
                assert entry.sar.paths == ['/data/b.tif']
            for name in ('no.csv', 'no.gpkg', 'no.json'):
                match = rf"'{url}/{name}' cannot be read: "
                with pytest.raises(ValueError, match=match) as error:
                    list_scenes(OPTICAL, SAR, f'{url}/{name}?sig=secret')
                assert 'secret' not in str(error.value)

    def test_assets(self, tmp_path: Path) -> None:
        """URLs may have semicolons. Both assets are needed."""
        assets = {'optical': {'href': 'https://host/a;b.tif'}, 'SAR': {'href': 'c.tif'}}
        item = {'type': 'Feature', 'id': 'x', 'assets': assets}
        path = tmp_path / 'item.json'
        path.write_text(json.dumps(item))
        match = r"1 rows with the columns \['name', 'optical'\]: expected one row"
        with pytest.raises(ValueError, match=match):
            list_scenes(OPTICAL, SAR, path)
        assets['sar'] = assets['SAR']
        path.write_text(json.dumps(item))
        (entry,) = list_scenes(OPTICAL, SAR, path)
        assert entry.optical.paths == ['https://host/a;b.tif']

    @pytest.mark.parametrize(
        ('text', 'match'),
        [
            ('optical\na.tif\n', r"has 1 rows with the columns \['optical'\]"),
            ('optical,sar\n', 'has 0 rows'),
            ('optical,sar\na.tif,\n', 'expected one row or more, with values'),
            (
                'optical,sar\na.tif;,b.tif\n',
                "has the files 'a.tif;': expected one path",
            ),
            ('', 'cannot be read'),
            (
                'name,optical,sar\n../a,b.tif,c.tif\n',
                r"has the name '\.\./a': expected no slashes",
            ),
            (
                'name,optical,sar\n<b>,b.tif,c.tif\n',
                "has the name '<b>': expected no slashes, no < or >, no control",
            ),
            ('name,optical,sar\n\x1b[31m,b.tif,c.tif\n', r"has the name '\\x1b\[31m'"),
            ('name,optical,sar\n..,b.tif,c.tif\n', r"has the name '\.\.': expected"),
            ('optical,sar\nhttps://host/?id=1,c.tif\n', "has the name '': expected"),
            (
                'optical,sar\n1/a.tif,b.tif\n2/a.tif,b.tif\n',
                "two scenes of the name 'a'",
            ),
        ],
    )
    def test_invalid(self, text: str, match: str, tmp_path: Path) -> None:
        (tmp_path / 'list.csv').write_text(text)
        with pytest.raises(ValueError, match=match):
            list_scenes(OPTICAL, SAR, tmp_path / 'list.csv')

    def test_invalid_formats(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"list of scenes '.*no\.csv' does"):
            list_scenes(OPTICAL, SAR, tmp_path / 'no.csv')
        for name in ('list.json', 'list.gpkg'):
            (tmp_path / name).write_text('broken')
            with pytest.raises(ValueError, match=rf"'.*{name}' cannot be read"):
                list_scenes(OPTICAL, SAR, tmp_path / name)

    def test_no_paths(self) -> None:
        for optical, sar, name in ((5, 'a.tif', 'optical'), ('a.tif', [None], 'sar')):
            with pytest.raises(
                TypeError, match=f'^{name} is .*: expected an object of'
            ):
                SceneDataModule(optical, sar)  # type: ignore[arg-type]

    def test_one_scene(self) -> None:
        optical, sar = Source(['b/before.tif', 'c.tif']), SARSource('after.tif')
        assert list_scenes(optical, sar) == [('before', optical, sar)]
        with pytest.raises(
            ValueError, match='expected the paths of optical and sar, or'
        ):
            list_scenes(optical, SAR)
        with pytest.raises(ValueError, match='got scenes, and paths of optical or sar'):
            list_scenes(OPTICAL, sar, 'list.csv')

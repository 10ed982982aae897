# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from tests.data.geotiff import write
from tests.data.server import serve
from torchgeo_m2cd.datasets.paths import (
    expand,
    is_remote,
    list_files,
    list_paths,
    local_file,
    name_paths,
    name_stem,
    public_path,
    resolve,
    without_secrets,
)

SIGNED = 'https://host/s2.tif?sv=2020&sig=a%2Fb%3D'

# Paths, the local files in them, and what maps of them are called
NAMES = [
    ('s2/before.tif', 's2/before.tif', 'before'),
    ('C:\\data\\before.tif', 'C:\\data\\before.tif', 'before'),
    ('C:/data/before.tif', 'C:/data/before.tif', 'before'),
    ('\\\\server\\share\\before.tif', '\\\\server\\share\\before.tif', 'before'),
    ('a:b.tif', 'a:b.tif', 'a:b'),
    ('zip://products.zip!s2/before.tif', 'products.zip', 'before'),
    ('zip:///data/products.zip!/before.tif', '/data/products.zip', 'before'),
    ('zip://products.zip', 'products.zip', 'products'),
    ('tar+file://products.tar!before.tif', 'products.tar', 'before'),
    ('/vsizip/products.zip/before.tif', 'products.zip', 'before'),
    ('/vsizip/{/data/products.zip}/before.tif', '/data/products.zip', 'before'),
    ('/vsitar//data/products.tar.gz/before.tif', '/data/products.tar.gz', 'before'),
    ('NETCDF:after.nc:vv', 'after.nc', 'after'),
    ('netcdf:"s1/after [1].nc":vv', 's1/after [1].nc', 'after [1]'),
    ('NETCDF:"C:\\data\\after.nc":vv', 'C:\\data\\after.nc', 'after'),
    ('HDF5:after.h5://grid/vv', 'after.h5', 'after'),
    ('SENTINEL2_L2A:MTD_MSIL2A.xml:10m:EPSG_32633', 'MTD_MSIL2A.xml', 'MTD_MSIL2A'),
    ('GTIFF_DIR:2:before.tif', 'before.tif', 'before'),
    ('https://host/s2/before.tif?sig=a/b.c', '', 'before'),
    ('s3://bucket/before.tif', '', 'before'),
    ('zip+https://host/products.zip!before.tif', '', 'before'),
    ('/vsicurl/https://host/before.tif', '', 'before'),
    ('/vsizip/vsicurl/https://host/products.zip/before.tif', '', 'before'),
    ('NETCDF:"/vsicurl/https://host/after.nc":vv', '', 'after'),
    ('WMS:https://host/before', '', 'before'),
]


class TestNames:
    @pytest.mark.parametrize(('path', 'file', 'stem'), NAMES)
    def test_kinds(self, path: str, file: str, stem: str) -> None:
        assert local_file(path) == file
        assert is_remote(path) == (not file)
        assert name_stem(path) == stem

    def test_existing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file is a file, whatever its name looks like."""
        monkeypatch.chdir(tmp_path)
        Path('NETCDF:after.nc:vv').touch()
        assert local_file('NETCDF:after.nc:vv') == 'NETCDF:after.nc:vv'

    def test_list(self) -> None:
        assert list_paths('a.tif') == list_paths(Path('a.tif')) == ['a.tif']
        assert list_paths(('a.tif', Path('b.tif'))) == ['a.tif', 'b.tif']
        assert list_paths([]) == []

    @pytest.mark.parametrize('paths', [5, None, True, b'a.tif', {'paths': 'a.tif'}])
    def test_no_paths(self, paths: Any) -> None:
        with pytest.raises(TypeError, match=r'^sar is .*: expected the name of a file'):
            list_paths(paths, 'sar')
        with pytest.raises(TypeError, match='In YAML, quote names that look like'):
            list_paths(['a.tif', paths])


class TestResolve:
    @pytest.mark.parametrize(
        ('path', 'expected'),
        [
            ('file:///data/a%20b.tif', '/data/a b.tif'),
            ('file://localhost/data/a.tif', '/data/a.tif'),
            ('file:/data/a.tif', '/data/a.tif'),
            ('FILE:///data/a?b#c.tif', '/data/a?b#c.tif'),
            ('file:///C:/data/a.tif', 'C:/data/a.tif'),
            ('~/a.tif', '/data/me/a.tif'),
            ('zip://~/a.zip!b.tif', 'zip:///data/me/a.zip!b.tif'),
            ('gcs://bucket/a.tif', 'gs://bucket/a.tif'),
            ('s3a://bucket/a.tif', 's3://bucket/a.tif'),
            ('https://host/~me/a.tif', 'https://host/~me/a.tif'),
            ('C:\\a.tif', 'C:\\a.tif'),
        ],
    )
    def test_absolute(
        self, path: str, expected: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv('HOME', '/data/me')
        for base in ('', 'lists/list.csv', 'https://host/list.csv'):
            assert resolve(path, base) == expected

    @pytest.mark.parametrize(
        ('path', 'base', 'expected'),
        [
            ('a.tif', 'lists/list.csv', 'lists/a.tif'),
            ('file:a.tif', 'lists/list.csv', 'lists/a.tif'),
            ('NETCDF:a.nc:vv', 'lists/list.csv', 'NETCDF:lists/a.nc:vv'),
            ('zip://a.zip!b.tif', 'lists/list.csv', 'zip://lists/a.zip!b.tif'),
            ('../a.tif', 'https://host/lists/list.csv?sig=1', 'https://host/a.tif'),
            ('s2\\a.tif', 's3://bucket/list.csv', 's3://bucket/s2/a.tif'),
            ('./a.tif', '/vsiaz/box/lists/list.csv', '/vsiaz/box/lists/a.tif'),
        ],
    )
    def test_relative(self, path: str, base: str, expected: str) -> None:
        assert resolve(path, base) == expected

    def test_percent(self, tmp_path: Path) -> None:
        """A file URL may be an escaped name, or the name itself."""
        (tmp_path / 'a%20b.tif').touch()
        path = f'file://{tmp_path}/a%20b.tif'
        assert resolve(path) == str(tmp_path / 'a%20b.tif')


class TestExpand:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for name in (
            'tiles [1]/a.tif', 'tiles [1]/b[2].tif', 'tiles [1]/a.tif.ovr',
            'tiles [1]/a.png', 'tiles 1/c.tif', 's2.SAFE/a.jp2', 'a.nc', 'a.zip',
            '~/home.tif',
        ):  # fmt: skip
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.touch()

    @pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs pipes with names')
    def test_pipe(self) -> None:
        os.mkfifo('pipe.tif')
        with pytest.raises(
            ValueError, match=r"optical file 'pipe\.tif' is a pipe, a soc"
        ):
            expand('optical', 'pipe.tif')

    @pytest.mark.parametrize(
        ('path', 'expected'),
        [
            # An existing path is no pattern
            ('tiles [1]', ['tiles [1]']),
            ('tiles [1]/a.tif', ['tiles [1]/a.tif']),
            ('tiles [1]/*', ['tiles [1]/a.tif', 'tiles [1]/b[2].tif']),
            ('tiles [1]/b[2]*', ['tiles [1]/b[2].tif']),
            ('tiles [0-9]/*.tif', ['tiles 1/c.tif']),
            ('**/[ac].tif', ['tiles 1/c.tif', 'tiles [1]/a.tif']),
            ('*.SAFE', ['s2.SAFE']),
            # Written on Windows
            ('tiles [1]\\a.tif', ['tiles [1]/a.tif']),
            ('.\\tiles [1]\\*.tif', ['tiles [1]/a.tif', 'tiles [1]/b[2].tif']),
            ('NETCDF:a.nc:vv', ['NETCDF:a.nc:vv']),
            (SIGNED, [SIGNED]),
            ('s3a://bucket/a.tif', ['s3://bucket/a.tif']),
        ],
    )
    def test_found(self, path: str, expected: list[str]) -> None:
        assert expand('optical', path) == expected
        assert expand('optical', [path, Path('a.nc')]) == [*expected, 'a.nc']

    def test_relative_archive(self) -> None:
        """GDAL does not find a relative path behind zip://."""
        path = os.path.abspath('a.zip')
        assert expand('optical', 'zip://a.zip!b.tif') == [f'zip://{path}!b.tif']

    def test_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv('HOME', str(tmp_path / 'tiles 1'))
        assert expand('optical', '~/*.tif') == [str(tmp_path / 'tiles 1' / 'c.tif')]
        with pytest.raises(FileNotFoundError, match=r'home\.tif'):
            expand('optical', '~/home.tif')

    @pytest.mark.parametrize(
        ('path', 'match'),
        [
            ('no.tif', r"^optical file 'no\.tif' does not exist"),
            ('', "^optical file '' does not exist"),
            ('tiles [1]/*.jp2', r"^no optical file matches 'tiles \[1\]/\*\.jp2'"),
            ('*.png', '^no optical file matches'),
            ('file:///no%20file.tif', "^optical file '/no file.tif' does not exist"),
            ('NETCDF:no.nc:vv', r"^optical file 'no\.nc' does not exist"),
            ('zip://no.zip!a.tif', r"^optical file '.*/no\.zip' does not exist"),
            ('/vsizip/no.zip/a.tif', r"^optical file 'no\.zip' does not exist"),
            ('C:\\data\\a.tif', r"^optical file 'C:\\\\data\\\\a\.tif' does not exist"),
        ],
    )
    def test_missing(self, path: str, match: str) -> None:
        with pytest.raises(FileNotFoundError, match=match):
            expand('optical', ['a.nc', path])


class TestListFiles:
    NAMES = (
        'b.tif', 'sub/A.TIF', 'a.jp2', 'a.tif.ovr', 'a.tif.msk', 'a.tif.aux.xml',
        'a.tfw', 'a.png', 'thumb.jpg', 'README.md.txt', '._b.tif', '.git/c.tif',
    )  # fmt: skip

    def test_folder(self, tmp_path: Path) -> None:
        for folder in (tmp_path / 'tiles [1]', tmp_path / '.hidden'):
            for name in self.NAMES:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).touch()
            names = ('a.jp2', 'b.tif', 'sub/A.TIF')
            assert list_files(str(folder)) == [str(folder / name) for name in names]
        assert list_files(str(tmp_path / 'no.tif')) == [str(tmp_path / 'no.tif')]

    def test_pictures(self, tmp_path: Path) -> None:
        """Pictures are used only if a folder has no other images."""
        for name in ('b.png', 'b.pgw', 'a.png'):
            (tmp_path / name).touch()
        assert list_files(str(tmp_path)) == [
            str(tmp_path / n) for n in ('a.png', 'b.png')
        ]

    def test_archive(self, tmp_path: Path) -> None:
        path = tmp_path / 'products.zip'
        with zipfile.ZipFile(path, 'w') as archive:
            for name in (
                'S2.SAFE/b.tif',
                'S2.SAFE/a.tif',
                'S2.SAFE/a.xml',
                '__M/._a.tif',
            ):
                archive.writestr(name, '')
        expected = [f'/vsizip/{path}/S2.SAFE/{name}.tif' for name in 'ab']
        for given in (
            f'{path}', f'zip://{path}', f'zip://{path}!S2.SAFE', f'/vsizip/{path}/',
            f'/vsizip/{path}/S2.SAFE', f'zip://{path}!/S2.SAFE/',
        ):  # fmt: skip
            assert list_files(given) == expected
        one = f'zip://{path}!S2.SAFE/a.tif'
        assert list_files(one) == [one]
        missing = f'zip://{path}!no'
        assert list_files(missing) == [missing]

    @pytest.mark.parametrize(
        'path', [SIGNED, 's3://bucket/a.tif', 'https://host/tiles/', 'NETCDF:a.nc:vv']
    )
    def test_no_folder(self, path: str) -> None:
        assert list_files(path) == [path]

    def test_bucket(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def find(path: str) -> list[str]:
            asked.append(path)
            return [f'{path}/b.tif', f'{path}/a.tif', f'{path}/a.tif.ovr']

        monkeypatch.setattr('torchgeo.datasets.utils.find_files', find)
        expected = ['/vsis3/bucket/tiles/a.tif', '/vsis3/bucket/tiles/b.tif']
        for path in ('s3://bucket/tiles/', '/vsis3/bucket/tiles'):
            assert list_files(path) == expected
        assert asked == ['/vsis3/bucket/tiles'] * 2


class TestSecrets:
    @pytest.mark.parametrize(
        ('path', 'expected'),
        [
            (SIGNED, 'https://host/s2.tif'),
            ('https://me:p%40ss@host/a b.tif?x=1 2#f', 'https://host/a b.tif'),
            ('https://host/@me/a.tif', 'https://host/@me/a.tif'),
            (f'/vsicurl/{SIGNED}', '/vsicurl/https://host/s2.tif'),
            (
                '/vsicurl?max_retry=3&url=https%3A%2F%2Fhost%2Fa.tif%3Fsig%3D1',
                '/vsicurl/https://host/a.tif',
            ),
            ('/vsicurl?header.Authorization=secret', '/vsicurl/'),
            ('zip+https://host/a.zip?sig=1!b.tif', 'zip+https://host/a.zip!b.tif'),
            (
                '/vsizip/{/vsicurl/https://host/a.zip?sig=1}/b.tif',
                '/vsizip/{/vsicurl/https://host/a.zip}/b.tif',
            ),
            (
                'NETCDF:"/vsicurl/https://host/a.nc?sig=1":vv',
                'NETCDF:"/vsicurl/https://host/a.nc":vv',
            ),
            ('data/a?b#c.tif', 'data/a?b#c.tif'),
            ('file:///data/a?b.tif', 'file:///data/a?b.tif'),
        ],
    )
    def test_public_path(self, path: str, expected: str) -> None:
        assert public_path(path) == expected
        assert public_path(expected) == expected
        assert name_paths(path) == repr(expected)

    def test_name_paths(self) -> None:
        names = [f'{i}.tif' for i in range(5)]
        assert name_paths(names[:3]) == "'0.tif', '1.tif', '2.tif'"
        assert name_paths(names) == "'0.tif', '1.tif', '2.tif', and 2 more"

    def test_without_secrets(self) -> None:
        text = (
            f"'/vsicurl/{SIGNED}' is not recognized (see https://me:x@host/a?b#c), why?"
        )
        assert without_secrets(text) == (
            "'/vsicurl/https://host/s2.tif' is not recognized (see https://host/a why?"
        )


class TestOpen:
    """The paths are those that GDAL opens."""

    DATA = np.arange(12, dtype='float32').reshape(3, 4)

    def check(self, path: str) -> None:
        (found,) = expand('optical', path)
        (file,) = list_files(found)
        with rasterio.open(file) as src:
            assert np.array_equal(src.read(1), self.DATA)

    def test_local(self, tmp_path: Path) -> None:
        write(tmp_path / 'a [1] #2?.tif', self.DATA)
        self.check(str(tmp_path / 'a [1] #2?.tif'))
        self.check(f'file://{tmp_path}/a%20[1]%20%232%3F.tif')

    def test_archives(self, tmp_path: Path) -> None:
        write(tmp_path / 'a.tif', self.DATA)
        path = tmp_path / 'products [1].zip'
        with zipfile.ZipFile(path, 'w') as archive:
            archive.write(tmp_path / 'a.tif', 's2/a.tif')
        for name in (
            f'{path}', f'zip://{path}', f'zip://{path}!s2/a.tif',
            f'zip+file://{path}!/s2/a.tif', f'/vsizip/{path}/s2/a.tif',
        ):  # fmt: skip
            self.check(name)

    def test_netcdf(self, tmp_path: Path) -> None:
        write(tmp_path / 'a.tif', self.DATA)
        rasterio.shutil.copy(tmp_path / 'a.tif', tmp_path / 'a.nc', driver='netCDF')
        self.check(f'NETCDF:{tmp_path}/a.nc:Band1')
        self.check(f'netcdf:"{tmp_path}/a.nc":Band1')

    def test_url(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv('NO_PROXY', '127.0.0.1')
        write(tmp_path / 'a.tif', self.DATA)
        with serve(tmp_path) as url:
            for name in (f'{url}/a.tif?sig=1', f'/vsicurl/{url}/a.tif'):
                self.check(name)

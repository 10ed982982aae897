# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from zipfile import ZipFile

import numpy as np
import pytest
import rasterio
import shapely
from rasterio.enums import ColorInterp

from tests.data.geotiff import write
from torchgeo_m2cd.datasets.headers import Header, Headers

FIND = 'torchgeo_m2cd.datasets.headers.open_file'


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep headers in a folder of the test, also of few files."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setattr('torchgeo_m2cd.datasets.headers._MANY', 2)
    return tmp_path / 'cache' / 'torchgeo_m2cd'


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    folder = tmp_path / 'in'
    folder.mkdir()
    values = np.ones((2, 8, 9), np.float32)
    return [str(write(folder / f'{i}.tif', values, nodata=-9999)) for i in range(2)]


def read(files: list[str]) -> list[Header]:
    headers = Headers(files)
    found = [headers[file] for file in files]
    headers.save()
    return found


class TestHeaders:
    def test_contents(self, files: list[str]) -> None:
        """Headers have the names of rasterio."""
        (header, _) = read(files)
        with rasterio.open(files[0]) as src:
            for name in ('crs', 'transform', 'shape', 'height', 'width', 'nodata'):
                assert getattr(header, name) == getattr(src, name)
            for name in ('dtypes', 'descriptions', 'scales', 'offsets', 'colorinterp'):
                assert list(getattr(header, name)) == list(getattr(src, name))
        assert header.colorinterp[0] == ColorInterp.gray
        assert not header.has_mask
        assert not header.has_points

    def test_not_opened_twice(
        self, files: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = read(files)
        monkeypatch.setattr(FIND, Mock(side_effect=AssertionError))
        assert read(files) == first

    def test_few(self, files: list[str], cache: Path) -> None:
        """Headers of few files are not kept: the files open fast."""
        read(files[:1])
        assert not cache.exists()

    @pytest.mark.parametrize('what', ['file', 'folder', 'cache', 'entry'])
    def test_changed(self, what: str, files: list[str], cache: Path) -> None:
        read(files)
        (path,) = cache.iterdir()
        match what:
            case 'file':
                write(Path(files[0]), np.ones((1, 5, 5), np.float32))
            case 'folder':  # A mask came beside it
                Path(files[0]).with_name('0.tif.msk').touch()
                os.utime(Path(files[0]).parent, ns=(1, 1))
            case 'cache':
                path.write_text('{"')
            case 'entry':
                content: dict[str, Any] = json.loads(path.read_text())
                content[files[0]]['header'] = {'a': 1}
                path.write_text(json.dumps(content))
        expected = (5, 5) if what == 'file' else (8, 9)
        assert [header.shape for header in read(files)] == [expected, (8, 9)]

    def test_side_files(self, files: list[str], cache: Path) -> None:
        """A file with statistics or a mask is read each time, as they may change."""
        outside = rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False)
        with outside, rasterio.open(files[0], 'r+') as file:
            file.write_mask(np.zeros((8, 9), bool))
        header, _ = read(files)
        assert header.has_mask
        (path,) = cache.iterdir()
        assert list(json.loads(path.read_text())) == files[1:]

    def test_remote(self, files: list[str]) -> None:
        """Headers of remote files are not kept: changes cannot be detected."""
        names = [f'/vsizip/{file}.zip/a.tif' for file in files]
        with pytest.raises(rasterio.errors.RasterioError):
            Headers(names)[names[0]]
        assert Headers(names)._stamp(names[0]) == []
        # A file that can be opened is opened each time
        archives = []
        for file in files:
            archives.append(f'/vsizip/{file}.zip/{Path(file).name}')
            with ZipFile(f'{file}.zip', 'w') as archive:
                archive.write(file, Path(file).name)
        assert [header.shape for header in read(archives)] == [(8, 9), (8, 9)]
        write(Path(files[0]), np.ones((2, 4, 4), np.float32))
        with ZipFile(f'{files[0]}.zip', 'w') as archive:
            archive.write(files[0], Path(files[0]).name)
        assert read(archives)[0].shape == (4, 4)

    def test_no_place(self, files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        """Headers are not kept without a writable folder."""
        monkeypatch.setenv('XDG_CACHE_HOME', files[0])
        assert len(read(files)) == 2

    @pytest.mark.parametrize('found', [None, shapely.box(0, 0, 1, 1)])
    def test_empty(
        self,
        found: shapely.Geometry | None,
        files: list[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Areas without data are looked for once, for the same bands."""
        find = Mock(return_value=found)
        for _ in range(2):
            headers = Headers(files)
            assert headers[files[0]].shape == (8, 9)
            assert headers.empty(files[0], [1], True, find) == found
            headers.save()
        assert find.call_count == 1
        headers.empty(files[0], [2], True, find)
        headers.empty(files[0], [1], False, find)
        assert find.call_count == 3

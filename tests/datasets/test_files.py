# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import os
from pathlib import Path

import numpy as np
import pytest
from rasterio.errors import RasterioIOError

from tests.data.geotiff import write
from tests.data.server import serve
from torchgeo_m2cd.datasets.files import allow_urls, forbid_urls, open_file

VRT = """<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="Float32"
band="1"><SimpleSource><SourceFilename>/vsicurl/{url}</SourceFilename></SimpleSource>
</VRTRasterBand></VRTDataset>"""

NAMES = {'CPL_VSIL_CURL_ALLOWED_EXTENSIONS', 'GDAL_HTTP_PROXY'}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv(name, '')
        monkeypatch.delenv(name)


def test_urls(tmp_path: Path) -> None:
    """A VRT that names a URL can be read unless URLs are forbidden."""
    for name in 'abc':  # GDAL remembers what a URL holds
        write(tmp_path / f'{name}.tif', np.full((1, 4, 4), 7, np.float32))
    vrt = tmp_path / 'a.vrt'
    with serve(tmp_path) as url:

        def read(name: str) -> float:
            vrt.write_text(VRT.format(url=f'{url}/{name}.tif'))
            with open_file(str(vrt)) as file:
                return float(file.read().mean())

        assert read('a') == 7
        forbid_urls()
        with pytest.raises(RasterioIOError):
            read('b')
        allow_urls()
        assert read('c') == 7


def test_user_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('CPL_VSIL_CURL_ALLOWED_EXTENSIONS', '.tif')
    forbid_urls()
    assert 'GDAL_HTTP_PROXY' not in os.environ
    allow_urls()
    assert os.environ['CPL_VSIL_CURL_ALLOWED_EXTENSIONS'] == '.tif'


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs pipes with names')
def test_pipe(tmp_path: Path) -> None:
    """A pipe is refused without waiting for it."""
    os.mkfifo(tmp_path / 'a.tif')
    with pytest.raises(ValueError, match=r"file '.*a\.tif' is a pipe"):
        open_file(str(tmp_path / 'a.tif'))

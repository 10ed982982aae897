# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Opening and writing raster files."""

import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt
import rasterio
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import DatasetReader
from rasterio.warp import Affine

from ..utils import write_beside
from .paths import name_paths, refuse_pipe, without_secrets

#: With these settings, GDAL opens no URL that a VRT or WMS file names: its file systems of
#: URLs open no suffix, and its other drivers get a proxy that does not exist.
_OFFLINE = {
    'CPL_VSIL_CURL_ALLOWED_EXTENSIONS': '.none',
    'GDAL_HTTP_PROXY': '127.0.0.1:9',
}


def forbid_urls() -> None:
    """Keep files from making GDAL open URLs, in this process and those that it starts.

    Does nothing if one of the settings is in the environment already: so users say what
    is allowed.
    """
    if not _OFFLINE.keys() & os.environ.keys():
        os.environ.update(_OFFLINE)


def allow_urls() -> None:
    """Undo :func:`forbid_urls`."""
    if _OFFLINE.items() <= os.environ.items():
        for name in _OFFLINE:
            del os.environ[name]


def open_file(path: str) -> DatasetReader:
    """Open a raster file.

    Args:
        path: The file, or a URL.

    Returns:
        The open file.

    Raises:
        RasterioError: If it cannot be opened.
        ValueError: If it is a pipe, a socket or a device.
    """
    refuse_pipe(path, f'file {name_paths(path)}')
    # TorchGeo's command keeps GDAL from looking for other files, and so for masks
    env = {'GDAL_DISABLE_READDIR_ON_OPEN': 'TRUE'} if os.path.exists(path) else {}
    with rasterio.Env(**env):
        file: DatasetReader = rasterio.open(path)
    return file


def write_raster(
    path: pathlib.Path,
    data: npt.NDArray[Any],
    crs: CRS | str | None,
    transform: Affine,
    nodata: float,
    bands: Sequence[str],
) -> None:
    """Write a GeoTIFF.

    Args:
        path: File to write or replace.
        data: Bands, shape (C, H, W).
        crs: Coordinate reference system, if there is one.
        transform: Transform from pixels to coordinates, the identity if there is none.
        nodata: Value of pixels without data.
        bands: Names of the bands.
    """
    # GDAL does not raise what goes wrong when it closes a file; Python does
    with rasterio.MemoryFile() as memory:
        with (
            warnings.catch_warnings(category=NotGeoreferencedWarning, action='ignore'),
            memory.open(
                driver='GTiff',
                dtype=data.dtype,
                count=len(data),
                height=data.shape[1],
                width=data.shape[2],
                crs=crs,
                transform=transform,
                nodata=nodata,
                tiled=True,
                blockxsize=256,
                blockysize=256,
                compress='deflate',
                bigtiff='if_safer',
            ) as raster,
        ):
            raster.write(data)
            raster.descriptions = tuple(bands)
        write_beside(path, lambda file: file.write(memory.getbuffer()))


def unreadable(name: str, path: str, error: Exception) -> RuntimeError:
    """Make the error that a file cannot be read.

    Args:
        name: What the file is.
        path: The file.
        error: What went wrong.

    Returns:
        The error to raise.
    """
    return RuntimeError(
        f'{name} file {name_paths(path)} cannot be read: expected a complete raster file '
        f'({without_secrets(str(error.__cause__ or error))})'
    )

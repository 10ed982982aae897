# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Opening raster files."""

import os

import rasterio
from rasterio.io import DatasetReader

from .paths import name_paths, without_secrets


def open_file(path: str) -> DatasetReader:
    """Open a raster file.

    Args:
        path: The file, or a URL.

    Returns:
        The open file.

    Raises:
        RasterioError: If it cannot be opened.
    """
    # TorchGeo's command keeps GDAL from looking for other files, and so for masks
    env = {'GDAL_DISABLE_READDIR_ON_OPEN': 'TRUE'} if os.path.exists(path) else {}
    with rasterio.Env(**env):
        file: DatasetReader = rasterio.open(path)
    return file


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

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""GeoTIFFs for tests."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.transform import Affine, from_origin

WEST, NORTH = 500_000.0, 5_300_000.0
GRID = from_origin(WEST, NORTH, 10, 10)


def write(
    path: Path,
    data: npt.ArrayLike,
    transform: Affine = GRID,
    crs: str | None = 'EPSG:32633',
    nodata: float | None = None,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.atleast_3d(np.asarray(data).T).T  # (H, W) becomes (1, H, W)
    with rasterio.open(
        path,
        'w',
        driver='GTiff',
        dtype=array.dtype,
        count=len(array),
        height=array.shape[1],
        width=array.shape[2],
        crs=crs,
        transform=transform,
        nodata=nodata,
    ) as dst:
        dst.write(array)
    return path

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Masks for tests."""

import pickle
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import shapely
import torch
from pyproj import CRS

from tests.data.geotiff import GRID, NORTH, WEST
from torchgeo_m2cd.datasets import MaskSource
from torchgeo_m2cd.datasets.grid import Grid
from torchgeo_m2cd.datasets.masks import Mask

UTM = Grid(CRS.from_epsg(32633), GRID)
EDGE = 20

# Flood of the rasters
RASTER = np.zeros((EDGE, EDGE), np.uint8)
RASTER[5:9, 5:15] = 1


def pixels(top: int, bottom: int, left: int, right: int) -> shapely.Polygon:
    """Return the polygon of pixels of the grid."""
    return shapely.box(
        WEST + 10 * left, NORTH - 10 * bottom, WEST + 10 * right, NORTH - 10 * top
    )


def burn(
    *boxes: tuple[int, int, int, int, int], fill: int = 0
) -> npt.NDArray[np.int64]:
    """Return the labels that boxes of pixels (top, bottom, left, right, class) make."""
    labels = np.full((EDGE, EDGE), fill)
    for top, bottom, left, right, label in boxes:
        labels[top:bottom, left:right] = label
    return labels


def save(
    path: Path,
    shapes: list[Any],
    crs: str | int | None = 'EPSG:32633',
    layer: str | None = None,
    **columns: Any,
) -> Path:
    """Write a layer of a vector file."""
    table = gpd.GeoDataFrame(columns, geometry=shapes, crs=crs)
    table.to_file(path, **({} if layer is None else {'layer': layer}))
    return path


def read(
    source: MaskSource | Path, grid: Grid = UTM, shape: tuple[int, int] = (EDGE, EDGE)
) -> npt.NDArray[np.int64]:
    """Read the first pixels of a grid, as a spawned worker does."""
    mask: Mask = pickle.loads(pickle.dumps(Mask(MaskSource.of(source), grid)))
    west, north = grid.transform.c, grid.transform.f
    x = slice(west, west + shape[1] * grid.res[0], grid.res[0])
    y = slice(north - shape[0] * grid.res[1], north, grid.res[1])
    labels = mask.read(x, y)
    assert labels.dtype == torch.int64
    assert labels.shape == (1, *shape)
    values = labels[0].numpy()
    assert set(np.unique(values)) <= mask.classes | {255}
    return values


def touch(root: Path, *names: str) -> None:
    """Make empty files, and their folders."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

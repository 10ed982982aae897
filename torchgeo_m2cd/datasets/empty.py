# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Areas of zeros in SAR files, which are no data although no tag says so."""

import math

import numpy as np
import numpy.typing as npt
import shapely
import shapely.affinity
from rasterio.features import geometry_mask, shapes
from rasterio.io import DatasetReader
from rasterio.transform import Affine
from rasterio.windows import Window
from shapely.geometry import shape

# Largest size of what is looked at, and of what counts as an area
_MAX_SIZE, _AREA = 512, 7


def find_empty(
    src: DatasetReader, numbers: list[int], anywhere: bool = False
) -> shapely.Geometry | None:
    """Find the areas of a file where all bands are zero.

    Products that were turned, or cut out of a swath, have such areas at their corners, or
    as fringes of what they declare as no data, and not all of them declare it. They are
    looked for at low resolution. Neither are they single zeros, as over calm water whose
    noise was removed, nor lakes along an edge.

    Args:
        src: The file.
        numbers: Numbers of the bands.
        anywhere: Whether other areas count, too.

    Returns:
        The areas in coordinates of the file, a little larger than they looked, None if
        there are none.
    """
    step: int = math.ceil(max(src.shape) / _MAX_SIZE)
    size = math.ceil(src.height / step), math.ceil(src.width / step)
    out_shape = (len(numbers), *size)
    values = src.read(numbers, out_shape=out_shape)
    zero = (values == 0).all(axis=0)
    missing = np.isnan(values) | (src.read_masks(numbers, out_shape=out_shape) == 0)
    scale_y, scale_x = src.height / size[0], src.width / size[1]
    # A pixel belongs to an area if it is part of a square of zeros, or of no data
    solid = _open_mask(zero | missing.all(axis=0))
    corners = shapely.MultiPoint(
        [(x, y) for x in (0.5, size[1] - 0.5) for y in (0.5, size[0] - 0.5)]
    )
    areas = _find_lines(src, numbers, step)
    # Most files have none, and calling shapes takes longest
    for geometry, _ in (
        shapes(solid.astype(np.uint8), mask=solid) if solid.any() else ()
    ):
        area = shape(geometry)
        inside = geometry_mask([area], size, Affine.identity(), invert=True)
        if (anywhere or area.intersects(corners)) and (zero & inside).any():
            areas.append(
                shapely.transform(area, lambda points: points * (scale_x, scale_y))
            )
    if not areas:
        return None
    return shapely.transform(
        shapely.union_all(areas).buffer(3 * step + 1),
        lambda points: np.column_stack(src.transform @ (points[:, 0], points[:, 1])),
    )


def _find_lines(
    src: DatasetReader, numbers: list[int], step: int
) -> list[shapely.Geometry]:
    """Find lines of zeros along the edges, too thin to be seen at low resolution."""
    height, width = src.shape
    depth = min(_AREA * step, height, width)
    areas = []
    for left, top, columns, rows, axis in (
        (0, 0, width, depth, 0),
        (0, height - depth, width, depth, 0),
        (0, 0, depth, height, 1),
        (width - depth, 0, depth, height, 1),
    ):
        window = Window(left, top, columns, rows)
        zero = (src.read(numbers, window=window) == 0).all(axis=(0, 2 - axis))
        is_end = left + top > 0
        count = int(np.argmin([*(zero[::-1] if is_end else zero), False]))
        if count:
            start = depth - count if is_end else 0
            area = shapely.box(0, start, columns, start + count)
            if axis == 1:
                area = shapely.box(start, 0, start + count, rows)
            areas.append(shapely.affinity.translate(area, left, top))
    return areas


def _open_mask(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Keep the pixels of a mask that are part of a square of set pixels.

    The square may reach beyond an edge, where pixels are as the nearest ones within.
    """
    view = np.lib.stride_tricks.sliding_window_view
    opened = np.zeros_like(mask)
    if min(mask.shape) < _AREA or not mask.any():
        return opened
    for beyond in ((_AREA - 1, 0), (0, _AREA - 1)):
        outside = [(edge, edge) for edge in beyond]
        eroded = view(np.pad(mask, outside, mode='edge'), (_AREA, _AREA)).all(
            axis=(2, 3)
        )
        inside = np.pad(eroded, [(edge, edge) for edge in beyond[::-1]])
        opened |= view(inside, (_AREA, _AREA)).any(axis=(2, 3))
    return opened

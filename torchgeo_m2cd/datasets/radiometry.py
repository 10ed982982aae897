# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""What the values of a file stand for: gain, offset, and no data that no tag declares."""

import functools
import math
import pathlib
import re
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import shapely
import shapely.affinity
from rasterio.features import shapes
from rasterio.io import DatasetReader
from rasterio.windows import Window
from shapely.geometry import shape

#: Reflectance in the products of Sentinel-2, before they had an offset. Reflectance from 0
#: to 1 of other products is multiplied by it, so that all of them are the same to a model.
REFLECTANCE = 10_000.0

# SAFE products, their granules, and the COGs of Earth Search and the Planetary Computer
_SENTINEL_2 = re.compile(
    r'(?<![A-Z0-9])S2[ABCD]_|(?<![A-Z0-9])T\d{2}[A-Z]{3}_\d{8}T\d{6}', re.IGNORECASE
)

# Order of the bands in the metadata of Sentinel-2
_BAND_IDS = (
    'B01', 'B02', 'B03', 'B04', 'B05', 'B06', 'B07', 'B08', 'B8A', 'B09', 'B10', 'B11', 'B12',
)  # fmt: skip

# Largest size of what is looked at, and of what counts as an area
_MAX_SIZE, _AREA = 512, 7


class Radiometry(NamedTuple):
    """Physical values are *gain* times the value of the file, plus *offset*."""

    gain: float = 1.0
    offset: float = 0.0


def is_sentinel_2(path: str) -> bool:
    """Whether a file belongs to a product of Sentinel-2, where 0 is no data.

    Args:
        path: The file.

    Returns:
        Whether its name, or that of its folder, says so.
    """
    parts = re.split(r'[/\\]', path)[-6:]
    return any(_SENTINEL_2.search(part) for part in parts)


def read_safe(path: str, band: str) -> Radiometry | None:
    """Find the reflectance of 0 and of one unit in the metadata of a Sentinel-2 product.

    Since the processing baseline 04.00 of January 2022, values are 1000 higher than
    reflectance x 10,000. Source: Sentinel-2 products specification, ``RADIO_ADD_OFFSET``
    of Level-1C and ``BOA_ADD_OFFSET`` of Level-2A.

    Args:
        path: A file of a SAFE folder.
        band: Name of the band.

    Returns:
        Gain and offset to reflectance from 0 to 1, None if nothing is known.
    """
    for folder in pathlib.PurePath(path).parents:
        if folder.suffix.upper() != '.SAFE':
            continue
        for file in sorted(pathlib.Path(folder).glob('MTD_MSIL*.xml')):
            # Downloads may leave it empty
            if file.stat().st_size:
                return _read_metadata(file)[band]
        baseline = re.search(r'_N(\d{4})_', folder.name)
        if baseline is not None:
            offset = -1000.0 if int(baseline[1]) >= 400 else 0.0
            return Radiometry(1 / REFLECTANCE, offset / REFLECTANCE)
    return None


@functools.cache
def _read_metadata(file: pathlib.Path) -> dict[str, Radiometry]:
    """Read the radiometry of all bands from the metadata of a product."""
    try:
        tree = ElementTree.parse(file)
        level = 'BOA_' if 'L2A' in file.name else ''
        unit = 1 / float(tree.findtext(f'.//{level}QUANTIFICATION_VALUE', ''))
        offsets = {
            _BAND_IDS[int(element.attrib['band_id'])]: float(element.text or 0)
            for name in ('BOA_ADD_OFFSET', 'RADIO_ADD_OFFSET')
            for element in tree.iter(name)
        }
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise ValueError(
            f'metadata file {str(file)!r} cannot be read: expected the quantification '
            f'value and the offsets of a Sentinel-2 product ({error})'
        ) from error
    return {band: Radiometry(unit, offsets.get(band, 0.0) * unit) for band in _BAND_IDS}


def find_margin(src: DatasetReader, numbers: list[int]) -> shapely.Geometry | None:
    """Find the area along the edges of a file where all bands are zero.

    Products that were turned, or cut out of a swath, have such an area, and not all of
    them declare it. It is looked for at low resolution. Single zeros, as over calm water
    whose noise was removed, are no area.

    Args:
        src: The file.
        numbers: Numbers of the bands.

    Returns:
        The area in coordinates of the file, a little larger than it looked, None if there
        is none.
    """
    step: int = math.ceil(max(src.shape) / _MAX_SIZE)
    size = math.ceil(src.height / step), math.ceil(src.width / step)
    zero = (src.read(numbers, out_shape=(len(numbers), *size)) == 0).all(axis=0)
    scale_y, scale_x = src.height / size[0], src.width / size[1]
    # A pixel belongs to an area if it is part of a square of zeros
    solid = _open_mask(zero)
    areas = _find_lines(src, numbers, step)
    for geometry, _ in shapes(solid.astype(np.uint8), mask=solid):
        area = shapely.transform(shape(geometry), lambda xy: xy * (scale_x, scale_y))
        west, north, east, south = area.bounds
        if not (west and north) or east >= src.width or south >= src.height:
            areas.append(area)
    if not areas:
        return None
    return shapely.transform(
        shapely.union_all(areas).buffer(step + 1),
        lambda xy: np.column_stack(src.transform @ (xy[:, 0], xy[:, 1])),
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
    if min(mask.shape) < _AREA:
        return opened
    for beyond in ((_AREA - 1, 0), (0, _AREA - 1)):
        outside = [(edge, edge) for edge in beyond]
        eroded = view(np.pad(mask, outside, mode='edge'), (_AREA, _AREA)).all(
            axis=(2, 3)
        )
        inside = np.pad(eroded, [(edge, edge) for edge in beyond[::-1]])
        opened |= view(inside, (_AREA, _AREA)).any(axis=(2, 3))
    return opened

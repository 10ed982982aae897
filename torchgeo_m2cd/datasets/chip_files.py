# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Reading the files of chips."""

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import rasterio
import torch
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from torch import Tensor

from ..utils import check_choice
from .bands import agree, list_bands, name_band
from .classes import UNKNOWN, Value, assign_classes, show_setting, show_table
from .files import unreadable
from .masks import MaskSource
from .paths import name_paths, refuse_pipe
from .radiometry import TINY, Radiometry
from .source import Source


@dataclass(frozen=True)
class ImageReader:
    """Reads the optical or the SAR image of chips.

    Args:
        kind: What the files are: ``'optical'`` or ``'SAR'``.
        source: How to read them: no data, gain, offset, and scale.
        all_bands: Names of all bands of a file, numbers where they are not known.
        numbers: Numbers of the C bands to read, starting at 1.
        bands: Names of the bands to read, numbers where they are not known.
        size: Height and width of a file in pixels.
        counts_black: Whether the dataset counts pixels where all optical bands are 0. The
            model sees no data there nevertheless.
    """

    kind: str
    source: Source
    all_bands: Sequence[str]
    numbers: Sequence[int]
    bands: tuple[str, ...]
    size: tuple[int, int]
    counts_black: bool = False

    @classmethod
    def of(
        cls,
        kind: str,
        source: Source,
        path: str,
        all_bands: Sequence[str] = (),
        counts_black: bool = False,
    ) -> Self:
        """Find out from one file how to read all.

        Args:
            kind: What the files are.
            source: The settings.
            path: The file.
            all_bands: Names of all bands, if files do not name them.
            counts_black: See :class:`ImageReader`.

        Returns:
            The reader.

        Raises:
            RuntimeError: If the file cannot be read.
            ValueError: If a band does not exist.
        """
        source = source.resolve([path])
        with open_chip(kind, path) as src:
            factors = [_find_radiometry(source, src, n) for n in src.indexes]
            source = source.settle(src.dtypes, factors)
            names = list(all_bands) or _name_bands(src)
            size = src.shape
        given = source.bands if isinstance(source.bands, Mapping) else {}
        wanted = [*given.values()] if given else source.bands
        if wanted is None:
            wanted = range(1, len(names) + 1)
        # A name for each band of a file that has none
        named = [band for band in wanted if isinstance(band, str)]
        if (
            named
            and not all_bands
            and len(named) == len(names)
            and not any(map(_known, names))
        ):
            names = named
        for band in named:
            check_choice(f'{kind} band', band, names)
        numbers = [
            names.index(band) + 1 if isinstance(band, str) else band for band in wanted
        ]
        wrong = [number for number in numbers if not 1 <= number <= len(names)]
        if wrong:
            raise ValueError(
                f'{kind.lower()}.bands has {wrong[0]}: expected numbers from 1 to '
                f'{len(names)}, the bands of {name_paths(path)}'
            )
        bands = (*given,) or tuple(names[number - 1] for number in numbers)
        return cls(kind, source, names, numbers, bands, size, counts_black)

    def read(self, path: str) -> tuple[Tensor, Tensor]:
        """Read an image.

        Where zeros of an optical image are data, since bands that are not read differ from
        0 or *source* says so, they become 1.2e-38 if all that are read are 0.

        Args:
            path: Any raster file that GDAL can read, such as PNG or GeoTIFF.

        Returns:
            Float32 tensor of shape (C, H, W) in the units of *source*, 0 without data,
            and bool tensor of shape (1, H, W), whether there are data.

        Raises:
            RuntimeError: If the file cannot be read.
            ValueError: If the file has other bands, or infinite or complex values.
        """
        name = f'{self.kind} file {name_paths(path)}'
        with open_chip(self.kind, path) as src:
            self._check_bands(src, name)
            nodata = self.source.no_data(src)
            factors = [_find_radiometry(self.source, src, n) for n in self.numbers]
            array = src.read()
        everything = array.astype(np.float32)
        infinite = np.isinf(everything).sum()
        if infinite:
            raise ValueError(
                f'{name} has {infinite} infinite value(s): expected finite values only'
            )
        index = [number - 1 for number in self.numbers]
        values = everything[index]
        missing = np.isnan(everything)
        if nodata is not None:
            missing |= array == nodata
        dark = (values == 0).all(axis=0)
        black = (everything == 0).all(axis=0) & (not self.source.has_zeros)
        # A lake is 0 in the near infrared
        is_black = self.source.is_optical and nodata == 0
        empty = missing.all(axis=0) if is_black else missing[index].any(axis=0)
        for band, (gain, offset) in zip(values, factors, strict=True):
            if (gain, offset) != (1, 0):
                band *= gain
                band += offset
        if self.source.is_optical:
            values[:, dark] = TINY
            values[:, black] = 0
            empty |= black & (not self.counts_black)
        values[:, empty] = math.nan
        values = self.source.convert(values, name)
        values[:, empty] = 0
        return torch.from_numpy(values), torch.from_numpy(~empty[None])

    def _check_bands(self, src: DatasetReader, name: str) -> None:
        """Check that a file has the bands of the first one."""
        if src.count != len(self.all_bands):
            raise ValueError(
                f'{name} has {src.count} band(s): expected {len(self.all_bands)}'
            )
        found, expected = (
            [_known(band) for band in bands]
            for bands in (_name_bands(src), self.all_bands)
        )
        if not agree(found, expected):
            raise ValueError(
                f'{name} has the bands {list_bands(found)}: expected '
                f'{list_bands(expected)}, as in other files'
            )
        if any(dtype.startswith('complex') for dtype in src.dtypes):
            raise ValueError(f'{name} has complex values: expected real ones')


def read_mask(path: str, source: MaskSource) -> Tensor:
    """Read a change mask.

    Args:
        path: See :func:`read_values`.
        source: See :func:`read_values`.

    Returns:
        Classes, int64 tensor of shape (1, H, W), 255 where they are not known.

    Raises:
        RuntimeError: If the file cannot be read.
        ValueError: If the file has bands that differ, or a value without class.
    """
    values, classes = read_values(path, source)
    labels = torch.full(values.shape, UNKNOWN)
    for value, label in classes.items():
        labels[torch.from_numpy(values == value)] = label
    return labels[None]


def read_values(
    path: str, source: MaskSource
) -> tuple[npt.NDArray[np.generic], dict[Value, int]]:
    """Read the values of a change mask, and find the class of each.

    Args:
        path: Raster file of one band, or of equal bands.
        source: How to read it: band, classes, and value without label. Without *classes*,
            values are classes, but it has to be said what 255 means.

    Returns:
        Values, shape (H, W), and the class of each value, 255 if it is not known.

    Raises:
        RuntimeError: If the file cannot be read.
        ValueError: If the file has bands that differ, or a value without class.
    """
    name = f'mask file {name_paths(path)}'
    with open_chip('mask', path) as src:
        nodata = source.no_data(src)
        numbers = list(source.bands or src.indexes)
        if not {*numbers} <= {*src.indexes}:
            raise ValueError(
                f'{name} has {src.count} band(s): expected it to have mask.bands={numbers}'
            )
        first, *others = src.read(numbers)
    if nodata == 0 and source.nodata is None and source.classes is None:
        nodata = None  # Unchanged, whatever the file says
    if not all(np.array_equal(first, band) for band in others):
        raise ValueError(
            f'{name} has {len(numbers)} bands that differ: expected a mask of 1 band, or '
            'mask.bands=[1] to take the first'
        )
    unique = pd.unique(first.ravel()).astype(float).tolist()
    # One NaN for all files: others differ even from themselves
    found: set[Value] = {math.nan if math.isnan(v) else v for v in unique}
    known = {v: UNKNOWN for v in found if v == nodata or math.isnan(float(v))}
    if source.classes is None and UNKNOWN in found - known.keys():
        raise ValueError(
            f'{name} has the value {UNKNOWN}: expected mask.classes, such as '
            f'{show_table({0: 0, 1: 1, UNKNOWN: UNKNOWN})} if it means not known, or '
            f'{show_setting({0: 0, UNKNOWN: 1})} if it means changed'
        )
    return first, known | assign_classes(found - known.keys(), source.table, name)


@contextlib.contextmanager
def open_chip(kind: str, path: str) -> Iterator[DatasetReader]:
    """Open a file of a chip, which need not be georeferenced.

    Args:
        kind: What the file is, for messages.
        path: Any raster file that GDAL can read.

    Yields:
        The open file.

    Raises:
        RuntimeError: If the file cannot be opened or read, since it is truncated for
            example.
        ValueError: If it is a pipe, a socket or a device.
    """
    refuse_pipe(path, f'{kind} file {name_paths(path)}')
    try:
        # GDAL's fast path for PNG silently fills the missing part of a truncated file with
        # zeros. Listing a folder of many chips for each of them takes long
        with (
            warnings.catch_warnings(category=NotGeoreferencedWarning, action='ignore'),
            rasterio.Env(
                GDAL_PNG_WHOLE_IMAGE_OPTIM=False, GDAL_DISABLE_READDIR_ON_OPEN='TRUE'
            ),
            rasterio.open(path) as src,
        ):
            yield src
    except RasterioError as error:
        raise unreadable(kind, path, error) from error


def _name_bands(src: DatasetReader) -> list[str]:
    """Name the bands of a file, by their numbers where it does not name them."""
    return [
        name_band(description) or description or str(number)
        for number, description in enumerate(src.descriptions, 1)
    ]


def _find_radiometry(source: Source, src: DatasetReader, number: int) -> Radiometry:
    """Find gain and offset of a band: those given, or those that its tags say."""
    if source.gain is not None or source.offset is not None:
        gain = 1.0 if source.gain is None else source.gain
        return Radiometry(gain, source.offset or 0.0)
    tags = Radiometry(src.scales[number - 1], src.offsets[number - 1])
    if tags == Radiometry():
        return tags
    return Radiometry(*(value * source.physical_unit for value in tags))


def _known(name: str) -> str:
    """Return the name of a band, empty if it is only a number."""
    return '' if name.isdecimal() else name

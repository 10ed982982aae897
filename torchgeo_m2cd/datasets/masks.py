# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Ground truth of scenes: rasters of classes, or polygons."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from lightning.pytorch.utilities import rank_zero_warn
from rasterio.enums import Resampling
from rasterio.io import DatasetReader
from rasterio.windows import Window
from torch import Tensor

from ..checks import CountOrZero, checked
from .classes import (
    UNKNOWN,
    Value,
    assign_classes,
    guess_classes,
    make_classifier,
    show_setting,
    to_value,
)
from .files import open_file
from .grid import Grid
from .grid_raster import GridRaster
from .headers import Header
from .layers import Layer
from .mapped_area import VectorLayer, choose_layers, list_areas
from .paths import Paths, name_paths
from .polygons import VECTOR_SUFFIXES, Polygons, is_vector
from .source import Source

# A file with more values than these is an image
_MOST_VALUES = 1000


@checked
@dataclass(frozen=True)
class MaskSource(Source):
    """The files of a change mask, and how to read them.

    Args:
        paths: Raster files of classes; or vector files, whose polygons are changed and
            all else is not.
        bands: Band of raster files (defaults to the only one).
        naming: See :class:`Source`.
        nodata: See :class:`Source`.
        layer: Layer of vector files (defaults to the only one).
        attribute: Attribute of vector files that holds the class (defaults to class 1
            for all polygons).
        classes: Class of each value of the raster files or the attribute: 0 unchanged,
            1 changed, 255 not known. If it names nothing unchanged, 0 is, also if it is
            the no-data value of the file. By default, values are classes, and what is
            negative or empty is not known.
        area: Vector files of the area that was mapped: outside of it, the class is not
            known (defaults to what the products of Copernicus EMS say).
        area_layer: Layer of *area*, or without it of the mask itself.

    Raises:
        ValueError: If *classes* are not whole numbers from 0.
    """

    # Labels have no units
    gain: float | None = 1.0
    layer: str | None = None
    attribute: str | None = None
    classes: Mapping[int | str, CountOrZero] | None = None
    area: Paths | None = None
    area_layer: str | None = None

    is_optical: ClassVar[bool] = False

    @property
    def table(self) -> dict[Value, int] | None:
        """Class of each value, numbers as such: also those given as text."""
        if self.classes is None:
            return None
        table = {to_value(key): value for key, value in self.classes.items()}
        # By default, 0 is unchanged if no other value is
        return table if 0 in table.values() else {0.0: 0, **table}

    def no_data(self, src: Header) -> float | None:
        """Say which value of a file stands for pixels without label.

        Args:
            src: Header of the file.

        Returns:
            The value, None if a mask says where they are; NaN for a tag whose value has a
            class.
        """
        value = super().no_data(src)
        has_class = self.nodata is None and value in (self.table or {})
        return math.nan if has_class else value


class Mask:
    """Change mask of a scene, on its grid."""

    def __init__(self, source: MaskSource, grid: Grid) -> None:
        """Initialize a new Mask instance.

        Args:
            source: The files, and how to read them.
            grid: Grid to read them on.

        Raises:
            DatasetNotFoundError: If there is no raster file in a folder.
            FileNotFoundError: If a file or folder does not exist.
            RuntimeError: If a file cannot be read.
            ValueError: If the values cannot be classes, or if it takes an argument to know
                what is meant.
        """
        #: Files, folders and patterns, as they were given.
        self.paths = source.paths
        files = source.find_paths('mask')
        layers: list[VectorLayer] = []
        self._labels: RasterLabels | Polygons
        if _is_vector(source, files):
            layers = choose_layers('mask', files, source.layer)
            classify = make_classifier(source.attribute, source.table)
            self._labels = Polygons('mask', layers, grid, classify)
        else:
            self._labels = RasterLabels(source, grid)
        #: Classes that occur in the files.
        self.classes = self._labels.values - {UNKNOWN}
        mapped, not_seen = list_areas(source.area, source.area_layer, layers)
        self._mapped = Polygons('mask.area', mapped, grid) if mapped else None
        self._not_seen = Polygons('mask', not_seen, grid) if not_seen else None

    def read(self, x: slice, y: slice) -> Tensor:
        """Read a window.

        Args:
            x: Left and right edge, and width of a pixel.
            y: Lower and upper edge, and height of a pixel.

        Returns:
            Classes, int64 of shape (1, H, W), 255 where they are not known.

        Raises:
            RuntimeError: If a file cannot be read.
        """
        labels = self._labels.read(x, y)
        if self._mapped is not None:
            labels[self._mapped.read(x, y) == 0] = UNKNOWN
        if self._not_seen is not None:
            labels[self._not_seen.read(x, y) == 1] = UNKNOWN
        return labels


class RasterLabels(GridRaster):
    """Raster files of classes."""

    source: MaskSource

    def __init__(self, source: MaskSource, grid: Grid) -> None:
        """Initialize a new RasterLabels instance.

        Args:
            source: The files, and how to read them.
            grid: Grid to read them on.

        Raises:
            DatasetNotFoundError: If there is no raster file in a folder.
            FileNotFoundError: If a file or folder does not exist.
            RuntimeError: If a file cannot be read.
            ValueError: If the values cannot be classes, or if it takes an argument to know
                what is meant.
        """
        super().__init__('mask', source, grid, resampling=Resampling.nearest)
        name = f'mask file {name_paths(self.files)}'
        found, tags = self._scan(name)
        if source.classes is None:
            known = guess_classes(found, tags, source.nodata, name)
            self.source = replace(
                source, classes={int(value): label for value, label in known.items()}
            )
            for path in self.files:  # Values with a class are data
                header = self.on_grid[path].layer.header
                self.on_grid[path].layer = Layer(header, self.source.no_data(header))
        else:
            known = assign_classes(found - tags, source.table, name)
        #: Classes that occur in the files.
        self.values = set(known.values())

    def read(self, x: slice, y: slice) -> Tensor:
        """Read a window.

        Args:
            x: Left and right edge, and width of a pixel.
            y: Lower and upper edge, and height of a pixel.

        Returns:
            Classes, int64 of shape (1, H, W), 255 where they are not known.

        Raises:
            RuntimeError: If a file cannot be read.
        """
        values = super().read(x, y)[:1]  # Other bands are equal
        labels = torch.full(values.shape, UNKNOWN)
        for value, label in (self.source.table or {}).items():
            if not isinstance(value, str):
                labels[values == value] = label
        return labels

    def _scan(self, name: str) -> tuple[set[Value], set[Value]]:
        """List the values of the files, and those that stand for no data."""
        if self.band_count > 1 and (self.source.naming or self.source.bands):
            raise ValueError(
                f'mask.bands is {self.source.bands}: expected one band of {name}'
            )
        found: set[Value] = set()
        tags: set[Value] = set()
        extremes: list[str] = []
        layers = [pair for granule in self.granules for pair in granule.by_file()]
        for path, bands in layers:
            numbers = [band.number for band in bands]
            with open_file(path) as src:
                tag = self.source.no_data(self.on_grid[path].layer.header)
                own: set[Value] = set()
                for values in _read_strips(src, numbers, masked=tag is None):
                    if not all(
                        np.array_equal(band, values[0], equal_nan=True)
                        for band in values[1:]
                    ):
                        raise ValueError(
                            f'mask file {name_paths(path)} has {len(values)} bands '
                            'that differ: expected classes, or mask.bands=[1] to take '
                            'the first'
                        )
                    own |= set(pd.unique(values[0]).tolist())
                    if len(own) > _MOST_VALUES:
                        break
            found |= own
            extremes += [path] if own == {0, UNKNOWN} else []
            tags |= set() if tag is None else {tag}
        if 1 in found and extremes and self.source.classes is None:
            rank_zero_warn(
                f'mask file {name_paths(extremes)} has the values 0 and {UNKNOWN} alone, '
                f'others have 1: {UNKNOWN} is taken for not known. Otherwise, set '
                f'{show_setting({0: 0, 1: 1, UNKNOWN: 1})}'
            )
        return {v for v in found if not pd.isna(v)}, {v for v in tags if not pd.isna(v)}


def _read_strips(
    src: DatasetReader, bands: Sequence[int], masked: bool
) -> Iterator[npt.NDArray[np.generic]]:
    """Read all of a file, a few rows of pixels at a time, as arrays of shape (C, N)."""
    # Not at a lower resolution: a mean of two classes is another one
    count = max(2**24 // (src.width * len(bands)), 1)
    for row in range(0, src.height, count):
        window = Window(0, row, src.width, min(count, src.height - row))
        values = src.read(bands, window=window).reshape(len(bands), -1)
        if masked:
            values = values[:, src.dataset_mask(window=window).ravel() > 0]
        yield values


def _is_vector(source: MaskSource, files: Sequence[str]) -> bool:
    """Whether the files are vector files, after a check that all are of one kind."""
    vector = [path for path in files if is_vector(path)]
    if vector:
        if vector != files:
            raise ValueError(
                f'mask has raster and vector files, {name_paths(files)}: expected one '
                'kind of them'
            )
        return True
    for argument in ('layer', 'attribute'):
        value = getattr(source, argument)
        if value is not None:
            raise ValueError(
                f'mask.{argument} is {value!r}, but {name_paths(files)} is no vector '
                f'file: expected one of {", ".join(VECTOR_SUFFIXES)}'
            )
    for folder in filter(os.path.isdir, files):
        found = [name for name in sorted(os.listdir(folder)) if is_vector(name)]
        if found:
            raise ValueError(
                f'mask folder {folder!r} has the vector files {name_paths(found)}: '
                'expected the path of the one that counts'
            )
    return False

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Which files an image or a mask consists of, and how to read them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
from torchgeo.datasets import RasterDataset

from ..utils import check_choice
from .paths import Paths, expand, list_files

#: What the values of a SAR file are: ``'db'``, linear ``'power'`` or ``'amplitude'``, or
#: anything ``'other'``.
SARScale = Literal['db', 'power', 'amplitude', 'other']

# Decibels per decade
_DECIBELS = {'power': 10.0, 'amplitude': 20.0}


@dataclass(frozen=True)
class Source:
    """The files of an image, and how to read them.

    Args:
        paths: One or more files, folders, or patterns. Several files are mosaicked.
        bands: Bands to read: numbers, starting at 1, or names of *naming* (defaults to
            all).
        naming: Dataset of TorchGeo that knows the names of the files of this sensor,
            for one file per band: ``torchgeo.datasets.Sentinel2``.
        nodata: Value of pixels without data (defaults to what the files say).
    """

    paths: Paths = ()
    bands: Sequence[int] | Sequence[str] | None = None
    naming: type[RasterDataset] | None = None
    nodata: float | None = None

    @classmethod
    def of(cls, value: 'Source | Paths | None') -> Self:
        """Return a source as it is, and make one of paths.

        Args:
            value: A source, paths, or None for a source without files.

        Returns:
            The source.

        Raises:
            TypeError: If it is a source of another kind.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, Source):
            raise TypeError(f'got a {type(value).__name__}: expected a {cls.__name__}')
        return cls(() if value is None else value)

    def find_paths(self, name: str) -> list[str]:
        """List the paths, and the matches of those that are patterns.

        Args:
            name: What the files are, for messages.

        Returns:
            Existing files and folders, URLs, and paths that only GDAL understands.

        Raises:
            FileNotFoundError: If a file or folder does not exist, or nothing matches a
                pattern.
            ValueError: If there are no paths.
        """
        found = expand(name, self.paths)
        if not found:
            raise ValueError(
                f'{name} has no paths: expected a file, a folder or a pattern. With '
                f'other settings of {name}, name them as {name.lower()}.paths'
            )
        return found

    def name_files(self, name: str) -> RasterDataset | None:
        """Make the dataset of TorchGeo that knows the names of the files.

        Args:
            name: What the files are, for messages.

        Returns:
            The dataset, with the bands to read; None without *naming*.

        Raises:
            DatasetNotFoundError: If no file has such a name.
            ValueError: If a band is unknown, or has a name that nothing knows.
        """
        names = [band for band in self.bands or () if isinstance(band, str)]
        known = self.naming.all_bands if self.naming else ()
        if names and not known:
            raise ValueError(
                f'{name} bands {names} are names: expected numbers, or the dataset of '
                'TorchGeo that has such names as naming'
            )
        for band in names:
            check_choice(f'{name} band', band, known)
        if self.naming is None:
            return None
        arguments: dict[str, Any] = {'bands': names} if names else {}
        # TorchGeo would take a folder's name for a pattern
        files = [file for path in self.find_paths(name) for file in list_files(path)]
        return self.naming(files, **arguments)

    def convert(
        self, values: npt.NDArray[np.float32], name: str
    ) -> npt.NDArray[np.float32]:
        """Turn the values of the files into the units of a sample.

        Args:
            values: Values of the files, NaN where there are no data.
            name: Name of the files, for messages.

        Returns:
            Values of the same shape.
        """
        return values

    def describe(self) -> dict[str, Any]:
        """Describe how the files are read, in plain values.

        Returns:
            All arguments but the paths.
        """
        return {
            key: value.__qualname__ if isinstance(value, type) else value
            for key, value in vars(self).items()
            if key != 'paths'
        }


@dataclass(frozen=True)
class SARSource(Source):
    """The files of a SAR image, and how to read them.

    Args:
        paths: See :class:`Source`.
        bands: See :class:`Source`.
        naming: See :class:`Source`.
        nodata: See :class:`Source`.
        scale: What the values are. ``'power'`` and ``'amplitude'`` are warped as they
            are and then turned into dB; ``'other'`` is left alone, and not checked.
        decibels: Decibels of one unit, for ``scale='other'`` (defaults to those of the
            images that the model was trained with), see
            :func:`~torchgeo_m2cd.transforms.estimate_decibels`.

    Raises:
        ValueError: If *scale* is unknown.
    """

    scale: SARScale = 'db'
    decibels: float | None = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        check_choice('scale of sar', self.scale, get_args(SARScale))

    @property
    def unit(self) -> float | None:
        """Decibels of one unit of a sample, None if they are not known."""
        return self.decibels if self.scale == 'other' else 1.0

    def convert(
        self, values: npt.NDArray[np.float32], name: str
    ) -> npt.NDArray[np.float32]:
        """Turn power or amplitude into dB.

        Args:
            values: Values of the files, NaN where there are no data.
            name: Name of the files, for messages.

        Returns:
            Values of the same shape, NaN where the input is zero or below.

        Raises:
            ValueError: If most of the values are below zero.
        """
        if self.scale not in _DECIBELS:
            return values
        if (values < 0).sum() > np.isfinite(values).sum() / 2:
            raise ValueError(
                f'{name} has values below zero, but scale is {self.scale!r}: expected '
                "positive values, or scale='db'"
            )
        decibels = np.full_like(values, np.nan)
        np.log10(values, out=decibels, where=values > 0)
        return decibels * np.float32(_DECIBELS[self.scale])


@dataclass(frozen=True)
class MaskSource(Source):
    """The files of a change mask, and how to read them.

    Args:
        paths: Raster files, with negative values where there is no label; or vector
            files, whose polygons are changed and all else is not.
        bands: Band of raster files (defaults to the first).
        naming: See :class:`Source`.
        nodata: See :class:`Source`.
        attribute: Attribute of vector files that holds the class (defaults to class 1
            for all polygons).
    """

    bands: Sequence[int] | Sequence[str] | None = (1,)
    attribute: str | None = None

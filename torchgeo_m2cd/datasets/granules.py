# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""The bands of an acquisition, and how their values are calibrated."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .paths import name_paths
from .radiometry import TINY


@dataclasses.dataclass(frozen=True)
class Band:
    """A band of a file.

    Args:
        path: The file.
        number: Number of the band in the file, starting at 1.
        name: Name of the band, see :func:`~torchgeo_m2cd.datasets.bands.name_band`, or of
            a dataset of TorchGeo; empty if it is not known.
        gain: Physical value of one unit of the file, None if nothing says so.
        offset: Physical value of 0 in the file.
    """

    path: str
    number: int = 1
    name: str = ''
    gain: float | None = None
    offset: float | None = None


@dataclasses.dataclass(frozen=True)
class Granule:
    """The bands of one acquisition, in one or more files.

    Args:
        bands: The bands. Those of one file are next to each other.
        date: Day of the acquisition, ``'2023-05-01'``, empty if nothing says so.
    """

    bands: tuple[Band, ...]
    date: str = ''

    @property
    def files(self) -> list[str]:
        """Files of the bands, each once."""
        return list(dict.fromkeys(band.path for band in self.bands))

    @property
    def names(self) -> list[str]:
        """Names of the bands, empty strings where they are not known."""
        return [band.name for band in self.bands]

    def by_file(self) -> list[tuple[str, list[Band]]]:
        """Group the bands by their files.

        Returns:
            Each file with the bands to read from it.
        """
        groups = itertools.groupby(self.bands, key=lambda band: band.path)
        return [(path, list(bands)) for path, bands in groups]

    def calibrate(self, values: npt.NDArray[np.float32]) -> None:
        """Turn values of the files into those of a sample, in place.

        Args:
            values: Values of the bands, shape (C, H, W).
        """
        for band, image in zip(self.bands, values, strict=True):
            if (band.gain, band.offset) not in ((1.0, 0.0), (None, None)):
                image *= np.float32(band.gain)
                image += np.float32(band.offset)
                image[image == 0] = TINY

    def select(self, names: Sequence[str], what: str) -> 'Granule':
        """Choose bands by their names.

        Args:
            names: The names, in the order in which the bands are to be read.
            what: What the files are, for messages.

        Returns:
            Granule with these bands.

        Raises:
            ValueError: If there is no band of a name.
        """
        known = {band.name: band for band in self.bands if band.name}
        missing = [name for name in names if name not in known]
        if missing:
            raise ValueError(
                f'{what} file {name_paths(self.files)} has no band {missing[0]!r}: '
                f'expected {list(names)}, found '
                f'{list(known) or "no names of bands, choose them by number"}'
            )
        return dataclasses.replace(self, bands=tuple(known[name] for name in names))

    def named(self, names: Sequence[str]) -> 'Granule':
        """Give the bands other names.

        Args:
            names: A name per band.

        Returns:
            Granule with these names.
        """
        return self._replace(name=names)

    def scaled(self, gains: Sequence[float]) -> 'Granule':
        """Multiply the values of the files by other factors.

        Args:
            gains: A gain per band. Their offsets are 0.

        Returns:
            Granule with these gains.
        """
        return self._replace(gain=gains, offset=[0.0] * len(gains))

    def _replace(self, **columns: Sequence[Any]) -> 'Granule':
        """Replace attributes of the bands, a value per band each."""
        bands = [
            dataclasses.replace(band, **dict(zip(columns, values, strict=True)))
            for band, *values in zip(self.bands, *columns.values(), strict=True)
        ]
        return dataclasses.replace(self, bands=tuple(bands))

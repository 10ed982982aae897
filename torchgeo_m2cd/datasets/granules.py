# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Which bands of which files belong together."""

import dataclasses


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
        date: Day of the acquisition, ``'20230501'``, empty if nothing says so.
    """

    bands: tuple[Band, ...]
    date: str = ''

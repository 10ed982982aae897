# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Which files an image consists of, and how to read them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from annotated_types import MinLen

from ..checks import (
    AnyNumber,
    Count,
    CountOrZero,
    Names,
    Positive,
    check_argument,
    checked,
)
from ..utils import check_choice
from .paths import Paths, expand, list_files, list_paths, name_paths, resolve
from .radiometry import REFLECTANCE, TINY, Radiometry, find_scale

if TYPE_CHECKING:
    # The help of the command line shows a source, and must not wait for these
    from torchgeo.datasets import RasterDataset

    from .headers import Header

#: What the values of a SAR file are: ``'db'``, linear ``'power'`` or ``'amplitude'``, or
#: anything ``'other'``.
SARScale = Literal['db', 'power', 'amplitude', 'other']

#: Lowest value in dB of SAR images in linear power or amplitude, far below water.
FLOOR = -40.0

# Decibels per decade
_DECIBELS = {'power': 10.0, 'amplitude': 20.0}


@checked
@dataclass(frozen=True)
class Source:
    """The files of an image, and how to read them.

    Args:
        paths: One or more files, folders, archives, patterns, URLs, names of GDAL's own
            (``'NETCDF:after.nc:vv'``), or STAC items (``'item.json'``). Several files are
            mosaicked, the first on top.
        bands: Bands to read: numbers, starting at 1; names that the files or *naming*
            have; or, for files without names, a name for each number: ``{'B04': 3,
            'B08': 4}`` (defaults to all).
        naming: Dataset of TorchGeo that knows the names of the files of this sensor,
            for one file per band: ``torchgeo.datasets.Sentinel2``.
        nodata: Value of pixels without data, which alone counts beside NaN. By default,
            it is what the files say, and beside it 0 in all bands of an optical image,
            areas of 0 in SAR in dB, and such areas at the corners of SAR in power or
            amplitude. NaN if all zeros are data.
        gain: A sample holds *gain* times the value of the file, plus *offset* (both
            default to what catalogues, products and tags say; optical samples are then
            reflectance x 10,000).
        offset: See *gain*: -1000 for Sentinel-2 products since baseline 04.00 whose
            metadata are lost.
        date: Day of the files to read, by their names, ``'2023-05-01'`` (defaults to
            all).
        trim: Pixels of the grid along no data, and along the edges of files, that are not
            read: the noise at the border of Sentinel-1 GRD products, for example.

    Raises:
        ValueError: If *trim* is negative, or *gain* is 0.
    """

    paths: Paths = ()
    bands: (
        Annotated[Sequence[Count], MinLen(1)]
        | Names
        | Annotated[Mapping[str, Count], MinLen(1)]
        | None
    ) = None
    naming: type | None = None
    nodata: AnyNumber | None = None
    gain: float | None = None
    offset: float | None = None
    date: str | None = None
    trim: CountOrZero = 0

    #: Whether 0 is no data only where all bands are 0, and values are reflectance.
    is_optical: ClassVar[bool] = True
    #: Value of a sample where the physical value, from 0 to 1 for reflectance, is 1.
    physical_unit: ClassVar[float] = REFLECTANCE

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.naming is not None:
            from torchgeo.datasets import RasterDataset

            check_argument('naming', self.naming, type[RasterDataset])
        if self.gain == 0:
            raise ValueError('gain is 0: expected a factor that keeps the values')

    @property
    def empty_areas(self) -> Literal['none', 'corners', 'all']:
        """Which areas of zeros in all bands are no data, whatever a file declares."""
        return 'none'

    @property
    def has_zeros(self) -> bool:
        """Whether zeros are data, since another value for no data is given."""
        return self.nodata not in (None, 0)

    def no_data(self, src: 'Header') -> float | None:
        """Return the value of pixels without data in a file.

        Args:
            src: Header of the file.

        Returns:
            The value, None if there is none or a mask says where they are.
        """
        if self.nodata is not None:
            return self.nodata
        return src.nodata

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

    def resolve(self, files: Sequence[str]) -> Self:
        """Decide what the names of the files say.

        Args:
            files: The files.

        Returns:
            The source with all settings.

        Raises:
            ValueError: If the names disagree.
        """
        return self

    def settle(self, dtypes: Iterable[str], radiometries: Iterable[Radiometry]) -> Self:
        """Decide what only the values of a file say.

        Args:
            dtypes: Type of the values of each band.
            radiometries: How each band is changed.

        Returns:
            The source with all settings.
        """
        return self

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

    def names(self, path: str) -> bool:
        """Whether a file was named itself, and not by its folder or a pattern.

        Args:
            path: The file.

        Returns:
            Whether it was.
        """
        return path in map(resolve, list_paths(self.paths))

    def name_files(self, name: str) -> 'RasterDataset | None':
        """Make the dataset of TorchGeo that knows the names of the files.

        Args:
            name: What the files are, for messages.

        Returns:
            The dataset, with the bands to read; None without *naming*.

        Raises:
            DatasetNotFoundError: If no file has such a name.
            ValueError: If a band is unknown.
        """
        naming: type[RasterDataset] | None = self.naming
        if naming is None:
            return None
        names = [band for band in self.bands or () if isinstance(band, str)]
        for band in names:
            check_choice(f'{name} band', band, naming.all_bands)
        arguments: dict[str, Any] = {'bands': names} if names else {}
        # TorchGeo would take the name of a folder for a pattern
        files = [file for path in self.find_paths(name) for file in list_files(path)]
        return naming(files, **arguments)

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


@checked
@dataclass(frozen=True)
class SARSource(Source):
    """The files of a SAR image, and how to read them.

    Args:
        paths: See :class:`Source`.
        bands: See :class:`Source`.
        naming: See :class:`Source`.
        nodata: See :class:`Source`.
        gain: See :class:`Source`.
        offset: See :class:`Source`.
        date: See :class:`Source`.
        trim: See :class:`Source`.
        scale: What the values are (defaults to what the names of the files say of
            products by HyP3, OPERA and the Planetary Computer, and else to ``'other'``
            for uint8 and uint16, and to ``'db'``). ``'power'`` and ``'amplitude'`` are
            warped as they are and then turned into dB; ``'other'`` is left alone.
        decibels: Decibels of one unit, for ``scale='other'``. By default, they are those
            of the images that the model was trained with; without *scale*, they are
            estimated from the speckle.

    Raises:
        ValueError: If *scale* is unknown, *trim* is negative, or *gain* is 0.
    """

    scale: SARScale | None = None
    decibels: Positive | None = None

    is_optical: ClassVar[bool] = False
    physical_unit: ClassVar[float] = 1.0

    @property
    def empty_areas(self) -> Literal['none', 'corners', 'all']:
        """Which areas of zeros are no data: in power, some may be calm water."""
        if self.scale == 'other':
            return 'none'
        return 'all' if self.scale == 'db' else 'corners'

    @property
    def unit(self) -> float | None:
        """Decibels of one unit of a sample, None if they are not known."""
        return self.decibels if self.scale == 'other' else 1.0

    def resolve(self, files: Sequence[str]) -> Self:
        """Decide what the names of the files say, see :meth:`Source.resolve`."""
        if self.scale is not None:
            return self
        scales = {scale: file for file in files if (scale := find_scale(file))}
        if len(scales) > 1:
            raise ValueError(
                f'SAR files {name_paths(scales.values())} have, by their names, the scales '
                f'{list(scales)}: expected one, or sar.scale'
            )
        return replace(self, scale=next(iter(scales), None))

    def settle(self, dtypes: Iterable[str], radiometries: Iterable[Radiometry]) -> Self:
        """Decide whether values are dB or a picture, see :meth:`Source.settle`."""
        if self.scale is not None:
            return self
        # dB are mostly negative: unsigned integers without offset cannot be dB
        is_picture = {*dtypes} <= {'uint8', 'uint16'}
        is_picture &= {*radiometries} == {Radiometry()}
        return replace(self, scale='other' if is_picture else 'db')

    def convert(
        self, values: npt.NDArray[np.float32], name: str
    ) -> npt.NDArray[np.float32]:
        """Turn power or amplitude into dB.

        Args:
            values: Values of the files, NaN where there are no data.
            name: Name of the files, for messages.

        Returns:
            Values of the same shape, at least -40 dB. Where the noise was removed, the
            power of calm water may be zero or below.

        Raises:
            ValueError: If values are below zero by more than noise can be.
        """
        if self.scale not in _DECIBELS:
            return values
        # Sigma nought of noise is below 0.01
        if (values < -1).any():
            raise ValueError(
                f'{name} has the value {np.nanmin(values):g}, but scale is '
                f"{self.scale!r}: expected positive values, or scale='db'. A value that "
                'stands for no data is set as sar.nodata'
            )
        positive = np.maximum(values, TINY)
        decibels = np.log10(positive) * np.float32(_DECIBELS[self.scale])
        floored: npt.NDArray[np.float32] = np.maximum(decibels, np.float32(FLOOR))
        return floored

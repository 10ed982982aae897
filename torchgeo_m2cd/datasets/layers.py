# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""The files of granules, opened: their bands, and where they have data."""

import contextlib
import dataclasses
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import shapely
from lightning.pytorch.utilities import rank_zero_info
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from ..utils import check_choice
from .bands import name_band
from .empty import find_empty
from .files import unreadable
from .granules import Band, Granule
from .grouping import find_granules
from .headers import Header, Headers
from .paths import name_paths, public_path
from .radiometry import Radiometry, is_sentinel_2, read_safe
from .source import SARSource, Source

# Largest height and width of the overview of a file
_MAX_SIZE = 1024


@dataclasses.dataclass(frozen=True)
class Layer:
    """Where a file has data.

    Args:
        header: What the file says of itself.
        nodata: Value without data, None if NaN, a mask or nothing says where that is.
        zeros: Whether 0 is no data, too.
        empty: Area in coordinates of the file where 0 is no data, too.
        bands: All bands of the file.
    """

    header: Header
    nodata: float | None
    zeros: bool = False
    empty: shapely.Geometry | None = None
    bands: tuple[Band, ...] = ()

    def scan(
        self, src: DatasetReader, bands: Sequence[Band]
    ) -> npt.NDArray[np.float32]:
        """Read bands of all of a file at low resolution.

        Args:
            src: The file.
            bands: The bands.

        Returns:
            Values of shape (C, H, W), NaN where there are no data.
        """
        size = tuple(min(length, _MAX_SIZE) for length in src.shape)
        numbers = [band.number for band in bands]
        shape = (len(numbers), *size)
        values: npt.NDArray[np.float32] = src.read(numbers, out_shape=shape)
        values = values.astype(np.float32)
        missing = values == np.float32(np.nan if self.nodata is None else self.nodata)
        if self.nodata == src.nodata:
            missing |= src.read_masks(numbers, out_shape=shape) == 0
        np.copyto(values, np.nan, where=missing)
        return values


class LayerReader:
    """Open the files of an image once, and find out how they are to be read."""

    def __init__(self, name: str, source: Source) -> None:
        """Initialize a new LayerReader instance.

        Args:
            name: What the files are, for messages.
            source: The files, and how to read them.
        """
        self.name = name
        #: The files, and how to read them; when they are read, with all settings.
        self.source = source
        # Names of the bands that were chosen, if they were chosen by name
        self._names = [
            name_band(band) or band
            for band in source.bands or ()
            if isinstance(band, str) and not isinstance(source.bands, Mapping)
        ]
        #: How each file is read.
        self.layers: dict[str, Layer] = {}
        #: What was assumed, and of which files, in their order.
        self.assumed: dict[str, dict[str, None]] = defaultdict(dict)
        # Whether the scale is that of the type of values
        self._is_typed = False
        # Type of values, band and grid, and date, of files with one band
        self._singles: dict[str, tuple[str, str, str]] = {}

    def read(self) -> list[Granule]:
        """Open all files, and say what was assumed.

        Returns:
            Granules with the bands to read.

        Raises:
            DatasetNotFoundError: If *naming* knows none of the files.
            FileNotFoundError: If a file does not exist.
            RuntimeError: If a file cannot be read.
            ValueError: If a file has no CRS, lacks a band, or holds complex values, or if
                files of a folder do not belong together.
        """
        listed = find_granules(self.source, self.name)
        files = [path for granule in listed for path in granule.files]
        self._resolve(files)
        with contextlib.closing(Headers(files)) as self.headers:
            found = [self._open_granule(granule) for granule in listed]
            self.headers.save()
        granules = [granule for granule in found if granule is not None]
        self._check_singles()
        for assumption, noted in self.assumed.items():
            more = f' and {len(noted) - 1} more' if len(noted) > 1 else ''
            rank_zero_info(
                f'{self.name} file {name_paths(next(iter(noted)))}{more}: {assumption}'
            )
        return self._choose_bands(granules)

    def _resolve(self, files: Sequence[str]) -> None:
        """Decide what the names of the files say, and note it."""
        given, self.source = self.source.describe(), self.source.resolve(files)
        for key, value in self.source.describe().items():
            if value != given[key]:
                for path in files:
                    self._assume(path, f'{key} is {value!r}')

    def _settle_scale(self, path: str, src: Header, bands: Sequence[Band]) -> None:
        """Decide what the values of SAR files are by their type, if no name says it."""
        if not isinstance(self.source, SARSource):
            return
        if self.source.scale is None:
            dtypes = [src.dtypes[band.number - 1] for band in bands]
            factors = [Radiometry(band.gain or 1, band.offset or 0) for band in bands]
            self.source = self.source.settle(dtypes, factors)
            self._is_typed = True
        if self._is_typed:
            is_other = self.source.scale == 'other'
            why = f', since {src.dtypes[0]} is never negative' if is_other else ''
            self._assume(path, f'scale is {self.source.scale!r}{why}')

    def _open_granule(self, granule: Granule) -> Granule | None:
        """Find out about the bands of a granule, None if it is something else."""
        bands: list[Band] = []
        if self._names and set(self._names) <= set(granule.names):
            # The others need not be opened, which takes long far away
            granule = granule.select(self._names, self.name)
        for path, same in granule.by_file():
            # A catalogue, TorchGeo, the user, or the suffix says that it is an image
            is_meant = (
                same[0].number > 0
                or self.source.naming is not None
                or self.source.names(path)
                or _is_tiff(path)
            )
            try:
                src = self.headers[path]
            except RasterioError as error:
                if is_meant:
                    raise unreadable(self.name, path, error) from None
                return None  # Something else in the folder
            if src.crs is None and not is_meant:
                return None  # A thumbnail
            self._check_file(path, src)
            listed = _list_bands(path, src)
            if same[0].number == 0:
                # A name that distinguishes files is more reliable than a description
                named = bool(same[0].name) and len(listed) == 1
                found = same if named else listed
                found = [dataclasses.replace(b, number=max(b.number, 1)) for b in found]
            else:
                found = same
            found = [self._calibrate(band, src) for band in found]
            self._settle_scale(path, src, found)
            self.layers[path] = self._find_layer(path, src, found)
            is_single = len(granule.files) == len(found) == 1
            if is_single and not self.source.names(path):
                self._singles[path] = (
                    'float' if src.dtypes[0].startswith('float') else 'integer',
                    f'{found[0].name} {src.wkt} {src.transform} {src.shape}',
                    granule.date,
                )
            bands += found
        return dataclasses.replace(granule, bands=tuple(bands))

    def _check_file(self, path: str, src: Header) -> None:
        """Check that a file can be placed, and has values that can be shown."""
        if src.crs is None:
            reason = 'expected a georeferenced raster'
            if src.has_points:
                reason = (
                    'it has ground control points, as Sentinel-1 GRD products and raw '
                    'images have. Expected a terrain-corrected product (Sentinel-1 RTC '
                    'of the Planetary Computer, or of HyP3 of the ASF), or the output of '
                    'gdalwarp -tps -t_srs EPSG:...'
                )
            raise ValueError(
                f'{self.name} file {name_paths(path)} has no CRS: {reason}'
            )
        if any(dtype.startswith('complex') for dtype in src.dtypes):
            raise ValueError(
                f'{self.name} file {name_paths(path)} has complex values: expected real '
                'ones, such as the power of a terrain-corrected SAR product'
            )

    def _calibrate(self, band: Band, src: Header) -> Band:
        """Find gain and offset to the units of a sample."""
        gain, offset = self.source.gain, self.source.offset
        if gain is not None or offset is not None:
            gain = 1.0 if gain is None else gain
            return dataclasses.replace(band, gain=gain, offset=offset or 0.0)
        found = self._find_radiometry(band, src)
        unit = self.source.physical_unit
        gain, offset = (round(value * unit, 9) for value in found)
        if (gain, offset) != (1.0, 0.0):
            factor = '' if gain == 1 else f'{gain:g} x '
            shift = f' {"+" if offset > 0 else "-"} {abs(offset):g}' if offset else ''
            self._assume(band.path, f'a sample is {factor}value{shift}')
        return dataclasses.replace(band, gain=gain, offset=offset)

    def _find_radiometry(self, band: Band, src: Header) -> Radiometry:
        """Find physical values: by the catalogue, the product, or the tags of the file."""
        as_it_is = Radiometry(1 / self.source.physical_unit)
        if band.gain is not None or band.offset is not None:
            return Radiometry(
                as_it_is.gain if band.gain is None else band.gain, band.offset or 0.0
            )
        is_product = (
            self.source.is_optical
            and is_sentinel_2(band.path)
            and src.dtypes[band.number - 1] != 'uint8'  # A picture
        )
        if is_product and (found := read_safe(band.path, band.name)):
            return found
        tags = Radiometry(src.scales[band.number - 1], src.offsets[band.number - 1])
        if tags != Radiometry():
            return tags
        if is_product:
            self._assume(
                band.path,
                'values are taken for reflectance x 10,000. If they have the offset of '
                f'products since January 2022, set {self.name}.offset=-1000',
            )
        return as_it_is

    def _find_layer(self, path: str, src: Header, bands: Sequence[Band]) -> Layer:
        """Find out where a file has data."""
        nodata = self.source.no_data(src)
        declared = nodata is not None or src.has_mask
        if self.source.is_optical:
            if self.source.has_zeros:
                return Layer(src, nodata, bands=tuple(bands))
            # As models see no data there
            if not declared:
                self._assume(path, '0 in all bands is taken for no data')
            return Layer(
                src,
                nodata if declared else 0.0,
                zeros=declared and nodata != 0,
                bands=tuple(bands),
            )
        is_settled = self.source.nodata is not None or nodata == 0
        areas = self.source.empty_areas
        if self._is_typed and areas == 'none':
            areas = 'corners'  # A picture of a swath has black ones
        if is_settled or areas == 'none':
            return Layer(src, nodata)
        try:
            # Also of files that declare another value, such as old Sentinel-1 products
            numbers = [band.number for band in bands]
            empty = self.headers.empty(path, numbers, areas == 'all', find_empty)
        except RasterioError as error:
            raise unreadable(self.name, path, error) from None
        if empty is not None:
            self._assume(path, 'areas of 0 are taken for no data')
        return Layer(src, nodata, empty=empty)

    def _assume(self, path: str, assumption: str) -> None:
        """Note what was assumed of a file."""
        self.assumed[assumption][path] = None

    def _check_singles(self) -> None:
        """Check that single-band files of a folder are tiles, and not different things."""
        types: dict[str, list[str]] = defaultdict(list)
        places: dict[str, dict[str, str]] = defaultdict(dict)
        different = []
        for path, (dtype, place, date) in self._singles.items():
            types[dtype].append(path)
            # Only a series has files of the same place, each of its date
            before = places[place]
            if before and (not date or {'', date} & set(before)):
                different.append([*before.values(), path])
            before[date] = path
        if len(types) > 1:
            different.append([files[0] for files in types.values()])
        if different:
            raise ValueError(
                f'{self.name} files {name_paths(different[0])} are in one folder, but '
                'hold different things: expected tiles of the same image, or names with '
                f'a band or polarisation (VV, B04). Name the files to read in '
                f'{self.name.lower()}.paths'
            )

    def _choose_bands(self, granules: list[Granule]) -> list[Granule]:
        """Choose the bands to read: by name where names are known, else by number."""
        if not granules:
            return granules
        first = granules[0]
        if self._names:
            for name in self._names if any(first.names) else ():
                check_choice(f'{self.name} band', name, filter(None, first.names))
            return [granule.select(self._names, self.name) for granule in granules]
        wanted = self.source.bands
        named = [granule for granule in granules if all(granule.names)]
        nameless = [g for g in granules if not any(g.names) and len(g.bands) == 1]
        if not wanted and named and nameless and len(named[0].bands) == 1:
            raise ValueError(
                f'{self.name} file {name_paths(named[0].files)} holds the band '
                f'{named[0].names[0]}, but nothing says what '
                f'{name_paths(nameless[0].files)} holds: expected files of one image'
            )
        common = [n for n in first.names if all(n in g.names for g in granules)]
        if not wanted and len(first.files) > 1 and not common:
            raise ValueError(
                f'{self.name} files have no band in common: expected files of the same '
                f'bands, found {[granule.names for granule in granules]}'
            )
        if not wanted and common and all(common) and len(set(common)) == len(common):
            return [granule.select(common, self.name) for granule in granules]
        given = wanted if isinstance(wanted, Mapping) else {}
        numbers = [int(number) for number in given.values() or wanted or ()] or [
            band.number for band in first.bands
        ]
        chosen = [self._select_numbers(granule, numbers) for granule in granules]
        if not given:
            return chosen
        return [g.named([name_band(name) or name for name in given]) for g in chosen]

    def _select_numbers(self, granule: Granule, numbers: Sequence[int]) -> Granule:
        """Choose bands of a granule by their numbers."""
        if len(granule.files) > 1:
            raise ValueError(
                f'{self.name} has one file per band: expected names as bands, some of '
                f'{granule.names}, got {list(numbers)}'
            )
        by_number = {band.number: band for band in granule.bands}
        if not set(numbers) <= set(by_number):
            raise ValueError(
                f'{self.name} file {name_paths(granule.files[0])} has {len(by_number)} '
                f'bands: expected it to have the bands {list(numbers)}'
            )
        return dataclasses.replace(granule, bands=tuple(by_number[i] for i in numbers))


def _list_bands(path: str, src: Header) -> list[Band]:
    """List the bands of a file, with the names that it gives them."""
    colours = zip(src.colorinterp, src.descriptions, strict=True)
    bands = [
        Band(path, number, name_band(description))
        for number, (colour, description) in enumerate(colours, 1)
        if colour != ColorInterp.alpha
    ]
    if len(bands) == 1 and not bands[0].name:
        name = name_band(os.path.basename(path))
        bands = [dataclasses.replace(bands[0], name=name)]
    return bands


def _is_tiff(path: str) -> bool:
    """Whether a file is a TIFF by its name."""
    return public_path(path).lower().endswith(('.tif', '.tiff'))

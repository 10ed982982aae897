# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Raster and vector files that are read on one pixel grid."""

import atexit
import functools
import math
import os
import pathlib
import re
from collections.abc import Sequence

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import rasterio.merge
import shapely
import torch
from pyproj import CRS
from pyproj.exceptions import ProjError
from rasterio.crs import CRS as RasterioCRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from rasterio.io import DatasetReader
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT
from torch import Tensor
from torchgeo.datasets import DatasetNotFoundError, GeoDataset
from torchgeo.datasets.utils import GeoSlice, Sample

from ..utils import GDAL_ENV, check_choice
from .grid import Grid, is_north_up
from .paths import expand, list_files, name_paths, without_secrets
from .source import MaskSource, Source


class GridRaster(GeoDataset):
    """Raster files that are read on one pixel grid, NaN where there are no data.

    TorchGeo warps a file of another CRS to a grid of its own, with nearest neighbours,
    and then resamples each patch by itself. Here, every file is warped once, to the
    common grid: a pixel has the same value in all patches that hold it.
    """

    def __init__(
        self,
        name: str,
        source: Source,
        grid: Grid | None = None,
        crs: CRS | None = None,
        res: float | tuple[float, float] | None = None,
        resampling: Resampling = Resampling.bilinear,
    ) -> None:
        """Initialize a new GridRaster instance.

        Args:
            name: What the files are, for messages.
            source: The files, and how to read them.
            grid: Grid to read them on (defaults to that of the first file).
            crs: CRS of the grid, if it is not given (defaults to that of the first
                file).
            res: Width and height of a pixel in units of *crs*, if the grid is not given
                (defaults to those of the first file).
            resampling: Resampling of files that are not on the grid.

        Raises:
            DatasetNotFoundError: If there is no raster file in the folders.
            FileNotFoundError: If a file or folder, or the file of a band, does not
                exist.
            RuntimeError: If a file cannot be read.
            ValueError: If a file has no CRS, lacks a band, or cannot be warped.
        """
        res = (res, res) if isinstance(res, int | float) else res
        if res is not None and not min(res) > 0:
            raise ValueError(f'res is {res}: expected a positive size of pixels')
        self.name = name
        self.source = source
        self.paths = source.paths
        self.resampling = resampling
        given = source.find_paths(name)
        self.naming = source.name_files(name)
        #: Names of the bands, if the files are named by a dataset of TorchGeo.
        self.band_names = (
            [str(band) for band in self.naming.bands] if self.naming else []
        )
        self.channels = self._number_bands()
        found: dict[str, shapely.Polygon] = {}
        for path in self._list_files(given):
            try:
                src = self._open(path)
            except RasterioError as error:
                suffix = pathlib.PurePath(path).suffix.lower()
                if path in given or suffix in ('.tif', '.tiff'):
                    raise self._unreadable([path], error) from error
                continue  # Something else in the folder
            with src:
                self._check_bands(path, src)
                grid = grid or Grid.of(src, crs, res)
                left, top, right, bottom = self._box(path, src, grid)
            west, north = grid.transform @ (left, top)
            east, south = grid.transform @ (right, bottom)
            found[path] = shapely.box(west, south, east, north)
        if grid is None or not found:
            raise DatasetNotFoundError(self)
        self.grid = grid
        self._res = grid.res
        always = (pd.Timestamp.min, pd.Timestamp.max)
        self.index = gpd.GeoDataFrame(
            {'filepath': list(found)},
            index=pd.IntervalIndex.from_tuples(
                [always] * len(found), closed='both', name='datetime'
            ),
            geometry=list(found.values()),
            crs=grid.crs,
        )
        expand(name, self.files)

    @property
    def band_count(self) -> int:
        """Number of bands that are read."""
        return len(self.band_names or self.channels)

    @property
    def files(self) -> list[str]:
        """All files that are read, one per band included."""
        return [path for paths in self._files_of(self.index) for path in paths]

    def _number_bands(self) -> list[int]:
        """Return the numbers of the bands in each file, none for those of the first."""
        if self.naming is None or not self.band_names:
            return [int(band) for band in self.source.bands or ()]
        if self.naming.separate_files:
            return [1]
        return [self.naming.all_bands.index(name) + 1 for name in self.band_names]

    def _list_files(self, given: Sequence[str]) -> list[str]:
        """List the files, also those in folders, of one band if each has its own."""
        if self.naming is not None:
            pattern = re.compile(self.naming.filename_regex, re.VERBOSE)
            files = self.naming.files
            return [file for file in files if pattern.match(os.path.basename(file))]
        found = [file for path in given for file in list_files(path)]
        return list(dict.fromkeys(found))

    def _check_bands(self, path: str, src: DatasetReader) -> None:
        """Check that a file has the bands, which by default are those of the first."""
        if src.crs is None:
            raise ValueError(
                f'{self.name} file {path!r} has no CRS: expected a georeferenced raster'
            )
        self.channels = self.channels or [
            band
            for band, color in zip(src.indexes, src.colorinterp, strict=True)
            if color != ColorInterp.alpha
        ]
        if not set(self.channels) <= set(src.indexes):
            raise ValueError(
                f'{self.name} file {path!r} has {src.count} bands: expected it to have '
                f'the bands {self.channels}'
            )

    def _box(self, path: str, src: DatasetReader, grid: Grid) -> tuple[int, ...]:
        """Return the left, top, right and bottom edge of a file in whole grid pixels."""
        try:
            edges = grid.edges(src)
        except ProjError as error:
            raise ValueError(
                f'{self.name} file {path!r} of {src.crs} cannot be warped to '
                f'{grid.crs.to_string()}: {error}'
            ) from error
        # Outwards, but not for the sake of rounding errors
        return (
            *(math.floor(edge + 0.01) for edge in edges[:2]),
            *(math.ceil(edge - 0.01) for edge in edges[2:]),
        )

    def _files_of(self, rows: gpd.GeoDataFrame) -> list[list[str]]:
        """List the files of rows of the index: all at once, or those of each band."""
        paths = [os.fspath(path) for path in rows.filepath]
        if self.naming is None or not self.naming.separate_files:
            return [paths]
        pattern = re.compile(self.naming.filename_regex, re.VERBOSE)
        return [
            [_name_band(path, band, pattern) for path in paths]
            for band in self.band_names
        ]

    def __getitem__(self, index: GeoSlice) -> Sample:
        """Retrieve the image of a window.

        Args:
            index: [xmin:xmax, ymin:ymax] coordinates to index.

        Returns:
            Sample with ``image`` of shape (C, H, W), NaN where there is no file.

        Raises:
            RuntimeError: If a file cannot be read.
            ValueError: If values that cannot be negative are.
        """
        x, y, _ = self._disambiguate_slice(index)
        return {'image': self.read(x, y)}

    def read(self, x: slice, y: slice) -> Tensor:
        """Read a window.

        Args:
            x: Left and right edge, and width of a pixel.
            y: Lower and upper edge, and height of a pixel.

        Returns:
            Image of shape (C, H, W), NaN where there is no file.

        Raises:
            RuntimeError: If a file cannot be read.
            ValueError: If values that cannot be negative are.
        """
        rows = self.index.cx[x.start : x.stop, y.start : y.stop]
        if rows.empty:  # A hole in a mosaic
            return torch.full((self.band_count, *_shape(x, y)), math.nan)
        return torch.cat([self._merge(paths, x, y) for paths in self._files_of(rows)])

    def _merge(self, paths: Sequence[str], x: slice, y: slice) -> Tensor:
        """Mosaic files in a window, the first on top."""
        try:
            with rasterio.Env(**GDAL_ENV):
                array, _ = rasterio.merge.merge(
                    [self._on_grid(path, os.getpid()) for path in paths],
                    bounds=(x.start, y.start, x.stop, y.stop),
                    res=(x.step, y.step),
                    indexes=self.channels,
                    nodata=math.nan,
                    dtype='float32',
                )
        except RasterioError as error:
            raise self._unreadable(paths, error) from error
        name = f'{self.name} file {name_paths(paths)}'
        return torch.from_numpy(self.source.convert(array, name))

    # As many open files as TorchGeo has; none is shared with a forked process
    @functools.lru_cache(maxsize=128)  # noqa: B019
    def _on_grid(self, path: str, process: int) -> DatasetReader | WarpedVRT:
        """Open a file such that its pixels are pixels of the grid."""
        src = self._open(path)
        edges = self.grid.edges(src)
        left, top, right, bottom = self._box(path, src, self.grid)
        height, width = bottom - top, right - left
        target = RasterioCRS.from_user_input(self.grid.crs)
        if (
            src.crs == target
            and self.source.nodata is None
            and is_north_up(src.transform)
            and (src.height, src.width) == (height, width)
            and max(abs(edge - round(edge)) for edge in edges) < 0.01
        ):
            return src
        with src:
            return WarpedVRT(
                src,
                crs=target,
                transform=self.grid.shift(left, top),
                height=height,
                width=width,
                resampling=self.resampling,
                src_nodata=self._nodata(src),
                nodata=math.nan,
                dtype='float32',
            )

    def _nodata(self, src: DatasetReader) -> float | None:
        """Return the value of pixels without data, None if a mask says where they are."""
        if self.source.nodata is not None:
            return self.source.nodata
        if src.nodata is not None:
            return float(src.nodata)
        masked = MaskFlags.per_dataset in src.mask_flag_enums[0]
        return None if masked else math.nan

    def _open(self, path: str) -> DatasetReader:
        """Open a file."""
        # TorchGeo's command keeps GDAL from looking for other files, and so for masks
        env = {'GDAL_DISABLE_READDIR_ON_OPEN': 'FALSE'} if os.path.exists(path) else {}
        with rasterio.Env(**env):
            file: DatasetReader = rasterio.open(path)
        return file

    def _unreadable(self, paths: Sequence[str], error: Exception) -> RuntimeError:
        """Make the error that a file cannot be read."""
        return RuntimeError(
            f'{self.name} file {name_paths(paths)} cannot be read: expected a complete '
            f'raster file ({without_secrets(str(error.__cause__ or error))})'
        )


# Before Python takes GDAL apart
atexit.register(GridRaster._on_grid.cache_clear)


class GridVector:
    """Polygons that are burnt into a grid, 0 where there are none.

    Unlike those of TorchGeo's ``VectorDataset``, the files are read and warped once, not
    for every patch.
    """

    def __init__(self, name: str, source: MaskSource, grid: Grid) -> None:
        """Initialize a new GridVector instance.

        Args:
            name: What the files are, for messages.
            source: The files, and how to read them.
            grid: Grid to burn them into.

        Raises:
            FileNotFoundError: If a file does not exist.
            RuntimeError: If a file cannot be read.
            ValueError: If a file lacks the attribute.
        """
        self.paths = source.paths
        self.attribute = source.attribute
        tables = []
        for path in source.find_paths(name):
            try:
                tables.append(gpd.read_file(path).to_crs(grid.crs))
            except (RuntimeError, ValueError) as error:
                raise RuntimeError(
                    f'{name} file {path!r} cannot be read: expected polygons with a CRS '
                    f'({error})'
                ) from error
            if self.attribute is not None:
                columns = tables[-1].columns
                check_choice(f'attribute of {path}', self.attribute, columns)
        self.polygons = pd.concat(tables)

    def read(self, x: slice, y: slice) -> Tensor:
        """Burn the polygons of a window.

        Args:
            x: Left and right edge, and width of a pixel.
            y: Lower and upper edge, and height of a pixel.

        Returns:
            Classes of shape (1, H, W), float32.
        """
        hit = self.polygons.cx[x.start : x.stop, y.start : y.stop]
        image = np.zeros(_shape(x, y), np.float32)
        if len(hit):
            classes = [1.0] * len(hit)
            if self.attribute is not None:
                classes = [float(value) for value in hit[self.attribute]]
            rasterize(
                zip(hit.geometry, classes, strict=True),
                out=image,
                transform=from_origin(x.start, y.stop, x.step, y.step),
            )
        return torch.from_numpy(image[None])


def _name_band(path: str, band: str, pattern: re.Pattern[str]) -> str:
    """Return the file of a band, given that of another."""
    folder, base = os.path.split(path)
    match = pattern.match(base)
    assert match is not None  # Other files are not in the index
    start, end = match.span('band')
    return os.path.join(folder, base[:start] + band + base[end:])


def _shape(x: slice, y: slice) -> tuple[int, int]:
    """Return height and width of a window in pixels."""
    return round((y.stop - y.start) / y.step), round((x.stop - x.start) / x.step)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""A raster file that is read on a pixel grid."""

import atexit
import contextlib
import math
import os
from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.merge
import shapely
from pyproj.exceptions import ProjError
from rasterio.crs import CRS as RasterioCRS
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.features import geometry_mask
from rasterio.io import DatasetReader
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT

from ..utils import GDAL_ENV
from .files import open_file, unreadable
from .granules import Band
from .grid import Grid, is_north_up
from .layers import Layer
from .paths import name_paths


class GridFile:
    """A raster file that is read on a pixel grid, NaN where it has no data."""

    def __init__(
        self,
        name: str,
        path: str,
        layer: Layer,
        grid: Grid,
        resampling: Resampling,
        is_optical: bool,
    ) -> None:
        """Initialize a new GridFile instance.

        Args:
            name: What the file is, for messages.
            path: The file.
            layer: Where it has data.
            grid: Grid to read it on.
            resampling: Resampling if its pixels are not those of the grid.
            is_optical: Whether 0 is no data only where all bands are 0.

        Raises:
            RuntimeError: If the file cannot be read.
            ValueError: If it has no place on the grid.
        """
        self.name = name
        self.path = path
        self.layer = layer
        self.grid = grid
        self.resampling = resampling
        self.is_optical = is_optical
        left, top, right, bottom = self._box()
        #: Area in coordinates of the grid where 0 is no data, too.
        self.empty: shapely.Geometry | None = None
        if layer.empty is not None:
            # Warping mixes its neighbours with it: leave them out, too
            empty = grid.project(layer.empty, layer.header.crs)
            self.empty = empty.buffer(3 * max(grid.res))
        west, north = grid.transform @ (left, top)
        east, south = grid.transform @ (right, bottom)
        #: Extent in whole pixels of the grid.
        self.extent = shapely.box(west, south, east, north)

    def read(
        self, bands: Sequence[Band], x: slice, y: slice
    ) -> npt.NDArray[np.float32]:
        """Read bands in a window.

        Args:
            bands: The bands.
            x: Left and right edge, and width of a pixel.
            y: Lower and upper edge, and height of a pixel.

        Returns:
            Values of shape (C, H, W), NaN where there are no data.

        Raises:
            RuntimeError: If the file cannot be read.
        """
        values = self._merge(bands, x, y, self.layer.zeros)
        if self.empty is None or not self.empty.intersects(
            shapely.box(x.start, y.start, x.stop, y.stop)
        ):
            return values
        # There, zeros are no data; elsewhere, they are values
        transform = from_origin(x.start, y.stop, x.step, y.step)
        inside = geometry_mask([self.empty], values.shape[1:], transform, invert=True)
        clean = self._merge(bands, x, y, without_zeros=True)
        return np.where(inside & ~np.isnan(values), clean, values)

    def _merge(
        self, bands: Sequence[Band], x: slice, y: slice, without_zeros: bool
    ) -> npt.NDArray[np.float32]:
        """Read bands in a window, which may reach beyond the file."""
        try:
            src = OPEN_FILES.get(self, without_zeros)
            with rasterio.Env(**GDAL_ENV):
                values, _ = rasterio.merge.merge(
                    [src],
                    bounds=(x.start, y.start, x.stop, y.stop),
                    res=(x.step, y.step),
                    indexes=[band.number for band in bands],
                    nodata=math.nan,
                    dtype='float32',
                )
        except RasterioError as error:
            raise unreadable(self.name, self.path, error) from None
        if without_zeros and not self.is_optical:
            values[values == 0] = math.nan  # Of a file that was not warped
        return cast(npt.NDArray[np.float32], values)

    def open(self, without_zeros: bool) -> DatasetReader | WarpedVRT:
        """Open the file such that its pixels are pixels of the grid.

        Without zeros, no data are those, too, and are not mixed with what is beside them.
        """
        src = open_file(self.path)
        if self._is_on_grid():
            return src
        left, top, right, bottom = self._box()
        nodata = self.layer.nodata
        masked = self.layer.header.has_mask
        nodata = math.nan if nodata is None and not masked else nodata
        place = self.grid.place(self.layer.header)
        with contextlib.ExitStack() as stack:
            file: DatasetReader | WarpedVRT = stack.enter_context(src)
            if without_zeros and nodata != 0:
                file = stack.enter_context(
                    WarpedVRT(file, src_nodata=nodata, nodata=math.nan, dtype='float32')
                )
                nodata = 0.0
            return WarpedVRT(
                file,
                crs=RasterioCRS.from_user_input(self.grid.crs),
                transform=self.grid.shift(left, top),
                height=bottom - top,
                width=right - left,
                resampling=self.resampling,
                src_nodata=nodata,
                nodata=math.nan,
                dtype='float32',
                # A dark band is no data only where all others are
                UNIFIED_SRC_NODATA='YES' if self.is_optical else 'NO',
                **place,
            )

    def _is_on_grid(self) -> bool:
        """Whether pixels of the file are pixels of the grid, and it says what has data."""
        src = self.layer.header
        edges = self.grid.edges(src)
        left, top, right, bottom = self._box()
        return (
            src.crs == RasterioCRS.from_user_input(self.grid.crs)
            and not self.grid.place(src)
            and self._says_nodata()
            and is_north_up(src.transform)
            and src.shape == (bottom - top, right - left)
            and max(abs(edge - round(edge)) for edge in edges) < 0.01
        )

    def _says_nodata(self) -> bool:
        """Whether no data are those that the file declares, or optical zeros."""
        nodata, own = self.layer.nodata, self.layer.header.nodata
        if nodata == 0 and self.is_optical:
            return True
        return str(nodata) == str(own)

    def _box(self) -> tuple[int, ...]:
        """Return the left, top, right and bottom edge in whole pixels of the grid."""
        src = self.layer.header
        try:
            edges = self.grid.edges(src)
        except ProjError as error:
            raise ValueError(
                f'{self.name} file {name_paths(self.path)} of {src.crs} cannot be warped '
                f'to {self.grid.crs.to_string()}: {error}'
            ) from error
        # Outwards, but not for the sake of rounding errors
        return (
            *(math.floor(edge + 0.01) for edge in edges[:2]),
            *(math.ceil(edge - 0.01) for edge in edges[2:]),
        )


class OpenFiles:
    """The files that are open: the last ones that were read, of all images together."""

    #: Most files that are open. A system may allow 256, those of libraries included.
    limit = 64

    def __init__(self) -> None:
        """Initialize a new OpenFiles instance."""
        # In the order of their use
        self._files: dict[tuple[int, GridFile, bool], DatasetReader | WarpedVRT] = {}

    def get(self, file: GridFile, without_zeros: bool) -> DatasetReader | WarpedVRT:
        """Open a file, unless it is open.

        Args:
            file: The file.
            without_zeros: Whether 0 is no data, too.

        Returns:
            The open file.

        Raises:
            RasterioError: If it cannot be opened.
        """
        # A forked process opens its own
        key = os.getpid(), file, without_zeros
        found = self._files.pop(key, None)
        if found is None:
            while len(self._files) >= self.limit:
                self._files.pop(next(iter(self._files))).close()
            found = file.open(without_zeros)
        self._files[key] = found
        return found

    def close(self) -> None:
        """Close all files; they are opened anew when they are read again."""
        while self._files:
            self._files.popitem()[1].close()


#: The files of all scenes that are open.
OPEN_FILES = OpenFiles()
# Before Python unloads GDAL
atexit.register(OPEN_FILES.close)


def window_shape(x: slice, y: slice) -> tuple[int, int]:
    """Return the size of a window.

    Args:
        x: Left and right edge, and width of a pixel.
        y: Lower and upper edge, and height of a pixel.

    Returns:
        Height and width in pixels.
    """
    return round((y.stop - y.start) / y.step), round((x.stop - x.start) / x.step)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Raster files that are read on one pixel grid."""

import atexit
import functools
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, cast

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import rasterio
import rasterio.merge
import shapely
import torch
from pyproj import CRS
from pyproj.exceptions import ProjError
from rasterio.crs import CRS as RasterioCRS
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from torch import Tensor
from torchgeo.datasets import DatasetNotFoundError, GeoDataset
from torchgeo.datasets.utils import GeoSlice, Sample

from ..utils import GDAL_ENV
from .granules import Band, Granule
from .grid import Grid, is_north_up
from .layers import LayerReader, open_file, unreadable
from .margins import Margin, grow
from .paths import name_paths, public_path
from .source import Source


class GridRaster(GeoDataset):
    """Raster files that are read on one pixel grid, NaN where there are no data.

    TorchGeo warps a file of another CRS to a grid of its own, with nearest neighbours,
    and then resamples each patch by itself. Here, every file is warped once, to the
    common grid: a pixel has the same value in all patches that hold it.

    Where granules overlap, the first of them that has data is on top.
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
            grid: Grid to read them on (defaults to that of the first file, or of the
                finest of its bands).
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
            ValueError: If a file has no CRS, lacks a band, holds complex values, or
                cannot be warped, or if files of a folder do not belong together.
        """
        res = (res, res) if isinstance(res, int | float) else res
        if res is not None and not min(res) > 0:
            raise ValueError(f'res is {res}: expected a positive size of pixels')
        self.name = name
        self.source = source
        self.paths = source.paths
        self.resampling = resampling
        reader = LayerReader(name, source)
        #: The granules, the first on top, with the bands that are read.
        self.granules = reader.read()
        self.source = reader.source
        if not self.granules:
            raise DatasetNotFoundError(self)
        #: How each file is read.
        self.layers = reader.layers
        self._assumed = list(reader.assumed)
        if grid is None:
            grid = self._choose_grid(crs, res)
        self.grid = grid
        self._res = grid.res
        # Where zeros of a file are no data
        self._margins: dict[str, Margin] = {}
        always = (pd.Timestamp.min, pd.Timestamp.max)
        self.index = gpd.GeoDataFrame(
            {'filepath': [granule.files[0] for granule in self.granules]},
            index=pd.IntervalIndex.from_tuples(
                [always] * len(self.granules), closed='both', name='datetime'
            ),
            geometry=[self._locate(granule) for granule in self.granules],
            crs=grid.crs,
        )

    def _choose_grid(self, crs: CRS | None, res: tuple[float, float] | None) -> Grid:
        """Return the grid of the first granule, of its finest band."""
        grids = []
        for file in self.granules[0].files:
            with open_file(file) as src:
                grids.append(Grid.of(src, crs, res))
        return min(grids, key=lambda grid: grid.res)

    @property
    def band_count(self) -> int:
        """Number of bands that are read."""
        return len(self.granules[0].bands)

    @property
    def band_names(self) -> list[str]:
        """Names of the bands, empty strings where they are not known.

        Those of Sentinel-2 and polarisations are those of
        :data:`~torchgeo_m2cd.datasets.bands.BANDS`.
        """
        return self.granules[0].names

    @property
    def files(self) -> list[str]:
        """All files that are read, one per band included."""
        return [path for granule in self.granules for path in granule.files]

    def select(self, names: Sequence[str]) -> None:
        """Read other bands from now on.

        Args:
            names: Names of the bands, in the order to read them in.

        Raises:
            ValueError: If a granule has no band of a name.
        """
        self.granules = [granule.select(names, self.name) for granule in self.granules]

    def describe(self) -> dict[str, Any]:
        """Describe what is read, and what was assumed of it, in plain values.

        Returns:
            Files, bands, dates, and what the source says; for each kind of file the value
            without data, gains and offsets.
        """
        bands = [band for granule in self.granules for band in granule.bands]
        nodata = [self.layers[path].nodata for path in self.files]
        return {
            **self.source.describe(),
            'files': [public_path(path) for path in self.files],
            'bands': self.band_names
            if all(self.band_names)
            else [band.number for band in self.granules[0].bands],
            'dates': sorted({granule.date for granule in self.granules} - {''}),
            'nodata': list({str(value): value for value in nodata}.values()),
            'gain': list(dict.fromkeys(band.gain for band in bands)),
            'offset': list(dict.fromkeys(band.offset for band in bands)),
            'assumed': self._assumed,
        }

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
        image = np.full((self.band_count, *_shape(x, y)), math.nan, np.float32)
        box = shapely.box(x.start, y.start, x.stop, y.stop)
        hit = sorted(self.index.sindex.query(box).tolist())
        for number in hit:
            values = self._read_granule(self.granules[number], x, y)
            missing = np.isnan(image).all(axis=0)
            np.copyto(image, values, where=missing)
            if not np.isnan(image).any():
                break
        if not hit:  # A hole in a mosaic
            return torch.from_numpy(image)
        files = [path for number in hit for path in self.granules[number].files]
        name = f'{self.name} file {name_paths(files)}'
        return torch.from_numpy(self.source.convert(image, name))

    def scan(self) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        """Read each granule as a whole, at low resolution.

        Yields:
            Names of its files, and the values of the pixels with data, shape (C, N), in
            the units of a sample.

        Raises:
            RuntimeError: If a file cannot be read.
        """
        for granule in self.granules:
            layers = []
            for path, bands in granule.by_file():
                try:
                    with open_file(path) as src:
                        layers.append(self.layers[path].scan(src, bands))
                except RasterioError as error:
                    raise unreadable(self.name, path, error) from error
            size = np.max([layer.shape[1:] for layer in layers], axis=0)
            values = np.concatenate([_zoom(layer, *size) for layer in layers])
            values = self._check_dark(granule, values)
            granule.calibrate(values)
            name = f'{self.name} file {name_paths(granule.files)}'
            known = ~np.isnan(values).any(axis=0)
            yield name, self.source.convert(values[:, known], name)

    def _read_granule(
        self, granule: Granule, x: slice, y: slice
    ) -> npt.NDArray[np.float32]:
        """Read a granule in a window, NaN in all bands where it has no data."""
        trim = math.ceil(self.source.trim * self.grid.res[0] / x.step - 1e-6)
        margins = [self._margins.get(band.path) for band in granule.bands]
        halo = trim + max([margin.rim for margin in margins if margin], default=0)
        wide_x, wide_y = (
            slice(
                edge.start - halo * edge.step, edge.stop + halo * edge.step, edge.step
            )
            for edge in (x, y)
        )
        layers = [
            self._read_layer(path, bands, wide_x, wide_y)
            for path, bands in granule.by_file()
        ]
        values = np.concatenate(layers) if len(layers) > 1 else layers[0]
        values = self._check_dark(granule, values)
        for image, margin in zip(values, margins, strict=True):
            if margin is not None:
                margin.hide(image, wide_x, wide_y)
        granule.calibrate(values)
        missing = np.isnan(values).any(axis=0)
        if trim:
            missing = grow(missing, trim)
        values[:, missing] = math.nan
        return values[:, halo:-halo, halo:-halo] if halo else values

    def _read_layer(
        self, path: str, bands: Sequence[Band], x: slice, y: slice
    ) -> npt.NDArray[np.float32]:
        """Read bands of a file in a window, NaN where there are no data."""
        try:
            with rasterio.Env(**GDAL_ENV):
                values, _ = rasterio.merge.merge(
                    [self._on_grid(path, os.getpid())],
                    bounds=(x.start, y.start, x.stop, y.stop),
                    res=(x.step, y.step),
                    indexes=[band.number for band in bands],
                    nodata=math.nan,
                    dtype='float32',
                )
        except RasterioError as error:
            raise unreadable(self.name, path, error) from error
        return cast(npt.NDArray[np.float32], values)

    def _check_dark(
        self, granule: Granule, values: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Let zeros of an optical image be no data where all bands are, and only there."""
        zeros = [self.layers[band.path].nodata == 0 for band in granule.bands]
        if self.source.is_optical and any(zeros):
            missing = np.isnan(values)
            dark = missing & ~missing.all(axis=0) & np.array(zeros)[:, None, None]
            values[dark] = 0
            values[:, (values == 0).all(axis=0)] = math.nan
        return values

    def _locate(self, granule: Granule) -> shapely.Polygon:
        """Return the extent of a granule in whole pixels of the grid."""
        boxes = []
        for path in granule.files:
            with open_file(path) as src:
                left, top, right, bottom = self._box(path, src)
                area = self.layers[path].margin
                if area is not None:
                    # Grid pixels to which one of the file reaches when it is warped
                    rim = math.ceil((right - left) / src.width)
                    self._margins[path] = Margin(
                        self.grid.project(area, src.crs),
                        0 if self._is_on_grid(path, src) else rim,
                    )
            west, north = self.grid.transform @ (left, top)
            east, south = self.grid.transform @ (right, bottom)
            boxes.append((west, south, east, north))
        west, south = np.min(boxes, axis=0)[:2]
        east, north = np.max(boxes, axis=0)[2:]
        return shapely.box(west, south, east, north)

    def _box(self, path: str, src: DatasetReader) -> tuple[int, ...]:
        """Return the left, top, right and bottom edge of a file in whole grid pixels."""
        try:
            edges = self.grid.edges(src)
        except ProjError as error:
            raise ValueError(
                f'{self.name} file {name_paths(path)} of {src.crs} cannot be warped to '
                f'{self.grid.crs.to_string()}: {error}'
            ) from error
        # Outwards, but not for the sake of rounding errors
        return (
            *(math.floor(edge + 0.01) for edge in edges[:2]),
            *(math.ceil(edge - 0.01) for edge in edges[2:]),
        )

    def _is_on_grid(self, path: str, src: DatasetReader) -> bool:
        """Whether pixels of a file are pixels of the grid, and it says what has data."""
        edges = self.grid.edges(src)
        left, top, right, bottom = self._box(path, src)
        return (
            src.crs == RasterioCRS.from_user_input(self.grid.crs)
            and not self.grid.place(src)
            and self._says_nodata(path, src)
            and is_north_up(src.transform)
            and src.shape == (bottom - top, right - left)
            and max(abs(edge - round(edge)) for edge in edges) < 0.01
        )

    def _says_nodata(self, path: str, src: DatasetReader) -> bool:
        """Whether a file says itself where it has no data, or that is seen in it."""
        nodata, own = self.layers[path].nodata, src.nodata
        if nodata == 0 and self.source.is_optical:
            return True
        return str(nodata) == str(None if own is None else float(own))

    # As many open files as TorchGeo has; none is shared with a forked process
    @functools.lru_cache(maxsize=128)  # noqa: B019
    def _on_grid(self, path: str, process: int) -> DatasetReader | WarpedVRT:
        """Open a file such that its pixels are pixels of the grid."""
        src = open_file(path)
        if self._is_on_grid(path, src):
            return src
        left, top, right, bottom = self._box(path, src)
        nodata = self.layers[path].nodata
        masked = MaskFlags.per_dataset in src.mask_flag_enums[0]
        with src:
            return WarpedVRT(
                src,
                crs=RasterioCRS.from_user_input(self.grid.crs),
                transform=self.grid.shift(left, top),
                height=bottom - top,
                width=right - left,
                resampling=self.resampling,
                src_nodata=math.nan if nodata is None and not masked else nodata,
                nodata=math.nan,
                dtype='float32',
                # A dark band is no data only where all others are
                UNIFIED_SRC_NODATA='YES' if self.source.is_optical else 'NO',
                **self.grid.place(src),
            )


# Before Python takes GDAL apart
atexit.register(GridRaster._on_grid.cache_clear)


def _zoom(
    image: npt.NDArray[np.float32], height: int, width: int
) -> npt.NDArray[np.float32]:
    """Enlarge an image by repeating pixels."""
    rows = np.arange(height) * image.shape[1] // height
    columns = np.arange(width) * image.shape[2] // width
    return image[:, rows[:, None], columns]


def _shape(x: slice, y: slice) -> tuple[int, int]:
    """Return height and width of a window in pixels."""
    return round((y.stop - y.start) / y.step), round((x.stop - x.start) / x.step)

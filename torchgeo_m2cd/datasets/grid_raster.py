# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Raster files that are read on one pixel grid."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import shapely
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities import rank_zero_info
from pyproj import CRS
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from torch import Tensor
from torchgeo.datasets import DatasetNotFoundError, GeoDataset
from torchgeo.datasets.utils import GeoSlice, Sample

from .bands import spell_bands
from .files import open_file, unreadable
from .granules import Granule
from .grid import Grid
from .grid_file import GridFile, window_shape
from .layers import LayerReader
from .paths import name_paths, public_path
from .radiometry import TINY
from .source import SARSource, Source


class Scan(NamedTuple):
    """The pixels with data of a granule, at low resolution."""

    #: Names of the files, for messages.
    name: str
    #: Values in the units of a sample, shape (C, N).
    values: npt.NDArray[np.float32]
    #: Values in the files, shape (C, N).
    raw: npt.NDArray[np.float32]


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
        self.name = name
        self.source = source
        self.paths = source.paths
        reader = LayerReader(name, source)
        #: The granules, the first on top, with the bands that are read.
        self.granules = reader.read()
        self.source = reader.source
        if not self.granules:
            raise DatasetNotFoundError(self)
        self._assumed = list(reader.assumed)
        if grid is None:
            grid = self._choose_grid(crs, res)
        self.grid = grid
        self._res = grid.res
        #: The files on the grid, by their paths.
        self.on_grid = {
            path: GridFile(
                name, path, reader.layers[path], grid, resampling, source.is_optical
            )
            for path in self.files
        }
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

    def name_bands(self, names: Sequence[str]) -> None:
        """Give names to bands that have none.

        Args:
            names: Names of all bands that are read.
        """
        self.granules = [granule.named(names) for granule in self.granules]
        self.assume(
            f'the bands are {", ".join(name or "?" for name in names)}, in this order'
            if len(names) > 1
            else f'the band is {spell_bands(names)}'
        )

    def set_contrast(self, decibels: Sequence[float]) -> None:
        """Show values that are linear in dB, of unknown stretch, in dB plus a constant.

        Args:
            decibels: Decibels of one unit of each band.
        """
        self.granules = [granule.scaled(decibels) for granule in self.granules]
        self.source = dataclasses.replace(cast(SARSource, self.source), decibels=1.0)

    def assume(self, assumption: str) -> None:
        """Note and print what is assumed of the image.

        Args:
            assumption: What is assumed.
        """
        self._assumed.append(assumption)
        rank_zero_info(f'{self.name} file {name_paths(self.paths)}: {assumption}')

    def describe(self) -> dict[str, Any]:
        """Describe what is read, and what was assumed of it, in plain values.

        Returns:
            Files, bands, dates, and what the source says; for each kind of file the value
            without data, gains and offsets.
        """
        bands = [band for granule in self.granules for band in granule.bands]
        nodata = [self.on_grid[path].layer.nodata for path in self.files]
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
        image = np.full((self.band_count, *window_shape(x, y)), math.nan, np.float32)
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

    def scan(self) -> Iterator[Scan]:
        """Read each granule as a whole, at low resolution.

        Yields:
            What was seen of it.

        Raises:
            RuntimeError: If a file cannot be read.
        """
        for granule in self.granules:
            layers = []
            for path, bands in granule.by_file():
                try:
                    with open_file(path) as src:
                        layers.append(self.on_grid[path].layer.scan(src, bands))
                except RasterioError as error:
                    raise unreadable(self.name, path, error) from None
            size = np.max([layer.shape[1:] for layer in layers], axis=0)
            values = np.concatenate([_zoom(layer, *size) for layer in layers])
            if self.source.is_optical:
                self._check_dark(granule, values)
            name = f'{self.name} file {name_paths(granule.files)}'
            raw = values[:, ~np.isnan(values).any(axis=0)]
            values = raw[:, None].copy()
            granule.calibrate(values)
            yield Scan(name, self.source.convert(values[:, 0], name), raw)

    def _read_granule(
        self, granule: Granule, x: slice, y: slice
    ) -> npt.NDArray[np.float32]:
        """Read a granule in a window, NaN in all bands where it has no data."""
        trim = math.ceil(self.source.trim * self.grid.res[0] / x.step - 1e-6)
        x, y = (
            slice(
                edge.start - trim * edge.step, edge.stop + trim * edge.step, edge.step
            )
            for edge in (x, y)
        )
        layers = [
            self.on_grid[path].read(bands, x, y) for path, bands in granule.by_file()
        ]
        values = np.concatenate(layers) if len(layers) > 1 else layers[0]
        if self.source.is_optical:
            self._check_dark(granule, values)
            self._check_others(granule, values, x, y)
        granule.calibrate(values)
        missing = np.isnan(values).any(axis=0)
        if trim:
            missing = grow(missing, trim)
        values[:, missing] = math.nan
        return values[:, trim:-trim, trim:-trim] if trim else values

    def _check_dark(self, granule: Granule, values: npt.NDArray[np.float32]) -> None:
        """Mark zeros of an optical image as no data only where all bands are 0."""
        zeros = [self.on_grid[band.path].layer.nodata == 0 for band in granule.bands]
        missing = np.isnan(values) & np.array(zeros)[:, None, None]
        dark = ((values == 0) | missing).all(axis=0)
        values[missing & ~dark] = 0
        values[:, dark] = TINY if self.source.has_zeros else math.nan

    def _check_others(
        self, granule: Granule, values: npt.NDArray[np.float32], x: slice, y: slice
    ) -> None:
        """Restore zeros of an optical image where bands that are not read have data."""
        path, *more = granule.files
        numbers = [band.number for band in granule.bands]
        others = [b for b in self.on_grid[path].layer.bands if b.number not in numbers]
        missing = np.isnan(values).all(axis=0)
        if more or not others or not missing.any():
            return
        found = self.on_grid[path].read(others, x, y)
        seen = missing & ((found != 0) & ~np.isnan(found)).any(axis=0)
        values[:, seen] = TINY

    def _locate(self, granule: Granule) -> shapely.Geometry:
        """Return the extent of a granule in whole pixels of the grid."""
        boxes = [self.on_grid[path].extent.bounds for path in granule.files]
        west, south = np.min(boxes, axis=0)[:2]
        east, north = np.max(boxes, axis=0)[2:]
        return shapely.box(west, south, east, north)


def _zoom(
    image: npt.NDArray[np.float32], height: int, width: int
) -> npt.NDArray[np.float32]:
    """Enlarge an image by repeating pixels."""
    rows = np.arange(height) * image.shape[1] // height
    columns = np.arange(width) * image.shape[2] // width
    return image[:, rows[:, None], columns]


def grow(mask: npt.NDArray[np.bool_], size: int) -> npt.NDArray[np.bool_]:
    """Set the pixels of a mask that are near a set one.

    Args:
        mask: Mask of shape (H, W).
        size: Largest distance in rows and in columns of pixels.

    Returns:
        Mask of the same shape.
    """
    image = torch.from_numpy(mask)[None].float()
    grown = F.max_pool2d(image, 2 * size + 1, stride=1, padding=size)
    return grown[0].numpy() > 0

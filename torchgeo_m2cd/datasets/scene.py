# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Georeferenced optical-SAR scenes."""

import glob
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Self, get_args

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pandas as pd
import rasterio
import rasterio.merge
import shapely
import torch
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from rasterio.crs import CRS as RasterioCRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.features import geometry_mask, rasterize
from rasterio.io import DatasetReader
from rasterio.transform import Affine, array_bounds, from_origin
from rasterio.vrt import WarpedVRT
from rasterio.warp import calculate_default_transform
from torch import Tensor
from torch.utils.data import Dataset
from torchgeo.datasets import IntersectionDataset, RasterDataset, VectorDataset
from torchgeo.datasets.utils import GeoSlice, Path, Sample

from ..utils import GDAL_ENV, check_choice, list_paths, name_paths
from .base import OpticalSARDataset, stack_pair

#: What the values of a SAR file are; they are turned into dB.
SARScale = Literal['db', 'power', 'amplitude', 'other']

#: Measures image pairs, shape (B, 2, C, H, W), where they are valid, shape (B, 1, H, W):
#: references of the optical and of the SAR images, shapes (B, K, 1, 1).
Measure = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# Decibels per decade
_DECIBELS = {'power': 10.0, 'amplitude': 20.0}

_VECTOR_SUFFIXES = ('.gpkg', '.geojson', '.json', '.shp', '.fgb')


class _GridRaster(RasterDataset):
    """Raster files that are read on one pixel grid, NaN where there are no data.

    TorchGeo warps a file of another CRS to a grid of its own, with nearest neighbours,
    and then resamples each patch by itself. Here, every file is warped once, to the
    common grid: a pixel has the same value in all patches that hold it.

    To be mixed into another RasterDataset, which names the files of each band.
    """

    @classmethod
    def named_by(cls, naming: type[RasterDataset] | None) -> type[Self]:
        """Return the class of files that are named in this way."""
        if naming is None:
            return cls
        return type(f'{cls.__name__}{naming.__name__}', (cls, naming), {})

    def __init__(
        self,
        name: str,
        paths: Path | Iterable[Path],
        bands: Sequence[int] | Sequence[str] | None = None,
        like: '_GridRaster | None' = None,
        crs: CRS | None = None,
        res: float | tuple[float, float] | None = None,
        nodata: float | None = None,
        sar_scale: SARScale = 'other',
        warp: Resampling = Resampling.bilinear,
    ) -> None:
        """Initialize a new _GridRaster instance.

        Args:
            name: What the files are, for messages.
            paths: One or more files, or folders with such files.
            bands: Bands to read: numbers, starting at 1, or names, if the class has
                them (defaults to all, and of files without names to those of the first).
            like: Raster whose CRS and pixel grid to use.
            crs: CRS to warp to (defaults to that of the first file).
            res: Width and height of a pixel in units of *crs* (defaults to those of
                the first file).
            nodata: Value of pixels without data (defaults to what each file says).
            sar_scale: What the values are.
            warp: Resampling of files that are not on the grid.

        Raises:
            DatasetNotFoundError: If there is no raster file in the folders.
            FileNotFoundError: If a file or folder, or the file of a band, does not
                exist.
            RuntimeError: If a file cannot be read.
            ValueError: If a file has no CRS, lacks a band, or cannot be warped.
        """
        self.given = _find(name, paths)
        self.name = name
        self.warp = warp
        self.sar_scale = sar_scale
        self.grid: Affine | None = like.grid if like else None
        self.grid_res = (res, res) if isinstance(res, int | float) else res
        if self.grid_res is not None and not min(self.grid_res) > 0:
            raise ValueError(f'res is {res}: expected a positive size of pixels')
        if nodata is not None:
            self.nodata = nodata
        self.channels: list[int] = []
        names: Sequence[str] | None = None
        if self.all_bands:
            names = [str(band) for band in bands or self.all_bands]
            for band in names:
                check_choice(f'{name} band', band, self.all_bands)
            self.channels = (
                [1]
                if self.separate_files
                else [self.all_bands.index(band) + 1 for band in names]
            )
        elif bands is not None:
            if any(isinstance(band, str) for band in bands):
                raise ValueError(
                    f'{name} bands {list(bands)} are names: expected numbers, or the '
                    'dataset of TorchGeo that has such names as class'
                )
            self.channels = [int(band) for band in bands]
        super().__init__(self.given, crs=like.crs if like else crs, bands=names)
        assert self.grid is not None  # Set by the first file
        self._res = (self.grid.a, -self.grid.e)
        self.band_count = len(names) if names else len(self.channels)
        _find(name, self.all_files)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the class, which is made on the fly."""
        naming = type(self).__mro__[2] if type(self) is not _GridRaster else None
        return _blank, (naming,), self.__dict__

    @property
    def all_files(self) -> list[str]:
        """All files, also those of bands that have files of their own."""
        if not self.separate_files:
            return [os.fspath(path) for path in self.index.filepath]
        return [
            self._update_filepath(band, path)
            for path in self.index.filepath
            for band in self.bands
        ]

    def __getitem__(self, index: GeoSlice) -> Sample:
        """Retrieve the image of a window.

        Args:
            index: [xmin:xmax, ymin:ymax] coordinates to index.

        Returns:
            Sample with ``image`` of shape (C, H, W), NaN where there is no file.
        """
        try:
            return super().__getitem__(index)
        except IndexError:  # A hole in a mosaic
            x, y, _ = self._disambiguate_slice(index)
            height, width = (y.stop - y.start) / y.step, (x.stop - x.start) / x.step
            size = (self.band_count, round(height), round(width))
            return {
                'bounds': self._slice_to_tensor(index),
                'transform': torch.tensor(from_origin(x.start, y.stop, x.step, y.step)),
                'image': torch.full(size, math.nan),
            }

    def _load_warp_file(
        self, filepath: Path, crs: CRS | None = None
    ) -> DatasetReader | WarpedVRT:
        """Open a file on the common grid.

        Args:
            filepath: File to open.
            crs: CRS of the grid, None for the first file.

        Returns:
            File whose pixels are pixels of the grid.

        Raises:
            RuntimeError: If the file cannot be read.
            ValueError: If the file has no CRS, lacks a band, or cannot be warped.
        """
        with self._open(filepath) as src:
            if src.crs is None:
                raise ValueError(
                    f'{self.name} file {os.fspath(filepath)!r} has no CRS: '
                    'expected a georeferenced raster'
                )
            self.channels = self.channels or [
                band
                for band, color in zip(src.indexes, src.colorinterp, strict=True)
                if color != ColorInterp.alpha
            ]
            if not set(self.channels) <= set(src.indexes):
                raise ValueError(
                    f'{self.name} file {os.fspath(filepath)!r} has {src.count} bands: '
                    f'expected it to have the bands {self.channels}'
                )
            target = RasterioCRS.from_user_input(crs) if crs else src.crs
            try:
                edges = self._edges(src, target)
            except ProjError as error:
                raise ValueError(
                    f'{self.name} file {os.fspath(filepath)!r} of {src.crs} cannot be '
                    f'warped to {target}: {error}'
                ) from error
            # Outwards to whole pixels, but not for the sake of rounding errors
            left, top = (math.floor(edge + 0.01) for edge in edges[:2])
            right, bottom = (math.ceil(edge - 0.01) for edge in edges[2:])
            height, width = bottom - top, right - left
            if (
                src.crs == target
                and self.nodata is None
                and _is_north_up(src.transform)
                and (src.height, src.width) == (height, width)
                and max(abs(edge - round(edge)) for edge in edges) < 0.01
            ):
                return self._open(filepath)
            assert self.grid is not None
            return WarpedVRT(
                src,
                crs=target,
                transform=_shift(self.grid, left, top),
                height=height,
                width=width,
                resampling=self.warp,
                src_nodata=self._nodata(src),
                nodata=math.nan,
                dtype='float32',
            )

    def _nodata(self, src: DatasetReader) -> float | None:
        """Return the value of pixels without data, None if a mask says where they are."""
        if self.nodata is not None:
            return self.nodata
        if src.nodata is not None:
            return float(src.nodata)
        masked = MaskFlags.per_dataset in src.mask_flag_enums[0]
        return None if masked else math.nan

    def _open(self, filepath: Path) -> DatasetReader:
        """Open a file."""
        path = os.fspath(filepath)
        # TorchGeo's command has GDAL not look at other files, and so not find masks
        local = os.path.exists(path)
        env = {'GDAL_DISABLE_READDIR_ON_OPEN': 'FALSE'} if local else {}
        try:
            with rasterio.Env(**env):
                file: DatasetReader = rasterio.open(path)
        except RasterioError as error:
            suffix = pathlib.PurePath(path).suffix.lower()
            if path in self.given or suffix in ('.tif', '.tiff'):
                raise RuntimeError(
                    f'{self.name} file {path!r} cannot be read: expected a complete '
                    f'raster file ({error})'
                ) from error
            raise  # Other files in a folder, which TorchGeo skips
        return file

    def _edges(
        self, src: DatasetReader, target: RasterioCRS
    ) -> tuple[float, float, float, float]:
        """Compute the left, top, right, and bottom edge of a file in grid pixels."""
        bounds = array_bounds(src.height, src.width, src.transform)
        if self.grid is None:
            self.grid = self._make_grid(src, target)
        west, south, east, north = bounds
        if src.crs != target:
            transformer = Transformer.from_crs(src.crs, target, always_xy=True)
            west, south, east, north = transformer.transform_bounds(
                west, south, east, north, errcheck=True
            )
        return *_locate(west, north, self.grid), *_locate(east, south, self.grid)

    def _make_grid(self, src: DatasetReader, target: RasterioCRS) -> Affine:
        """Make the grid of the first file: its own, if that will do."""
        if src.crs == target and self.grid_res is None and _is_north_up(src.transform):
            return src.transform
        bounds = array_bounds(src.height, src.width, src.transform)
        grid, _, _ = calculate_default_transform(
            src.crs, target, src.width, src.height, *bounds, resolution=self.grid_res
        )
        if self.grid_res is None:
            return grid
        # Such that scenes of the same resolution share their grid
        xres, yres = self.grid_res
        west, north = math.floor(grid.c / xres) * xres, math.ceil(grid.f / yres) * yres
        return from_origin(west, north, xres, yres)

    def _merge_or_stack(
        self,
        filepaths: Sequence[str],
        index: GeoSlice,
        band_indexes: Sequence[int] | None = None,
        out_crs: CRS | None = None,
    ) -> Tensor:
        """Load and mosaic one or more files.

        Args:
            filepaths: Files to load.
            index: [xmin:xmax:xres, ymin:ymax:yres] coordinates to index.
            band_indexes: Not used.
            out_crs: CRS of the grid.

        Returns:
            Image of shape (C, H, W), NaN where there are no data.

        Raises:
            RuntimeError: If a file cannot be read.
            ValueError: If values that cannot be negative are.
        """
        x, y, _ = self._disambiguate_slice(index)
        try:
            with rasterio.Env(**GDAL_ENV):
                array, _ = rasterio.merge.merge(
                    [self._cached_load_warp_file(path, out_crs) for path in filepaths],
                    bounds=(x.start, y.start, x.stop, y.stop),
                    res=(x.step, y.step),
                    indexes=self.channels,
                    nodata=math.nan,
                    dtype='float32',
                )
        except RasterioError as error:
            raise RuntimeError(
                f'{self.name} file {name_paths(filepaths)} cannot be read: expected a '
                f'complete raster file ({error.__cause__ or error})'
            ) from error
        if self.sar_scale in _DECIBELS:
            array = self._to_db(array, filepaths)
        return torch.from_numpy(array)

    def _to_db(
        self, array: npt.NDArray[np.float32], filepaths: Sequence[str]
    ) -> npt.NDArray[np.float32]:
        """Turn power or amplitude into dB, NaN where there is none."""
        if (array < 0).sum() > np.isfinite(array).sum() / 2:
            raise ValueError(
                f'{self.name} file {name_paths(filepaths)} has values below zero, but '
                f'sar_scale is {self.sar_scale!r}: expected positive values, or '
                "sar_scale='db'"
            )
        decibels = np.full_like(array, math.nan)
        np.log10(array, out=decibels, where=array > 0)
        return decibels * np.float32(_DECIBELS[self.sar_scale])


def _blank(naming: type[RasterDataset] | None) -> _GridRaster:
    """Make an instance to be unpickled."""
    cls = _GridRaster.named_by(naming)
    return cls.__new__(cls)


class _GridVector(VectorDataset):
    """Vector files that are burnt into a grid, 0 where there are no shapes.

    Unlike TorchGeo's own, they are read and warped once, not for every patch.
    """

    def __init__(
        self,
        name: str,
        paths: Path | Iterable[Path],
        like: _GridRaster,
        label: str | None,
    ) -> None:
        """Initialize a new _GridVector instance.

        Args:
            name: What the files are, for messages.
            paths: One or more files.
            like: Raster whose CRS and pixel grid to use.
            label: Attribute that holds the class, 1 if None.

        Raises:
            FileNotFoundError: If a file does not exist.
            RuntimeError: If a file cannot be read.
            ValueError: If a file lacks the attribute.
        """
        given = _find(name, paths)
        shapes = []
        for path in given:
            try:
                shapes.append(gpd.read_file(path).to_crs(like.crs))
            except (RuntimeError, ValueError) as error:
                raise RuntimeError(
                    f'{name} file {path!r} cannot be read: expected polygons with a CRS '
                    f'({error})'
                ) from error
            if label is not None:
                check_choice(f'attribute of {path}', label, shapes[-1].columns)
        super().__init__(given, crs=like.crs, res=like.res, label_name=label)
        self.shapes = pd.concat(shapes)

    def __getitem__(self, index: GeoSlice) -> Sample:
        """Burn the shapes of a window.

        Args:
            index: [xmin:xmax, ymin:ymax] coordinates to index.

        Returns:
            Sample with ``image`` of shape (1, H, W).
        """
        x, y, _ = self._disambiguate_slice(index)
        shapes = self.shapes.cx[x.start : x.stop, y.start : y.stop]
        size = (round((y.stop - y.start) / y.step), round((x.stop - x.start) / x.step))
        image = np.zeros(size, np.float32)
        if len(shapes):
            labels = (float(self.get_label(row)) for _, row in shapes.iterrows())
            transform = from_origin(x.start, y.stop, x.step, y.step)
            rasterize(
                zip(shapes.geometry, labels, strict=True),
                out=image,
                transform=transform,
            )
        return {'image': torch.from_numpy(image[None])}


class SceneDataset(IntersectionDataset):
    """Georeferenced optical and SAR scenes where they overlap.

    The pixel grid is that of the first optical file, or one of a chosen CRS and
    resolution; everything else is warped to it, images bilinearly, masks by nearest
    neighbour. A pixel is valid if all bands of both images have data there: neither
    no-data values, NaN, nor masked by an alpha band or a mask file.

    A sample holds:

    * ``image``: float32 tensor of shape (2, C, H, W), see
      :func:`~torchgeo_m2cd.datasets.stack_pair`, in the units of the files, SAR power
      and amplitude in dB; 0 where not valid
    * ``valid``: bool tensor of shape (1, H, W)
    * ``window``: int64 tensor, row and column of the upper left pixel in the
      scene, whose pixel (0, 0) is the upper left one of the overlap. It is exact,
      whereas ``bounds`` and ``transform`` of TorchGeo are float32, which is half a
      metre in UTM.
    * ``mask``: int64 tensor of shape (1, H, W), if there is a mask; 255 where
      not valid, without label, or outside of the split
    * ``reference_optical`` and ``reference_sar``: float32 tensors of shape (K, 1, 1), if
      there is something to measure, see :class:`~torchgeo_m2cd.transforms.Inputs`
    """

    #: Mask value of pixels that are not valid.
    ignore_index = OpticalSARDataset.ignore_index

    def __init__(
        self,
        optical: Path | Iterable[Path],
        sar: Path | Iterable[Path],
        mask: Path | Iterable[Path] | None = None,
        optical_bands: Sequence[int] | Sequence[str] | None = None,
        sar_bands: Sequence[int] | Sequence[str] | None = None,
        sar_scale: SARScale = 'db',
        optical_class: type[RasterDataset] | None = None,
        sar_class: type[RasterDataset] | None = None,
        optical_nodata: float | None = None,
        sar_nodata: float | None = None,
        mask_label: str | None = None,
        crs: CRS | str | None = None,
        res: float | tuple[float, float] | None = None,
        transforms: Callable[[Sample], Sample] | None = None,
    ) -> None:
        """Initialize a new SceneDataset instance.

        Args:
            optical: Pre-event optical scene: one or more files, folders with them, or
                patterns like ``'scenes/*.tif'``. Several files are mosaicked.
            sar: Post-event SAR scene, likewise.
            mask: Change mask, if there is one: raster files, likewise, with negative
                values where there is no label; or vector files, whose
                polygons are changed and all else is not.
            optical_bands: Optical bands to use: numbers, starting at 1, or their names
                in *optical_class* (defaults to all).
            sar_bands: SAR bands to use, likewise.
            sar_scale: What the values of the SAR files are: ``'db'``, or linear
                ``'power'`` or ``'amplitude'``, which are warped as they are and then
                turned into dB; ``'other'`` are left alone, and not checked.
            optical_class: Dataset of TorchGeo that says how files of this sensor are
                named, for one file per band: ``torchgeo.datasets.Sentinel2``.
            sar_class: Likewise: ``torchgeo.datasets.Sentinel1``.
            optical_nodata: Value of optical pixels without data (defaults to what the
                files say).
            sar_nodata: Value of SAR pixels without data, likewise.
            mask_label: Attribute of vector files that holds the class (defaults to 1 for
                all shapes).
            crs: CRS to warp to (defaults to that of the first optical file).
            res: Width and height of a pixel in units of *crs* (defaults to those of
                the first optical file).
            transforms: Function that takes a sample and returns it transformed.

        Raises:
            DatasetNotFoundError: If there is no raster file in a folder.
            FileNotFoundError: If a file or folder does not exist, or nothing has the
                pattern.
            RuntimeError: If a file cannot be read.
            ValueError: If an argument is unknown, a file has no CRS or lacks a band, or
                if the scenes do not overlap.
        """
        check_choice('sar_scale', sar_scale, get_args(SARScale))
        first = _GridRaster.named_by(optical_class)(
            'optical',
            optical,
            optical_bands,
            crs=None if crs is None else CRS.from_user_input(crs),
            res=res,
            nodata=optical_nodata,
        )
        second = _GridRaster.named_by(sar_class)(
            'SAR', sar, sar_bands, first, nodata=sar_nodata, sar_scale=sar_scale
        )
        self.labels: _GridRaster | _GridVector | None = None
        if mask is not None:
            suffixes = {pathlib.Path(path).suffix.lower() for path in list_paths(mask)}
            self.labels = (
                _GridVector('mask', mask, first, mask_label)
                if suffixes <= set(_VECTOR_SUFFIXES)
                else _GridRaster('mask', mask, [1], first, warp=Resampling.nearest)
            )
        try:
            super().__init__(first, second, spatial_only=True, collate_fn=_collate)
        except RuntimeError as error:
            extents = ' and '.join(
                f'{dataset.name} {name_paths(paths)} has the extent '
                f'{tuple(float(v.round(6)) for v in dataset.index.total_bounds)}'
                for dataset, paths in ((first, optical), (second, sar))
            )
            raise ValueError(
                f'the scenes do not overlap: {extents} (west, south, east, north in '
                f'{first.crs.to_string()})'
            ) from error
        self.sample_transforms = transforms
        #: Measures the pairs of a batch before a model is shown them, if it has to.
        self.measure: Measure | None = None
        #: Smallest height and width in pixels of what is measured around a sample.
        self.window = 1

        assert first.grid is not None
        west, south, east, north = self.index.total_bounds
        left, top = map(round, _locate(west, north, first.grid))
        right, bottom = map(round, _locate(east, south, first.grid))
        #: Height and width of the overlap in pixels.
        self.shape = (bottom - top, right - left)
        #: Transform of the overlap.
        self.transform = _shift(first.grid, left, top)

    @property
    def band_counts(self) -> tuple[int, int]:
        """Number of bands of the optical and of the SAR scene."""
        first, second = self.datasets
        assert isinstance(first, _GridRaster)
        assert isinstance(second, _GridRaster)
        return first.band_count, second.band_count

    @property
    def pair_files(self) -> tuple[list[str], list[str]]:
        """All files of the optical and of the SAR scene."""
        first, second = self.datasets
        assert isinstance(first, _GridRaster)
        assert isinstance(second, _GridRaster)
        return first.all_files, second.all_files

    @property
    def rgb_channels(self) -> list[int]:
        """Channels of the optical image to show as red, green and blue.

        By the names of the bands, of Sentinel-2 or of colours; else the first three.
        """
        first = self.datasets[0]
        assert isinstance(first, _GridRaster)
        names = list(first.bands or [])
        if not names:
            with rasterio.open(first.files[0]) as src:
                names = [src.descriptions[channel - 1] for channel in first.channels]
        for wanted in (
            ('B04', 'B03', 'B02'),
            ('B4', 'B3', 'B2'),
            ('red', 'green', 'blue'),
        ):
            if set(wanted) <= set(names):
                return [names.index(name) for name in wanted]
        return [min(i, first.band_count - 1) for i in range(3)]

    def pixel_slice(
        self, row: int, column: int, height: int, width: int
    ) -> tuple[slice, slice]:
        """Return the index of a window given in pixels.

        Args:
            row: Row of its upper left pixel in the scene.
            column: Column of that pixel.
            height: Height in pixels.
            width: Width in pixels.

        Returns:
            [xmin:xmax, ymin:ymax] coordinates to index the dataset.
        """
        grid = self.transform
        left, right = (grid.c + grid.a * x for x in (column, column + width))
        top, bottom = (grid.f + grid.e * y for y in (row, row + height))
        return slice(left, right), slice(bottom, top)

    def __getitem__(self, index: GeoSlice) -> Sample:
        """Retrieve the sample of a window.

        Args:
            index: [xmin:xmax, ymin:ymax] coordinates to index. They are moved to the
                nearest pixels, and may reach beyond the overlap.

        Returns:
            Sample with the keys listed above, and ``bounds`` and ``transform`` as in
            TorchGeo.

        Raises:
            IndexError: If *index* is outside of the scenes.
            RuntimeError: If a file cannot be read.
        """
        x, y, _ = self._disambiguate_slice(index)
        column, row = map(round, _locate(x.start, y.stop, self.transform))
        xres, yres = self.transform.a, -self.transform.e
        height, width = (
            round((y.stop - y.start) / yres),
            round((x.stop - x.start) / xres),
        )
        if not (-height <= row <= self.shape[0] and -width <= column <= self.shape[1]):
            raise IndexError(f'{index} is outside of the scenes: {self.bounds}')
        index = self.pixel_slice(row, column, height, width)
        sample = super().__getitem__(index)
        sample['window'] = torch.tensor([row, column])
        if self.measure is not None:
            sample |= self._measure_around(sample, row, column)
        if self.labels is not None:
            sample['mask'] = self._mask(index, sample['valid'])
        if self.sample_transforms is not None:
            sample = self.sample_transforms(sample)
        return sample

    def _measure_around(self, sample: Sample, row: int, column: int) -> Sample:
        """Measure the window around a sample, within the scene if that is large enough."""
        assert self.measure is not None
        size = tuple(sample['valid'].shape[1:])
        window = tuple(max(edge, self.window) for edge in size)
        if window != size:
            row, column = (
                min(max(start + (inner - outer) // 2, 0), max(length - outer, 0))
                for start, inner, outer, length in zip(
                    (row, column), size, window, self.shape, strict=True
                )
            )
            sample = super().__getitem__(self.pixel_slice(row, column, *window))
        optical, sar = self.measure(sample['image'][None], sample['valid'][None])
        return {'reference_optical': optical[0], 'reference_sar': sar[0]}

    def _mask(self, index: tuple[slice, slice], valid: Tensor) -> Tensor:
        """Read the mask of a window, 255 where not valid."""
        assert self.labels is not None
        mask = torch.full(valid.shape, self.ignore_index)
        labels = self.labels[index]['image']
        known = valid & (labels >= 0)  # Not so for NaN
        x, y = index
        # Cells of splits may end within a pixel: it is to be in one of them
        cells = shapely.transform(self.index.geometry.values, self._snap)
        region = shapely.union_all(cells)
        if not region.covers(shapely.box(x.start, y.start, x.stop, y.stop)):
            grid = from_origin(x.start, y.stop, *self.datasets[0].res)
            inside = ~geometry_mask([region], tuple(valid.shape[1:]), grid)
            known &= torch.from_numpy(inside)
        mask[known] = labels[known].long()
        return mask

    def _snap(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Move points to the nearest corners of pixels."""
        origin = np.array([self.transform.c, self.transform.f])
        step = np.array([self.transform.a, self.transform.e])
        snapped: npt.NDArray[np.float64] = (
            np.round((points - origin) / step) * step + origin
        )
        return snapped

    def overview(self, max_size: int = 1024) -> Sample:
        """Read all of the scene at a lower resolution, by nearest neighbour.

        Args:
            max_size: Largest height and width in pixels.

        Returns:
            Sample as above, without ``window`` and ``mask``.

        Raises:
            RuntimeError: If a file cannot be read.
        """
        height, width = self.shape
        step = -(-max(self.shape) // max_size)
        x, y = self.pixel_slice(0, 0, height - height % step, width - width % step)
        xres, yres = self.transform.a, -self.transform.e
        index = slice(x.start, x.stop, step * xres), slice(y.start, y.stop, step * yres)
        return super().__getitem__(index)

    def probe(self, count: int = 6, size: int = 32) -> Tensor:
        """Read a grid of small windows, to see what the values are like.

        Args:
            count: Windows along each axis.
            size: Height and width of a window in pixels.

        Returns:
            Valid pixels, shape (2, C, N).

        Raises:
            RuntimeError: If a file cannot be read.
            ValueError: If SAR values that cannot be negative are.
        """
        rows, columns = (
            np.unique(np.linspace(0, max(length - size, 0), count).astype(int))
            for length in self.shape
        )
        pixels = []
        for row in rows.tolist():
            for column in columns.tolist():
                sample = super().__getitem__(self.pixel_slice(row, column, size, size))
                pixels.append(sample['image'][:, :, sample['valid'][0]])
        # Open files must not be shared with workers that are forked later
        _GridRaster._cached_load_warp_file.cache_clear()
        return torch.cat(pixels, dim=-1)

    def check(self, fits: Callable[[Tensor], None] | None = None) -> int:
        """Check that the values are such as the arguments, and a model, expect.

        Args:
            fits: Raises a ValueError if pixels, shape (2, C, N), cannot be in the units of
                a model, see :meth:`~torchgeo_m2cd.transforms.Inputs.check`.

        Returns:
            Number of valid pixels among those that were looked at.

        Raises:
            RuntimeError: If a file cannot be read.
            ValueError: If the scenes look swapped, the SAR values not like *sar_scale*,
                or the values cannot be in the units of the model.
        """
        pixels = self.probe()
        if pixels.shape[-1] == 0:
            return 0
        optical, sar = (
            image[:count] for image, count in zip(pixels, self.band_counts, strict=True)
        )
        first, second = self.datasets
        assert isinstance(second, _GridRaster)
        if optical.median() < 0:
            raise ValueError(
                f'optical file {name_paths(first.files)} has mostly negative values (median '
                f'{optical.median():.4g}), like SAR in dB: are optical and sar swapped?'
            )
        if second.sar_scale != 'other' and sar.median() > 10:
            raise ValueError(
                f'SAR file {name_paths(second.files)} has a median of {sar.median():.4g} dB '
                f'with sar_scale={second.sar_scale!r}: are optical and sar swapped, or '
                "the values uncalibrated (sar_scale='other')?"
            )
        if second.sar_scale == 'db' and sar.median() > 0:
            raise ValueError(
                f'SAR file {name_paths(second.files)} has mostly positive values (median '
                f"{sar.median():.4g}), but sar_scale is 'db': expected negative ones, or "
                "sar_scale='power' or 'amplitude'"
            )
        if fits is not None:
            try:
                fits(pixels)
            except ValueError as error:
                raise ValueError(
                    f'the scene of {name_paths(first.files)} and '
                    f'{name_paths(second.files)} does not fit the model: {error}'
                ) from error
        return pixels.shape[-1]


class SceneList(Dataset[list[Sample]]):
    """Several scenes in one dataset.

    The samples are those of :class:`SceneDataset`, and ``scene``, an int64 tensor that
    holds the number of the scene.
    """

    def __init__(self, scenes: Sequence[SceneDataset]) -> None:
        """Initialize a new SceneList instance.

        Args:
            scenes: The scenes.
        """
        self.scenes = scenes

    def __len__(self) -> int:
        """Return the number of scenes."""
        return len(self.scenes)

    @property
    def band_counts(self) -> tuple[int, int]:
        """Number of bands of the optical and of the SAR scenes."""
        return self.scenes[0].band_counts

    def __getitem__(self, index: Sequence[tuple[int, slice, slice]]) -> list[Sample]:
        """Retrieve the samples of a batch.

        Args:
            index: Numbers of the scenes, and [xmin:xmax, ymin:ymax] coordinates to index
                them.

        Returns:
            Samples with the keys listed above.
        """
        return [
            {**self.scenes[scene][x, y], 'scene': torch.tensor(scene)}
            for scene, x, y in index
        ]


def _collate(samples: Sequence[Sample]) -> Sample:
    """Make a pair of an optical and a SAR sample on the same grid."""
    optical, sar = (sample['image'] for sample in samples)
    # NumPy: on busy cores, threads cost PyTorch more than they bring on arrays so small
    valid = np.isfinite(optical.numpy()).all(0) & np.isfinite(sar.numpy()).all(0)
    for image in (optical, sar):
        image.numpy()[:, ~valid] = 0
    return {
        'bounds': samples[0]['bounds'],
        'transform': samples[0]['transform'],
        'image': stack_pair(optical, sar),
        'valid': torch.from_numpy(valid[None]),
    }


def _is_north_up(transform: Affine) -> bool:
    """Whether rows go south and columns go east."""
    north_up: bool = (
        transform.b == transform.d == 0 and transform.a > 0 and transform.e < 0
    )
    return north_up


def _locate(x: float, y: float, grid: Affine) -> tuple[float, float]:
    """Return column and row of a point on a north-up grid."""
    return (x - grid.c) / grid.a, (y - grid.f) / grid.e


def _shift(grid: Affine, columns: int, rows: int) -> Affine:
    """Move the origin of a north-up grid by whole pixels."""
    return from_origin(
        grid.c + columns * grid.a, grid.f + rows * grid.e, grid.a, -grid.e
    )


def _find(name: str, paths: Path | Iterable[Path]) -> list[str]:
    """List files and folders, those of patterns included, which must exist."""
    found = []
    for path in list_paths(paths):
        matches = sorted(glob.glob(path, recursive=True))
        # GDAL also reads URLs and its own paths
        if not (matches or '://' in path or path.startswith('/vsi')):
            raise FileNotFoundError(
                f'{name} file {path!r} does not exist'
                if not glob.has_magic(path)
                else f'no {name} file matches {path!r}'
            )
        found += [path] if os.path.exists(path) else matches or [path]
    return found

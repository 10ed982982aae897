# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Georeferenced optical-SAR scenes."""

import math
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import rasterio
import rasterio.merge
import torch
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from rasterio.crs import CRS as RasterioCRS
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.transform import Affine, array_bounds, from_origin
from rasterio.vrt import WarpedVRT
from rasterio.warp import calculate_default_transform
from torch import Tensor
from torchgeo.datasets import IntersectionDataset, RasterDataset
from torchgeo.datasets.utils import GeoSlice, Path, Sample

from .base import OpticalSARDataset, stack_pair


class _GridRaster(RasterDataset):
    """Raster files that are read on one pixel grid, NaN where there are no data.

    TorchGeo warps a file of another CRS to a grid of its own, with nearest neighbours,
    and then resamples each patch by itself. Here, every file is warped once, to the
    common grid: a pixel has the same value in all patches that hold it.
    """

    def __init__(
        self,
        name: str,
        paths: Path | Iterable[Path],
        bands: Sequence[int] | None = None,
        like: '_GridRaster | None' = None,
        warp: Resampling = Resampling.bilinear,
    ) -> None:
        """Initialize a new _GridRaster instance.

        Args:
            name: What the files are, for messages.
            paths: One or more files, or folders with such files.
            bands: Bands to read, starting at 1 (defaults to all of the first file).
            like: Raster whose CRS and pixel grid to use (defaults to those of the
                first file).
            warp: Resampling of files that are not on the grid.

        Raises:
            DatasetNotFoundError: If there is no raster file in the folders.
            FileNotFoundError: If a file or folder does not exist.
            RuntimeError: If a file cannot be read.
            ValueError: If a file has no CRS, lacks a band, or cannot be warped.
        """
        paths = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
        self.given = [os.fspath(path) for path in paths]
        for path in self.given:
            # GDAL also reads URLs and its own paths
            if not (os.path.exists(path) or '://' in path or path.startswith('/vsi')):
                raise FileNotFoundError(f'{name} file {path!r} does not exist')

        self.name = name
        self.warp = warp
        self.channels = list(bands) if bands is not None else []
        self.grid: Affine | None = like.grid if like else None
        super().__init__(paths, crs=like.crs if like else None)
        assert self.grid is not None  # Set by the first file
        self._res = (self.grid.a, -self.grid.e)

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
            self.channels = self.channels or list(src.indexes)
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
                and _is_north_up(src.transform)
                and (src.height, src.width) == (height, width)
                and max(abs(edge - round(edge)) for edge in edges) < 0.01
            ):
                file: DatasetReader = rasterio.open(filepath)
                return file
            assert self.grid is not None
            return WarpedVRT(
                src,
                crs=target,
                transform=_shift(self.grid, left, top),
                height=height,
                width=width,
                resampling=self.warp,
                src_nodata=math.nan if src.nodata is None else src.nodata,
                nodata=math.nan,
                dtype='float32',
            )

    def _open(self, filepath: Path) -> DatasetReader:
        """Open a file."""
        path = os.fspath(filepath)
        try:
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
            self.grid = src.transform
            if not _is_north_up(src.transform):
                self.grid, _, _ = calculate_default_transform(
                    src.crs, target, src.width, src.height, *bounds
                )
        west, south, east, north = bounds
        if src.crs != target:
            transformer = Transformer.from_crs(src.crs, target, always_xy=True)
            west, south, east, north = transformer.transform_bounds(
                west, south, east, north, errcheck=True
            )
        return *_locate(west, north, self.grid), *_locate(east, south, self.grid)

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
        """
        x, y, _ = self._disambiguate_slice(index)
        try:
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
                f'{self.name} file {_names(filepaths)} cannot be read: expected a '
                f'complete raster file ({error.__cause__ or error})'
            ) from error
        return torch.from_numpy(array)


class SceneDataset(IntersectionDataset):
    """Georeferenced optical and SAR scenes where they overlap.

    The pixel grid is that of the first optical file; everything else is warped to it,
    images bilinearly. A pixel is valid if all bands of both images have data there.

    A sample holds:

    * ``image``: float32 tensor of shape (2, C, H, W), see
      :func:`~torchgeo_m2cd.datasets.stack_pair`, in the units of the files; 0 where not
      valid
    * ``valid``: bool tensor of shape (1, H, W)
    * ``window``: int64 tensor, row and column of the upper left pixel in the
      scene, whose pixel (0, 0) is the upper left one of the overlap. It is exact,
      whereas ``bounds`` and ``transform`` of TorchGeo are float32, which is half a
      metre in UTM.
    * ``mask``: int64 tensor of shape (1, H, W), if there is a mask; 255 where
      not valid or without label
    """

    #: Mask value of pixels that are not valid.
    ignore_index = OpticalSARDataset.ignore_index

    def __init__(
        self,
        optical: Path | Iterable[Path],
        sar: Path | Iterable[Path],
        mask: Path | Iterable[Path] | None = None,
        optical_bands: Sequence[int] | None = None,
        sar_bands: Sequence[int] | None = None,
        transforms: Callable[[Sample], Sample] | None = None,
    ) -> None:
        """Initialize a new SceneDataset instance.

        Args:
            optical: Pre-event optical scene: one or more files, or folders with them.
            sar: Post-event SAR scene, likewise.
            mask: Change mask, likewise, if there is one.
            optical_bands: Optical bands to use, starting at 1 (defaults to all).
            sar_bands: SAR bands to use, starting at 1 (defaults to all).
            transforms: Function that takes a sample and returns it transformed.

        Raises:
            DatasetNotFoundError: If there is no raster file in a folder.
            FileNotFoundError: If a file or folder does not exist.
            RuntimeError: If a file cannot be read.
            ValueError: If a file has no CRS or lacks a band, or if the scenes do not
                overlap.
        """
        first = _GridRaster('optical', optical, optical_bands)
        second = _GridRaster('SAR', sar, sar_bands, like=first)
        self.labels = None
        if mask is not None:
            self.labels = _GridRaster(
                'mask', mask, [1], like=first, warp=Resampling.nearest
            )
        try:
            super().__init__(first, second, spatial_only=True, collate_fn=_collate)
        except RuntimeError as error:
            extents = ' and '.join(
                f'{dataset.name} {_names(paths)} has the extent '
                f'{tuple(float(v.round(6)) for v in dataset.index.total_bounds)}'
                for dataset, paths in ((first, optical), (second, sar))
            )
            raise ValueError(
                f'the scenes do not overlap: {extents} (west, south, east, north in '
                f'{first.crs.to_string()})'
            ) from error
        self.sample_transforms = transforms

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
        return len(first.channels), len(second.channels)

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
            index: [xmin:xmax, ymin:ymax] coordinates to index, on the pixel grid. They
                may reach beyond the overlap.

        Returns:
            Sample with the keys listed above, and ``bounds`` and ``transform`` as in
            TorchGeo.

        Raises:
            IndexError: If *index* is outside of the scenes.
            RuntimeError: If a file cannot be read.
        """
        sample = super().__getitem__(index)
        x, y, _ = self._disambiguate_slice(index)
        column, row = _locate(x.start, y.stop, self.transform)
        sample['window'] = torch.tensor([round(row), round(column)])
        if self.labels is not None:
            sample['mask'] = self._mask(index, sample['valid'])
        if self.sample_transforms is not None:
            sample = self.sample_transforms(sample)
        return sample

    def _mask(self, index: GeoSlice, valid: Tensor) -> Tensor:
        """Read the mask of a window, 255 where not valid."""
        assert self.labels is not None
        mask = torch.full(valid.shape, self.ignore_index)
        try:
            labels = self.labels[index]['image']
        except IndexError:  # No labels in this window
            return mask
        known = valid & labels.isfinite()
        mask[known] = labels[known].long()
        return mask


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


def _names(paths: Path | Iterable[Path]) -> str:
    """Name files or folders in a message."""
    paths = [paths] if isinstance(paths, str | os.PathLike) else paths
    return ', '.join(repr(os.fspath(path)) for path in paths)

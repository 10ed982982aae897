# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Georeferenced optical-SAR scenes."""

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import shapely
import torch
from pyproj import CRS
from pyproj.exceptions import CRSError
from rasterio.features import geometry_mask
from rasterio.transform import Affine, from_origin
from torch import Tensor
from torch.utils.data import Dataset
from torchgeo.datasets import IntersectionDataset
from torchgeo.datasets.utils import GeoSlice, Sample

from ..checks import Positive, checked
from .base import OpticalSARDataset, stack_pair
from .grid import Grid
from .grid_raster import GridRaster
from .masks import Mask, MaskSource
from .paths import Paths, name_paths
from .source import SARSource, Source

#: Measures image pairs, shape (B, 2, C, H, W), where they are valid, shape (B, 1, H, W):
#: references of the optical and of the SAR images, shapes (B, K, 1, 1).
Measure = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# Height and width in pixels of what is read of a larger window
_MEASURED_SIZE = 256


class SceneDataset(IntersectionDataset):
    """An optical and a SAR image where they overlap, on one pixel grid.

    The grid is that of the first optical file, or one of a chosen CRS and resolution.
    Everything else is warped to it, images bilinearly, masks by nearest neighbour. A
    pixel is valid if all bands of both images have data there: neither no-data values,
    NaN, nor masked by an alpha band or a mask file.

    A sample holds:

    * ``image``: float32 tensor of shape (2, C, H, W), see
      :func:`~torchgeo_m2cd.datasets.stack_pair`, in the units of the files, SAR power
      and amplitude in dB; 0 where not valid
    * ``valid``: bool tensor of shape (1, H, W)
    * ``window``: int64 tensor, row and column of the upper left pixel in the scene,
      whose pixel (0, 0) is the upper left one of the overlap. It is exact, whereas
      ``bounds`` and ``transform`` of TorchGeo are float32, which is half a metre in UTM.
    * ``mask``: int64 tensor of shape (1, H, W), if there is a mask; 255 where not valid,
      without label, or outside of the split
    * ``reference_optical`` and ``reference_sar``: float32 tensors of shape (K, 1, 1), if
      there is something to measure, see :class:`~torchgeo_m2cd.transforms.Inputs`

    Example:
        >>> from torchgeo_m2cd.datasets import SceneDataset, SyntheticFlood
        >>> files = SyntheticFlood().write_scene('scene', size=256)
        >>> scene = SceneDataset(files['optical'], files['sar'], files['mask'])
        >>> sample = scene[scene.bounds]
        >>> sample['image'].shape  # The SAR image begins 32 pixels to the south-east
        torch.Size([2, 4, 224, 224])
    """

    #: Mask value of pixels that are not valid.
    ignore_index = OpticalSARDataset.ignore_index

    @checked
    def __init__(
        self,
        optical: Source | Paths,
        sar: SARSource | Paths,
        mask: MaskSource | Paths | None = None,
        crs: CRS | str | None = None,
        res: Positive | tuple[Positive, Positive] | None = None,
        transforms: Callable[[Sample], Sample] | None = None,
    ) -> None:
        """Initialize a new SceneDataset instance.

        Args:
            optical: Pre-event optical image: a source, or its paths.
            sar: Post-event SAR image: a source, or its paths, then in dB.
            mask: Change mask, if there is one: a source, or its paths.
            crs: CRS to warp to (defaults to that of the first optical file).
            res: Width and height of a pixel in units of *crs* (defaults to those of
                the first optical file).
            transforms: Function that takes a sample and returns it transformed.

        Raises:
            DatasetNotFoundError: If there is no raster file in a folder.
            FileNotFoundError: If a file or folder does not exist, or nothing matches a
                pattern.
            RuntimeError: If a file cannot be read.
            ValueError: If an argument is unknown, a file has no CRS or lacks a band, or
                the images do not overlap.
        """
        try:
            crs = None if crs is None else CRS.from_user_input(crs)
        except CRSError as error:
            raise ValueError(
                f"crs is {crs!r}: expected one that PROJ knows, like 'EPSG:32633' ({error})"
            ) from error
        self.optical = GridRaster('optical', Source.of(optical), crs=crs, res=res)
        grid = self.optical.grid
        self.sar = GridRaster('SAR', SARSource.of(sar), grid)
        #: Change mask, if there is one.
        self.mask = None if mask is None else Mask(MaskSource.of(mask), grid)
        try:
            super().__init__(self.optical, self.sar, spatial_only=True)
        except RuntimeError as error:
            extents = ' and '.join(
                f'{image.name} {name_paths(image.paths)} has the extent '
                f'{tuple(float(v.round(6)) for v in image.index.total_bounds)}'
                for image in (self.optical, self.sar)
            )
            raise ValueError(
                f'the images do not overlap: {extents} (west, south, east, north in '
                f'{grid.crs.to_string()})'
            ) from error
        self.sample_transforms = transforms
        #: Measures the pairs of a batch before a model is shown them, if it has to.
        self.measure: Measure | None = None
        #: Smallest height and width in pixels of what is measured around a sample.
        self.window = 1
        # What was measured last, and where: windows larger than the scene are the same
        self._measured: tuple[tuple[Measure, slice, slice], Sample] | None = None

        west, south, east, north = self.index.total_bounds
        left, top = map(round, grid.locate(west, north))
        right, bottom = map(round, grid.locate(east, south))
        #: Height and width of the overlap in pixels.
        self.shape = (bottom - top, right - left)
        #: Grid whose pixel (0, 0) is the upper left one of the overlap.
        self.grid = Grid(grid.crs, grid.shift(left, top))

    @property
    def transform(self) -> Affine:
        """Transform of the overlap."""
        return self.grid.transform

    @property
    def band_counts(self) -> tuple[int, int]:
        """Number of bands of the optical and of the SAR image."""
        return self.optical.band_count, self.sar.band_count

    @property
    def band_names(self) -> tuple[list[str], list[str]]:
        """Names of the optical and of the SAR bands, empty where they are not known."""
        return self.optical.band_names, self.sar.band_names

    @property
    def optical_share(self) -> float:
        """Share of the optical image that the scene covers, by the extents of files."""
        covered, whole = (
            index.geometry.union_all().area
            for index in (self.index, self.optical.index)
        )
        return round(float(covered / whole), 6)

    @property
    def files(self) -> list[str]:
        """All files of both images, those of the optical image first."""
        return [*self.optical.files, *self.sar.files]

    @property
    def rgb_channels(self) -> list[int]:
        """Channels of the optical image to show as red, green and blue.

        By the names of the bands, if they are known; else the first three.
        """
        names = self.optical.band_names
        wanted = ('B04', 'B03', 'B02')
        if set(wanted) <= set(names):
            return [names.index(name) for name in wanted]
        return [min(i, self.optical.band_count - 1) for i in range(3)]

    def pixel_slice(
        self, row: int, column: int, height: int, width: int, step: int = 1
    ) -> tuple[slice, slice]:
        """Return the index of a window given in pixels.

        Args:
            row: Row of its upper left pixel in the scene.
            column: Column of that pixel.
            height: Height in pixels.
            width: Width in pixels.
            step: Read every pixel, or every second, ...

        Returns:
            [xmin:xmax:xres, ymin:ymax:yres] coordinates to index the dataset.
        """
        grid = self.transform
        left, right = (grid.c + grid.a * x for x in (column, column + width))
        top, bottom = (grid.f + grid.e * y for y in (row, row + height))
        return slice(left, right, step * grid.a), slice(bottom, top, -step * grid.e)

    def __getitem__(self, index: GeoSlice) -> Sample:
        """Retrieve the sample of a window.

        Args:
            index: [xmin:xmax, ymin:ymax] coordinates to index. They are moved to the
                nearest pixels, and may reach beyond the overlap.

        Returns:
            Sample with the keys listed above, and ``bounds`` and ``transform`` as in
            TorchGeo.

        Raises:
            IndexError: If *index* is outside of the scene.
            RuntimeError: If a file cannot be read.
        """
        x, y, _ = self._disambiguate_slice(index)
        column, row = map(round, self.grid.locate(x.start, y.stop))
        place = row, column
        xres, yres = self.res
        size = round((y.stop - y.start) / yres), round((x.stop - x.start) / xres)
        if not all(
            -edge <= start <= length
            for start, edge, length in zip(place, size, self.shape, strict=True)
        ):
            raise IndexError(f'{index} is outside of the scene: {self.bounds}')
        x, y = self.pixel_slice(*place, *size)
        sample = self.read(x, y)
        sample['window'] = torch.tensor(place)
        if self.measure is not None:
            sample |= self._measure_around(sample, place)
        if self.mask is not None:
            sample['mask'] = self._read_mask(x, y, sample['valid'])
        if self.sample_transforms is not None:
            sample = self.sample_transforms(sample)
        return sample

    def read(self, x: slice, y: slice) -> Sample:
        """Read the image pair of a window, and nothing else.

        Args:
            x: Left and right edge, and width of a pixel.
            y: Lower and upper edge, and height of a pixel.

        Returns:
            Sample with ``image``, ``valid``, ``bounds`` and ``transform``.

        Raises:
            RuntimeError: If a file cannot be read.
            ValueError: If SAR values that cannot be negative are.
        """
        pair = [image.read(x, y) for image in (self.optical, self.sar)]
        # NumPy is faster than PyTorch's threads on such small arrays
        arrays = [image.numpy() for image in pair]
        valid = np.logical_and.reduce([np.isfinite(a).all(axis=0) for a in arrays])
        for array in arrays:
            array[:, ~valid] = 0
        return {
            'bounds': self._slice_to_tensor((x, y)),
            'transform': torch.tensor(from_origin(x.start, y.stop, x.step, y.step)),
            'image': stack_pair(*pair),
            'valid': torch.from_numpy(valid[None]),
        }

    def overview(self, max_size: int = 1024) -> Sample:
        """Read all of the scene at a lower resolution, by nearest neighbour.

        Args:
            max_size: See :meth:`overview_slice`.

        Returns:
            Sample with ``image``, ``valid``, ``bounds`` and ``transform``.

        Raises:
            RuntimeError: If a file cannot be read.
        """
        return self.read(*self.overview_slice(max_size))

    def overview_slice(self, max_size: int = 1024) -> tuple[slice, slice]:
        """Return the index of all of the scene at a lower resolution.

        Args:
            max_size: Largest height and width in pixels, more if the scene is more than
                as many times longer than wide.

        Returns:
            [xmin:xmax:xres, ymin:ymax:yres] coordinates.
        """
        height, width = self.shape
        # At least one pixel of a scene that is much longer than wide
        step = min(-(-max(self.shape) // max_size), *self.shape)
        return self.pixel_slice(
            0, 0, height - height % step, width - width % step, step
        )

    def _measure_around(self, sample: Sample, place: tuple[int, int]) -> Sample:
        """Measure the window around a sample, within the scene if that is large enough."""
        assert self.measure is not None
        size = tuple(sample['valid'].shape[1:])
        window = tuple(max(edge, self.window) for edge in size)
        if window == size:
            return _measure(self.measure, sample)
        window = tuple(map(min, window, self.shape))
        # As many pixels are enough. Means would hide the speckle
        step = min(max(max(window) // _MEASURED_SIZE, 1), *window)
        row, column = (
            min(max(start + (inner - outer) // 2, 0), length - outer)
            for start, inner, outer, length in zip(
                place, size, window, self.shape, strict=True
            )
        )
        height, width = (outer - outer % step for outer in window)
        x, y = self.pixel_slice(row, column, height, width, step)
        key = self.measure, x, y
        if self._measured is None or self._measured[0] != key:
            self._measured = key, _measure(self.measure, self.read(x, y))
        return self._measured[1]

    def _read_mask(self, x: slice, y: slice, valid: Tensor) -> Tensor:
        """Read the mask of a window, 255 where not valid."""
        assert self.mask is not None
        # Cells of splits may end within a pixel, which belongs to one of them alone
        cells = shapely.transform(self.index.geometry.values, self._snap)
        region = shapely.union_all(cells)
        if not region.covers(shapely.box(x.start, y.start, x.stop, y.stop)):
            window = from_origin(x.start, y.stop, *self.res)
            inside = ~geometry_mask([region], tuple(valid.shape[1:]), window)
            valid = valid & torch.from_numpy(inside)
        return self.mask.read(x, y).masked_fill(~valid, self.ignore_index)

    def _snap(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Move points to the nearest corners of pixels."""
        origin = np.array([self.transform.c, self.transform.f])
        step = np.array([self.transform.a, self.transform.e])
        return cast(
            npt.NDArray[np.float64], np.round((points - origin) / step) * step + origin
        )


def _measure(measure: Measure, sample: Sample) -> Sample:
    """Measure a sample."""
    optical, sar = measure(sample['image'][None], sample['valid'][None])
    return {'reference_optical': optical[0], 'reference_sar': sar[0]}


class SceneList(Dataset[list[Sample]]):
    """Several scenes in one dataset.

    The samples are those of :class:`SceneDataset`, and ``scene``, an int64 tensor that
    holds the number of the scene.
    """

    @checked
    def __init__(self, scenes: Sequence[SceneDataset]) -> None:
        """Initialize a new SceneList instance.

        Args:
            scenes: The scenes.
        """
        self.scenes = scenes

    def __len__(self) -> int:
        """Return the number of scenes."""
        return len(self.scenes)

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

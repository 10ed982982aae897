# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Synthetic optical-SAR flood dataset."""

import math
import pathlib
from collections.abc import Callable
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from numpy.random import PCG64, Generator, SeedSequence
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import Affine, array_bounds, from_origin
from rasterio.warp import calculate_default_transform, reproject
from torchgeo.datasets.utils import Path, Sample

from ..checks import Count, CountOrZero, Names, checked
from ..utils import check_choice
from .base import OpticalSARDataset, stack_pair
from .files import write_raster
from .landscape import RESOLUTION, Array, make_landscape
from .simulation import add_speckle, optical_image, sar_backscatter, to_decibels


class SyntheticFlood(OpticalSARDataset):
    r"""Synthetic flood dataset: an endless supply of optical-SAR pairs without files.

    A random generator makes the landscape of each sample: fractal terrain with a
    meandering river or lakes, field parcels, forest, settlements, and roads. The optical
    image shows it before the flood. Then water rises to a level, and the SAR image shows
    the landscape during the flood. Only *new* water is a change: rivers and lakes are in
    both images. A SAR threshold does not solve the task. Rivers, smooth bare fields,
    roads, and radar shadow are dark as well, wind brightens water, and flooded forest and
    settlements become brighter (double bounce). The optical image tells these apart.

    Dataset format:

    * optical: 4 Sentinel-2-like bands at 10 m, surface reflectance times 10,000, integers
      within [1, 10000] stored as float32
    * SAR: Sentinel-1-like VV (and VH) backscatter :math:`\sigma^0` in dB, mostly within
      [-30, 5], with multiplicative Gamma speckle

    Dataset classes:

    0. unchanged
    1. flood

    A sample depends on (*seed*, *split*, index) alone, not on the machine, the order, or
    the number of workers. Masks, land cover, and optical images are exactly the same on
    all machines. SAR values involve powers and logarithms, and may differ between machines
    by about 1e-6 dB.

    Sources of the physics:

    * backscatter per land cover: round values within the ranges of Ulaby and Dobson,
      "Handbook of Radar Scattering Statistics for Terrain", Artech House 1989
      (C band, about 40 degrees incidence)
    * brighter flooded forest: Richards, Woodgate and Skidmore, "An explanation of
      enhanced radar backscattering from flooded forests", 1987,
      https://doi.org/10.1080/01431168708954756
    * Gamma speckle of an L-look intensity image: Goodman, "Some fundamental
      properties of speckle", 1976, https://doi.org/10.1364/JOSA.66.001145

    .. note::
       Use it for tests, tutorials, and to compare settings of a method. Scores on it say
       nothing about real floods.

    Example:
        >>> from torchgeo_m2cd.datasets import SyntheticFlood
        >>> dataset = SyntheticFlood(length=2, size=64, sar_bands=['VV', 'VH'])
        >>> sample = dataset[0]
        >>> sample['image'].shape, sample['mask'].shape
        (torch.Size([2, 4, 64, 64]), torch.Size([1, 64, 64]))
        >>> dataset.plot(sample).savefig('flood.png')
    """

    all_bands = ('B02', 'B03', 'B04', 'B08')
    rgb_bands = ('B04', 'B03', 'B02')
    all_sar_bands = ('VV', 'VH')
    decibels = 1.0
    classes = ('unchanged', 'flood')
    splits: ClassVar[dict[str, int]] = {'train': 0, 'val': 1, 'test': 2}

    @checked
    def __init__(
        self,
        split: str = 'train',
        length: Count = 1000,
        size: Annotated[int, Ge(32)] = 256,
        seed: CountOrZero = 0,
        looks: Count = 4,
        bands: Names = all_bands,
        sar_bands: Names = ('VV',),
        transforms: Callable[[Sample], Sample] | None = None,
    ) -> None:
        """Initialize a new SyntheticFlood instance.

        Args:
            split: One of 'train', 'val', or 'test'. They share no landscape.
            length: Number of samples.
            size: Height and width of the images in pixels.
            seed: Non-negative seed. Another seed gives another dataset.
            looks: Number of looks of the SAR speckle. The variance relative to the
                squared mean is ``1 / looks``. Sentinel-1 GRD has about 4.
            bands: Optical bands to return.
            sar_bands: SAR bands to return.
            transforms: A function/transform that takes an input sample and returns
                a transformed version.

        Raises:
            ValueError: If *split* or a band is unknown, no band is given, or a
                number is out of its range.
        """
        check_choice('split', split, self.splits)
        for name, given, known in (
            ('bands', bands, self.all_bands),
            ('sar_bands', sar_bands, self.all_sar_bands),
        ):
            for band in given:
                check_choice(name, band, known)
        self.split = split
        self.length = length
        self.size = size
        self.seed = seed
        self.looks = looks
        self.bands = tuple(bands)
        self.sar_bands = tuple(sar_bands)
        self.transforms = transforms

    def __getitem__(self, index: int) -> Sample:
        """Return an index within the dataset.

        Args:
            index: Index to return.

        Returns:
            Sample with ``image``, float32 of shape (2, C, H, W), and ``mask``, int64 of
            shape (1, H, W).

        Raises:
            IndexError: If *index* is not within [0, length).
        """
        if not 0 <= index < self.length:
            raise IndexError(f'index {index} not in [0, {self.length})')

        rng = self._generator(index)
        land = make_landscape(rng, self.size)
        optical = optical_image(rng, land)
        power = sar_backscatter(rng, land, self._num_simulated)
        sar = to_decibels(add_speckle(rng, power, self.looks))

        sample: Sample = {
            'image': stack_pair(
                torch.from_numpy(optical[self._optical_indices]),
                torch.from_numpy(sar[self._sar_indices]),
            ),
            'mask': torch.from_numpy((land.depth > 0).astype(np.int64)[None]),
        }
        if self.transforms is not None:
            sample = self.transforms(sample)
        return sample

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.length

    def write_scene(
        self,
        folder: Path,
        size: int = 1024,
        index: int = 0,
        crs: str = 'EPSG:32633',
        sar_crs: str | None = None,
        sar_resolution: float = 20.0,
        overwrite: bool = False,
    ) -> dict[str, pathlib.Path]:
        """Write a georeferenced scene and its mask as GeoTIFF.

        * ``optical.tif``: uint16, *size* by *size* pixels of 10 m, nodata 0
        * ``sar.tif``: float32 dB, nodata NaN, in its own resolution, shifted to the
          south-east by an eighth of the optical image, so that both partly overlap
        * ``mask.tif``: uint8 on the optical grid, 1 for flood, 0 otherwise, nodata 255

        Each file appears only when it is complete.

        Args:
            folder: Folder to write to, created if missing.
            size: Height and width of the optical image in pixels.
            index: Index of the sample whose random generator makes the scene.
            crs: Projected CRS of the optical image and the mask, in metres.
            sar_crs: CRS of the SAR image, in metres or degrees (defaults to *crs*).
            sar_resolution: Pixel size of the SAR image in metres.
            overwrite: Whether to replace existing files.

        Returns:
            The paths, with the keys 'optical', 'sar', and 'mask'.

        Raises:
            FileExistsError: If a file exists and *overwrite* is False.
        """
        folder = pathlib.Path(folder)
        paths = {name: folder / f'{name}.tif' for name in ('optical', 'sar', 'mask')}
        if not overwrite:
            for path in paths.values():
                if path.exists():
                    raise FileExistsError(
                        f'{path} exists: expected another path, or overwrite=True'
                    )
        folder.mkdir(parents=True, exist_ok=True)

        shift = size // 8
        rng = self._generator(index)
        land = make_landscape(rng, size + shift)
        optical = optical_image(rng, land)[self._optical_indices, :size, :size]
        mask = (land.depth > 0)[None, :size, :size]
        power = sar_backscatter(rng, land, self._num_simulated)[:, shift:, shift:]

        west, north, res = 500_000.0, 5_300_000.0, RESOLUTION
        transform = from_origin(west, north, res, res)
        source = from_origin(west + shift * res, north - shift * res, res, res)
        sar_crs = sar_crs or crs
        power, target = _to_grid(power, source, crs, sar_crs, sar_resolution)
        sar = to_decibels(add_speckle(rng, power, self.looks))[self._sar_indices]

        for name, data, grid, nodata, bands in (
            ('optical', optical.astype(np.uint16), (crs, transform), 0, self.bands),
            ('sar', sar, (sar_crs, target), math.nan, self.sar_bands),
            ('mask', mask.astype(np.uint8), (crs, transform), 255, ('flood',)),
        ):
            write_raster(paths[name], data, *grid, nodata, bands)
        return paths

    def _generator(self, index: int) -> Generator:
        """Return the random generator of one sample."""
        seeds = SeedSequence([self.seed, self.splits[self.split], index])
        # Not the default bit generator, which NumPy may change
        return Generator(PCG64(seeds))

    @property
    def _optical_indices(self) -> list[int]:
        """Indices of *bands* in the simulated optical image."""
        return [self.all_bands.index(band) for band in self.bands]

    @property
    def _sar_indices(self) -> list[int]:
        """Indices of *sar_bands* in the simulated SAR image."""
        return [self.all_sar_bands.index(band) for band in self.sar_bands]

    @property
    def _num_simulated(self) -> int:
        """Number of SAR bands to simulate: up to the last one in *sar_bands*."""
        return 1 + max(self._sar_indices)


def _to_grid(
    power: Array, transform: Affine, crs: str, sar_crs: str, resolution: float
) -> tuple[Array, Affine]:
    """Average backscatter on the grid of the SAR image.

    Args:
        power: Backscatter in linear power, shape (C, H, W).
        transform: Its transform from pixels to coordinates.
        crs: Its coordinate reference system.
        sar_crs: Coordinate reference system of the SAR image.
        resolution: Pixel size of the SAR image in metres.

    Returns:
        Backscatter in linear power of shape (C, H', W'), NaN outside, and the transform of
        the SAR image.
    """
    _, height, width = power.shape
    bounds = array_bounds(height, width, transform)
    target_crs = CRS.from_user_input(sar_crs)
    metres = 111_320 if target_crs.is_geographic else 1  # Per unit of the CRS
    target, columns, rows = calculate_default_transform(
        crs, sar_crs, width, height, *bounds, resolution=resolution / metres
    )
    out = np.full((len(power), rows, columns), np.nan, np.float32)
    reproject(
        power,
        out,
        src_transform=transform,
        src_crs=crs,
        dst_transform=target,
        dst_crs=sar_crs,
        dst_nodata=np.nan,
        resampling=Resampling.average,
    )
    return out, target

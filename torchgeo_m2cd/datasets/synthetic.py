# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Synthetic optical-SAR flood dataset."""

import math
import pathlib
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from numpy.random import PCG64, Generator, SeedSequence
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.transform import Affine, array_bounds, from_origin
from rasterio.warp import calculate_default_transform, reproject
from torchgeo.datasets.utils import Path, Sample

from ..utils import check_choice
from .base import OpticalSARDataset, stack_pair
from .utils import write_raster

Array = npt.NDArray[np.float32]
Classes = npt.NDArray[np.uint8]

# Land cover codes: columns of the tables of SyntheticFlood
WATER, BARE, CROP, STUBBLE, GRASS, FOREST, BUILT, ROAD = range(8)


class _Landscape(NamedTuple):
    """One landscape before and during a flood; arrays are (H, W)."""

    cover: Classes  # land cover before the flood
    height: Array  # terrain height in metres
    parcel: Array  # random value of the field parcel in [0, 1)
    block: Array  # random value of the building block in [0, 1)
    depth: Array  # depth of the new water in metres, 0 where there is none


class SyntheticFlood(OpticalSARDataset):
    r"""Synthetic flood dataset: an endless supply of optical-SAR pairs, no files.

    Every sample is a landscape made by a random generator: fractal terrain with a
    meandering river or lakes, field parcels, forest, settlements and roads. The
    optical image shows it before the flood. Then water rises to a level, and the
    SAR image shows it during the flood. The *new* water is the change: rivers and
    lakes are in both images. A SAR threshold does not solve it, since rivers,
    smooth bare fields, roads and radar shadow are dark too, since wind brightens
    water, and since flooded forest and settlements get brighter (double bounce);
    the optical image tells them apart.

    Dataset format:

    * optical: 4 Sentinel-2-like bands at 10 m, surface reflectance times 10,000,
      integers within [1, 10000] stored as float32
    * SAR: Sentinel-1-like VV (and VH) backscatter :math:`\sigma^0` in dB,
      mostly within [-30, 5], with multiplicative Gamma speckle

    Dataset classes:

    0. unchanged
    1. flood

    A sample depends on (*seed*, *split*, index) alone, not on the machine, the
    order, or the number of workers: everything that decides the mask or the land
    cover uses uniform random numbers, order statistics, and arithmetic that IEEE 754
    rounds exactly. Powers and logarithms give the SAR values, which may therefore
    differ between machines by rounding, of the order of 1e-6 dB.

    Sources of the physics:

    * backscatter per cover: round values within the ranges of Ulaby and Dobson,
      "Handbook of Radar Scattering Statistics for Terrain", Artech House 1989
      (C band, about 40 degrees incidence)
    * brighter flooded forest: Richards, Woodgate and Skidmore, "An explanation of
      enhanced radar backscattering from flooded forests", 1987,
      https://doi.org/10.1080/01431168708954756
    * Gamma speckle of an L-look intensity image: Goodman, "Some fundamental
      properties of speckle", 1976, https://doi.org/10.1364/JOSA.66.001145

    .. note::
       Good for tests, tutorials and for comparing settings of a method. Scores on it
       say nothing about real floods.
    """

    all_bands = ('B02', 'B03', 'B04', 'B08')
    rgb_bands = ('B04', 'B03', 'B02')
    all_sar_bands = ('VV', 'VH')
    classes = ('unchanged', 'flood')
    splits: ClassVar[dict[str, int]] = {'train': 0, 'val': 1, 'test': 2}

    #: Pixel size of the optical image in metres.
    resolution = 10.0

    # One column per land cover:
    # water, bare, crop, stubble, grass, forest, built-up, road
    #: Surface reflectance times 10,000, one row per optical band.
    reflectance = np.array(
        [
            [420, 880, 330, 760, 420, 230, 1180, 1050],
            [560, 1180, 640, 1080, 720, 400, 1330, 1180],
            [400, 1560, 380, 1480, 620, 280, 1470, 1260],
            [230, 2250, 4100, 2450, 2950, 2550, 2050, 1600],
        ],
        dtype=np.float32,
    )
    #: Reflectance of turbid water, to which rivers tend.
    turbid = np.array([820, 1120, 1060, 560], dtype=np.float32)
    #: Backscatter in dB without flood, one row per SAR band; the water is calm.
    backscatter = np.array(
        [
            [-22.0, -12.5, -10.5, -12.0, -13.0, -8.5, -4.5, -17.0],
            [-30.0, -21.0, -17.0, -20.0, -19.5, -14.0, -12.0, -25.0],
        ],
        dtype=np.float32,
    )
    #: Brightening by double bounce in dB under flooded forest and built-up area.
    double_bounce = np.array([[3.5, 2.0], [1.0, 0.5]], dtype=np.float32)
    #: Noise-equivalent sigma nought in dB of both SAR bands, the floor of the image.
    noise_floor = -26.0
    #: Tangent of the incidence angle of the radar, which is 39 degrees.
    tan_incidence = 0.81

    #: Relief of the terrain in metres, from floodplain to mountains.
    reliefs = (4, 8, 15, 30, 60, 120, 250, 400)

    def __init__(
        self,
        split: str = 'train',
        length: int = 1000,
        size: int = 256,
        seed: int = 0,
        looks: int = 4,
        bands: Sequence[str] = all_bands,
        sar_bands: Sequence[str] = ('VV',),
        transforms: Callable[[Sample], Sample] | None = None,
    ) -> None:
        """Initialize a new SyntheticFlood instance.

        Args:
            split: One of 'train', 'val', or 'test'; they share no landscape.
            length: Number of samples.
            size: Height and width of the images in pixels.
            seed: Non-negative seed; another seed is another dataset.
            looks: Number of looks of the SAR speckle, whose variance relative to
                the squared mean is ``1 / looks``. Sentinel-1 GRD has about 4.
            bands: Optical bands to return.
            sar_bands: SAR bands to return.
            transforms: Function that takes a sample and returns it transformed.

        Raises:
            ValueError: If *split* or a band is unknown, no band is given, or a
                number is out of its range.
        """
        check_choice('split', split, self.splits)
        for name, given, known in (
            ('bands', bands, self.all_bands),
            ('sar_bands', sar_bands, self.all_sar_bands),
        ):
            if not given:
                raise ValueError(f'{name} must name at least one band')
            for band in given:
                check_choice(name, band, known)
        for name, value, minimum in (
            ('length', length, 1),
            ('size', size, 32),
            ('seed', seed, 0),
            ('looks', looks, 1),
        ):
            if value < minimum:
                raise ValueError(f'{name} must be at least {minimum}, got {value}')

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
            Image, float32 of shape (2, C, H, W), and mask, int64 of shape (1, H, W).

        Raises:
            IndexError: If *index* is not within [0, length).
        """
        if not 0 <= index < self.length:
            raise IndexError(f'index {index} not in [0, {self.length})')

        rng = self._generator(index)
        land = self._landscape(rng, self.size)
        optical = self._optical(rng, land)
        sar = self._decibel(self._speckle(rng, self._sigma0(rng, land)))

        sample: Sample = {
            'image': stack_pair(
                torch.from_numpy(optical[self._select(self.bands, self.all_bands)]),
                torch.from_numpy(sar[self._select(self.sar_bands, self.all_sar_bands)]),
            ),
            'mask': torch.from_numpy((land.depth > 0).astype(np.int64)[None]),
        }
        if self.transforms is not None:
            sample = self.transforms(sample)
        return sample

    def __len__(self) -> int:
        """Return the number of samples.

        Returns:
            Length of the dataset.
        """
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
        """Write a georeferenced pair of scenes and its mask as GeoTIFF.

        * ``optical.tif``: uint16, *size* by *size* pixels of 10 m, nodata 0
        * ``sar.tif``: float32 dB, nodata NaN, with its own resolution, shifted
          south-east by an eighth of the optical image, so that they partly overlap
        * ``mask.tif``: uint8 on the optical grid, 1 flood, 0 else, nodata 255

        Files are written beside their place and renamed when complete.

        Args:
            folder: Folder to write to, made if missing.
            size: Height and width of the optical image in pixels.
            index: Which scene of the split to write.
            crs: Projected CRS in metres of optical image and mask.
            sar_crs: CRS of the SAR image, in metres or degrees (defaults to *crs*).
            sar_resolution: Pixel size of the SAR image in metres.
            overwrite: Whether to replace existing files.

        Returns:
            Paths of the files by name: 'optical', 'sar', and 'mask'.

        Raises:
            FileExistsError: If a file exists and *overwrite* is False.
        """
        folder = pathlib.Path(folder)
        paths = {name: folder / f'{name}.tif' for name in ('optical', 'sar', 'mask')}
        if not overwrite:
            for path in paths.values():
                if path.exists():
                    raise FileExistsError(f'{path} exists and overwrite is False')
        folder.mkdir(parents=True, exist_ok=True)

        shift = size // 8
        rng = self._generator(index)
        land = self._landscape(rng, size + shift)
        optical = self._optical(rng, land)[:, :size, :size]
        mask = (land.depth > 0)[None, :size, :size]
        power = self._sigma0(rng, land)[:, shift:, shift:]

        res = self.resolution
        origin = (500_000.0, 5_300_000.0)
        transform = from_origin(*origin, res, res)
        source = from_origin(origin[0] + shift * res, origin[1] - shift * res, res, res)
        sar, target = self._to_grid(power, source, crs, sar_crs or crs, sar_resolution)
        sar = self._decibel(self._speckle(rng, sar))

        optical = optical[self._select(self.bands, self.all_bands)]
        sar = sar[self._select(self.sar_bands, self.all_sar_bands)]
        write_raster(
            paths['optical'], optical.astype(np.uint16), crs, transform, 0, self.bands
        )
        write_raster(
            paths['sar'], sar, sar_crs or crs, target, math.nan, self.sar_bands
        )
        write_raster(
            paths['mask'], mask.astype(np.uint8), crs, transform, 255, ('flood',)
        )
        return paths

    def _generator(self, index: int) -> Generator:
        """Return the random generator of one sample."""
        seeds = SeedSequence([self.seed, self.splits[self.split], index])
        # Named bit generator: NumPy may change the default one
        return Generator(PCG64(seeds))

    def _landscape(self, rng: Generator, size: int) -> _Landscape:
        """Make a landscape and its flood.

        Args:
            rng: Random number generator.
            size: Height and width in pixels.

        Returns:
            The landscape.
        """
        relief = np.float32(rng.choice(self.reliefs))
        width = float(rng.uniform(3, 14))
        river = _distance_to_course(rng, size, wiggle=60)
        valley = river / (river + np.float32(rng.uniform(20, 80)))
        # Rough hills, smooth valley floor: height above the nearest drainage
        hills = _fractal(rng, size, cell=128, gain=0.5, finest=2)
        roughness = np.float32(0.3) + np.float32(0.7) * valley
        height = relief * (valley + roughness * hills)

        u, v, parcel_id = _parcels(rng, size)
        parcel = rng.random(int(parcel_id.max()) + 1, np.float32)
        # Season: how much is green, how much is ploughed
        green, bare = rng.uniform(0.25, 0.6), rng.uniform(0.05, 0.25)
        use = rng.random(len(parcel), np.float32)
        kinds = np.full(len(use), GRASS, np.uint8)
        kinds[use < green + bare + 0.2] = STUBBLE
        kinds[use < green + bare] = CROP
        kinds[use < bare] = BARE
        cover = kinds[parcel_id]
        # Embankments and ditches make the water follow the fields on flat land
        height += np.float32(0.4) * parcel[parcel_id]

        forest = _fractal(rng, size, cell=64, gain=0.6)
        forest += np.float32(0.35) * use[parcel_id]
        forest += 1 / (1 + river / np.float32(5))  # Gallery forest on the banks
        cover[forest > _order(forest, 1 - rng.uniform(0.02, 0.4))] = FOREST

        rough = _fractal(rng, size, cell=16, gain=0.6)
        built = _settlements(rng, size) + np.float32(0.7) * rough > 0
        # Few build on the lowest ground
        built &= height > _order(height, 0.25)
        blocks = rng.random((64, 64), np.float32)
        block = blocks[u // 6 % 64, v // 5 % 64]
        cover[built] = np.where(block[built] < 0.2, GRASS, BUILT)  # Gardens
        block[(u % 6 == 0) | (v % 5 == 0)] = 0.3  # Streets
        for _ in range(int(rng.integers(0, 3))):
            cover[_distance_to_course(rng, size, wiggle=20) < 0.8] = ROAD

        bank = np.float32(width / 2)
        cover[river < bank + 6 * np.maximum(rough, 0)] = BARE  # Gravel bars
        water = river < bank
        if rng.random() < 0.5:
            water |= height < _order(height, rng.uniform(0, 0.06))
        cover[water] = WATER

        depth = np.zeros((size, size), np.float32)
        if rng.random() > 0.1:
            dry = height[~water]
            share = rng.uniform(0.03, 0.5)
            level = _order(dry, share)
            depth = np.where(water, 0, np.maximum(level - height, 0))
        return _Landscape(cover, height, parcel[parcel_id], block, depth)

    def _optical(self, rng: Generator, land: _Landscape) -> Array:
        """Render the optical image before the flood.

        Args:
            rng: Random number generator.
            land: The landscape.

        Returns:
            Reflectance times 10,000 of all bands, integers, shape (4, H, W).
        """
        cover, size = land.cover, len(land.cover)
        image = self.reflectance[:, cover]
        patches = _fractal(rng, size, cell=32, gain=0.7)
        grain = rng.random((size, size), np.float32) * 2 - 1

        # Vigour of the vegetation: more of it is darker in red, brighter in NIR
        vegetated = (cover == CROP) | (cover == GRASS) | (cover == FOREST)
        vigour = np.float32(0.5) * (land.parcel - np.float32(0.5))
        vigour = np.where(cover == FOREST, np.float32(0), vigour)
        vigour = (vigour + np.float32(0.12) * patches) * vegetated
        image[:3] *= 1 - vigour
        image[3] *= 1 + np.float32(0.6) * vigour

        # Turbidity of rivers and lakes
        turbidity = np.float32(rng.uniform(0, 1)) + np.float32(0.2) * patches
        turbidity = np.clip(turbidity, 0, 1) * (cover == WATER)
        image += turbidity * (self.turbid - self.reflectance[:, WATER])[:, None, None]

        # Texture: crowns, roofs, soil
        grains = np.array([0.02, 0.06, 0.05, 0.06, 0.05, 0.22, 0.1, 0.05], np.float32)
        spots = np.array([0.02, 0.12, 0.02, 0.08, 0.04, 0.06, 0.05, 0.05], np.float32)
        texture = 1 + grains[cover] * grain + spots[cover] * patches
        texture += np.where(
            cover == BUILT, np.float32(0.7) * (land.block - np.float32(0.5)), 0
        )
        # Parcels of bare soil differ by moisture
        soil = (cover == BARE) | (cover == STUBBLE)
        texture += np.where(soil, np.float32(0.5) * land.parcel - np.float32(0.25), 0)

        # Hillshade relative to flat land, sun in the south-east at 45 degrees
        south, east = np.gradient(land.height, self.resolution)
        slope = np.sqrt(1 + south * south + east * east)
        shade = (1 - np.float32(0.7) * (south + east)) / slope
        image *= texture * np.clip(shade, 0.3, 1.6)

        # The point spread of the instrument mixes neighbours
        image = _blur(image)
        gain = rng.uniform(0.9, 1.1)
        haze = rng.uniform(0, 1) * (1 + 0.5 * _fractal(rng, size, 128, 0.5, finest=32))
        path = np.array([300, 220, 160, 60], np.float32)[:, None, None]
        image = np.float32(gain) * image + path * np.maximum(haze, 0)
        rounded: Array = np.clip(np.rint(image), 1, 10_000).astype(np.float32)
        return rounded

    def _sigma0(self, rng: Generator, land: _Landscape) -> Array:
        """Compute the backscatter during the flood, without speckle.

        Args:
            rng: Random number generator.
            land: The landscape.

        Returns:
            Backscatter in linear power, shape (bands, H, W), of the SAR bands up to
            the last one that is asked for.
        """
        cover, size = land.cover, len(land.cover)
        flooded = land.depth > 0
        patches = _fractal(rng, size, cell=32, gain=0.6)

        # Rain before the flood moistens the soil; roughness differs by parcel
        level = np.full(8, rng.uniform(-1, 2), np.float32)
        level[[FOREST, BUILT]] /= 3
        level[WATER] = 0
        spread = np.array([0, 5, 3, 3.5, 2.5, 0, 0, 0], np.float32)
        shuffled = land.parcel * 7 % 1  # Not the colour in the optical image
        count = 1 + max(self._select(self.sar_bands, self.all_sar_bands))
        land_db = self.backscatter[:count, cover] + level[cover]
        land_db += spread[cover] * (shuffled - np.float32(0.5)) + patches
        # Smooth bare fields are as dark as water
        land_db -= np.where((cover == BARE) & (shuffled < 0.35), np.float32(5), 0)
        # Walls facing the radar: few very bright pixels
        corners = rng.random((size, size), np.float32) * land.block
        land_db += np.where(cover == BUILT, 16 * corners * corners - 3, np.float32(0))

        # Wind roughens the water: Bragg scattering; patches of calm
        wind = np.float32(rng.uniform(0, 1) ** 2 * 9) + np.float32(1.5) * patches
        water_db = self.backscatter[:count, WATER, None, None] + wind
        bounce = np.zeros((count, 8), np.float32)
        bounce[:, [FOREST, BUILT]] = self.double_bounce[:count]

        power = _power(land_db + bounce[:, cover] * flooded)
        water = _power(water_db)
        # Low vegetation emerges from shallow water
        drowned = land.depth / (
            np.float32(0.2) + np.float32(0.02) * np.ptp(land.height)
        )
        drowned = np.minimum(drowned, 1) * ((cover != FOREST) & (cover != BUILT))
        drowned[cover == WATER] = 1
        power += drowned * (water - power)

        # Terrain: cosine-squared law of the local incidence angle, 0 in the shadow.
        # Water is level.
        _, east = np.gradient(land.height, self.resolution)
        toward = east if rng.random() < 0.5 else -east  # Slope towards the radar
        toward = np.where(flooded | (cover == WATER), 0, toward)
        facing = np.maximum(1 + np.float32(self.tan_incidence) * toward, 0)
        power *= facing * facing / (1 + toward * toward)
        return power + np.float32(10 ** (self.noise_floor / 10))

    def _speckle(self, rng: Generator, power: Array) -> Array:
        """Multiply by Gamma speckle of mean 1 and variance 1 / looks.

        Args:
            rng: Random number generator.
            power: Backscatter in linear power.

        Returns:
            Speckled backscatter in linear power, same shape.
        """
        speckle = rng.standard_gamma(self.looks, power.shape, np.float32)
        return power * speckle / np.float32(self.looks)

    @staticmethod
    def _decibel(power: Array) -> Array:
        """Convert linear power to dB; a power of zero becomes -60 dB."""
        # NaN stays NaN
        return np.float32(10) * np.log10(np.maximum(power, np.float32(1e-6)))

    @staticmethod
    def _select(bands: Sequence[str], known: Sequence[str]) -> list[int]:
        """Return the indices of bands."""
        return [known.index(band) for band in bands]

    @staticmethod
    def _to_grid(
        power: Array, transform: Affine, crs: str, sar_crs: str, resolution: float
    ) -> tuple[Array, Affine]:
        """Average backscatter, linear power, to the grid of the SAR image."""
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


def _double_rows(field: Array) -> Array:
    """Double the rows by Chaikin's corner cutting: a quadratic B-spline."""
    out = np.empty((2 * len(field) - 2, field.shape[1]), np.float32)
    quarter = np.float32(0.25) * (field[1:] - field[:-1])
    np.add(field[:-1], quarter, out=out[0::2])
    np.subtract(field[1:], quarter, out=out[1::2])
    return out


def _fractal(
    rng: Generator, size: int, cell: int, gain: float, finest: int = 1
) -> Array:
    """Sum octaves of smooth random noise.

    Args:
        rng: Random number generator.
        size: Height and width in pixels.
        cell: Size of the coarsest features in pixels, a power of two.
        gain: Amplitude of an octave relative to the next coarser one.
        finest: Size of the finest features in pixels, a power of two.

    Returns:
        Field of shape (size, size), mean 0, mostly within [-1, 1].
    """
    side = -(-(size - 2) // cell) + 2
    field = rng.random((side, side), np.float32) * 2 - 1
    amplitude = 1.0
    while cell > 1:
        cell //= 2
        amplitude *= gain
        field = _double_rows(_double_rows(field).T).T
        if cell >= finest:
            noise = rng.random(field.shape, np.float32) * 2 - 1
            field += np.float32(amplitude) * noise
    return field[:size, :size]


def _direction(rng: Generator) -> tuple[float, float]:
    """Return a random unit vector, without trigonometry, which libraries round."""
    x, y = rng.uniform(-1, 1), rng.uniform(-1, 1)
    length = math.sqrt(x * x + y * y)
    return x / length, y / length


def _distance_to_course(rng: Generator, size: int, wiggle: float) -> Array:
    """Return the rough distance in pixels to a river or road across the image."""
    x, y = _direction(rng)
    rows, columns = np.ogrid[:size, :size]
    offset = rng.uniform(-0.6, 0.6) * size
    ramp = x * (columns - size / 2) + y * (rows - size / 2) + offset
    winding = _fractal(rng, size, cell=128, gain=0.35, finest=16)
    return np.abs(ramp.astype(np.float32) + np.float32(wiggle) * winding)


def _parcels(
    rng: Generator, size: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Divide the land into strips and the strips into parcels.

    Args:
        rng: Random number generator.
        size: Height and width in pixels.

    Returns:
        Pixel coordinates along and across the strips, and number of the parcel,
        each of shape (size, size).
    """
    rows, columns = np.ogrid[:size, :size]
    bend = 12 * _fractal(rng, size, cell=128, gain=0.4, finest=32)
    # Two directions, as at the border of two communes
    here = _fractal(rng, size, cell=128, gain=0.5, finest=8) > 0
    (x0, y0), (x1, y1) = _direction(rng), _direction(rng)
    x, y = np.where(here, x0, x1), np.where(here, y0, y1)
    u = (x * columns + y * rows + bend + 2 * size).astype(np.int64)
    v = (x * rows - y * columns + bend + 2 * size).astype(np.int64)

    longest = 5 * size  # Larger than any coordinate plus shift
    strips = np.repeat(np.arange(longest), rng.integers(8, 36, longest))[:longest]
    cells = np.repeat(np.arange(longest), rng.integers(12, 60, longest))[:longest]
    strip = strips[u]
    shift = rng.integers(0, size, int(strips[-1]) + 1)
    cell = cells[v + shift[strip]]
    count = int(cells[-1]) + 1
    number = (strip + here * (int(strips[-1]) + 1)) * count + cell
    return u, v, number


def _settlements(rng: Generator, size: int) -> Array:
    """Return a field that is positive within round settlements."""
    rows, columns = np.ogrid[:size, :size]
    field = np.full((size, size), -1, np.float32)
    mean = 1.5 * (size / 256) ** 2
    for _ in range(int(rng.integers(0, int(2 * mean) + 1))):
        row, column = rng.uniform(0, size, 2)
        radius = rng.uniform(8, 36)
        distance = (rows - row) ** 2 + (columns - column) ** 2
        near = 1 - distance / radius**2
        field = np.maximum(field, near.astype(np.float32))
    return field


def _order(field: Array, quantile: float) -> np.float32:
    """Return the order statistic of a field: exact, unlike an interpolated one."""
    k = int(quantile * (field.size - 1))
    value: np.float32 = np.partition(field, k, axis=None)[k]
    return value


def _blur(image: Array) -> Array:
    """Blur by a [1, 2, 1] / 4 kernel along both axes, edges repeated."""
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode='edge')
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    both: Array = rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]
    return both / np.float32(16)


def _power(decibel: Array) -> Array:
    """Convert dB to linear power."""
    return np.exp(np.float32(math.log(10) / 10) * decibel)

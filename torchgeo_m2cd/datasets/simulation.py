# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Optical and SAR images of a random landscape.

The sources of the physics are listed in :class:`~torchgeo_m2cd.datasets.SyntheticFlood`.
"""

import math

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from .landscape import (
    BARE,
    BUILT,
    CROP,
    FOREST,
    GRASS,
    RESOLUTION,
    STUBBLE,
    WATER,
    Array,
    Landscape,
    fractal,
)

# One column per land cover:
# water, bare, crop, stubble, grass, forest, built-up, road
#: Surface reflectance times 10,000, one line per optical band.
_REFLECTANCE = np.array(
    [
        [420, 880, 330, 760, 420, 230, 1180, 1050],
        [560, 1180, 640, 1080, 720, 400, 1330, 1180],
        [400, 1560, 380, 1480, 620, 280, 1470, 1260],
        [230, 2250, 4100, 2450, 2950, 2550, 2050, 1600],
    ],
    dtype=np.float32,
)
#: Reflectance of turbid water times 10,000, to which rivers tend.
_TURBID = np.array([820, 1120, 1060, 560], dtype=np.float32)
#: Reflectance of haze times 10,000.
_HAZE = np.array([300, 220, 160, 60], np.float32)
#: Relative texture of a land cover, from pixel to pixel.
_GRAIN = np.array([0.02, 0.06, 0.05, 0.06, 0.05, 0.22, 0.1, 0.05], np.float32)
#: Relative texture of a land cover, in patches.
_SPOTS = np.array([0.02, 0.12, 0.02, 0.08, 0.04, 0.06, 0.05, 0.05], np.float32)

#: Backscatter in dB without flood and with calm water, one line per SAR band.
_BACKSCATTER = np.array(
    [
        [-22.0, -12.5, -10.5, -12.0, -13.0, -8.5, -4.5, -17.0],
        [-30.0, -21.0, -17.0, -20.0, -19.5, -14.0, -12.0, -25.0],
    ],
    dtype=np.float32,
)
#: Range of the backscatter between parcels in dB.
_SPREAD = np.array([0, 5, 3, 3.5, 2.5, 0, 0, 0], np.float32)
#: Brightening by double bounce in dB in flooded forest and flooded built-up area, one line
#: per SAR band.
_DOUBLE_BOUNCE = np.array([[3.5, 2.0], [1.0, 0.5]], dtype=np.float32)
#: Noise-equivalent sigma nought in dB of both SAR bands, the lowest value of an image.
_NOISE_FLOOR = -26.0
#: Tangent of the incidence angle of the radar, which is 39 degrees.
_TAN_INCIDENCE = 0.81


def optical_image(rng: Generator, land: Landscape) -> Array:
    """Simulate the optical image before the flood.

    Args:
        rng: Random number generator.
        land: The landscape.

    Returns:
        Reflectance times 10,000 of all bands, integers, shape (4, H, W).
    """
    cover, size = land.cover, len(land.cover)
    image = _REFLECTANCE[:, cover]
    patches = fractal(rng, size, cell=32, gain=0.7)
    grain = rng.random((size, size), np.float32) * 2 - 1

    # Vigorous vegetation is darker in red and brighter in the near infrared
    vegetated = (cover == CROP) | (cover == GRASS) | (cover == FOREST)
    vigour = np.float32(0.5) * (land.parcel - np.float32(0.5))
    vigour = np.where(cover == FOREST, np.float32(0), vigour)
    vigour = (vigour + np.float32(0.12) * patches) * vegetated
    image[:3] *= 1 - vigour
    image[3] *= 1 + np.float32(0.6) * vigour

    # Turbidity of rivers and lakes
    turbidity = np.float32(rng.uniform(0, 1)) + np.float32(0.2) * patches
    turbidity = np.clip(turbidity, 0, 1) * (cover == WATER)
    image += turbidity * (_TURBID - _REFLECTANCE[:, WATER])[:, None, None]

    image *= _texture(land, grain, patches) * _hillshade(land)

    # The point spread of the instrument mixes neighbours
    image = _blur(image)
    gain = rng.uniform(0.9, 1.1)
    haze = rng.uniform(0, 1) * (1 + 0.5 * fractal(rng, size, 128, 0.5, finest=32))
    image = np.float32(gain) * image + _HAZE[:, None, None] * np.maximum(haze, 0)
    rounded: Array = np.clip(np.rint(image), 1, 10_000).astype(np.float32)
    return rounded


def _texture(land: Landscape, grain: Array, patches: Array) -> Array:
    """Compute the texture of crowns, roofs, and soil as a factor around 1."""
    cover = land.cover
    texture = 1 + _GRAIN[cover] * grain + _SPOTS[cover] * patches
    texture += np.where(
        cover == BUILT, np.float32(0.7) * (land.block - np.float32(0.5)), 0
    )
    # Parcels of bare soil differ by moisture
    soil = (cover == BARE) | (cover == STUBBLE)
    texture += np.where(soil, np.float32(0.5) * land.parcel - np.float32(0.25), 0)
    return texture


def _hillshade(land: Landscape) -> Array:
    """Compute the hillshade relative to flat land, sun in the south-east at 45 degrees."""
    south, east = np.gradient(land.height, RESOLUTION)
    slope = np.sqrt(1 + south * south + east * east)
    shade = (1 - np.float32(0.7) * (south + east)) / slope
    clipped: Array = np.clip(shade, 0.3, 1.6)
    return clipped


def _blur(image: Array) -> Array:
    """Blur by a [1, 2, 1] / 4 kernel along both axes, edges repeated."""
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode='edge')
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    both: Array = rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]
    return both / np.float32(16)


def sar_backscatter(rng: Generator, land: Landscape, bands: int) -> Array:
    """Simulate the backscatter during the flood, without speckle.

    Args:
        rng: Random number generator.
        land: The landscape.
        bands: Number of bands: 1 for VV, 2 for VV and VH.

    Returns:
        Backscatter in linear power, shape (bands, H, W).
    """
    cover, flooded = land.cover, land.depth > 0
    patches = fractal(rng, len(cover), cell=32, gain=0.6)
    land_db = _land_decibels(rng, land, patches, bands)

    # Wind roughens the water (Bragg scattering), but some patches are calm
    wind = np.float32(rng.uniform(0, 1) ** 2 * 9) + np.float32(1.5) * patches
    water = _to_power(_BACKSCATTER[:bands, WATER, None, None] + wind)
    bounce = np.zeros((bands, 8), np.float32)
    bounce[:, [FOREST, BUILT]] = _DOUBLE_BOUNCE[:bands]
    power = _to_power(land_db + bounce[:, cover] * flooded)

    # Low vegetation emerges from shallow water
    drowned = land.depth / (np.float32(0.2) + np.float32(0.02) * np.ptp(land.height))
    drowned = np.minimum(drowned, 1) * ((cover != FOREST) & (cover != BUILT))
    drowned[cover == WATER] = 1
    power += drowned * (water - power)

    power *= _slope_factor(rng, land.height, flooded | (cover == WATER))
    return power + np.float32(10 ** (_NOISE_FLOOR / 10))


def _land_decibels(
    rng: Generator, land: Landscape, patches: Array, bands: int
) -> Array:
    """Simulate the backscatter of flat land without flood.

    Args:
        rng: Random number generator.
        land: The landscape.
        patches: Smooth noise, shape (H, W).
        bands: Number of bands.

    Returns:
        Backscatter in dB, shape (bands, H, W).
    """
    cover = land.cover
    # Rain before the flood moistens the soil
    rain = np.full(8, rng.uniform(-1, 2), np.float32)
    rain[[FOREST, BUILT]] /= 3
    rain[WATER] = 0
    # Roughness differs between parcels, independently of their colour
    roughness = land.parcel * 7 % 1
    decibels = _BACKSCATTER[:bands, cover] + rain[cover]
    decibels += _SPREAD[cover] * (roughness - np.float32(0.5)) + patches
    # Smooth bare fields are as dark as water
    decibels -= np.where((cover == BARE) & (roughness < 0.35), np.float32(5), 0)
    # Walls that face the radar make few, very bright pixels
    corners = rng.random(cover.shape, np.float32) * land.block
    decibels += np.where(cover == BUILT, 16 * corners * corners - 3, np.float32(0))
    return decibels


def _slope_factor(rng: Generator, height: Array, level: npt.NDArray[np.bool_]) -> Array:
    """Compute the effect of slopes, for a radar in the west or in the east.

    The factor is the squared cosine of the local incidence angle relative to that of flat
    land, and 0 in the radar shadow.

    Args:
        rng: Random number generator.
        height: Terrain height in metres, shape (H, W).
        level: Where water makes the ground level, shape (H, W).

    Returns:
        Factor of the linear power, shape (H, W).
    """
    _, east = np.gradient(height, RESOLUTION)
    toward = east if rng.random() < 0.5 else -east  # Slope towards the radar
    toward = np.where(level, 0, toward)
    facing = np.maximum(1 + np.float32(_TAN_INCIDENCE) * toward, 0)
    factor: Array = facing * facing / (1 + toward * toward)
    return factor


def add_speckle(rng: Generator, power: Array, looks: int) -> Array:
    """Multiply backscatter by Gamma speckle of mean 1 and variance 1 / looks.

    Args:
        rng: Random number generator.
        power: Backscatter in linear power.
        looks: Number of looks.

    Returns:
        Backscatter in linear power, same shape.
    """
    speckle = rng.standard_gamma(looks, power.shape, np.float32)
    return power * speckle / np.float32(looks)


def to_decibels(power: Array) -> Array:
    """Convert linear power to dB. A power of zero becomes -60 dB, and NaN stays NaN."""
    return np.float32(10) * np.log10(np.maximum(power, np.float32(1e-6)))


def _to_power(decibels: Array) -> Array:
    """Convert dB to linear power."""
    return np.exp(np.float32(math.log(10) / 10) * decibels)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Random landscapes before and during a flood.

Only uniform random numbers, order statistics, and arithmetic that IEEE 754 rounds
exactly decide the land cover and the flood, so that they are the same on all machines.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

type Array = npt.NDArray[np.float32]
type Classes = npt.NDArray[np.uint8]
type _Integers = npt.NDArray[np.int64]

# Codes of the land cover
WATER, BARE, CROP, STUBBLE, GRASS, FOREST, BUILT, ROAD = range(8)

#: Pixel size in metres.
RESOLUTION = 10.0

#: Relief of the terrain in metres, from floodplain to mountains.
_RELIEFS = (4, 8, 15, 30, 60, 120, 250, 400)


class Landscape(NamedTuple):
    """A landscape before and during a flood. Arrays have the shape (H, W)."""

    cover: Classes  # land cover before the flood
    height: Array  # terrain height in metres
    parcel: Array  # random value of the field parcel in [0, 1)
    block: Array  # random value of the building block in [0, 1)
    depth: Array  # depth of the new water in metres, 0 where there is none


class _Fields(NamedTuple):
    """Field parcels. Arrays have the shape (H, W)."""

    u: _Integers  # coordinate across the strips of parcels in pixels
    v: _Integers  # coordinate along the strips in pixels
    parcel: Array  # random value of the parcel in [0, 1)
    use: Array  # random value in [0, 1) that decides the land use of the parcel


def make_landscape(rng: Generator, size: int) -> Landscape:
    """Make a random landscape and its flood.

    Args:
        rng: Random number generator.
        size: Height and width in pixels.

    Returns:
        The landscape.
    """
    relief = np.float32(rng.choice(_RELIEFS))
    bank = np.float32(float(rng.uniform(3, 14)) / 2)
    river = _distance_to_course(rng, size, wiggle=60)
    height = _terrain(rng, river, relief)
    cover, fields = _farmland(rng, size)
    # Embankments and ditches make the water follow the fields on flat land
    height += np.float32(0.4) * fields.parcel

    forest = fractal(rng, size, cell=64, gain=0.6)
    forest += np.float32(0.35) * fields.use
    forest += 1 / (1 + river / np.float32(5))  # Gallery forest on the banks
    cover[forest > order_statistic(forest, 1 - rng.uniform(0.02, 0.4))] = FOREST

    rough = fractal(rng, size, cell=16, gain=0.6)
    block = _build(rng, cover, height, fields, rough)
    for _ in range(int(rng.integers(0, 3))):
        cover[_distance_to_course(rng, size, wiggle=20) < 0.8] = ROAD

    cover[river < bank + 6 * np.maximum(rough, 0)] = BARE  # Gravel bars
    water = river < bank
    if rng.random() < 0.5:  # Lakes
        water |= height < order_statistic(height, rng.uniform(0, 0.06))
    cover[water] = WATER
    depth = _flood(rng, height, water)
    return Landscape(cover, height, fields.parcel, block, depth)


def _terrain(rng: Generator, river: Array, relief: np.float32) -> Array:
    """Make rough hills around a smooth valley floor.

    Args:
        rng: Random number generator.
        river: Distance to the river in pixels, shape (H, H).
        relief: Relief in metres.

    Returns:
        Height above the nearest drainage in metres, shape (H, H).
    """
    valley = river / (river + np.float32(rng.uniform(20, 80)))
    hills = fractal(rng, len(river), cell=128, gain=0.5, finest=2)
    roughness = np.float32(0.3) + np.float32(0.7) * valley
    height: Array = relief * (valley + roughness * hills)
    return height


def _farmland(rng: Generator, size: int) -> tuple[Classes, _Fields]:
    """Cover the land with fields.

    Args:
        rng: Random number generator.
        size: Height and width in pixels.

    Returns:
        Land cover of shape (size, size), and the fields.
    """
    u, v, number = _parcels(rng, size)
    parcel = rng.random(int(number.max()) + 1, np.float32)
    # The season decides how much is green and how much is ploughed
    green, bare = rng.uniform(0.25, 0.6), rng.uniform(0.05, 0.25)
    use = rng.random(len(parcel), np.float32)
    kinds = np.full(len(use), GRASS, np.uint8)
    kinds[use < green + bare + 0.2] = STUBBLE
    kinds[use < green + bare] = CROP
    kinds[use < bare] = BARE
    return kinds[number], _Fields(u, v, parcel[number], use[number])


def _build(
    rng: Generator, cover: Classes, height: Array, fields: _Fields, rough: Array
) -> Array:
    """Build settlements of blocks, gardens, and streets.

    Args:
        rng: Random number generator.
        cover: Land cover, shape (H, H), changed in place.
        height: Terrain height in metres, shape (H, H).
        fields: The fields, along which the streets run.
        rough: Noise that frays the edges of settlements, shape (H, H).

    Returns:
        Random value of the building block in [0, 1), shape (H, H).
    """
    u, v = fields.u, fields.v
    built = _settlements(rng, len(cover)) + np.float32(0.7) * rough > 0
    built &= height > order_statistic(height, 0.25)  # Not on the lowest ground
    blocks = rng.random((64, 64), np.float32)
    block: Array = blocks[u // 6 % 64, v // 5 % 64]
    cover[built] = np.where(block[built] < 0.2, GRASS, BUILT)  # Gardens
    block[(u % 6 == 0) | (v % 5 == 0)] = 0.3  # Streets
    return block


def _flood(rng: Generator, height: Array, water: npt.NDArray[np.bool_]) -> Array:
    """Let the water rise to a level, in nine of ten landscapes.

    Args:
        rng: Random number generator.
        height: Terrain height in metres, shape (H, H).
        water: Where water is already, shape (H, H).

    Returns:
        Depth of the new water in metres, shape (H, H).
    """
    if rng.random() <= 0.1:
        return np.zeros_like(height)
    level = order_statistic(height[~water], rng.uniform(0.03, 0.5))
    depth: Array = np.where(water, 0, np.maximum(level - height, 0))
    return depth


def fractal(
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


def _double_rows(field: Array) -> Array:
    """Double the rows of pixels by Chaikin's corner cutting, a quadratic B-spline."""
    out = np.empty((2 * len(field) - 2, field.shape[1]), np.float32)
    quarter = np.float32(0.25) * (field[1:] - field[:-1])
    np.add(field[:-1], quarter, out=out[0::2])
    np.subtract(field[1:], quarter, out=out[1::2])
    return out


def _direction(rng: Generator) -> tuple[float, float]:
    """Return a random unit vector.

    Trigonometric functions are avoided, since libraries round them differently.
    """
    x, y = rng.uniform(-1, 1), rng.uniform(-1, 1)
    length = math.sqrt(x * x + y * y)
    return x / length, y / length


def _distance_to_course(rng: Generator, size: int, wiggle: float) -> Array:
    """Return the approximate distance in pixels to a river or road across the image."""
    x, y = _direction(rng)
    rows, columns = np.ogrid[:size, :size]
    offset = rng.uniform(-0.6, 0.6) * size
    ramp = x * (columns - size / 2) + y * (rows - size / 2) + offset
    winding = fractal(rng, size, cell=128, gain=0.35, finest=16)
    return np.abs(ramp.astype(np.float32) + np.float32(wiggle) * winding)


def _parcels(rng: Generator, size: int) -> tuple[_Integers, _Integers, _Integers]:
    """Divide the land into strips and the strips into parcels.

    Args:
        rng: Random number generator.
        size: Height and width in pixels.

    Returns:
        Coordinates in pixels across and along the strips, and the number of the parcel,
        each of shape (size, size).
    """
    rows, columns = np.ogrid[:size, :size]
    bend = 12 * fractal(rng, size, cell=128, gain=0.4, finest=32)
    # Two directions, as at the border of two communes
    here = fractal(rng, size, cell=128, gain=0.5, finest=8) > 0
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


def order_statistic(field: Array, quantile: float) -> np.float32:
    """Return a quantile without interpolation, which would not be exact."""
    k = int(quantile * (field.size - 1))
    value: np.float32 = np.partition(field, k, axis=None)[k]
    return value

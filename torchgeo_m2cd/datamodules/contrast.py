# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""How many decibels one unit of a SAR image is."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from rasterio.errors import RasterioError
from rasterio.windows import Window
from torch import Tensor

from ..datasets.files import open_file, unreadable
from ..datasets.grid_raster import GridRaster
from ..datasets.paths import name_paths
from ..transforms import measure_speckle

# Height and width of a window in pixels, and how many of them are read at most
_SIZE, _COUNT = 256, 16

# What Sentinel-1 GRD at 10 m has, and no image that was filtered or is linear. The half
# of the windows in the middle may differ by a factor
_LARGEST_CORRELATION, _LARGEST_GROWTH, _LARGEST_RATIO = 0.8, 1.3, 1.5

# Size of a pixel in metres. Others average over other areas
_SMALLEST_PIXEL, _LARGEST_PIXEL = 7.0, 15.0


def estimate_contrast(sar: GridRaster) -> None:
    """Estimate the contrast of a SAR image of unknown stretch, and show it in dB.

    Args:
        sar: The image. Its files are read as they are, since warping changes speckle.

    Raises:
        RuntimeError: If a file cannot be read.
        ValueError: If the speckle of its windows does not say it for sure.
    """
    decibels = [_estimate(sar, number) for number in range(sar.band_count)]
    sar.set_contrast(decibels)
    values = ' and '.join(dict.fromkeys(f'{value:.2g}' for value in decibels))
    sar.assume(f'one grey value is {values} dB, estimated from speckle')


def check_contrast(sar: GridRaster, decibels: float) -> None:
    """Warn if speckle says that a unit of SAR is not what it is taken for.

    Args:
        sar: The image.
        decibels: Decibels that a unit is taken for.
    """
    try:
        found = _estimate(sar, 0)
    except ValueError:  # Not sure
        return
    if not 1 / 1.6 < found / decibels < 1.6:
        rank_zero_warn(
            f'by its speckle, a unit of SAR file {name_paths(sar.paths)} is about '
            f'{found:.2g} dB, but it is taken for {decibels:.2g} dB: water and land '
            'would differ by more or less than in training. Expected sar.decibels, or '
            'files in dB or linear power (sar.scale)'
        )


def _estimate(sar: GridRaster, number: int) -> float:
    """Estimate the contrast of a band, the first of which has the number 0."""
    found = []
    for image, valid in _read_windows(sar, number):
        try:
            found.append(measure_speckle(image, valid))
        except ValueError:  # Too small, saturated, or hardly any data
            continue
    reason = 'no window of it has speckle'
    if found:
        values = torch.tensor(found, dtype=torch.float64)
        low, decibels, high = values[:, 0].quantile(
            torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
        )
        correlation, growth = values[:, 1:].median(dim=0).values
        reason = ''
        if growth > _LARGEST_GROWTH:
            reason = (
                'its speckle grows with the brightness, as in power and amplitude, '
                "expected sar.scale='power' or 'amplitude' for these"
            )
        elif correlation > _LARGEST_CORRELATION:
            reason = 'its speckle was filtered or resampled'
        elif high > _LARGEST_RATIO * low:
            reason = f'its windows have {low:.2g} to {high:.2g}'
    if not reason:
        return float(decibels)
    raise ValueError(
        f'SAR file {name_paths(sar.paths)} does not say how many decibels a grey value '
        f'is: {reason}. Expected a file in dB or linear power, or sar.decibels with '
        "sar.scale='other'. Are optical and sar swapped?"
    )


def _read_windows(sar: GridRaster, number: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Read windows of a band as they are in its files, and where they have data."""
    granules = sar.granules[:_COUNT]
    edge = math.isqrt(_COUNT // len(granules))
    for granule in granules:
        band = granule.bands[number]
        nodata = sar.on_grid[band.path].layer.nodata
        try:
            with open_file(band.path) as src:
                metres = 111_320.0 if src.crs.is_geographic else 1.0
                if not _SMALLEST_PIXEL <= src.res[0] * metres <= _LARGEST_PIXEL:
                    continue
                for window in _place_windows(src.height, src.width, edge):
                    values = torch.from_numpy(src.read(band.number, window=window))
                    mask = torch.from_numpy(src.read_masks(band.number, window=window))
                    valid = (mask > 0) & values.isfinite()
                    if nodata is not None:
                        valid &= values != nodata
                    yield values.double(), valid
        except RasterioError as error:
            raise unreadable(sar.name, band.path, error) from None


def _place_windows(height: int, width: int, edge: int) -> list[Window]:
    """Place windows on a grid of at most as many rows and columns in an image."""
    rows, columns = (
        np.unique(np.linspace(0, max(length - _SIZE, 0), edge).astype(int)).tolist()
        for length in (height, width)
    )
    size = min(_SIZE, width), min(_SIZE, height)
    return [Window(column, row, *size) for row in rows for column in columns]

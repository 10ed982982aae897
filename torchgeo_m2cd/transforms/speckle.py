# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Speckle of SAR images, which tells how many decibels one unit is."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import checked

#: Height and width in pixels of the windows in which speckle is measured.
_WINDOW = 11

#: Spread of the speckle of Sentinel-1 GRD in such a window in dB.
_SPREAD = 2.1


class Speckle(NamedTuple):
    """What speckle says of one band of a SAR image that is linear in dB."""

    #: Decibels of one unit.
    decibels: float
    #: Correlation of the speckle of neighbouring pixels, from -1 to 1: 0.7 to 0.8 in
    #: Sentinel-1 GRD at 10 m, more if the image was filtered or resampled.
    correlation: float
    #: Spread in bright windows by that in dark ones: at most about 1 if the image is
    #: linear in dB, and more if it is linear in power or amplitude.
    growth: float


@checked
def measure_speckle(sar: Tensor, valid: Tensor | None = None) -> Speckle:
    r"""Measure the speckle of a SAR image.

    For images that are linear in dB with an unknown stretch, such as 8-bit pictures of
    Sentinel-1 GRD products at 10 m. Their speckle has :math:`L = 4.4` looks, which gives
    a standard deviation of :math:`10 / \ln 10 \, \sqrt{\psi_1(L)} = 2.2` dB in
    homogeneous areas. Neighbouring pixels are correlated, so a window of 11 x 11 pixels
    shows only 2.1 dB. A chip of Sen1Floods11 confirms this: 2.05 dB in VV and 2.15 dB in
    VH.

    The function does not know which areas are homogeneous. It assumes that most windows
    are, and takes the mode of their standard deviations. For speckle-filtered images, the
    decibels are too large: by 1.3 after a median of 3 x 3 pixels, by 1.4 and 1.9 after
    means of 3 x 3 and of 5 x 5.

    Source of the number of looks: Sentinel-1 product specification, GRD in
    interferometric wide swath mode. Source of the distribution: Goodman, "Some
    fundamental properties of speckle", 1976, https://doi.org/10.1364/JOSA.66.001145

    Args:
        sar: One band, shape (H, W), at least 32 x 32 pixels.
        valid: Pixels with data, bool, of the same shape (defaults to all).

    Returns:
        What it says.

    Raises:
        ValueError: If the image is too small, constant, or has nearly no data.
    """
    if sar.ndim != 2 or min(sar.shape) < 32:
        raise ValueError(
            f'sar has shape {tuple(sar.shape)}: expected (H, W) of at least 32 x 32'
        )
    known = torch.ones_like(sar) if valid is None else valid.to(sar.dtype)
    values = torch.where(known > 0, sar, 0).double()
    mean, square, share = (
        F.avg_pool2d(image[None, None].double(), _WINDOW, stride=1)[0, 0]
        for image in (values, values**2, known)
    )
    # Saturated pixels, which 8-bit pictures may have, show no speckle
    low, high = sar[known > 0].aminmax() if known.any() else (0.0, 0.0)
    variance = (square - mean**2).clamp(min=0) * _WINDOW**2 / (_WINDOW**2 - 1)
    spread = variance.sqrt()
    inside = (share == 1) & (mean > low) & (mean < high)
    inside &= spread > 1e-6 * (float(high) - float(low))
    found = spread[inside].sort().values
    if len(found) < 100:
        raise ValueError(
            'sar has no speckle: it is constant, saturated, or has hardly any data'
        )
    # The mode: the middle of the shortest interval that holds a fifth of the windows
    count = len(found) // 5
    start = int((found[count:] - found[:-count]).argmin())
    mode = found[start : start + count + 1]
    half = _WINDOW // 2
    noise = values[half:-half, half:-half] - mean
    even = inside & (spread >= mode[0]) & (spread <= mode[-1])
    return Speckle(
        decibels=_SPREAD / float(mode.mean()),
        correlation=_correlate(noise, even),
        growth=_compare(mean[inside], spread[inside]),
    )


@checked
def estimate_decibels(sar: Tensor, valid: Tensor | None = None) -> float:
    """Estimate how many decibels one unit of a SAR image is, see :func:`measure_speckle`.

    Args:
        sar: One band, shape (H, W), at least 32 x 32 pixels.
        valid: Pixels with data, bool, of the same shape (defaults to all).

    Returns:
        Decibels per unit.

    Raises:
        ValueError: If the image is too small, constant, or has nearly no data.
    """
    return measure_speckle(sar, valid).decibels


def _correlate(noise: Tensor, even: Tensor) -> float:
    """Correlate neighbours, shape (H, W), where both are in homogeneous areas."""
    products, squares = [], []
    for dim in (0, 1):
        length = noise.shape[dim] - 1
        first, second = noise.narrow(dim, 0, length), noise.narrow(dim, 1, length)
        both = even.narrow(dim, 0, length) & even.narrow(dim, 1, length)
        products.append((first * second)[both])
        squares.append(((first**2 + second**2) / 2)[both])
    return float(torch.cat(products).sum() / torch.cat(squares).sum())


def _compare(mean: Tensor, spread: Tensor) -> float:
    """Divide the spread of the brightest quarter of windows by that of the darkest."""
    limits = torch.stack([mean.quantile(0.25), mean.quantile(0.75)])
    # Low quantiles, since windows with edges have the largest spread
    dark = spread[mean <= limits[0]].quantile(0.3)
    return float(spread[mean >= limits[1]].quantile(0.3) / dark)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""The contrast of SAR images of unknown units."""

import torch
import torch.nn.functional as F
from torch import Tensor

#: Height and width in pixels of the windows that speckle is measured in.
_WINDOW = 11


def estimate_decibels(sar: Tensor, valid: Tensor | None = None) -> float:
    r"""Estimate how many decibels one unit of a SAR image is, from its speckle.

    For images that are linear in dB and of unknown stretch, like 8-bit pictures of
    Sentinel-1's GRD products at 10 m. Their speckle is that of :math:`L = 4.4` looks, with
    a standard deviation of :math:`10 / \ln 10 \, \sqrt{\psi_1(L)} = 2.2` dB in even areas.
    Neighbouring pixels are correlated, and a window of 11 x 11 of them shows 2.1 dB: as
    much was measured in VV and VH of a chip of Sen1Floods11 (2.05 and 2.15 dB).

    What is even is not known; it is taken as what is most common, the mode of the standard
    deviation over all windows. Of images that were filtered, the result is too large.

    Source of the number of looks: Sentinel-1 product specification, GRD in
    interferometric wide swath mode. Source of the distribution: Goodman, "Some
    fundamental properties of speckle", 1976, https://doi.org/10.1364/JOSA.66.001145

    Args:
        sar: One band, shape (H, W), at least 32 x 32 pixels.
        valid: Pixels with data, bool, of the same shape.

    Returns:
        Decibels per unit.

    Raises:
        ValueError: If the image is too small, constant, or nearly without data.
    """
    if sar.ndim != 2 or min(sar.shape) < 32:
        raise ValueError(
            f'sar has shape {tuple(sar.shape)}: expected (H, W) of at least 32 x 32'
        )
    known = torch.ones_like(sar) if valid is None else valid.to(sar.dtype)
    values = torch.where(known > 0, sar, 0)
    mean, square, share = (
        F.avg_pool2d(image[None, None].double(), _WINDOW, stride=1).flatten()
        for image in (values, values**2, known)
    )
    # Saturated pixels, of which 8-bit pictures have some, have no speckle
    low, high = sar[known > 0].aminmax() if known.any() else (0.0, 0.0)
    inside = (share == 1) & (mean > low) & (mean < high)
    variance = (square - mean**2)[inside].clamp(min=0)
    spread = (variance * _WINDOW**2 / (_WINDOW**2 - 1)).sqrt()
    spread = spread[spread > 1e-6 * (float(high) - float(low))].sort().values
    if len(spread) < 100:
        raise ValueError(
            'sar has no speckle: it is constant, saturated, or has hardly any data'
        )
    # The mode: the middle of the shortest interval with a fifth of the windows
    count = len(spread) // 5
    start = int((spread[count:] - spread[:-count]).argmin())
    mode = float(spread[start : start + count + 1].mean())
    return 2.1 / mode

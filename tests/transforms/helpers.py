# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Helpers for the tests of input steps."""

import torch
from torch import Tensor

from torchgeo_m2cd.transforms import InputStep


def everything(pixels: Tensor) -> Tensor:
    """Mask of land that holds all pixels."""
    return torch.ones(pixels.shape[1], dtype=torch.bool)


def show(step: InputStep, pixels: Tensor, land: Tensor | None = None) -> Tensor:
    """Apply a step to pixels (bands, N), and return shape (channels, N)."""
    reference = step.measure(pixels, everything(pixels) if land is None else land)
    assert reference.shape == (step.num_references,)
    assert reference.dtype == pixels.dtype
    shown: Tensor = step(pixels[None, :, :, None], reference[None, :, None, None])
    assert shown.shape == (1, step.channels, pixels.shape[1], 1)
    return shown[0, ..., 0]

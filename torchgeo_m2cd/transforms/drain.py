# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Augmentation that takes floods away."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchgeo.datasets.utils import Sample

from ..checks import Share, checked

#: A flood is drained with a rim of this width in pixels, as masks are drawn roughly.
_RIM = 4
#: Draws of a place to copy land from.
_DRAWS = 12


class RandomDrain(nn.Module):
    """Replace the SAR image of floods by that of land of the same chip.

    Chips of benchmarks are chosen for their floods: of the chips of OMBRIA, nearly all
    are flooded by more than a twentieth. A model that is trained on them sees a flood in
    every window of a scene, also where there is none. This augmentation makes chips with
    few floods, or none.

    Land is copied from elsewhere in the chip, mirrored and shifted at random, so that it
    keeps its speckle and its texture. In half of the drained chips, the floods on one
    side of a random line remain.
    """

    @checked
    def __init__(self, p: Share = 0.3) -> None:
        """Initialize a new RandomDrain instance.

        Args:
            p: Probability of draining a chip.

        Raises:
            ValueError: If *p* is not within [0, 1].
        """
        super().__init__()
        self.p = p

    def forward(self, batch: Sample, land: Tensor) -> Sample:
        """Drain chips at random.

        Args:
            batch: Batch with ``image`` of shape (B, 2, C, H, W) in source units, SAR
                second, and ``mask`` of shape (B, 1, H, W), in which 1 is flood.
            land: Pixels with data that were no water before, bool, shape (B, 1, H, W).

        Returns:
            Batch with other ``image`` and ``mask``. Chips with hardly any land do not
            change.
        """
        image, mask = batch['image'].clone(), batch['mask'].clone()
        for index in torch.nonzero(torch.rand(len(image)) < self.p).flatten().tolist():
            _drain(image[index, 1], mask[index, 0], land[index, 0])
        return {**batch, 'image': image, 'mask': mask}


def _drain(sar: Tensor, mask: Tensor, land: Tensor) -> None:
    """Drain a chip in place: bands (C, H, W), mask and land (H, W)."""
    near = _dilate(mask == 1)
    drained = near & land & _choose_side(mask)
    land = land & ~near
    if land.float().mean() < 0.05:
        return
    source, left = sar.clone(), drained.clone()
    for _ in range(_DRAWS):
        axes = [axis for axis in (-2, -1) if torch.rand(()) < 0.5]
        shifts = [int(torch.randint(size, ())) for size in mask.shape]
        moved, is_land = (
            image.flip(axes).roll(shifts, (-2, -1)) for image in (source, land)
        )
        found = left & is_land
        sar[:, found] = moved[:, found]
        left &= ~found
    # Some pixels find no land: they get values without texture
    values = source[:, land]
    sar[:, left] = values[:, torch.randint(values.shape[1], (int(left.sum()),))]
    mask[drained & (mask == 1)] = 0


def _choose_side(mask: Tensor) -> Tensor:
    """Choose all of a chip, or what is on one side of a line."""
    side = torch.ones_like(mask, dtype=torch.bool)
    if torch.rand(()) < 0.5:
        rows, columns = (
            torch.linspace(-1, 1, size, device=mask.device) for size in mask.shape
        )
        angle, offset = 2 * math.pi * torch.rand(()), 1.6 * torch.rand(()) - 1
        height = torch.cos(angle) * columns + torch.sin(angle) * rows[:, None]
        side = height > offset
    return side


def _dilate(mask: Tensor) -> Tensor:
    """Add a rim to a bool mask of shape (H, W)."""
    size = 2 * _RIM + 1
    padded = F.max_pool2d(mask[None].float(), size, stride=1, padding=_RIM)
    return padded[0] > 0

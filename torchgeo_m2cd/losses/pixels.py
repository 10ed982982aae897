# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""The pixels that count in a loss."""

from einops import rearrange
from torch import Tensor


def select_pixels(
    logits: Tensor, mask: Tensor, ignore_index: int | None
) -> tuple[Tensor, Tensor]:
    """Select the pixels that count.

    Not every criterion can ignore a value, but all take any set of pixels.

    Args:
        logits: Logits, shape ``(B, C, H, W)``.
        mask: Masks, shape ``(B, M, H, W)``.
        ignore_index: Value of the mask that does not count in any of its M channels, or
            None.

    Returns:
        Logits and mask of the N pixels that count, shapes ``(1, C, N)`` and
        ``(1, M, N)``.
    """
    logits = rearrange(logits, 'b c h w -> 1 c (b h w)')
    mask = rearrange(mask, 'b m h w -> 1 m (b h w)')
    if ignore_index is None:
        return logits, mask
    valid = (mask != ignore_index).all(dim=1).squeeze(0)
    return logits[..., valid], mask[..., valid]

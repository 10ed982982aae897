# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Selection of the pixels that count in a loss."""

from einops import rearrange
from torch import Tensor

from ..checks import checked


@checked
def select_pixels(
    logits: Tensor, mask: Tensor, ignore_index: int | None
) -> tuple[Tensor, Tensor]:
    """Select the pixels that count in a loss.

    Not every criterion has an ``ignore_index``, but each takes any set of pixels.

    Args:
        logits: Logits, shape ``(B, C, H, W)``.
        mask: Masks, shape ``(B, M, H, W)``.
        ignore_index: Leave out pixels that have this value in any of the M channels of
            the mask. None selects all pixels.

    Returns:
        Logits and mask of the N selected pixels, shapes ``(1, C, N)`` and
        ``(1, M, N)``.
    """
    logits = rearrange(logits, 'b c h w -> 1 c (b h w)')
    mask = rearrange(mask, 'b m h w -> 1 m (b h w)')
    if ignore_index is None:
        return logits, mask
    valid = (mask != ignore_index).all(dim=1).squeeze(0)
    return logits[..., valid], mask[..., valid]

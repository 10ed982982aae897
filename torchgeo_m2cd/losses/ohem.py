# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Online hard example mining."""

import math
from typing import ClassVar

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..checks import Count, Share, checked
from ..configurable import Configurable


class OHEM(Configurable):
    """Selection of hard pixels for training: online hard example mining.

    A pixel is hard if the predicted probability of its true class is below *threshold*.
    If fewer than *min_kept* pixels of the batch are hard, the *min_kept* hardest are kept.
    With several labels, the hardest label of a pixel decides.

    If you use this in your research, please cite the following paper:

    * https://arxiv.org/abs/1604.03540
    """

    kind: ClassVar[str] = 'OHEM'

    @checked
    def __init__(self, threshold: Share = 0.7, min_kept: Count = 100_000) -> None:
        """Initialize a new OHEM instance.

        Args:
            threshold: Probability of the true class below which a pixel is hard. From 0
                (keep only the *min_kept* hardest) to 1 (keep all pixels).
            min_kept: Smallest number of pixels to keep per batch, at least 1.

        Raises:
            ValueError: If *threshold* or *min_kept* is out of range.
        """
        self.threshold = threshold
        self.min_kept = min_kept


class OHEMLoss(nn.Module):
    """Loss of the hard pixels only, see :class:`OHEM`.

    The weights and the label smoothing of the criterion do not affect which pixels are
    hard. In evaluation mode, all pixels count.

    Example:
        >>> import torch
        >>> from torchgeo_m2cd.losses import OHEM, OHEMLoss
        >>> loss = OHEMLoss(
        ...     torch.nn.BCEWithLogitsLoss(), OHEM(threshold=0.7, min_kept=1)
        ... )
        >>> logits = torch.tensor([[[4.0, 3.0, -2.0]]])  # The last pixel is wrong
        >>> loss(logits, torch.ones(1, 1, 3))
        tensor(2.1269)
    """

    @checked
    def __init__(
        self, criterion: nn.CrossEntropyLoss | nn.BCEWithLogitsLoss, ohem: OHEM
    ) -> None:
        """Initialize a new OHEMLoss.

        Args:
            criterion: Loss of the pixels that are kept:
                :class:`~torch.nn.CrossEntropyLoss` or
                :class:`~torch.nn.BCEWithLogitsLoss`.
            ohem: Which pixels to keep.

        Raises:
            TypeError: If *criterion* is neither of them.
        """
        super().__init__()
        self.criterion = criterion
        self.ohem = ohem

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of the hard pixels.

        Args:
            logits: Logits, shape ``(B, C, ...)``.
            target: Classes, shape ``(B, ...)``, for cross-entropy; labels, shape
                ``(B, C, ...)``, for binary cross-entropy.

        Returns:
            The loss, reduced by the criterion.
        """
        if self.training:
            is_label = target.ndim == logits.ndim
            logits = rearrange(logits, 'b c ... -> 1 c (b ...)')
            pattern = 'b c ... -> 1 c (b ...)' if is_label else 'b ... -> 1 (b ...)'
            target = rearrange(target, pattern)
            hard = self._is_hard(logits.detach(), target)
            logits, target = logits[..., hard], target[..., hard]
        loss: Tensor = self.criterion(logits, target)
        return loss

    def _is_hard(self, logits: Tensor, target: Tensor) -> Tensor:
        """Find the pixels to keep: Boolean, shape (N,)."""
        # The unweighted loss is -log(probability of the true class)
        if isinstance(self.criterion, nn.CrossEntropyLoss):
            ignored = self.criterion.ignore_index
            loss = F.cross_entropy(
                logits, target, ignore_index=ignored, reduction='none'
            )[0]
        else:
            loss = F.binary_cross_entropy_with_logits(
                logits, target, reduction='none'
            ).amax(dim=1)[0]
        threshold, min_kept = self.ohem.threshold, self.ohem.min_kept
        hardest = loss.topk(min(min_kept, len(loss))).values
        bound = -math.log(threshold) if threshold else math.inf
        return (loss > bound) | (loss >= hardest[-1])

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Online hard example mining."""

import math

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class OHEMLoss(nn.Module):
    """Online hard example mining: a loss of the hard pixels alone.

    A pixel is hard if the predicted probability of its true class is below a threshold.
    If fewer than *min_kept* pixels of the batch are, the hardest *min_kept* count. Of
    several labels, a pixel's hardest one decides. Which pixels are hard depends neither
    on the weights of the criterion nor on the smoothing of its labels.

    In evaluation mode all pixels count, as in the criterion itself.

    If you use this loss in your research, please cite the following paper:

    * https://arxiv.org/abs/1604.03540
    """

    def __init__(
        self, criterion: nn.Module, threshold: float = 0.7, min_kept: int = 100_000
    ) -> None:
        """Initialize a new OHEMLoss.

        Args:
            criterion: Loss of the pixels that are kept:
                :class:`~torch.nn.CrossEntropyLoss` or
                :class:`~torch.nn.BCEWithLogitsLoss`.
            threshold: Probability of the true class, below which a pixel is hard, from
                0 (the *min_kept* hardest alone) to 1 (all pixels).
            min_kept: Pixels of a batch that are kept at least, if it has as many.

        Raises:
            TypeError: If *criterion* is another loss.
            ValueError: If *threshold* or *min_kept* is out of range.
        """
        super().__init__()
        if not isinstance(criterion, nn.CrossEntropyLoss | nn.BCEWithLogitsLoss):
            raise TypeError(
                f'criterion is {type(criterion).__name__}: expected CrossEntropyLoss or '
                'BCEWithLogitsLoss'
            )
        if not 0 <= threshold <= 1:
            raise ValueError(f'threshold is {threshold}: expected from 0 to 1')
        if min_kept < 1:
            raise ValueError(f'min_kept is {min_kept}: expected at least 1')
        self.criterion = criterion
        self.threshold = threshold
        self.min_kept = min_kept

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the loss of the hard pixels.

        Args:
            logits: Logits, shape ``(B, C, ...)``.
            target: As the criterion takes it: classes, shape ``(B, ...)``, for
                cross-entropy, or labels, shape ``(B, C, ...)``.

        Returns:
            The loss, as the criterion reduces it.
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
        """Find the pixels to keep: a boolean tensor of shape (N,)."""
        # The plain loss is the negative logarithm of the true class's probability
        if isinstance(self.criterion, nn.CrossEntropyLoss):
            ignored = self.criterion.ignore_index
            loss = F.cross_entropy(
                logits, target, ignore_index=ignored, reduction='none'
            )[0]
        else:
            loss = F.binary_cross_entropy_with_logits(
                logits, target, reduction='none'
            ).amax(dim=1)[0]
        hardest = loss.topk(min(self.min_kept, len(loss))).values
        bound = -math.log(self.threshold) if self.threshold else math.inf
        return (loss > bound) | (loss >= hardest[-1])

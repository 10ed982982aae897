# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Training targets that a rule corrects."""

from typing import ClassVar

import torch
from torch import Tensor

from ..checks import PositiveOrZero, Share, checked
from ..configurable import Configurable
from ..models import ThresholdRule
from ..transforms import Inputs


class RuleTarget(Configurable):
    r"""Blend the mask with what a rule sees in the images.

    Masks of floods are often of another day than the SAR image, and drawn roughly. A model
    that is trained with them alone learns to mark land, too. The target is

    .. math:: (1 - w) \, y + w \, r

    with the mask :math:`y`, the probability :math:`r` by
    :class:`~torchgeo_m2cd.models.ThresholdRule`, and the *weight* :math:`w`.

    Source: soft bootstrapping, Reed et al., "Training deep neural networks on noisy labels
    with bootstrapping", 2014, https://arxiv.org/abs/1412.6596, with a rule in place of the
    model itself.
    """

    kind: ClassVar[str] = 'rule target'

    @checked
    def __init__(
        self,
        weight: Share = 0.4,
        sigma: PositiveOrZero = 2.0,
        margin: PositiveOrZero = 9.0,
    ) -> None:
        """Initialize a new RuleTarget instance.

        Args:
            weight: Weight of the rule, from 0 to 1.
            sigma: See :class:`~torchgeo_m2cd.models.ThresholdRule`.
            margin: See :class:`~torchgeo_m2cd.models.ThresholdRule`.

        Raises:
            ValueError: If *weight* is not within [0, 1].
        """
        self.weight = weight
        self.sigma = sigma
        self.margin = margin

    def blend(
        self,
        image: Tensor,
        mask: Tensor,
        inputs: Inputs | None,
        ignore_index: int | None,
    ) -> Tensor:
        """Blend masks with the rule.

        Args:
            image: Image pairs as the model is shown them, shape ``(B, 2, C, H, W)``.
            mask: Binary masks, shape ``(B, 1, H, W)``.
            inputs: What the model is shown.
            ignore_index: Value of pixels that do not count, and do not change.

        Returns:
            Targets, float32, shape ``(B, 1, H, W)``.

        Raises:
            ValueError: If the rule cannot work with *inputs*, or there are none.
        """
        if inputs is None:
            raise ValueError(
                'rule_target needs to know what the model is shown: expected a data module '
                'of torchgeo_m2cd'
            )
        rule = ThresholdRule(self.sigma, self.margin, inputs).to(image.device)
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            seen = rule(image.float()).sigmoid()
        target = torch.lerp(mask.float(), seen, self.weight)
        if ignore_index is None:
            return target
        return torch.where(mask == ignore_index, ignore_index, target)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Decoders."""

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base.modules import Conv2dReLU
from torch import Tensor, nn


class MLPDecoder(nn.Module):
    """All-MLP decoder at half the input's resolution.

    Each feature is projected (1x1 convolution, batch norm, ReLU) to the same number
    of channels, resized, and fused with the others (1x1 convolution over their
    concatenation, batch norm, ReLU).

    A 1x1 convolution and a bilinear resize commute: each feature's share of the
    fusing weights is applied at its own resolution, and the sum of the resized
    results is what fusing the resized concatenation would give, for about a twelfth
    of the arithmetic.

    If you use this decoder in your research, please cite the following papers:

    * https://arxiv.org/abs/2105.15203 (SegFormer)
    * https://doi.org/10.1109/LGRS.2025.3590959
    """

    def __init__(self, encoder_channels: Sequence[int], channels: int = 256) -> None:
        """Initialize a new MLPDecoder.

        Args:
            encoder_channels: Channels of the features of stride 1, 2, 4, 8, 16, 32;
                those from stride 4 on are used.
            channels: Channels of the projected features and of the output.
        """
        super().__init__()
        encoder_channels = encoder_channels[2:]
        self.project = nn.ModuleList(
            Conv2dReLU(c, channels, kernel_size=1) for c in encoder_channels
        )
        self.fuse = Conv2dReLU(channels * len(encoder_channels), channels, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Decode the features of an encoder.

        Args:
            features: One tensor ``(B, C, H / stride, W / stride)`` per stride 1, 2, 4,
                8, 16, 32.

        Returns:
            Decoded features, shape ``(B, channels, H / 2, W / 2)``.
        """
        height, width = features[0].shape[-2:]
        conv, *norm_and_activation = self.fuse
        fuse_weights = conv.weight.chunk(len(self.project), dim=1)
        resized = (
            F.interpolate(
                F.conv2d(project(feature), weight),
                size=(height // 2, width // 2),
                mode='bilinear',
                align_corners=False,
            )
            for feature, project, weight in zip(
                features[2:], self.project, fuse_weights, strict=True
            )
        )
        x = functools.reduce(torch.add, resized)
        for module in norm_and_activation:
            x = module(x)
        return x

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Decoders and fusion of the features of two images."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.base.modules import Activation, Conv2dReLU
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import Tensor, nn

from ..utils import check_choice

#: Names of the ways to fuse the features of two images.
Fusion = Literal['concat', 'diff', 'abs_diff', 'sum']

#: Names of the decoders.
Decoder = Literal['mlp', 'unet', 'upernet', 'segformer', 'fpn']

_FUSIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    'concat': lambda f1, f2: torch.cat((f1, f2), dim=1),
    'diff': lambda f1, f2: f2 - f1,
    'abs_diff': lambda f1, f2: (f2 - f1).abs(),
    'sum': torch.add,
}


def fuse(f1: Tensor, f2: Tensor, how: Fusion) -> Tensor:
    """Fuse the features of the first and the second image.

    Args:
        f1: Features of the first image, shape ``(B, C, H, W)``.
        f2: Features of the second image, same shape.
        how: ``'concat'``: :math:`[f_1, f_2]` (the original), ``'diff'``:
            :math:`f_2 - f_1`, ``'abs_diff'``: :math:`|f_2 - f_1|`, ``'sum'``:
            :math:`f_1 + f_2`.

    Returns:
        Fused features, shape ``(B, 2 * C, H, W)`` for ``'concat'``, else
        ``(B, C, H, W)``.

    Raises:
        ValueError: If *how* is unknown.
    """
    check_choice('fusion', how, get_args(Fusion))
    return _FUSIONS[how](f1, f2)


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


def make_decoder(
    name: Decoder,
    encoder_channels: Sequence[int],
    classes: int,
    activation: str | Callable[[Tensor], Tensor] | None = None,
    decoder_args: Mapping[str, Any] | None = None,
) -> tuple[nn.Module, nn.Module]:
    """Make a decoder and the segmentation head that goes with it.

    Args:
        name: ``'mlp'`` (:class:`MLPDecoder`, the original's), or ``'unet'``,
            ``'upernet'``, ``'segformer'`` or ``'fpn'`` of segmentation_models_pytorch.
        encoder_channels: Channels of the features of stride 1, 2, 4, 8, 16, 32.
        classes: Number of classes.
        activation: Activation of the output, as in segmentation_models_pytorch.
        decoder_args: Further arguments of the decoder.

    Returns:
        The decoder, from a list of features to one feature map, and the head, from
        there to logits of the size of the input.

    Raises:
        ValueError: If *name* is unknown.
    """
    check_choice('decoder', name, get_args(Decoder))
    channels = list(encoder_channels)
    args = dict(decoder_args or {})
    decoder: nn.Module
    match name:
        case 'mlp':
            decoder = MLPDecoder(channels, **args)
            # SMP's head resizes with aligned corners, the original's doesn't
            head = nn.Sequential(
                nn.Conv2d(args.get('channels', 256), classes, kernel_size=1),
                nn.Upsample(scale_factor=2, mode='bilinear', align_corners=False),
                Activation(activation),
            )
            return decoder, head
        case 'unet':
            width = args.setdefault('decoder_channels', (256, 128, 64, 32, 16))[-1]
            decoder = UnetDecoder(channels, **args)
            return decoder, SegmentationHead(width, classes, 3, activation)
        case 'upernet':
            width = args.setdefault('decoder_channels', 256)
            decoder = UPerNetDecoder(channels, **args)
        case 'segformer':
            width = args.setdefault('segmentation_channels', 256)
            decoder = SegformerDecoder(channels, **args)
        case _:  # 'fpn'
            decoder = FPNDecoder(channels, **args)
            width = decoder.out_channels
    return decoder, SegmentationHead(width, classes, 1, activation, upsampling=4)

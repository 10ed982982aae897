# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Decoders and fusion of the features of two images."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.base.modules import Activation, Conv2dReLU
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import Tensor, nn

from ..checks import Count, CountOrZero, checked

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


@checked
def fuse(f1: Tensor, f2: Tensor, how: Fusion) -> Tensor:
    """Fuse the features of two images.

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
    return _FUSIONS[how](f1, f2)


class MLPDecoder(nn.Module):
    """All-MLP decoder, to go with :class:`MLPHead`.

    Each feature is projected to the same number of channels (1x1 convolution, batch norm,
    ReLU) and resized to half the size of the image. A 1x1 convolution fuses all of them,
    the finest first.

    If you use this decoder in your research, please cite the following papers:

    * https://arxiv.org/abs/2105.15203 (SegFormer)
    * https://doi.org/10.1109/LGRS.2025.3590959
    """

    @checked
    def __init__(
        self, encoder_channels: Sequence[CountOrZero], channels: Count = 256
    ) -> None:
        """Initialize a new MLPDecoder.

        Args:
            encoder_channels: Channels of the features of stride 1, 2, 4, 8, 16, 32. The
                decoder uses those from stride 4 on.
            channels: Channels of the projected features and of the output.
        """
        super().__init__()
        encoder_channels = encoder_channels[2:]
        self.project = nn.ModuleList(
            Conv2dReLU(c, channels, kernel_size=1) for c in encoder_channels
        )
        self.fuse = nn.Conv2d(
            channels * len(encoder_channels), channels, kernel_size=1, bias=False
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Decode the features of an encoder.

        Args:
            features: One tensor ``(B, C, H / stride, W / stride)`` per stride 1, 2, 4,
                8, 16, 32.

        Returns:
            The fused feature, shape ``(B, channels, H / 2, W / 2)``.
        """
        projected = [
            project(feature)
            for project, feature in zip(self.project, features[2:], strict=True)
        ]
        size = [2 * n for n in projected[0].shape[-2:]]
        fused: Tensor = self.fuse(
            torch.cat([resize(x, size) for x in projected], dim=1)
        )
        return fused


class MLPHead(nn.Module):
    """Segmentation head of :class:`MLPDecoder`.

    Batch norm and ReLU, which belong to the convolution that fuses, then a 1x1
    convolution to logits, which are resized to the size of the image.
    """

    @checked
    def __init__(
        self,
        channels: Count,
        classes: Count,
        activation: str | Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Initialize a new MLPHead.

        Args:
            channels: Channels of the fused feature.
            classes: Number of classes.
            activation: Activation of the output, as in segmentation_models_pytorch.
        """
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, classes, kernel_size=1)
        self.upsample = nn.Upsample(
            scale_factor=2, mode='bilinear', align_corners=False
        )
        self.activation = Activation(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Args:
            x: Output of the decoder, shape ``(B, channels, H / 2, W / 2)``.

        Returns:
            Logits, shape ``(B, classes, H, W)``.
        """
        logits = self.conv(F.relu(self.norm(x), inplace=True))
        return cast(Tensor, self.activation(self.upsample(logits)))


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize images bilinearly.

    Args:
        x: Images, shape ``(B, C, H, W)``.
        size: Height and width to resize to.

    Returns:
        Images of that size.
    """
    return F.interpolate(x, [*size], mode='bilinear', align_corners=False)


@checked
def make_decoder(
    name: Decoder,
    encoder_channels: Sequence[int],
    classes: Count,
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
    channels = list(encoder_channels)
    args = dict(decoder_args or {})
    decoder: nn.Module
    match name:
        case 'mlp':
            decoder = MLPDecoder(channels, **args)
            return decoder, MLPHead(args.get('channels', 256), classes, activation)
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

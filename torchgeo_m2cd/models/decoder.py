# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Decoders and fusion of the features of two images."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast, get_args

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
    """All-MLP decoder, to go with :class:`MLPHead`.

    Each feature is projected (1x1 convolution, batch norm, ReLU) to the same number
    of channels, and fused with the others: a 1x1 convolution over the concatenation of
    all of them, resized.

    A 1x1 convolution and a bilinear resize commute. Therefore each feature's share of
    the fusing weights is applied at its own resolution here, and the head sums what it
    resizes: the same for about a twelfth of the arithmetic.

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
        self.fuse = nn.Conv2d(
            channels * len(encoder_channels), channels, kernel_size=1, bias=False
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Decode the features of an encoder.

        Args:
            features: One tensor ``(B, C, H / stride, W / stride)`` per stride 1, 2, 4,
                8, 16, 32.

        Returns:
            What each feature from stride 4 on adds to the fused one, of shape
            ``(B, channels, H / stride, W / stride)``.
        """
        return [
            F.conv2d(project(feature), weight)
            for feature, project, weight in zip(
                features[2:],
                self.project,
                self.fuse.weight.chunk(len(self.project), dim=1),
                strict=True,
            )
        ]


class MLPHead(nn.Module):
    """Segmentation head of :class:`MLPDecoder`.

    The maps are resized to twice the size of the first, half that of the image, and
    added up. Batch norm, ReLU and a 1x1 convolution turn the sum into logits, which
    are resized to the size of the image.

    The sum is by far the largest tensor of the model. Up to the convolution, channels
    are apart from each other: a CPU, where memory that the system hands out anew costs
    more than the arithmetic, computes a few of them at a time, and sums up logits.
    """

    #: Elements of the sum that a CPU computes at once.
    block_size = 2**19

    def __init__(
        self,
        channels: int,
        classes: int,
        activation: str | Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Initialize a new MLPHead.

        Args:
            channels: Channels of the maps.
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

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Compute the logits.

        Args:
            maps: Output of the decoder, of shape ``(B, channels, H / stride,
                W / stride)`` per stride, the first 4.

        Returns:
            Logits, shape ``(B, classes, H, W)``.
        """
        # Another norm, put here by the user, or one without running statistics
        own_norm = type(self.norm) is nn.BatchNorm2d and self.norm.track_running_stats
        if (
            maps[0].device.type != 'cpu'
            or torch.compiler.is_compiling()
            or not own_norm
        ):
            logits = self.conv(F.relu_(self.norm(_resize_sum(maps))))
        else:
            logits = self._classify_blocks(maps)
        return cast(Tensor, self.activation(self.upsample(logits)))

    def _classify_blocks(self, maps: Sequence[Tensor]) -> Tensor:
        """Resize, add and classify the maps a few channels at a time."""
        norm, conv = self.norm, self.conv
        pixels = 4 * maps[0][:, 0].numel()
        size = max(self.block_size // pixels, 16)  # As many as are fast to resize
        split = functools.partial(torch.chunk, chunks=-(-norm.num_features // size))
        # Of what torch.chunk returns, the gradient is not as large as all channels
        blocks = zip(
            zip(*(split(x, dim=1) for x in maps), strict=True),
            split(norm.get_buffer('running_mean')),
            split(norm.get_buffer('running_var')),
            split(norm.weight),
            split(norm.bias),
            split(conv.weight, dim=1),
            strict=True,
        )
        momentum = cast(float, norm.momentum)
        parts: list[Tensor] = []
        for block, mean, var, scale, shift, weight in blocks:
            x = _resize_sum(block)
            x = F.batch_norm(
                x, mean, var, scale, shift, self.training, momentum, norm.eps
            )
            parts.append(F.conv2d(F.relu_(x), weight))
        if self.training:
            norm.get_buffer('num_batches_tracked').add_(1)
        bias = conv.get_parameter('bias')[:, None, None]
        return (torch.stack(parts).sum(dim=0) + bias).to(parts[0].dtype)


def _resize_sum(maps: Sequence[Tensor]) -> Tensor:
    """Resize maps to twice the size of the first, and add them up."""
    height, width = maps[0].shape[-2:]
    resize = functools.partial(
        F.interpolate,
        size=(2 * height, 2 * width),
        mode='bilinear',
        align_corners=False,
    )
    # Other layouts are many times slower to resize
    layout = (
        torch.channels_last if maps[0].device.type == 'cpu' else torch.preserve_format
    )
    images = (resize(x.contiguous(memory_format=layout)) for x in maps)
    return functools.reduce(Tensor.add_, images)


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

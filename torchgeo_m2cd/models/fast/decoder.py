# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""The MLP decoder and its head: fuse before resizing, a few channels at a time."""

import functools
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..decoder import MLPDecoder, MLPHead, resize
from .stand_in import StandIn


class FastMLPDecoder(StandIn, MLPDecoder):
    """:class:`MLPDecoder` that fuses each feature at its own resolution.

    A 1x1 convolution and a bilinear resize commute, and a convolution over channels that
    are concatenated is a sum. So each feature meets its share of the fusing weights before
    it is resized, which :class:`FastMLPHead` does: a twelfth of the arithmetic.
    """

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:  # type: ignore[override]
        """Decode the features of an encoder.

        Args:
            features: One tensor ``(B, C, H / stride, W / stride)`` per stride 1, 2, 4,
                8, 16, 32.

        Returns:
            Maps that add up to the fused feature when they are resized: one per feature
            from stride 4 on, of shape ``(B, channels, H / stride, W / stride)``.
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


class FastMLPHead(StandIn, MLPHead):
    """:class:`MLPHead` that resizes the maps of :class:`FastMLPDecoder` and adds them up.

    The sum is by far the largest tensor of the model. Up to the convolution, channels do
    not depend on each other. A CPU, where fresh memory from the system costs more than the
    arithmetic, computes a few channels at a time, and sums up logits.
    """

    #: Elements of the sum that a CPU computes at once.
    block_size = 2**19

    def forward(self, maps: Sequence[Tensor]) -> Tensor:  # type: ignore[override]
        """Compute the logits.

        Args:
            maps: Output of the decoder, of shape ``(B, channels, H / stride,
                W / stride)`` per stride, the first 4.

        Returns:
            Logits, shape ``(B, classes, H, W)``.
        """
        # The user may have put another norm here, or one without running statistics
        own_norm = type(self.norm) is nn.BatchNorm2d and self.norm.track_running_stats
        on_cpu = maps[0].device.type == 'cpu'
        if not on_cpu or torch.compiler.is_compiling() or not own_norm:
            return super().forward(_resize_sum(maps))
        logits = self._classify_blocks(maps)
        return cast(Tensor, self.activation(self.upsample(logits)))

    def _classify_blocks(self, maps: Sequence[Tensor]) -> Tensor:
        """Resize, add and classify the maps a few channels at a time."""
        norm, conv = self.norm, self.conv
        pixels = 4 * maps[0][:, 0].numel()
        size = max(self.block_size // pixels, 16)  # Fewer are slow to resize
        # The gradient of a chunk is not as large as all channels, that of a slice is
        split = functools.partial(torch.chunk, chunks=-(-norm.num_features // size))
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
    height, width = (2 * n for n in maps[0].shape[-2:])
    if maps[0].device.type != 'cpu':
        return _multiply_sum(maps, height, width)
    # A CPU is many times slower in other layouts
    maps = [x.contiguous(memory_format=torch.channels_last) for x in maps]
    return functools.reduce(Tensor.add_, (resize(x, [height, width]) for x in maps))


def _multiply_sum(maps: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Resize maps and add them up, as products with the matrices of the resize.

    A GPU multiplies matrices many times faster than it computes where each value comes
    from: first each map by its columns, then all of them at once by their rows. The sum
    has the shape ``(B, channels, height, width)``, channels last.
    """
    images = [x.permute(0, 2, 3, 1) for x in maps]
    wide = [
        _resize_matrix(x.shape[2], width, x).expand(len(x) * x.shape[1], -1, -1)
        @ x.flatten(0, 1)
        for x in images
    ]
    rows = [y.view(len(x), x.shape[1], -1) for x, y in zip(images, wide, strict=True)]
    matrix = torch.cat([_resize_matrix(x.shape[1], height, x) for x in images], dim=1)
    total = matrix.expand(len(maps[0]), -1, -1) @ torch.cat(rows, dim=1)
    return total.view(len(total), height, width, -1).permute(0, 3, 1, 2)


def _resize_matrix(size: int, new_size: int, like: Tensor) -> Tensor:
    """Make the matrix, of shape ``(new_size, size)``, that resizes bilinearly."""
    eye = torch.eye(size, dtype=like.dtype, device=like.device)[None]
    return F.interpolate(eye, new_size, mode='linear', align_corners=False)[0].T

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Linear layers that are fast on any CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply :func:`torch.nn.functional.linear`, on a CPU as a 1x1 convolution.

    The result is the same. In single precision, PyTorch gives matrix products to MKL,
    which does without AVX-512 on processors that are not Intel's, and convolutions to
    oneDNN, which doesn't: on an AMD EPYC it is 1.5 to 2 times as fast.

    Args:
        x: Input of shape ``(..., in_features)``.
        weight: Weight of shape ``(out_features, in_features)``.
        bias: Bias of shape ``(out_features)``, if any.

    Returns:
        Output of shape ``(..., out_features)``.
    """
    if (
        x.device.type != 'cpu'
        or x.dtype != torch.float32
        or weight.dtype != torch.float32
        or torch.is_autocast_enabled('cpu')
        or x.numel() == 0
        or torch.compiler.is_exporting()
    ):
        return F.linear(x, weight, bias)
    # An image of one column: channels_last as it lies in memory, without a copy
    image = x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    y = F.conv2d(image, weight[:, :, None, None], bias)
    return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))


class Linear(nn.Linear):
    """Linear layer that applies :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            x: Input of shape ``(..., in_features)``.

        Returns:
            Output of shape ``(..., out_features)``.
        """
        return linear(x, self.weight, self.bias)

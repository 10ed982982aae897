# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Linear layers, as 1x1 convolutions on a CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from .stand_in import StandIn


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply :func:`torch.nn.functional.linear`, on a CPU as a 1x1 convolution.

    The result is the same. In single precision, PyTorch computes matrix products with
    MKL, which is slow on some processors that are not Intel's, and convolutions with
    oneDNN. On an AMD EPYC (Zen 5) a convolution is 1.5 to 2 times as fast.

    Args:
        x: Input of shape ``(..., in_features)``.
        weight: Weight of shape ``(out_features, in_features)``.
        bias: Bias of shape ``(out_features)``, if any.

    Returns:
        Output of shape ``(..., out_features)``.
    """
    if not _as_convolution(x, weight):
        return F.linear(x, weight, bias)
    y = F.conv2d(_as_image(x), weight[:, :, None, None], bias)
    # By way of a matrix: PyTorch reads memory formats from strides, and those of a
    # single image that is reshaped would be ambiguous
    return y.permute(0, 2, 3, 1).flatten(0, 2).view(*x.shape[:-1], len(weight))


def linear_weight_grad(x: Tensor, grad: Tensor) -> Tensor:
    """Compute the gradient of the weight of :func:`linear`.

    Args:
        x: Input of shape ``(N, in_features)``.
        grad: Gradient of the output, of shape ``(N, out_features)``.

    Returns:
        Gradient of shape ``(out_features, in_features)``.
    """
    if not _as_convolution(x, grad):
        return grad.T @ x
    size = (grad.shape[1], x.shape[1], 1, 1)
    weight: Tensor = conv2d_weight(_as_image(x), size, _as_image(grad))  # type: ignore[no-untyped-call]
    return weight[:, :, 0, 0]


def is_exporting() -> bool:
    """Tell whether a model is exported; in PyTorch 2.11, compiled models say so, too."""
    return torch.compiler.is_exporting() and not torch.compiler.is_dynamo_compiling()


def _as_convolution(x: Tensor, other: Tensor) -> bool:
    """Whether a convolution is the faster way to multiply."""
    return (
        x.device.type == 'cpu'
        and x.dtype == other.dtype == torch.float32
        and not torch.is_autocast_enabled('cpu')
        and x.numel() > 0
        and not is_exporting()
    )


def _as_image(x: Tensor) -> Tensor:
    """View rows as an image of one column, channels_last without a copy."""
    return x.reshape(1, -1, 1, x.shape[-1]).permute(0, 3, 1, 2)


class FastLinear(StandIn, nn.Linear):
    """Linear layer that applies :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            x: Input of shape ``(..., in_features)``.

        Returns:
            Output of shape ``(..., out_features)``.
        """
        return linear(x, self.weight, self.bias)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch
from segmentation_models_pytorch.encoders.mix_transformer import Attention, DWConv
from torch import Tensor, nn

from torchgeo_m2cd.models.fast.mix_transformer import ChannelsLastDWConv, FusedAttention
from torchgeo_m2cd.models.fast.stand_in import StandIn

HEIGHT, WIDTH = 8, 12


def outputs(
    layer: nn.Module, faster: type[StandIn], images: int
) -> list[tuple[Tensor, ...]]:
    """Return the outputs and gradients of the layer and of its stand-in."""
    torch.manual_seed(0)
    layer = layer.double()
    x = torch.randn(images, HEIGHT * WIDTH, 16, dtype=torch.float64, requires_grad=True)
    results = []
    inputs = [x, *layer.parameters()]
    for form in (layer, faster.take_over(layer)):
        torch.manual_seed(1)  # the same dropout
        output = form(x, HEIGHT, WIDTH)  # type: ignore[operator]
        results.append((output, *torch.autograd.grad(output.square().sum(), inputs)))
    return results


@pytest.mark.parametrize('images', [1, 3])
@pytest.mark.parametrize('sr_ratio', [1, 4])
@pytest.mark.parametrize('training', [True, False])
def test_attention(images: int, sr_ratio: int, training: bool) -> None:
    layer = Attention(16, num_heads=2, sr_ratio=sr_ratio).train(training)
    torch.testing.assert_close(*outputs(layer, FusedAttention, images))


@pytest.mark.parametrize('images', [1, 3])
def test_dwconv(images: int) -> None:
    torch.testing.assert_close(*outputs(DWConv(16), ChannelsLastDWConv, images))

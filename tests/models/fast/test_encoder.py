# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch

from torchgeo_m2cd.models import MoEEncoder, accelerate
from torchgeo_m2cd.models.fast.encoder import FastMoEEncoder


@pytest.mark.parametrize('name', ['mit_b0', 'resnet18', 'tu-convnext_atto'])
def test_few_images_at_a_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = accelerate(MoEEncoder(name).eval())
    assert isinstance(encoder, FastMoEEncoder)
    images = torch.randn(2, 3, 3, 64, 64)
    expected = encoder(*images)
    # Two images at a time in the first stage, more in later stages
    monkeypatch.setattr(encoder, 'block_size', 2 * expected.features[2][0, 0].numel())
    output = encoder(*images)
    torch.testing.assert_close(output.features, expected.features)
    torch.testing.assert_close(output.balance_loss, expected.balance_loss)


def test_layout_of_a_single_pair() -> None:
    """Convolutions, and what fuses the features, are slower in the other layout."""
    encoder = accelerate(MoEEncoder('tu-resnet18', in_channels=(1, 3)).eval())
    layouts = []
    for module in encoder.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(
                lambda _module, _inputs, output: layouts.append(
                    output.is_contiguous(memory_format=torch.channels_last)
                )
            )
    with torch.no_grad():
        features = encoder(
            torch.randn(1, 1, 64, 64), torch.randn(1, 3, 64, 64)
        ).features
    assert layouts
    assert all(layouts)
    for first, second in features[1:]:
        fused = torch.cat((first, second), dim=1)
        assert fused.is_contiguous(memory_format=torch.channels_last)

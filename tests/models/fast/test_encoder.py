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

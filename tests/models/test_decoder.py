# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch
import torch.nn.functional as F

from torchgeo_m2cd.models import MLPDecoder


@pytest.mark.parametrize('training', [True, False])
def test_same_as_resize_before_fusing(training: bool) -> None:
    channels = [6, 0, 8, 12, 16, 20]
    decoder = MLPDecoder(channels, channels=10).double().train(training)
    for module in decoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -1, 1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    features = [
        torch.randn(2, c, 64 // 2**i, 96 // 2**i, dtype=torch.float64)
        for i, c in enumerate(channels)
    ]
    output = decoder(features)

    resized = [
        F.interpolate(project(f), size=(32, 48), mode='bilinear', align_corners=False)
        for project, f in zip(decoder.project, features[2:], strict=True)
    ]
    expected = decoder.fuse(torch.cat(resized, dim=1))
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)

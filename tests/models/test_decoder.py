# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import copy
import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from torchgeo_m2cd.models import MLPDecoder, MLPHead, fuse, make_decoder


@pytest.mark.parametrize(
    ('training', 'block_size'),
    # All 40 channels at once, two blocks, and as many as can be
    list(itertools.product([True, False], [2**20, 2 * 32 * 48 * 20, 1])),
)
@pytest.mark.parametrize('compiled', [False, True])
def test_same_as_resize_before_fusing(
    training: bool, block_size: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels = [6, 0, 8, 12, 16, 20]
    decoder, head = (
        m.double().train(training)
        for m in make_decoder('mlp', channels, 3, decoder_args={'channels': 40})
    )
    assert isinstance(decoder, MLPDecoder)
    assert isinstance(head, MLPHead)
    monkeypatch.setattr(head, 'block_size', block_size)
    monkeypatch.setattr(torch.compiler, 'is_compiling', lambda: compiled)
    for module in [*decoder.modules(), *head.modules()]:
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean = torch.rand(40, dtype=torch.float64)
            module.running_var = torch.rand(40, dtype=torch.float64) + 0.5
    features = [
        torch.randn(2, c, 64 // 2**i, 96 // 2**i, dtype=torch.float64)
        for i, c in enumerate(channels)
    ]
    tracked = copy.deepcopy(head.norm)
    output = head(decoder(features))

    resized = [
        F.interpolate(project(f), size=(32, 48), mode='bilinear', align_corners=False)
        for project, f in zip(decoder.project, features[2:], strict=True)
    ]
    fused = tracked(decoder.fuse(torch.cat(resized, dim=1))).relu()
    expected = F.interpolate(
        head.conv(fused), scale_factor=2, mode='bilinear', align_corners=False
    )
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(head.norm.state_dict(), tracked.state_dict())

    parameters = [*decoder.parameters(), *head.conv.parameters()]
    grads, expected_grads = (
        torch.autograd.grad(y.square().sum(), [*parameters, *norm.parameters()])
        for y, norm in ((output, head.norm), (expected, tracked))
    )
    torch.testing.assert_close(grads, expected_grads, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ('how', 'expected'),
    [
        ('concat', [1.0, -2.0, 4.0, 3.0]),
        ('diff', [3.0, 5.0]),
        ('abs_diff', [3.0, 5.0]),
        ('sum', [5.0, 1.0]),
    ],
)
def test_fuse(how: Any, expected: list[float]) -> None:
    f1, f2 = (torch.tensor(v).reshape(1, 2, 1, 1) for v in ([1.0, -2.0], [4.0, 3.0]))
    assert fuse(f1, f2, how).flatten().tolist() == expected
    sign = -1 if how == 'diff' else 1
    if how != 'concat':
        assert fuse(f2, f1, how).flatten().tolist() == [sign * v for v in expected]


def test_unknown_fusion() -> None:
    with pytest.raises(ValueError, match="unknown fusion 'dif', did you mean 'diff'"):
        fuse(torch.zeros(1), torch.zeros(1), 'dif')  # type: ignore[arg-type]


@pytest.mark.parametrize('name', ['mlp', 'unet', 'upernet', 'segformer', 'fpn'])
@pytest.mark.parametrize('channels', [[0, 0, 8, 16, 24, 32], [0, 4, 8, 16, 24, 32]])
def test_make_decoder(name: Any, channels: list[int]) -> None:
    decoder, head = make_decoder(name, channels, classes=3)
    features = [
        torch.randn(2, c, 64 // 2**i, 96 // 2**i) for i, c in enumerate(channels)
    ]
    logits = head(decoder(features))
    assert logits.shape == (2, 3, 64, 96)
    logits.sum().backward()
    assert all(p.grad is not None for p in decoder.parameters())


def test_decoder_args() -> None:
    _, head = make_decoder(
        'fpn', [0, 0, 8, 8, 8, 8], 1, 'sigmoid', {'segmentation_channels': 64}
    )
    assert isinstance(head, torch.nn.Sequential)
    assert head[0].in_channels == 64
    with pytest.raises(
        ValueError, match="unknown decoder 'unett', did you mean 'unet'"
    ):
        make_decoder('unett', [0], 1)  # type: ignore[arg-type]

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from typing import Any

import pytest
import torch

from torchgeo_m2cd.models.decoder import fuse, make_decoder


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
    with pytest.raises(ValueError, match="unknown how 'dif', did you mean 'diff'"):
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
    with pytest.raises(ValueError, match="unknown name 'unett', did you mean 'unet'"):
        make_decoder('unett', [0], 1)  # type: ignore[arg-type]

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import copy
import itertools

import pytest
import torch

from torchgeo_m2cd.models.decoder import make_decoder, resize
from torchgeo_m2cd.models.fast import accelerate
from torchgeo_m2cd.models.fast.decoder import FastMLPDecoder, FastMLPHead, _multiply_sum


@pytest.mark.parametrize(
    ('training', 'block_size'),
    # One block of all 40 channels, two blocks, and as many blocks as possible
    list(itertools.product([True, False], [2**20, 2 * 32 * 48 * 20, 1])),
)
@pytest.mark.parametrize('compiled', [False, True])
def test_same_as_plain(
    training: bool, block_size: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels = [6, 0, 8, 12, 16, 20]
    plain = torch.nn.Sequential(
        *make_decoder('mlp', channels, 3, decoder_args={'channels': 40})
    )
    plain.double().train(training)
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean = torch.rand(40, dtype=torch.float64)
            module.running_var = torch.rand(40, dtype=torch.float64) + 0.5
    fast = accelerate(copy.deepcopy(plain))
    decoder, head = fast
    assert isinstance(decoder, FastMLPDecoder)
    assert isinstance(head, FastMLPHead)
    monkeypatch.setattr(head, 'block_size', block_size)
    monkeypatch.setattr(torch.compiler, 'is_compiling', lambda: compiled)
    features = [
        torch.randn(2, c, 64 // 2**i, 96 // 2**i, dtype=torch.float64)
        for i, c in enumerate(channels)
    ]
    results = []
    for model in (fast, plain):
        output = model(features)
        grads = torch.autograd.grad(output.square().sum(), list(model.parameters()))
        results.append((output, grads, model.state_dict()))
    output, expected = results
    torch.testing.assert_close(output[0], expected[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(output[1], expected[1], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(output[2], expected[2])


def test_resize_by_products() -> None:
    # As a GPU does it, with gradients
    maps = [
        torch.randn(2, 5, 24 // 2**i, 32 // 2**i, dtype=torch.float64).requires_grad_()
        for i in range(4)
    ]
    expected = torch.stack([resize(x, [48, 64]) for x in maps]).sum(dim=0)
    total = _multiply_sum(maps, 48, 64)
    torch.testing.assert_close(total, expected, rtol=0, atol=1e-12)
    assert total.is_contiguous(memory_format=torch.channels_last)
    grads = [torch.autograd.grad(y.square().sum(), maps) for y in (total, expected)]
    torch.testing.assert_close(*grads, rtol=0, atol=1e-10)

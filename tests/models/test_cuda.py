# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""GPU and CPU give the same results."""

import copy

import pytest
import torch

from torchgeo_m2cd.models import M2CD, MixtureOfExperts, accelerate

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason='needs a CUDA device'
)


@pytest.mark.parametrize('encoder', ['mit_b0', 'resnet18'])
def test_forward(encoder: str) -> None:
    model = M2CD(encoder).eval()
    image = torch.randn(2, 2, 3, 64, 64)
    with torch.no_grad():
        expected = model(image)
        logits = copy.deepcopy(model).cuda()(image.cuda())
    torch.testing.assert_close(logits.cpu(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize('compiled', [False, True])
def test_grouped(compiled: bool) -> None:
    moe = accelerate(MixtureOfExperts(64).eval())
    x = torch.randn(2, 300, 64)
    expected = moe(x)
    on_gpu = copy.deepcopy(moe).cuda()
    run = torch.compile(on_gpu, fullgraph=True) if compiled else on_gpu
    torch.cuda.set_sync_debug_mode('default' if compiled else 'error')
    try:
        with torch.autocast('cuda', dtype=torch.bfloat16):
            output = run(x.cuda())
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert output.tokens.dtype == torch.bfloat16
    torch.testing.assert_close(output.gates.cpu(), expected.gates, rtol=0, atol=1e-3)
    torch.testing.assert_close(
        output.tokens.float().cpu(), expected.tokens, rtol=0.05, atol=0.05
    )

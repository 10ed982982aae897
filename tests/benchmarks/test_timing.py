# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import Case, Work, count_work, make_step


def test_work_of_layers() -> None:
    x, weight = torch.randn(6, 8), torch.randn(4, 8)
    image = torch.randn(2, 8, 5, 5, requires_grad=True)
    conv = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    with torch.inference_mode(), Work() as linear:
        F.linear(x, weight)
    # Two operations per product, and single precision
    assert linear.calls == [(2 * 6 * 8 * 4, 4 * (6 * 8 + 8 * 4 + 6 * 4))]
    with Work() as forward:
        output = conv(image)
    with Work() as backward:
        output.sum().backward()
    flops = 2 * output.numel() * 9
    assert [flops for flops, _ in forward.calls] == [flops]
    # Gradients of the image and of the weight
    assert [flops for flops, _ in backward.calls] == [2 * flops]


def test_roofline() -> None:
    work = Work()
    work.calls = [(100, 10), (100, 1000)]
    # The first is limited by the arithmetic, the second by the memory
    assert work.seconds(10, 100) == 100 / 10 + 1000 / 100
    assert work.gmac() == pytest.approx(100e-9)


def test_work_of_model() -> None:
    case = Case('inference', encoder='mit_b0', batch=1, size=64)
    step = make_step(case)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        step()
    assert count_work(case).gmac() == pytest.approx(counter.get_total_flops() / 2e9)

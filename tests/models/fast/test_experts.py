# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from torchgeo_m2cd.models import MixtureOfExperts
from torchgeo_m2cd.models.fast import accelerate
from torchgeo_m2cd.models.fast.experts import FastMixtureOfExperts, sparse_experts


def make(dim: int, **kwargs: Any) -> FastMixtureOfExperts:
    moe = accelerate(MixtureOfExperts(dim, **kwargs))
    assert isinstance(moe, FastMixtureOfExperts)
    return moe


class TestFastMixtureOfExperts:
    @pytest.mark.parametrize('top_k', [1, 2, 4])
    @pytest.mark.parametrize('form', ['_mix_grouped', '_mix_sparse'])
    def test_forms_are_the_same(self, form: str, top_k: int) -> None:
        moe = make(8, top_k=top_k)
        x = torch.randn(60, 8, requires_grad=True)
        gates, _ = moe.route(x)
        # For k = 1, no token chooses the first expert
        gates = gates.detach()
        if top_k == 1:
            gates = torch.eye(4)[torch.randint(1, 4, (60,))]
        parameters = [x, *moe.fc1.parameters(), *moe.fc2.parameters()]
        results = []
        for mix in (getattr(FastMixtureOfExperts, form), MixtureOfExperts.mix):
            tokens = mix(moe, x, gates)
            gradients = torch.autograd.grad(tokens.square().sum(), parameters)
            results.append((tokens, *gradients))
        torch.testing.assert_close(*results)

    # Blocks of 1 token, of 32 (with padding in the last), of 64, and of all tokens
    @pytest.mark.parametrize('block_size', [1, 32 * 6, 64 * 6, 2**20])
    def test_gradients(self, block_size: int) -> None:
        moe = make(3, num_experts=3, expansion=2).double()
        moe.block_size = block_size
        x = torch.randn(70, 3, dtype=torch.float64, requires_grad=True)
        share = torch.rand(70, 3, dtype=torch.float64, requires_grad=True)
        chosen = torch.rand(70, 3) < torch.tensor([0.9, 0.3, 0.0])

        def mix(x: Tensor, share: Tensor, *_: Tensor) -> Tensor:
            return moe._mix_sparse(x, torch.where(chosen, share + 0.1, 0.0))

        experts = [*moe.fc1.parameters(), *moe.fc2.parameters()]
        assert torch.autograd.gradcheck(mix, (x, share, *experts), fast_mode=True)

    def test_grouped_in_bfloat16(self) -> None:
        moe = make(16).eval()
        x = torch.randn(500, 16)
        gates, _ = moe.route(x)
        expected = MixtureOfExperts.mix(moe, x, gates)
        tokens = moe._mix_grouped(x.bfloat16(), gates)
        assert tokens.dtype == torch.bfloat16
        torch.testing.assert_close(tokens.float(), expected, rtol=0.05, atol=0.02)

    def test_exported_is_the_same(self, monkeypatch: pytest.MonkeyPatch) -> None:
        moe = make(8).eval()
        x = torch.randn(2, 30, 8)
        expected = moe(x).tokens
        monkeypatch.setattr(torch.compiler, 'is_exporting', lambda: True)
        torch.testing.assert_close(moe(x).tokens, expected)

    # Compiled with 'aot_eager', which also traces the backward pass
    @pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
    def test_compiled_is_the_same(self, dtype: torch.dtype) -> None:
        moe = make(8, noisy=False)
        x = torch.randn(2, 30, 8, requires_grad=True)
        results = []
        for form in (torch.compile(moe, fullgraph=True, backend='aot_eager'), moe):
            with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
                tokens = form(x).tokens
            gradients = torch.autograd.grad(
                tokens.float().square().sum(), [x, *moe.parameters()], allow_unused=True
            )
            assert tokens.dtype == dtype
            results.append([tokens, *(g for g in gradients if g is not None)])
        # Including the gradients of the gate
        assert len(results[0]) == 1 + 1 + len(list(moe.parameters()))
        atol = 1e-6 if dtype == torch.float32 else 1e-2
        torch.testing.assert_close(*results, rtol=1e-2, atol=atol)

    def test_flops(self) -> None:
        moe = make(8, expansion=3)
        x = torch.randn(30, 8, requires_grad=True)
        gates = moe.route(x)[0].detach()
        counts = []
        for form in (MixtureOfExperts.mix, FastMixtureOfExperts.mix):
            with FlopCounterMode(display=False) as forward:
                tokens = form(moe, x, gates)
            with FlopCounterMode(display=False) as backward:
                tokens.sum().backward()
            counts.append((forward.get_total_flops(), backward.get_total_flops()))
        dense, sparse = counts
        products = 2 * 30 * 2 * (2 * 8 * 24)  # two products, two experts per token
        assert sparse == (products, 2.5 * products)  # recomputes hidden values
        shares = 2 * 30 * 4 * 8  # of the biases of four experts
        assert dense == (2 * products + shares, 2 * (2 * products) + shares)

    def test_operator(self) -> None:
        moe = make(8)
        x = torch.randn(30, 8, requires_grad=True)
        gates = moe.route(x)[0].detach().requires_grad_()
        experts = [*moe.fc1.parameters(), *moe.fc2.parameters()]
        torch.library.opcheck(sparse_experts, (x, gates, *experts, 7))

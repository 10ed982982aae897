# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import inspect
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from tests.data.reference import tensors
from torchgeo_m2cd.models import CosineGate, Experts, MixtureOfExperts
from torchgeo_m2cd.models.fast import accelerate

REFERENCE = Path(__file__).parents[1] / 'data' / 'reference'


def plain_cv_squared(v: Tensor) -> Tensor:
    mean = v.sum() / len(v)
    variance = ((v - mean) ** 2).sum() / (len(v) - 1)
    return variance / (mean**2 + 1e-10)


def plain_moe(moe: MixtureOfExperts, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Apply the formulas to each token, with the parameters of the layer."""
    k = moe.top_k
    output = torch.zeros_like(x)
    importance = x.new_zeros(moe.num_experts)
    load = x.new_zeros(moe.num_experts)
    for n, token in enumerate(x):
        if isinstance(moe.gate, CosineGate):
            projected = moe.gate.proj.weight @ token + moe.gate.proj.bias
            directions = moe.gate.experts / moe.gate.experts.norm(dim=0)
            logits = projected / projected.norm() @ directions
            logits = logits * math.exp(min(moe.gate.temperature.item(), math.log(100)))
        else:
            logits = moe.gate.weight @ token
        noisy = logits
        if moe.training and moe.noise is not None:
            sigma = torch.log1p(torch.exp(moe.noise.weight @ token)) + 0.01
            noisy = logits + noise[n] * sigma
        order = sorted(range(moe.num_experts), key=lambda e: -noisy[e].item())
        total = sum(noisy[e].exp() for e in order[:k])
        for e in order[:k]:
            gate = noisy[e].exp() / total
            importance[e] += gate
            hidden = moe.fc1.weight[e] @ token + moe.fc1.bias[e]
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
            output[n] += gate * (moe.fc2.weight[e] @ hidden + moe.fc2.bias[e])
        for rank, e in enumerate(order):
            if moe.training and moe.noise is not None and k < moe.num_experts:
                threshold = noisy[order[k]] if rank < k else noisy[order[k - 1]]
                z = (logits[e] - threshold) / sigma[e]
                load[e] += 0.5 * (1 + torch.erf(z / math.sqrt(2)))
            else:
                load[e] += rank < k
    return output, plain_cv_squared(importance) + plain_cv_squared(load)


@pytest.fixture
def reference_layer() -> MixtureOfExperts:
    shapes = json.loads((REFERENCE / 'moe_layer.state_dict.json').read_text())
    weights = {
        name: torch.from_numpy(tensors.weight(name, tuple(shape), 'm2cd-layer'))
        for name, shape in shapes.items()
    }
    moe = MixtureOfExperts(32)
    state_dict = {
        'gate.proj.weight': weights['w_gate.cosine_projector.weight'],
        'gate.proj.bias': weights['w_gate.cosine_projector.bias'],
        'gate.experts': weights['w_gate.sim_matrix'],
        'gate.temperature': weights['w_gate.temperature'],
        'noise.weight': weights['w_noise'].T,
    }
    for layer in ('fc1', 'fc2'):
        for leaf in ('weight', 'bias'):
            state_dict[f'{layer}.{leaf}'] = torch.stack(
                [
                    weights[f'experts.{e}.pointwise_conv{layer[-1]}.{leaf}']
                    for e in range(4)
                ]
            )
    moe.load_state_dict(state_dict)
    return moe


class TestMixtureOfExperts:
    @pytest.mark.parametrize('fast', [False, True])
    @pytest.mark.parametrize('mode', ['train', 'eval'])
    def test_original(
        self, reference_layer: MixtureOfExperts, mode: str, fast: bool
    ) -> None:
        if fast:
            reference_layer = accelerate(reference_layer)
        expected = load_file(REFERENCE / 'moe_layer.safetensors')
        image = tensors.image('tokens', (1, 1, 96, 32), 'm2cd-layer')
        reference_layer.train(mode == 'train')
        output = reference_layer(torch.from_numpy(image[0, 0]), expected['noise'])
        close = torch.testing.assert_close
        close(output.gates, expected[f'{mode}.gates'], rtol=0, atol=1e-6)
        close(output.tokens, expected[f'{mode}.output'], rtol=0, atol=2e-6)
        loss = 0.01 * output.balance_loss
        close(loss.reshape(1), expected[f'{mode}.loss'], rtol=1e-5, atol=0)

    @pytest.mark.parametrize('fast', [True, False])
    @pytest.mark.parametrize('training', [True, False])
    @pytest.mark.parametrize('noisy', [True, False])
    @pytest.mark.parametrize('gate', ['cosine', 'linear'])
    @pytest.mark.parametrize(('num_experts', 'top_k'), [(4, 2), (3, 1), (2, 2), (5, 4)])
    def test_formulas(
        self,
        num_experts: int,
        top_k: int,
        gate: str,
        noisy: bool,
        training: bool,
        fast: bool,
    ) -> None:
        torch.manual_seed(0)
        moe = MixtureOfExperts(6, num_experts, top_k, 2, gate, noisy)  # type: ignore[arg-type]
        moe = moe.double().train(training)
        if fast:
            moe = accelerate(moe)
        if moe.noise is not None:
            torch.nn.init.normal_(moe.noise.weight)
        x = torch.randn(20, 6, dtype=torch.float64)
        noise = torch.randn(20, num_experts, dtype=torch.float64)
        output = moe(x, noise)
        tokens, balance_loss = plain_moe(moe, x, noise)
        torch.testing.assert_close(output.tokens, tokens, rtol=0, atol=1e-12)
        torch.testing.assert_close(output.balance_loss, balance_loss)
        torch.testing.assert_close(output.gates.sum(-1), torch.ones_like(x[:, 0]))
        assert ((output.gates > 0).sum(-1) == top_k).all()

    def test_one_expert(self) -> None:
        moe = MixtureOfExperts(4, num_experts=1, top_k=1)
        x = torch.randn(3, 4)
        output = moe(x)
        hidden = F.gelu(F.linear(x, moe.fc1.weight[0], moe.fc1.bias[0]))
        expected = F.linear(hidden, moe.fc2.weight[0], moe.fc2.bias[0])
        torch.testing.assert_close(output.tokens, expected)
        assert output.balance_loss == 0

    def test_leading_dimensions_are_balanced_separately(self) -> None:
        moe = MixtureOfExperts(8).eval()
        x = torch.randn(2, 50, 8)
        both, first, second = moe(x), moe(x[0]), moe(x[1])
        torch.testing.assert_close(
            both.balance_loss, first.balance_loss + second.balance_loss
        )
        torch.testing.assert_close(both.tokens[1], second.tokens)

    def test_fresh_noise_spreads_tokens(self) -> None:
        moe = MixtureOfExperts(8, num_experts=4, top_k=1)
        x = torch.ones(4000, 8)
        moe.eval()
        assert (moe(x).gates.sum(0) > 0).sum() == 1
        moe.train()
        # Simulate the shares of the experts under noise of a known scale
        with torch.no_grad():
            sigma = math.log(2) + 0.01
            logits = moe.gate(x[0])
            winners = (logits + sigma * torch.randn(100_000, 4)).argmax(1)
            expected = winners.bincount(minlength=4) / 100_000
            share = moe(x).gates.sum(0) / 4000
        torch.testing.assert_close(share, expected, rtol=0, atol=0.05)

    @pytest.mark.parametrize('fast', [False, True])
    def test_every_parameter_has_a_gradient(self, fast: bool) -> None:
        moe = MixtureOfExperts(8, num_experts=4, top_k=1, noisy=False)
        moe = accelerate(moe) if fast else moe
        output = moe(torch.ones(5, 8))  # one expert gets all tokens
        (output.tokens.sum() + output.balance_loss).backward()
        assert all(p.grad is not None for p in moe.parameters())
        unused = (output.gates.sum(0) == 0).nonzero()
        assert len(unused) == 3
        assert (moe.fc1.weight.grad[unused] == 0).all()  # type: ignore[index]

    @pytest.mark.parametrize('fast', [False, True])
    def test_autocast_keeps_routing(self, fast: bool) -> None:
        moe = MixtureOfExperts(16).eval()
        moe = accelerate(moe) if fast else moe
        x = torch.randn(500, 16)
        expected = moe(x)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            output = moe(x)
        assert output.tokens.dtype == torch.bfloat16
        assert output.balance_loss.dtype == torch.float32
        torch.testing.assert_close(output.gates, expected.gates)
        torch.testing.assert_close(
            output.tokens.float(), expected.tokens, rtol=0.05, atol=0.02
        )

    @pytest.mark.parametrize(
        ('kwargs', 'match'),
        [
            ({'num_experts': 0}, 'num_experts is 0: expected at least 1'),
            ({'top_k': 0}, 'top_k is 0: expected at least 1'),
            ({'top_k': 5}, 'top_k is 5: expected from 1 to num_experts=4'),
            ({'expansion': 0.01}, 'expansion must give at least 1 hidden channel'),
            ({'gate': 'cosin'}, "unknown gate 'cosin', did you mean 'cosine'?"),
        ],
    )
    def test_bad_arguments(self, kwargs: dict[str, object], match: str) -> None:
        with pytest.raises(ValueError, match=match.replace('?', r'\?')):
            MixtureOfExperts(8, **kwargs)  # type: ignore[arg-type]


class TestExperts:
    def test_plain_values(self) -> None:
        """The values survive JSON and make an equal object."""
        experts = Experts(stages=[4, 2, 2], top_k=1, gate='linear', balance_weight=0.1)
        assert experts.stages == (2, 4)
        values = experts.to_dict()
        assert values == json.loads(json.dumps(values))
        assert Experts.from_dict(values) == experts
        assert Experts.from_dict({}) == Experts()
        assert hash(experts) != hash(Experts())

    def test_defaults_are_those_of_the_layer(self) -> None:
        values = Experts().to_dict()
        layer = inspect.signature(MixtureOfExperts).parameters
        for name in ('num_experts', 'top_k', 'expansion', 'gate', 'noisy'):
            assert values[name] == layer[name].default

    @pytest.mark.parametrize(
        ('values', 'match'),
        [
            ({'stages': [1, 5]}, r'stages\[1\] is 5: expected 1 or 2 or 3 or 4'),
            ({'stages': []}, r'stages is \[\]: expected at least 1 item'),
            ({'num_experts': 0}, 'num_experts is 0: expected at least 1'),
            ({'top_k': 5}, 'top_k is 5: expected from 1 to num_experts=4'),
            ({'expansion': 0.0}, 'expansion is 0.0: expected more than 0'),
            ({'gate': 'cosin'}, r"unknown gate 'cosin', did you mean 'cosine'\?"),
            ({'balance_weight': -1}, 'balance_weight is -1: expected at least 0'),
            ({'num_expert': 3}, r"unknown key of experts 'num_expert', did you mean"),
        ],
    )
    def test_bad_values(self, values: dict[str, Any], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            Experts.from_dict(values)

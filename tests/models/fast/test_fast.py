# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Plain and fast models with the same weights compute the same."""

import copy
import importlib.util
import pickle
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from torchgeo_m2cd.models import M2CD, accelerate, set_fast, use_fast
from torchgeo_m2cd.models.fast import FAST
from torchgeo_m2cd.models.fast.stand_in import StandIn


@pytest.fixture(autouse=True)
def switch() -> Iterator[None]:
    """Switch fast modules back on after each test."""
    yield
    set_fast(True)


def make_plain(encoder: str, **kwargs: Any) -> M2CD:
    torch.manual_seed(0)
    set_fast(False)
    model: M2CD = M2CD(encoder, **kwargs)
    set_fast(True)
    return model


def plain_modules(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if type(module) in FAST]


def fast_modules(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, StandIn)]


def train(model: M2CD, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Run a training step, and return outputs, buffers and gradients by name."""
    torch.manual_seed(1)  # the same noise on the gates
    image, simulated_sar = torch.randn(2, 2, 3, 64, 64), torch.randn(2, 3, 64, 64)
    with torch.autocast('cpu', dtype, enabled=dtype != torch.float32):
        output = model.forward_train(image, simulated_sar)
    loss = output.logits.float().square().mean()
    (loss + output.balance_loss + output.guide_loss).backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    gates = {f'gates of {stage}': g for stage, g in output.gates.items()}
    losses = {'balance': output.balance_loss, 'guide': output.guide_loss}
    buffers = dict(model.named_buffers())
    return {'logits': output.logits, **losses, **gates, **buffers, **grads}


class TestAccelerate:
    @pytest.mark.parametrize(
        ('encoder', 'kwargs'),
        [
            ('mit_b0', {}),
            ('mit_b0', {'experts': None, 'decoder': 'segformer'}),
            ('resnet18', {'in_channels': (4, 1), 'decoder': 'unet'}),
            ('tu-convnext_atto', {'experts': {'stages': [2, 4], 'gate': 'linear'}}),
        ],
    )
    def test_prediction(self, encoder: str, kwargs: dict[str, Any]) -> None:
        plain = make_plain(encoder, **kwargs).eval()
        fast = accelerate(copy.deepcopy(plain))
        image = torch.randn(3, 2, 4, 64, 96)
        with torch.no_grad():
            torch.testing.assert_close(fast(image), plain(image), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize('encoder', ['mit_b0', 'resnet18', 'tu-convnext_atto'])
    def test_training(self, encoder: str) -> None:
        plain = make_plain(encoder)
        fast = accelerate(copy.deepcopy(plain))
        torch.testing.assert_close(train(fast), train(plain), rtol=1e-3, atol=1e-3)

    def test_training_in_mixed_precision(self) -> None:
        plain = make_plain('mit_b0')
        expected = train(copy.deepcopy(plain))['logits'].detach()
        for model in (accelerate(copy.deepcopy(plain)), plain):
            logits = train(model, torch.bfloat16)['logits'].detach()
            assert logits.dtype == torch.bfloat16
            # Tokens between two experts may choose the other one
            error = (logits.float() - expected).abs().mean()
            assert error < 0.1 * expected.abs().mean()

    def test_names_and_parameters_are_the_same(self) -> None:
        plain = make_plain('mit_b0')
        state_dict = dict(plain.state_dict(keep_vars=True))
        parameters = list(plain.parameters())
        assert fast_modules(plain) == []
        counts = Counter(FAST[type(module)] for module in plain_modules(plain))
        fast = accelerate(plain)
        assert fast is plain  # works in place
        assert plain_modules(fast) == []
        assert Counter(map(type, fast_modules(fast))) == counts
        assert counts.keys() == set(FAST.values())
        for a, b in zip(fast.parameters(), parameters, strict=True):
            assert a is b
        actual = fast.state_dict(keep_vars=True)
        assert [*actual] == [*state_dict]
        assert all(actual[name] is value for name, value in state_dict.items())
        # A second call changes nothing
        before = fast_modules(fast)
        assert fast_modules(accelerate(fast)) == before

    def test_layer_by_itself(self) -> None:
        layer = nn.Linear(3, 2)
        layer.register_forward_hook(lambda *_: torch.zeros(1))
        fast = accelerate(layer)
        assert isinstance(fast, FAST[nn.Linear])
        assert fast.weight is layer.weight
        assert torch.equal(fast(torch.ones(3)), torch.zeros(1))

    def test_subclasses_are_left_alone(self) -> None:
        class Mine(nn.Linear):
            pass

        assert type(accelerate(nn.Sequential(Mine(3, 2)))[0]) is Mine

    @pytest.mark.parametrize('how', ['deepcopy', 'pickle'])
    def test_copies(self, how: str) -> None:
        """A copy is fast and has its own parameters and stages."""
        model = M2CD('mit_b0').eval()
        assert plain_modules(model) == []
        if how == 'deepcopy':
            other = copy.deepcopy(model)
        else:
            other = pickle.loads(pickle.dumps(model))
        assert list(map(type, other.modules())) == list(map(type, model.modules()))
        image = torch.randn(1, 2, 3, 64, 64)
        expected = model(image)
        assert torch.equal(other(image), expected)
        with torch.no_grad():
            for parameter in other.encoder.parameters():
                parameter.zero_()
        assert torch.equal(model(image), expected)
        assert not torch.equal(other(image), expected)

    def test_pretrained(self, tmp_path: Path) -> None:
        """A saved model does not say whether it was fast."""
        plain = make_plain('mit_b0').eval()
        plain.save_pretrained(tmp_path)
        fast = M2CD.from_pretrained(tmp_path)
        assert plain_modules(fast) == []
        image = torch.randn(1, 2, 3, 64, 64)
        torch.testing.assert_close(fast(image), plain(image), rtol=0, atol=1e-4)


class TestSetFast:
    def test_switch(self) -> None:
        assert use_fast()
        set_fast(False)
        assert not use_fast()
        model = M2CD('mit_b0')
        assert fast_modules(model) == []
        set_fast(True)
        assert fast_modules(model) == []  # existing models do not change
        assert plain_modules(M2CD('mit_b0')) == []

    @pytest.mark.parametrize(('value', 'expected'), [('0', False), ('1', True)])
    def test_environment(
        self, value: str, expected: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A module that is imported when the variable is set follows it."""
        monkeypatch.setenv('TORCHGEO_M2CD_FAST', value)
        # Run its code once more, beside the module that is in use
        spec = importlib.util.find_spec('torchgeo_m2cd.models.fast')
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert module.use_fast() is expected
        assert use_fast()


@pytest.mark.parametrize(('encoder', 'num_experts'), [('mit_b0', 4), ('resnet18', 8)])
def test_on_gpu(encoder: str, num_experts: int) -> None:
    # Tensors without values, which take the GPU's way through the code on any machine
    model = M2CD(encoder, experts={'num_experts': num_experts})
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    with FakeTensorMode(), torch.no_grad():
        fake = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, device='cuda')
            for name, tensor in state.items()
        }
        image = torch.empty(2, 2, 3, 64, 64, device='cuda')
        logits = functional_call(model, fake, image)
        assert (logits.device.type, *logits.shape) == ('cuda', 2, 1, 64, 64)
        half = {
            n: x.bfloat16() if x.is_floating_point() else x for n, x in fake.items()
        }
        logits = functional_call(model.eval(), half, image.bfloat16())
        assert (logits.dtype, *logits.shape) == (torch.bfloat16, 2, 1, 64, 64)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import functools
import os
import shutil
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from torchgeo_m2cd.models import M2CD, Experts, compile_inference

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get('CXX', 'g++')) is None, reason='needs a C++ compiler'
)


@pytest.fixture(autouse=True)
def reset() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def make_model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()


class TestCompileInference:
    @torch.inference_mode()
    def test_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Smaller batches have the shape of full ones, larger ones their own."""
        shapes: list[tuple[int, ...]] = []

        def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
            shapes.append(tuple(next(x.shape for x in inputs if x.ndim == 5)))
            return graph.forward

        compiler = functools.partial(torch.compile, backend=backend)
        monkeypatch.setattr(torch, 'compile', compiler)
        # One MoE layer is enough: each is slow to compile
        model = M2CD('resnet18', experts=Experts(stages=[4])).eval()
        infer = compile_inference(model, batch_size=3)
        for size in (2, 3, 1, 4):
            image = torch.randn(size, 2, 3, 32, 32)
            torch.testing.assert_close(infer(image), model(image), rtol=0, atol=1e-4)
        assert shapes == [(3, 2, 3, 32, 32), (4, 2, 3, 32, 32)]

    @needs_compiler
    @pytest.mark.slow
    def test_weights_are_constants(self) -> None:
        """Also where gradients are enabled."""
        model = make_model()
        infer = compile_inference(model, batch_size=2)
        image = torch.randn(1, 3, 8, 8)
        expected = model(image).detach()
        torch.testing.assert_close(infer(image), expected, rtol=0, atol=1e-5)
        for parameter in model.parameters():
            parameter.detach().zero_()
        torch.testing.assert_close(infer(image), expected, rtol=0, atol=1e-5)

    @torch.inference_mode()
    def test_no_compiler(self) -> None:
        infer = compile_inference(make_model())
        with (
            torch._inductor.config.patch({'cpp.cxx': (None, '/no/such/compiler')}),
            pytest.raises(
                RuntimeError, match=r'cannot compile Sequential \(.*CXX names'
            ),
        ):
            # Of another size than above: compiled kernels are kept on the disk
            infer(torch.randn(1, 3, 7, 9))

    def test_training_mode(self) -> None:
        infer = compile_inference(make_model().train())
        with pytest.raises(ValueError, match='Sequential is in training mode'):
            infer(torch.randn(1, 3, 8, 8))

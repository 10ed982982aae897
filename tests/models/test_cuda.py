# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""A GPU and a CPU give the same results: models, training, export and maps."""

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import rasterio
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from torch import Tensor

from torchgeo_m2cd.datamodules import SyntheticFloodDataModule
from torchgeo_m2cd.datasets import SyntheticFlood
from torchgeo_m2cd.models import (
    M2CD,
    Experts,
    MixtureOfExperts,
    accelerate,
    compile_inference,
    export_onnx,
)
from torchgeo_m2cd.predict import predict_scene
from torchgeo_m2cd.tasks import ChangeDetectionTask

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason='needs a CUDA device'
)


@pytest.fixture(autouse=True)
def single_precision(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compute convolutions in single precision, not in TensorFloat-32."""
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    yield
    torch.compiler.reset()


def compute_gradients(
    model: M2CD, image: Tensor, simulated_sar: Tensor, mask: Tensor
) -> tuple[float, dict[str, Tensor]]:
    """Compute the loss of a training step and its gradients."""
    output = model.forward_train(image, simulated_sar)
    loss = F.binary_cross_entropy_with_logits(output.logits, mask)
    loss = loss + 0.01 * output.balance_loss + 1e-4 * output.guide_loss
    loss.backward()
    grads = {
        name: parameter.grad.cpu()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    return loss.item(), grads


@pytest.mark.parametrize('encoder', ['mit_b0', 'resnet18'])
def test_forward(encoder: str) -> None:
    model = M2CD(encoder).eval()
    image = torch.randn(2, 2, 3, 64, 64)
    with torch.no_grad():
        expected = model(image)
        logits = copy.deepcopy(model).cuda()(image.cuda())
    torch.testing.assert_close(logits.cpu(), expected, rtol=0, atol=1e-3)


def test_compile_inference() -> None:
    """Batches that are not full, with the kernels of full ones."""
    model = M2CD('resnet18').eval()
    infer = compile_inference(copy.deepcopy(model).cuda(), batch_size=4)
    with torch.inference_mode():
        for size in (4, 3, 4, 1):
            image = torch.randn(size, 2, 3, 64, 64)
            logits = infer(image.cuda()).cpu()
            torch.testing.assert_close(logits, model(image), rtol=0, atol=1e-3)


@pytest.mark.parametrize('encoder', ['mit_b0', 'resnet18'])
def test_gradients(encoder: str) -> None:
    # Each device draws its own random numbers: without noise and dropped paths
    # In double precision: rounding changes the signs of ReLUs, and the experts of tokens
    model = M2CD(encoder, experts=Experts(noisy=False)).double()
    for module in model.modules():
        if hasattr(module, 'drop_prob'):
            module.drop_prob = 0.0
    image = torch.randn(2, 2, 3, 64, 64).double()
    simulated_sar = torch.randn(2, 3, 64, 64).double()
    mask = (torch.rand(2, 1, 64, 64) > 0.5).double()
    on_gpu = copy.deepcopy(model).cuda()
    expected_loss, expected = compute_gradients(model, image, simulated_sar, mask)
    loss, grads = compute_gradients(
        on_gpu, image.cuda(), simulated_sar.cuda(), mask.cuda()
    )
    assert loss == pytest.approx(expected_loss, rel=1e-9)
    assert grads.keys() == expected.keys()
    norm = torch.stack([grad.norm() for grad in expected.values()]).norm()
    for name, grad in grads.items():
        assert (grad - expected[name]).norm() < 1e-8 * norm, name


@pytest.mark.parametrize('num_experts', [4, 8])
@pytest.mark.parametrize('compiled', [False, True])
def test_experts(compiled: bool, num_experts: int) -> None:
    moe = accelerate(MixtureOfExperts(64, num_experts).eval())
    x = torch.randn(2, 300, 64)
    expected = moe(x)
    expected.tokens.square().mean().backward()
    on_gpu = accelerate(MixtureOfExperts(64, num_experts).eval())
    on_gpu.load_state_dict(moe.state_dict())
    on_gpu.cuda()
    run = torch.compile(on_gpu, fullgraph=True) if compiled else on_gpu
    on_device = x.cuda()
    torch.cuda.set_sync_debug_mode('default' if compiled else 'error')
    try:
        with torch.autocast('cuda', dtype=torch.bfloat16):
            output = run(on_device)
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert output.tokens.dtype == torch.bfloat16
    torch.testing.assert_close(output.gates.cpu(), expected.gates, rtol=0, atol=1e-3)
    torch.testing.assert_close(
        output.tokens.float().cpu(), expected.tokens, rtol=0.05, atol=0.05
    )
    output.tokens.float().square().mean().backward()
    for layer in ('fc1', 'fc2'):
        for name in ('weight', 'bias'):
            grad = getattr(getattr(on_gpu, layer), name).grad.cpu().flatten()
            exact = getattr(getattr(moe, layer), name).grad.flatten()
            assert F.cosine_similarity(grad, exact, dim=0) > 0.99, (layer, name)


def test_export(tmp_path: Path) -> None:
    model = M2CD('mit_b0').eval()
    model.inputs = SyntheticFloodDataModule().default_inputs()
    image = torch.randn(1, 2, 3, 64, 64)
    with torch.no_grad():
        expected = model(image)
    export_onnx(model.cuda(), tmp_path / 'model.onnx', size=64)
    assert next(model.parameters()).is_cuda
    session = onnxruntime.InferenceSession(
        tmp_path / 'model.onnx', providers=['CPUExecutionProvider']
    )
    (logits,) = session.run(None, {'image': image.numpy()})
    np.testing.assert_allclose(logits, expected, atol=1e-3)


@pytest.mark.parametrize('precision', ['32-true', 'bf16-mixed'])
def test_training(precision: str, tmp_path: Path) -> None:
    task = ChangeDetectionTask('m2cd', 'mit_b0', in_channels=[4, 1], lr=1e-3)
    datamodule = SyntheticFloodDataModule(
        size=64, length=64, eval_length=8, batch_size=8, num_workers=2
    )
    trainer = Trainer(
        accelerator='gpu', devices=1, precision=precision, max_epochs=6,  # type: ignore[arg-type]
        default_root_dir=tmp_path, logger=False, enable_checkpointing=False,
        enable_progress_bar=False,
    )  # fmt: skip
    trainer.validate(task, datamodule=datamodule, verbose=False)
    before = trainer.callback_metrics['val_loss'].item()
    trainer.fit(task, datamodule=datamodule)
    assert trainer.callback_metrics['val_loss'].item() < 0.9 * before


@pytest.mark.parametrize('workers', [0, 2])
def test_scene(workers: int, tmp_path: Path) -> None:
    paths = SyntheticFlood().write_scene(tmp_path / 'scene', size=320)
    values = []
    for accelerator in ('cpu', 'gpu'):
        output = tmp_path / f'{accelerator}.tif'
        predict_scene(
            paths['optical'], paths['sar'], output,
            data_args={'patch_size': 128, 'num_workers': workers},
            trainer_args={
                'accelerator': accelerator, 'devices': 1, 'enable_progress_bar': False
            },
        )  # fmt: skip
        with rasterio.open(output) as src:
            values.append(src.read())
    np.testing.assert_allclose(values[1], values[0], atol=1e-3)

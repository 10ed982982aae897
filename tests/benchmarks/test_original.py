# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.original import Original
from tests.data.reference import tensors
from torchgeo_m2cd.models import M2CD, Experts, load_original

REFERENCE = Path(__file__).parents[1] / 'data' / 'reference'
SALT = 'm2cd-public'


def test_reference(tmp_path: Path) -> None:
    """The baseline computes what the original computes."""
    shapes = json.loads((REFERENCE / 'mit_b0.state_dict.json').read_text())
    weights = {
        name: torch.from_numpy(tensors.weight(name, tuple(shape), SALT))
        for name, shape in shapes.items()
    }
    torch.save(weights, tmp_path / 'model.pth')
    model = load_original(tmp_path / 'model.pth', 'mit_b0').eval()
    original = Original(model, 'mit_b0').eval()
    optical, sar, simulated_sar = (
        torch.from_numpy(tensors.image(name, (1, 3, 256, 256), SALT))
        for name in ('optical', 'sar', 'simulated_sar')
    )
    with torch.no_grad():
        output = original.forward_train(
            torch.stack((optical, sar), dim=1), simulated_sar
        )
    expected = load_file(REFERENCE / 'mit_b0.safetensors')
    loss = expected['gate_loss_with_o2sp'].squeeze()
    torch.testing.assert_close(0.01 * output.balance_loss, loss, rtol=1e-4, atol=0)
    logits = F.interpolate(expected['logits_native'], scale_factor=2, mode='bilinear')
    error = (output.logits - logits).abs() / logits.std()
    # Rounding sends a few tokens to other experts
    assert error.quantile(0.99) < 1e-4


@pytest.mark.parametrize('encoder', ['mit_b0', 'resnet18', 'tu-convnext_atto'])
def test_equals_m2cd(encoder: str) -> None:
    torch.manual_seed(0)
    model = M2CD(encoder, classes=2, experts=Experts(noisy=False))
    original = Original(model, encoder)
    image, simulated_sar = torch.randn(2, 2, 3, 64, 64), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = original.eval()(image)
        torch.testing.assert_close(model.eval()(image), expected, rtol=0, atol=1e-4)
    if encoder == 'resnet18':
        return  # In training, the batches of batch norm differ on purpose

    original.train()
    model.train()
    for module in [*original.modules(), *model.modules()]:
        if type(module).__name__ in ('DropPath', 'Dropout'):
            module.eval()
    outputs = []
    models: tuple[M2CD, Original] = (model, original)
    for m in models:
        output = m.forward_train(image, simulated_sar)
        loss = output.logits.square().mean() + output.balance_loss + output.guide_loss
        loss.backward()
        gradients: list[Tensor] = [
            p.grad for p in m.decoder.parameters() if p.grad is not None
        ]
        backbone = m.encoder.backbone.parameters()
        gradients += [p.grad for p in backbone if p.grad is not None]
        outputs.append((*output[:3], *gradients))
    torch.testing.assert_close(*outputs, rtol=1e-3, atol=1e-4)

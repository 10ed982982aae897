# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from torchgeo.models import ResNet18_Weights, ResNet50_Weights
from torchvision.models._api import WeightsEnum

from tests.data.reference import tensors
from torchgeo_m2cd.models import (
    M2CD,
    Experts,
    MLPHead,
    MoEEncoder,
    load_encoder_weights,
    load_original,
)

# Names and shapes of the original's parameters, and its outputs in evaluation mode and
# float32. tensors.py makes weights and images from a name, a shape and the salt. This
# repository has the outputs that fit into 1 MiB, the shared folder has all
REFERENCE = Path(__file__).parents[1] / 'data' / 'reference'
SHARED = Path(__file__).parents[3] / 'shared' / 'reference' / 'mit_b0.safetensors'
SALT = 'm2cd-public'


def original_state_dict(encoder: str = 'mit_b0') -> dict[str, Tensor]:
    shapes = json.loads((REFERENCE / f'{encoder}.state_dict.json').read_text())
    return {
        name: torch.from_numpy(tensors.weight(name, tuple(shape), SALT))
        for name, shape in shapes.items()
    }


def make_image(name: str, size: int = 256) -> Tensor:
    return torch.from_numpy(tensors.image(name, (1, 3, size, size), SALT))


def make_linear_gates(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replace the cosine gates by linear ones."""
    state_dict = {k: v for k, v in state_dict.items() if '.w_gate.' not in k}
    for i in range(4):
        name = f'backbone.ccs.{i}.w_gate'
        shape = tuple(state_dict[f'backbone.ccs.{i}.w_noise'].shape)
        state_dict[name] = torch.from_numpy(tensors.weight(name, shape, SALT))
    return state_dict


class PlainM2CD:
    """The formulas of the original in evaluation mode, with its parameters."""

    heads = (1, 2, 5, 8)
    reductions = (8, 4, 2, 1)

    def __init__(self, state_dict: dict[str, Tensor]) -> None:
        self.params = {k: v.double() for k, v in state_dict.items()}
        self.balance_loss = 0.0

    def __call__(
        self, optical: Tensor, sar: Tensor, simulated_sar: Tensor
    ) -> tuple[Tensor, float, float]:
        self.balance_loss = 0.0
        paths = [self.encode(x.double()) for x in (optical, sar, simulated_sar)]
        guide_loss = 0.0
        for f1, f2, f3 in zip(*paths, strict=True):
            guide_loss += float((f1 - f3).abs().mean() + (f2 - f3).abs().mean())
        fused = [torch.cat((f1, f2), dim=1) for f1, f2, _ in zip(*paths, strict=True)]
        height, width = optical.shape[2:]
        logits = self.decode(fused, (height // 2, width // 2))
        logits = self.resize(logits, (height, width))
        return logits, self.balance_loss, guide_loss

    def encode(self, x: Tensor) -> list[Tensor]:
        features = []
        for i in range(4):
            stage = f'backbone.layers.{i}'
            kernel, stride = (7, 4) if i == 0 else (3, 2)
            x = self.conv(f'{stage}.0.projection', x, stride, padding=kernel // 2)
            size = x.shape[2:]
            x = x.flatten(2).transpose(1, 2)  # B (H W) C
            x = self.layer_norm(f'{stage}.0.norm', x)
            for j in range(2):
                block = f'{stage}.1.{j}'
                x = x + self.attention(
                    i, block, self.layer_norm(f'{block}.norm1', x), size
                )
                x = x + self.mix_ffn(block, self.layer_norm(f'{block}.norm2', x), size)
            x = self.layer_norm(f'{stage}.2', x)
            x = self.experts(f'backbone.ccs.{i}', x[0])[None]
            x = x.transpose(1, 2).unflatten(2, size)
            features.append(x)
        return features

    def attention(self, i: int, block: str, x: Tensor, size: torch.Size) -> Tensor:
        weights = self.params[f'{block}.attn.attn.in_proj_weight'].chunk(3)
        biases = self.params[f'{block}.attn.attn.in_proj_bias'].chunk(3)
        reduced = x
        if self.reductions[i] > 1:
            image = x.transpose(1, 2).unflatten(2, size)
            image = self.conv(f'{block}.attn.sr', image, self.reductions[i])
            reduced = image.flatten(2).transpose(1, 2)
            reduced = self.layer_norm(f'{block}.attn.norm', reduced)
        q, k, v = (
            (tokens @ weight.T + bias).unflatten(2, (self.heads[i], -1))
            for tokens, weight, bias in zip(
                (x, reduced, reduced), weights, biases, strict=True
            )
        )
        scores = torch.einsum('bqhc,bkhc->bhqk', q, k) / math.sqrt(q.shape[-1])
        scores = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
        mixed = torch.einsum('bhqk,bkhc->bqhc', scores, v).flatten(2)
        return self.linear(f'{block}.attn.attn.out_proj', mixed)

    def mix_ffn(self, block: str, x: Tensor, size: torch.Size) -> Tensor:
        image = x.transpose(1, 2).unflatten(2, size)
        image = self.conv(f'{block}.ffn.layers.0', image)
        groups = image.shape[1]
        image = self.conv(f'{block}.ffn.layers.1', image, padding=1, groups=groups)
        image = self.conv(f'{block}.ffn.layers.4', self.gelu(image))
        return image.flatten(2).transpose(1, 2)

    def experts(self, layer: str, x: Tensor) -> Tensor:
        """Apply the mixture of experts to the tokens (N, C) of one branch."""
        if f'{layer}.w_gate' in self.params:
            logits = x @ self.params[f'{layer}.w_gate']
        else:
            projected = self.linear(f'{layer}.w_gate.cosine_projector', x)
            directions = self.params[f'{layer}.w_gate.sim_matrix']
            logits = projected / projected.norm(dim=1, keepdim=True)
            logits = logits @ (directions / directions.norm(dim=0))
            temperature = float(self.params[f'{layer}.w_gate.temperature'])
            logits = logits * math.exp(min(temperature, math.log(100)))
        # Only the two largest logits get weights
        second = logits.sort(dim=1, descending=True).values[:, 1:2]
        gates = torch.where(logits >= second, logits.exp(), 0.0)
        gates = gates / gates.sum(dim=1, keepdim=True)
        for share in (gates, (gates > 0).double()):
            total = share.sum(dim=0)
            cv_squared = total.var() / (total.mean() ** 2 + 1e-10)
            self.balance_loss += float(cv_squared)
        output = torch.zeros_like(x)
        for e in range(4):
            name = f'{layer}.experts.{e}.pointwise_conv'
            hidden = self.gelu(self.linear(f'{name}1', x))
            output += gates[:, e : e + 1] * self.linear(f'{name}2', hidden)
        return output

    def decode(self, features: list[Tensor], size: tuple[int, int]) -> Tensor:
        """Resize, then fuse, as the original does; our fast decoder fuses first."""
        resized = [
            self.resize(self.conv_norm_relu(f'decode_head.convs.{i}', x), size)
            for i, x in enumerate(features)
        ]
        x = self.conv_norm_relu('decode_head.fusion_conv', torch.cat(resized, dim=1))
        return self.conv('decode_head.conv_seg', x)

    def conv(self, name: str, x: Tensor, stride: int = 1, **kwargs: int) -> Tensor:
        weight, bias = self.params[f'{name}.weight'], self.params.get(f'{name}.bias')
        return F.conv2d(x, weight, bias, stride, **kwargs)

    def conv_norm_relu(self, name: str, x: Tensor) -> Tensor:
        weight, bias, mean, var = (
            self.params[f'{name}.bn.{leaf}'].reshape(-1, 1, 1)
            for leaf in ('weight', 'bias', 'running_mean', 'running_var')
        )
        x = (self.conv(f'{name}.conv', x) - mean) / (var + 1e-5).sqrt()
        return (x * weight + bias).clamp(min=0)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.params[f'{name}.weight'].T + self.params[f'{name}.bias']

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        mean = x.mean(dim=-1, keepdim=True)
        var = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
        x = (x - mean) / (var + 1e-6).sqrt()
        return x * self.params[f'{name}.weight'] + self.params[f'{name}.bias']

    @staticmethod
    def gelu(x: Tensor) -> Tensor:
        return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))

    @staticmethod
    def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(x, size=size, mode='bilinear', align_corners=False)


def run(model: M2CD) -> dict[str, Tensor]:
    """Run a model on the reference's images, and name outputs like the reference."""
    outputs: dict[str, Tensor] = {}

    def keep(module: torch.nn.Module, args: tuple[Tensor]) -> None:
        outputs['logits_native'] = args[0]

    optical, sar, simulated_sar = map(make_image, ('optical', 'sar', 'simulated_sar'))
    assert isinstance(model.segmentation_head, MLPHead)
    handle = model.segmentation_head.upsample.register_forward_pre_hook(keep)
    with torch.no_grad():
        pair = model.forward_train(torch.stack((optical, sar), dim=1))
        with_o2sp = model.forward_train(
            torch.stack((optical, sar), dim=1), simulated_sar
        )
        features = model.encoder(optical, sar).features
    handle.remove()
    outputs['logits'] = pair.logits
    for i in range(1, 5):
        outputs[f'stage{i}.optical'], outputs[f'stage{i}.sar'] = features[i + 1]
    outputs['gate_loss'] = 0.01 * pair.balance_loss[None]
    outputs['gate_loss_with_o2sp'] = 0.01 * with_o2sp.balance_loss[None]
    outputs['guide_loss'] = 1e-4 * with_o2sp.guide_loss[None]
    return outputs


def compare(path: Path) -> None:
    """Compare with the outputs of the original."""
    expected = load_file(path)
    outputs = run(load_original(original_state_dict(), 'mit_b0'))
    for name, value in expected.items():
        output = outputs[name].reshape(value.shape)
        if value.numel() == 1:
            torch.testing.assert_close(output, value, rtol=1e-3, atol=0)
            continue
        # A few tokens may go to another expert, if two have nearly equal logits
        different = (output - value).abs() > 1e-4 * value.std()
        assert different.double().mean() <= 1e-3, name


class TestLoadOriginal:
    def test_reference(self) -> None:
        compare(REFERENCE / 'mit_b0.safetensors')

    @pytest.mark.skipif(
        not SHARED.is_file(),
        reason='needs the whole reference in ../shared/reference/mit_b0.safetensors',
    )
    def test_whole_reference(self) -> None:
        compare(SHARED)

    @pytest.mark.parametrize(
        ('encoder', 'linear_gate'),
        [('mit_b0', False), ('mit_b0', True), ('mit_b1', False)],
    )
    def test_formulas(self, encoder: str, linear_gate: bool) -> None:
        state_dict = original_state_dict(encoder)
        if linear_gate:
            state_dict = make_linear_gates(state_dict)
        images = [make_image(n, 64) for n in ('optical', 'sar', 'simulated_sar')]
        with torch.no_grad():
            expected = PlainM2CD(state_dict)(*images)
            optical, sar, simulated_sar = (image.double() for image in images)
            model = load_original(state_dict, encoder).double()
            image = torch.stack((optical, sar), dim=1)
            output = model.forward_train(image, simulated_sar)
            logits = model(image)
        torch.testing.assert_close(output.logits, expected[0], rtol=0, atol=1e-9)
        torch.testing.assert_close(logits, expected[0], rtol=0, atol=1e-9)
        assert output.balance_loss.item() == pytest.approx(expected[1], rel=1e-9)
        assert output.guide_loss.item() == pytest.approx(expected[2], rel=1e-9)

    @pytest.mark.parametrize('encoder', ['mit_b0', 'mit_b1'])
    def test_every_parameter_is_loaded(self, encoder: str) -> None:
        state_dict = original_state_dict(encoder)
        model = load_original(state_dict, encoder)
        assert not model.training
        constants = {f'backbone.ccs.{i}.{k}' for i in range(4) for k in ('mean', 'std')}
        size = sum(v.numel() for k, v in state_dict.items() if k not in constants)
        assert sum(v.numel() for v in model.state_dict().values()) == size

    def test_file(self, tmp_path: Path) -> None:
        state_dict = original_state_dict()
        path = tmp_path / 'iter_1000.pth'
        torch.save({'meta': {'iter': 1000}, 'state_dict': state_dict}, path)
        expected = load_original(state_dict, 'mit_b0').state_dict()
        sources: tuple[Any, ...] = (path, str(path), {'state_dict': state_dict})
        for source in sources:
            actual = load_original(source, 'mit_b0').state_dict()
            assert actual.keys() == expected.keys()
            assert all(torch.equal(actual[k], v) for k, v in expected.items())

    def test_malicious_file(self, tmp_path: Path) -> None:
        class Malicious:
            def __reduce__(self) -> tuple[Any, ...]:
                return os.mkdir, (str(tmp_path / 'pwned'),)

        path = tmp_path / 'evil.pth'
        torch.save({'state_dict': original_state_dict(), 'meta': Malicious()}, path)
        with pytest.raises(
            ValueError, match=r'evil.pth. holds \w+\.mkdir, which could'
        ):
            load_original(path, 'mit_b0')
        assert not (tmp_path / 'pwned').exists()

    @pytest.mark.parametrize('content', [b'', b'PK\x03\x04 cut off', b'hello'])
    def test_not_a_checkpoint(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / 'model.pth'
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^weights '.*model.pth' "):
            load_original(path, 'mit_b0')

    @pytest.mark.parametrize('content', [[1], {'meta': 'x'}, {'state_dict': None}])
    def test_no_state_dict(self, tmp_path: Path, content: Any) -> None:
        path = tmp_path / 'model.pth'
        torch.save(content, path)
        with pytest.raises(ValueError, match=r'model.pth holds no state dict'):
            load_original(path, 'mit_b0')
        with pytest.raises(ValueError, match='the checkpoint holds no state dict'):
            load_original({'state_dict': content}, 'mit_b0')

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            load_original(tmp_path / 'model.pth', 'mit_b0')

    @pytest.mark.parametrize(
        ('changes', 'message'),
        [
            (
                {'backbone.layers.1.0.norm.bias': None},
                'encoder.backbone.patch_embed2.norm.bias is missing',
            ),
            ({'backbone.ccs.0.w_noise': None}, 'encoder.moe.1.noise.weight is missing'),
            (
                {'decode_head.conv_seg.bias': torch.zeros(3)},
                (
                    'segmentation_head.conv.weight has shape (2, 256, 1, 1), '
                    'expected (3, 256, 1, 1)'
                ),
            ),
            (
                {'backbone.ccs.3.experts.2.pointwise_conv1.bias': None},
                'encoder.moe.4.fc1.bias has shape (3, 1024), expected (4, 1024)',
            ),
            (
                {'backbone.ccs.3.experts.2.pointwise_conv1.bias': torch.zeros(3)},
                'the experts that make encoder.moe.4.fc1.bias have different shapes',
            ),
            (
                {'backbone.layers.0.1.1.attn.attn.in_proj_bias': torch.zeros(99)},
                'encoder.backbone.block1.1.attn.kv.bias has shape (66,), expected (64,)',
            ),
            (
                {'backbone.layers.0.1.2.norm1.bias': torch.zeros(32)},
                'encoder.backbone.block1.2.norm1.bias is surplus',
            ),
            (
                {'auxiliary_head.conv_seg.bias': torch.zeros(2)},
                'auxiliary_head.conv_seg.bias is surplus',
            ),
        ],
    )
    def test_parameters_that_do_not_fit(
        self, changes: dict[str, Tensor | None], message: str
    ) -> None:
        changed = original_state_dict() | changes
        state_dict = {k: v for k, v in changed.items() if v is not None}
        with pytest.raises(ValueError, match=re.escape(message)):
            load_original(state_dict, 'mit_b0')

    def test_another_encoder(self) -> None:
        match = r'encoder\.backbone\..* has shape .*, expected .* and \d+ more$'
        with pytest.raises(ValueError, match=match) as error:
            load_original(original_state_dict(), 'mit_b1')
        assert len(str(error.value)) < 1000
        with pytest.raises(ValueError, match="'mit_bo', did you mean 'mit_b"):
            load_original({}, 'mit_bo')


def pretrained(enum: WeightsEnum) -> dict[str, Tensor]:
    """Make a state dict for the architecture and bands of a weight enum, without head."""
    name = type(enum).__name__.removesuffix('_Weights').lower()
    torch.manual_seed(enum.meta['in_chans'])
    model = timm.create_model(name, in_chans=enum.meta['in_chans'])
    state_dict: dict[str, Tensor] = model.state_dict()
    return {k: v for k, v in state_dict.items() if not k.startswith('fc.')}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the weights that TorchGeo downloads by stand-ins."""

    def get_state_dict(self: WeightsEnum, **kwargs: Any) -> dict[str, Tensor]:
        assert kwargs['check_hash']
        assert kwargs['weights_only']
        return pretrained(self) | {'fc.weight': torch.zeros(1)}

    monkeypatch.setattr(WeightsEnum, 'get_state_dict', get_state_dict)


def stem_of(encoder: MoEEncoder) -> Tensor:
    """Return the weight of the second image's stem."""
    assert encoder.second_stem is not None
    (weight,) = encoder.second_stem.parameters()
    return weight


@pytest.mark.usefixtures('offline')
class TestLoadEncoderWeights:
    @pytest.mark.parametrize('prefix', ['', 'tu-'])
    @pytest.mark.parametrize(
        ('name', 'weights'),
        [
            ('resnet18', ResNet18_Weights.SENTINEL2_ALL_MOCO),
            ('resnet50', ResNet50_Weights.SENTINEL2_ALL_MOCO),
        ],
    )
    def test_sentinel(self, prefix: str, name: str, weights: WeightsEnum) -> None:
        # No ResNet-18 exists for Sentinel-1, but the stem of ResNet-50 is the same
        second = ResNet50_Weights.SENTINEL1_ALL_MOCO
        small = Experts([4], expansion=0.25)
        encoder = MoEEncoder(prefix + name, in_channels=(13, 2), experts=small)
        experts = {k: v.clone() for k, v in encoder.moe.state_dict().items()}
        load_encoder_weights(encoder, weights, second)
        backbone = encoder.backbone.model if prefix else encoder.backbone
        actual, expected = backbone.state_dict(), pretrained(weights)
        assert actual.keys() == expected.keys()
        assert all(torch.equal(actual[k], v) for k, v in expected.items())
        assert torch.equal(stem_of(encoder), pretrained(second)['conv1.weight'])
        assert all(
            torch.equal(encoder.moe.state_dict()[k], experts[k]) for k in experts
        )

    def test_names(self) -> None:
        encoder = MoEEncoder('resnet18', in_channels=(13, 2))
        load_encoder_weights(
            encoder,
            'ResNet18_Weights.SENTINEL2_ALL_MOCO',
            'ResNet50_Weights.SENTINEL1_ALL_MOCO',
        )
        expected = pretrained(ResNet18_Weights.SENTINEL2_ALL_MOCO)
        assert torch.equal(
            encoder.backbone.layer1[0].bn1.bias, expected['layer1.0.bn1.bias']
        )

    def test_second_is_left_alone(self) -> None:
        encoder = MoEEncoder('resnet18', in_channels=(13, 2))
        before = stem_of(encoder).clone()
        load_encoder_weights(encoder, ResNet18_Weights.SENTINEL2_ALL_MOCO)
        assert torch.equal(stem_of(encoder), before)

    @pytest.mark.parametrize('encoder', ['resnet18', 'tu-resnet18'])
    @pytest.mark.parametrize('task', [True, False])
    def test_file(self, tmp_path: Path, encoder: str, task: bool) -> None:
        expected = pretrained(ResNet18_Weights.SENTINEL2_RGB_MOCO)
        path = tmp_path / 'resnet18.ckpt'
        content: dict[str, Any] = expected
        if task:  # the format of TorchGeo's tasks
            state_dict = {f'model.{k}': v for k, v in expected.items()}
            state_dict |= {'model.fc.bias': torch.zeros(10), 'x.y': torch.zeros(1)}
            content = {
                'hyper_parameters': {'model': 'resnet18'},
                'state_dict': state_dict,
            }
        torch.save(content, path)
        model = MoEEncoder(encoder, in_channels=(3, 3))
        load_encoder_weights(model, str(path), str(path))
        actual = {
            k.removeprefix('model.'): v for k, v in model.backbone.state_dict().items()
        }
        assert actual.keys() == expected.keys()
        assert all(torch.equal(actual[k], v) for k, v in expected.items())
        assert torch.equal(stem_of(model), expected['conv1.weight'])

    @pytest.mark.parametrize(
        ('in_channels', 'weights', 'message'),
        [
            (
                4,
                [ResNet18_Weights.SENTINEL2_ALL_MOCO],
                (
                    'ResNet18_Weights.SENTINEL2_ALL_MOCO does not fit: conv1.weight has '
                    'shape (64, 13, 7, 7), expected (64, 4, 7, 7)'
                ),
            ),
            (
                (13, 1),
                [
                    ResNet18_Weights.SENTINEL2_ALL_MOCO,
                    ResNet50_Weights.SENTINEL1_ALL_MOCO,
                ],
                (
                    'ResNet50_Weights.SENTINEL1_ALL_MOCO does not fit: 0.weight has shape '
                    '(64, 2, 7, 7), expected (64, 1, 7, 7)'
                ),
            ),
            (
                13,
                [
                    ResNet18_Weights.SENTINEL2_ALL_MOCO,
                    ResNet50_Weights.SENTINEL1_ALL_MOCO,
                ],
                (
                    'ResNet50_Weights.SENTINEL1_ALL_MOCO are for the second image, which '
                    'has no stem of its own: in_channels must be a pair'
                ),
            ),
            (
                13,
                [ResNet50_Weights.SENTINEL2_ALL_MOCO],
                (
                    'ResNet50_Weights.SENTINEL2_ALL_MOCO does not fit: layer1.0.bn3.bias is '
                    'surplus'
                ),
            ),
            (13, ['ResNet18_Weights.SENTINEL3'], 'ResNet18_Weights.SENTINEL3'),
        ],
    )
    def test_bad_weights(
        self, in_channels: Any, weights: list[Any], message: str
    ) -> None:
        encoder = MoEEncoder('resnet18', in_channels=in_channels)
        with pytest.raises(ValueError, match=re.escape(message)):
            load_encoder_weights(encoder, *weights)

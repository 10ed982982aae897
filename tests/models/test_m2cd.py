# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import contextlib
import copy
import json
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from segmentation_models_pytorch.encoders import get_encoder

from tests.models.test_encoder import ENCODERS, size_of
from torchgeo_m2cd.models import M2CD, Experts, simulate_sar
from torchgeo_m2cd.transforms import Inputs, LeftOut, Standardize

INPUTS = Inputs(Standardize([1000.0] * 4, [500.0] * 4), Standardize([-12.0], [5.0]))


@pytest.fixture
def model() -> M2CD:
    torch.manual_seed(0)
    model: M2CD = M2CD('mit_b0')
    return model


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Stop measuring coverage, which makes exports about six times slower."""
    trace = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(trace)


class TestM2CD:
    @pytest.mark.parametrize('classes', [1, 3])
    def test_forward(self, classes: int) -> None:
        model = M2CD('mit_b0', in_channels=2, classes=classes).eval()
        image = torch.randn(2, 2, 4, 64, 96)
        logits = model(image)
        assert logits.shape == (2, classes, 64, 96)
        # The model reads only the first channels
        torch.testing.assert_close(model(image[:, :, :2]), logits)
        torch.testing.assert_close(model.predict(image), logits)

    def test_order_of_the_images_matters(self, model: M2CD) -> None:
        image = torch.randn(1, 2, 3, 64, 64)
        model.eval()
        assert (model(image) - model(image.flip(1))).abs().max() > 1e-3

    def test_o2sp_runs_in_training_only(self, model: M2CD) -> None:
        branches = []
        model.encoder.register_forward_pre_hook(lambda _, a: branches.append(len(a)))
        image = torch.randn(2, 2, 3, 64, 64)
        model(image)
        output = model.forward_train(image, image[:, 0])
        without = model.forward_train(image)
        assert branches == [2, 3, 2]
        assert output.guide_loss > 0
        assert without.guide_loss == 0
        assert [g.shape[0] for g in output.gates.values()] == [3] * 4
        assert [g.shape[0] for g in without.gates.values()] == [2] * 4

    def test_o2sp_leaves_the_logits_alone(self, model: M2CD) -> None:
        model.eval()
        image = torch.randn(1, 2, 3, 64, 64)
        with torch.no_grad():
            logits = model(image)
            output = model.forward_train(image, image[:, 0])
        torch.testing.assert_close(output.logits, logits, rtol=0, atol=1e-4)

    def test_guide_loss_of_equal_images(self, model: M2CD) -> None:
        model.eval()
        image = torch.randn(1, 1, 3, 64, 64).expand(1, 2, 3, 64, 64)
        output = model.forward_train(image, image[:, 0])
        assert output.guide_loss.item() == pytest.approx(0, abs=1e-5)

    @pytest.mark.parametrize(
        'kwargs', [{}, {'experts': None}, {'experts': {'num_experts': 7}}]
    )
    def test_every_parameter_has_a_gradient(self, kwargs: dict[str, Any]) -> None:
        model = M2CD('mit_b0', **kwargs)
        image = torch.randn(2, 2, 3, 32, 32)
        output = model.forward_train(image, image[:, 0])
        loss = output.logits.mean() + output.balance_loss + output.guide_loss
        loss.backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []

    @pytest.mark.slow
    @pytest.mark.parametrize('encoder', ENCODERS)
    def test_training_step_of_every_family(self, encoder: str) -> None:
        # Small experts: those of wide encoders would take most of the time
        model = M2CD(encoder, experts={'num_experts': 2, 'expansion': 0.25})
        size = size_of(encoder)
        image = torch.randn(2, 2, 3, size, size)
        output = model.forward_train(image, simulate_sar(image[:, 0]))
        assert output.logits.shape == (2, 1, size, size)
        assert output.guide_loss > 0
        assert len(output.gates) == 4
        loss = output.logits.mean() + output.balance_loss + output.guide_loss
        loss.backward()
        # Some encoders have unused modules after the last feature
        missing = [n for n, p in model.named_parameters() if p.grad is None]
        stages = [model.encoder.stem, *model.encoder.stages]
        used = {p for stage in stages for m in stage for p in m.parameters()}
        parameters = dict(model.named_parameters())
        assert not any(parameters[n] in used for n in missing)
        assert all('backbone' in n for n in missing)

    def test_without_moe(self) -> None:
        model = M2CD('mit_b0', experts=None)
        assert not any('moe' in name for name in model.state_dict())
        assert model.forward_train(torch.randn(2, 2, 3, 32, 32)).balance_loss == 0

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    def test_autocast(self, model: M2CD, dtype: torch.dtype) -> None:
        image = torch.randn(2, 2, 3, 64, 64)
        with torch.autocast('cpu', dtype=dtype):
            output = model.forward_train(image, image[:, 0])
            loss = output.logits.float().mean() + output.balance_loss
        loss.backward()
        assert output.logits.dtype == dtype
        assert all(
            p.grad is None or p.grad.isfinite().all() for p in model.parameters()
        )

    def test_activation(self) -> None:
        model = M2CD('mit_b0', activation='sigmoid').eval()
        output = model(torch.randn(1, 2, 3, 32, 32))
        assert output.min() >= 0
        assert output.max() <= 1

    def test_gates_of_all_branches(self, model: M2CD) -> None:
        image = torch.randn(2, 2, 3, 64, 64)
        gates = model.eval().forward_train(image, image[:, 0]).gates
        assert sorted(gates) == [1, 2, 3, 4]
        for share in (gate.mean(dim=1) for gate in gates.values()):
            assert share.shape == (3, 4)
            torch.testing.assert_close(share.sum(1), torch.ones(3))
            # Here, the simulated SAR is the optical image
            torch.testing.assert_close(share[0], share[2], rtol=0, atol=1e-3)

    @pytest.mark.parametrize(
        ('encoder', 'channels', 'index'),
        [
            ('resnet18', (13, 2), 0),  # Sentinel-2, VV and VH
            ('mit_b0', (4, 1), 0),
            ('tu-convnext_atto', (3, 1), 0),
            ('mit_b0', (2, 13), 1),  # SAR before, optical after
        ],
    )
    def test_sensors(self, encoder: str, channels: tuple[int, int], index: Any) -> None:
        model = M2CD(encoder, in_channels=channels, optical_index=index)
        image = torch.randn(2, 2, max(channels), 64, 64)
        sar = torch.randn(2, channels[1 - index], 64, 64)
        output = model.forward_train(image, sar)
        loss = output.logits.mean() + output.balance_loss + output.guide_loss
        loss.backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []

        # The encoder treats simulated SAR like the SAR image
        model.eval()
        image[:, 1 - index, : channels[1 - index]] = sar
        gates = model.forward_train(image, sar).gates
        for gate in gates.values():
            torch.testing.assert_close(gate[1 - index], gate[2], rtol=0, atol=1e-3)

    @pytest.mark.parametrize('fusion', ['concat', 'diff', 'abs_diff', 'sum'])
    @pytest.mark.parametrize('decoder', ['mlp', 'unet', 'upernet', 'segformer', 'fpn'])
    def test_decoders(self, decoder: Any, fusion: Any) -> None:
        model = M2CD('mit_b0', decoder=decoder, fusion=fusion).eval()
        image = torch.randn(1, 2, 3, 64, 64)
        with torch.no_grad():
            logits, swapped = model(image), model(image.flip(1))
        assert logits.shape == (1, 1, 64, 64)
        symmetric = fusion in ('abs_diff', 'sum')
        assert torch.allclose(logits, swapped, atol=1e-4) == symmetric

    def test_pretrained_round_trip(self, tmp_path: Path) -> None:
        model = M2CD(
            'mit_b0',
            in_channels=(4, 1),
            classes=2,
            experts=Experts(stages=(2, 3), num_experts=3),
            decoder='fpn',
            decoder_args={'segmentation_channels': 64},
        ).eval()
        model.save_pretrained(tmp_path)
        loaded = M2CD.from_pretrained(tmp_path).eval()
        image = torch.randn(1, 2, 4, 64, 64)
        assert torch.equal(model(image), loaded(image))
        assert loaded.experts == model.experts
        config = json.loads((tmp_path / 'config.json').read_text())
        assert config['experts'] == model.experts.to_dict()
        expected = model.state_dict()
        assert expected.keys() == loaded.state_dict().keys()
        for name, value in loaded.state_dict().items():
            assert torch.equal(value, expected[name])

    def test_inputs_are_kept(self, tmp_path: Path) -> None:
        """A saved model keeps its inputs, given as an object or as values."""
        model = M2CD('mit_b0', in_channels=4, inputs=INPUTS)
        assert model.inputs is INPUTS
        model.save_pretrained(tmp_path / 'a')
        loaded = M2CD.from_pretrained(tmp_path / 'a')
        assert loaded.inputs.to_dict() == INPUTS.to_dict()
        assert not loaded.training
        assert not any('inputs' in name for name in model.state_dict())

        model.inputs = None
        model.save_pretrained(tmp_path / 'b')
        loaded = M2CD.from_pretrained(tmp_path / 'b')
        assert loaded.inputs is None
        loaded.inputs = Inputs(INPUTS.optical, LeftOut(), window=7)
        loaded.save_pretrained(tmp_path / 'c')
        again = M2CD.from_pretrained(tmp_path / 'c')
        assert again.inputs.to_dict() == loaded.inputs.to_dict()
        assert again.inputs.window == 7
        # An argument overrides them
        other = M2CD.from_pretrained(tmp_path / 'c', inputs=INPUTS)
        assert other.inputs is INPUTS
        values = json.loads((tmp_path / 'c' / 'config.json').read_text())
        with pytest.raises(ValueError, match=r"unknown input step 'no\.Step'"):
            M2CD(
                'mit_b0', inputs={**values['inputs'], 'sar': {'class_path': 'no.Step'}}
            )

    def test_other_weights(self, tmp_path: Path) -> None:
        """Weights of another model are refused: no parameter may stay random."""
        M2CD('mit_b0', experts=None).save_pretrained(tmp_path)
        config = json.loads((tmp_path / 'config.json').read_text())
        for changes in ({'experts': Experts().to_dict()}, {'decoder': 'unet'}):
            (tmp_path / 'config.json').write_text(json.dumps(config | changes))
            for kwargs in ({}, {'strict': False}):
                with pytest.raises(
                    ValueError, match='does not hold the weights of the'
                ):
                    M2CD.from_pretrained(tmp_path, **kwargs)
        (tmp_path / 'config.json').write_text(json.dumps(config))
        (tmp_path / 'model.safetensors').write_bytes(b'cut off')
        with pytest.raises(ValueError, match='does not hold the weights of the model'):
            M2CD.from_pretrained(tmp_path)

    def test_encoder_weights_are_not_asked_for_again(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        asked: list[str | None] = []

        def fake(name: str, in_channels: int, weights: str | None) -> torch.nn.Module:
            asked.append(weights)
            encoder: torch.nn.Module = get_encoder(name, in_channels)
            return encoder

        monkeypatch.setattr('torchgeo_m2cd.models.encoder.get_encoder', fake)
        model = M2CD('mit_b0', encoder_weights='imagenet', in_channels=(4, 1))
        assert 'imagenet' in asked
        asked.clear()
        model.save_pretrained(tmp_path)
        loaded = M2CD.from_pretrained(tmp_path)
        assert set(asked) == {None}
        for name, value in loaded.state_dict().items():
            assert torch.equal(value, model.state_dict()[name])

    @pytest.mark.parametrize('inputs', [None, INPUTS])
    def test_model_card(self, inputs: Inputs | None, tmp_path: Path) -> None:
        """The code of the model card runs, and its values are those of the model."""
        model = M2CD('mit_b0', in_channels=4, inputs=inputs).eval()
        details = (
            {'metrics': {'IoU': 0.5}, 'dataset': 'Floods of 2021'} if inputs else {}
        )
        model.save_pretrained(tmp_path, **details)
        card = (tmp_path / 'README.md').read_text()
        assert card.startswith('---\n')
        assert 'library_name: torchgeo-m2cd' in card
        assert ('Trained on: Floods of 2021' in card) == bool(inputs)
        arguments, *metrics = re.findall(r'```json\n(.*?)\n```', card, re.DOTALL)
        assert [json.loads(text) for text in metrics] == [{'IoU': 0.5}] * bool(inputs)
        config = json.loads((tmp_path / 'config.json').read_text())
        config.pop('_model_class')
        assert json.loads(arguments) == config

        (code,) = re.findall(r'```python\n(.*?)```', card, re.DOTALL)
        placeholder = '<this repository, or a folder>'
        assert placeholder in code
        generator = torch.Generator().manual_seed(0)
        optical = torch.rand(4, 64, 96, generator=generator).numpy() * 3000 + 1
        sar = torch.randn(1, 64, 96, generator=generator).numpy() - 12
        script = tmp_path / 'card.py'
        script.write_text(code.replace(placeholder, str(tmp_path)))
        names = runpy.run_path(str(script), {'optical': optical, 'sar': sar})
        loaded = names['model']
        assert isinstance(loaded, M2CD)
        assert ('probability' in names) == bool(inputs)
        if inputs:
            pair = torch.stack(
                [
                    (torch.from_numpy(optical) - 1000) / 500,
                    (torch.from_numpy(sar).expand(4, -1, -1) + 12) / 5,
                ]
            )
            expected = model(pair[None]).sigmoid()[0, 0].detach()
            probability = torch.from_numpy(names['probability'])
            torch.testing.assert_close(probability, expected, rtol=0, atol=1e-5)

    def test_freeze_encoder(self, model: M2CD) -> None:
        model.freeze_encoder()
        trained = {
            n.split('.')[0] for n, p in model.named_parameters() if p.requires_grad
        }
        assert trained == {'decoder', 'segmentation_head'}
        model.train()
        assert not model.encoder.training or model.decoder.training
        model.unfreeze_encoder()
        assert all(p.requires_grad for p in model.parameters())

    def test_parameter_names(self, model: M2CD) -> None:
        # Checkpoints contain them: a change breaks those of users
        names = {re.sub(r'\d+', 'N', name) for name, _ in model.named_parameters()}
        assert {n for n in names if 'backbone' not in n} == {
            'decoder.fuse.weight',
            'decoder.project.N.N.bias',
            'decoder.project.N.N.weight',
            'encoder.moe.N.fcN.bias',
            'encoder.moe.N.fcN.weight',
            'encoder.moe.N.gate.experts',
            'encoder.moe.N.gate.proj.bias',
            'encoder.moe.N.gate.proj.weight',
            'encoder.moe.N.gate.temperature',
            'encoder.moe.N.noise.weight',
            'segmentation_head.conv.bias',
            'segmentation_head.conv.weight',
            'segmentation_head.norm.bias',
            'segmentation_head.norm.weight',
        }
        backbone = {n for n, _ in model.encoder.backbone.named_parameters()}
        assert backbone == {n for n, _ in get_encoder('mit_b0').named_parameters()}

    def test_pretrained_encoder(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        # A stand-in for the hub with SMP's weights
        weights = get_encoder('mit_b0').state_dict()
        save_file(weights, tmp_path / 'model.safetensors')
        asked = []

        def download(repo_id: str, filename: str, revision: str) -> str:
            asked.append((repo_id, filename))
            return str(tmp_path / filename)

        monkeypatch.setattr(
            'segmentation_models_pytorch.encoders.hf_hub_download', download
        )
        model = M2CD('mit_b0', encoder_weights='imagenet', in_channels=4)
        assert ('smp-hub/mit_b0.imagenet', 'model.safetensors') in asked
        backbone = model.encoder.backbone
        torch.testing.assert_close(backbone.norm4.weight, weights['norm4.weight'])
        # SMP repeats the channels and scales them to keep the sum
        stem = weights['patch_embed1.proj.weight'][:, [0, 1, 2, 0]] * 3 / 4
        torch.testing.assert_close(backbone.patch_embed1.proj.weight, stem)

    def test_traced_is_the_same(
        self, model: M2CD, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # While compiling, each expert sees all tokens: nothing depends on the data
        image = torch.randn(1, 2, 3, 64, 64)
        model.eval()
        with torch.no_grad():
            expected = model(image)
            monkeypatch.setattr(torch.compiler, 'is_compiling', lambda: True)
            torch.testing.assert_close(model(image), expected, rtol=0, atol=1e-4)

    @pytest.mark.slow
    @pytest.mark.parametrize('encoder', ['mit_b0', 'resnet18'])
    def test_compile(self, encoder: str) -> None:
        # One MoE layer is enough: each is slow to compile
        model = M2CD(encoder, experts={'stages': [4]}).eval()
        image = torch.randn(1, 2, 3, 64, 64)
        compiled = torch.compile(model, fullgraph=True, backend='eager')
        with torch.no_grad(), untraced():
            torch.testing.assert_close(compiled(image), model(image), rtol=0, atol=1e-4)

    def test_compile_training(self) -> None:
        """The third branch does not change batch norm, also when compiled."""
        model = M2CD('resnet18', experts=Experts([4], noisy=False))
        other = copy.deepcopy(model)
        image, sar = torch.randn(2, 2, 3, 64, 64), torch.randn(2, 3, 64, 64)
        compiled = torch.compile(other.forward_train, fullgraph=True, backend='eager')
        with untraced():
            output, expected = compiled(image, sar), model.forward_train(image, sar)
        torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(
            dict(other.named_buffers()), dict(model.named_buffers())
        )

    @pytest.mark.slow
    def test_export(self) -> None:
        """``torch.export`` takes images of any size. test_export.py tests ONNX."""
        # One MoE layer is enough: each is slow to export
        model = M2CD('resnet18', experts={'stages': [4]}).eval()
        batch = torch.export.Dim('batch', min=1, max=64)
        height = 32 * torch.export.Dim('height', min=2, max=32)
        width = 32 * torch.export.Dim('width', min=2, max=32)
        shapes = ({0: batch, 3: height, 4: width},)
        example = torch.randn(2, 2, 3, 96, 64)
        with torch.no_grad(), untraced():
            program = torch.export.export(model, (example,), dynamic_shapes=shapes)
            exported = program.module()
            for shape in ((1, 2, 3, 64, 128), (3, 2, 3, 96, 64)):
                image = torch.randn(shape)
                torch.testing.assert_close(
                    exported(image), model(image), rtol=0, atol=1e-4
                )

    @pytest.mark.parametrize(
        ('shape', 'error', 'match'),
        [
            ((2, 3, 64, 64), ValueError, r'expected image of shape \(B, 2, C, H, W\)'),
            ((2, 3, 3, 64, 64), ValueError, r'got \(2, 3, 3, 64, 64\)'),
            ((2, 2, 2, 64, 64), ValueError, 'in_channels=3, the images have 2'),
            ((2, 2, 3, 64, 50), RuntimeError, 'divisible by 32'),
        ],
    )
    def test_bad_input(
        self, model: M2CD, shape: tuple[int, ...], error: type[Exception], match: str
    ) -> None:
        with pytest.raises(error, match=match):
            model(torch.zeros(shape))

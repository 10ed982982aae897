# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import copy
from importlib.metadata import version
from typing import Any

import pytest
import torch
from segmentation_models_pytorch.encoders import encoders, get_encoder

from torchgeo_m2cd.models import Experts, MoEEncoder
from torchgeo_m2cd.models.encoder import check_encoder
from torchgeo_m2cd.models.stages import FAMILIES

# One encoder per family, and those of the paper
ENCODERS = [
    'mit_b0',
    'resnet18',
    'se_resnet50',
    'mobileone_s0',
    'mobilenet_v2',
    'vgg11',
    'inceptionv4',
    'inceptionresnetv2',
    'densenet121',
    'tu-resnet18d',
    'tu-mobilenetv3_small_100',
    'tu-mobilenetv3_large_100',
    'tu-convnext_tiny',
    'tu-efficientnet_b0',
    'tu-swin_tiny_patch4_window7_224',
    'tu-tresnet_m',
]


#: Message of tests of what SMP and timm don't document, see stages.py.
RELEASES = (
    'a release broke an encoder: segmentation_models_pytorch '
    f'{version("segmentation_models_pytorch")}, timm {version("timm")}'
)


def size_of(name: str) -> int:
    """Return an image size that suits the encoder; Inceptions do not pad."""
    return 224 if '224' in name else 160 if 'inception' in name else 64


def test_all_families() -> None:
    """The tests below run over all families."""
    tested = [encoders[name]['encoder'] for name in ENCODERS if name in encoders]
    for family in FAMILIES:
        assert any(issubclass(encoder, family) for encoder in tested), family


class TestMoEEncoder:
    @pytest.mark.parametrize('name', ENCODERS)
    def test_stages_of_releases(self, name: str) -> None:
        """Without experts, the stages give the features of SMP's encoder."""
        encoder = MoEEncoder(name, experts=None).eval()
        plain = get_encoder(name).eval()
        plain.load_state_dict(encoder.backbone.state_dict())
        images = torch.randn(2, 1, 3, size_of(name), size_of(name))
        with torch.no_grad():
            output = encoder(*images)
            expected = plain(images[1])
        assert output.balance_loss == 0
        assert output.gates == {}
        shapes = [f.shape[2] for f in output.features]
        assert shapes == encoder.out_channels, f'{RELEASES}: stages of {name}'
        for feature, x in zip(output.features, expected, strict=True):
            if feature.numel():
                # SMP's Mix Transformers have LayerNorms with eps 1e-5, ours 1e-6
                atol = 1e-3 * float(x.std())
                torch.testing.assert_close(
                    feature[1],
                    x,
                    rtol=1e-3,
                    atol=atol,
                    msg=lambda message: f'{RELEASES}: stages of {name}: {message}',
                )

    @pytest.mark.parametrize('name', ENCODERS)
    def test_stems(self, name: str) -> None:
        encoder = MoEEncoder(name, in_channels=(5, 2), experts=None).eval()
        size = size_of(name)
        a, b = torch.randn(1, 5, size, size), torch.randn(1, 2, size, size)
        with torch.no_grad():
            output = encoder(a, b, b, second=[False, True, True])
            expected = encoder(a, second=[False])
        for f, x in zip(output.features, expected.features, strict=True):
            # Random weights make some features huge, and sums of them inexact
            atol = 1e-3 * float(f.std()) if f.numel() else 0.0
            torch.testing.assert_close(f[0], x[0], rtol=1e-3, atol=atol)
            torch.testing.assert_close(f[1], f[2], rtol=1e-3, atol=atol)
        # All other weights are shared
        assert encoder.second_stem is not None
        plain = get_encoder(name, in_channels=5)
        own = sum(p.numel() for p in encoder.second_stem.parameters())
        total = sum(p.numel() for p in encoder.parameters())
        assert total == own + sum(p.numel() for p in plain.parameters())
        assert own < sum(p.numel() for m in encoder.stem for p in m.parameters())

    @pytest.mark.parametrize('size', [1, 2, 3, 4, 5])
    def test_mix_transformers(self, size: int) -> None:
        encoder = MoEEncoder(f'mit_b{size}').eval()
        with torch.no_grad():
            output = encoder(*torch.randn(2, 1, 3, 32, 32))
        assert output.features[-1].shape == (2, 1, 512, 1, 1)
        assert output.features[-1].isfinite().all()

    def test_moe_replaces_the_output_of_its_stage(self) -> None:
        encoder = MoEEncoder('mit_b0', experts=Experts([2, 4])).eval()
        images = torch.randn(2, 2, 3, 64, 64)
        backbone = encoder.backbone
        with torch.no_grad():
            output = encoder(*images)
            x = images[1]
            expected = []
            for i in range(1, 5):
                for part in ('patch_embed', 'block', 'norm'):
                    x = getattr(backbone, f'{part}{i}')(x)
                if i in (2, 4):
                    tokens = x.flatten(2).transpose(1, 2)
                    tokens = encoder.moe[str(i)](tokens).tokens
                    x = tokens.transpose(1, 2).reshape(x.shape)
                expected.append(x)
        for feature, x in zip(output.features[2:], expected, strict=True):
            torch.testing.assert_close(feature[1], x, rtol=1e-4, atol=1e-5)
        assert {i: tuple(g.shape) for i, g in output.gates.items()} == {
            2: (2, 2 * 8 * 8, 4),
            4: (2, 2 * 2 * 2, 4),
        }

    def test_branches_are_independent_and_share_all_weights(self) -> None:
        encoder = MoEEncoder('mit_b0').eval()
        a, b = torch.randn(2, 1, 3, 32, 32)
        with torch.no_grad():
            one, other, both = encoder(a), encoder(b), encoder(a, b)
        torch.testing.assert_close(
            both.balance_loss, one.balance_loss + other.balance_loss
        )
        for f, f1, f2 in zip(both.features, one.features, other.features, strict=True):
            torch.testing.assert_close(f, torch.cat((f1, f2)), rtol=0, atol=1e-4)

    def test_batch_norm(self) -> None:
        encoder = MoEEncoder('resnet18', experts=Experts([1], noisy=False))
        before = copy.deepcopy(encoder.state_dict())
        optical, sar, simulated = torch.randn(3, 2, 3, 64, 64) * torch.tensor(
            [1.0, 2.0, 9.0]
        ).reshape(3, 1, 1, 1, 1)
        pair = encoder(optical, sar)
        after = copy.deepcopy(encoder.state_dict())
        # Statistics are computed over both images
        x = encoder.backbone.conv1(torch.cat((optical, sar)))
        momentum = 0.1 * x.transpose(0, 1).flatten(1).mean(1)
        torch.testing.assert_close(after['backbone.bn1.running_mean'], momentum)

        # A third branch changes neither them nor the features of the pair
        encoder.load_state_dict(before)
        three = encoder(optical, sar, simulated)
        torch.testing.assert_close(encoder.state_dict(), after)
        encoder.load_state_dict(before)
        alone = encoder(simulated, second=[True])
        for i in range(1, 6):
            torch.testing.assert_close(three.features[i][:2], pair.features[i])
            torch.testing.assert_close(three.features[i][2:], alone.features[i])
        loss = pair.balance_loss + alone.balance_loss
        torch.testing.assert_close(three.balance_loss, loss)
        gates = torch.cat((pair.gates[1], alone.gates[1]))
        torch.testing.assert_close(three.gates[1], gates)

        # Statistics survive an error, such as out of memory
        statistics = encoder.backbone.bn1.running_mean
        with pytest.raises(RuntimeError):
            encoder(optical, sar, simulated[:, :1])
        assert encoder.backbone.bn1.running_mean is statistics

    @pytest.mark.parametrize('name', ['mit_b0', 'resnet18', 'mobileone_s0', 'vgg11'])
    def test_stems_get_pretrained_weights(
        self, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """SMP adapts the weights for RGB images to both stems."""
        rgb = get_encoder(name)

        def fake(name: str, in_channels: int, weights: str) -> torch.nn.Module:
            assert weights == 'imagenet'
            encoder = copy.deepcopy(rgb)
            encoder.set_in_channels(in_channels, pretrained=True)
            return encoder  # type: ignore[no-any-return]

        monkeypatch.setattr('torchgeo_m2cd.models.encoder.get_encoder', fake)
        encoder = MoEEncoder(name, 'imagenet', in_channels=(4, 1), experts=None)
        assert encoder.second_stem is not None
        for stem, channels in ((encoder.stem, 4), ([*encoder.second_stem], 1)):
            plain = fake(name, channels, 'imagenet')
            expected = [plain.get_submodule(module) for module in encoder.stem_names]
            if name == 'mobileone_s0':
                # SMP adapts only the first of four convolutions that read the image
                expected = [plain.get_submodule('stage0.rbr_scale')]
                stem = [torch.nn.ModuleList(stem).get_submodule('0.rbr_scale')]
            for a, b in zip(stem, expected, strict=True):
                torch.testing.assert_close(a.state_dict(), b.state_dict())

    def test_stem_of_blocks_of_pixels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The weights of one channel are the sum over RGB, block by block."""
        rgb = get_encoder('tu-tresnet_m')
        monkeypatch.setattr(
            'torchgeo_m2cd.models.encoder.get_encoder',
            lambda *_, **__: copy.deepcopy(rgb),
        )
        encoder = MoEEncoder('tu-tresnet_m', True, (3, 1), experts=None).eval()
        sar = torch.randn(1, 1, 64, 64)
        image = sar.expand(-1, 3, -1, -1)
        features = encoder(image, sar).features
        torch.testing.assert_close(features[2][0], features[2][1], rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize('name', ['mit_b0', 'resnet18', 'tu-convnext_atto'])
    def test_random_stems_differ(self, name: str) -> None:
        encoder = MoEEncoder(name, in_channels=(3, 3), experts=None)
        assert encoder.second_stem is not None
        first, second = (
            next(p for m in stem for p in m.parameters())
            for stem in (encoder.stem, encoder.second_stem)
        )
        assert first.shape == second.shape
        assert (first != second).all()

    @pytest.mark.parametrize(
        'name', ['mit_b0', 'tu-convnext_tiny', 'tu-swin_tiny_patch4_window7_224']
    )
    @pytest.mark.parametrize('in_channels', [3, (3, 3)])
    def test_images_without_data(self, name: str, in_channels: Any) -> None:
        """Images of zeros do not give much larger gradients than others."""
        encoder = MoEEncoder(name, in_channels=in_channels, experts=None)
        size = size_of(name)
        largest = []
        for images in (
            torch.randn(2, 1, 3, size, size),
            torch.zeros(2, 1, 3, size, size),
        ):
            encoder.zero_grad()
            features = encoder(*images).features
            # The mean would not do: it is constant after a layer norm
            torch.stack(
                [(f * torch.randn_like(f)).sum() for f in features]
            ).sum().backward()
            grads = [
                p.grad.abs().max() for p in encoder.parameters() if p.grad is not None
            ]
            largest.append(float(torch.stack(grads).max()))
        assert largest[1] < 10 * largest[0]

    def test_encoder_args(self) -> None:
        encoder = MoEEncoder('tu-resnet18', encoder_args={'act_layer': 'silu'})
        assert any(isinstance(m, torch.nn.SiLU) for m in encoder.modules())

    @pytest.mark.parametrize(
        ('kwargs', 'match'),
        [
            ({'name': 'mit_bo'}, r"unknown encoder 'mit_bo', did you mean 'mit_b"),
            (
                {'name': 'tu-resnet81'},
                r"unknown encoder 'tu-resnet81', did you mean 'tu-resnet",
            ),
            ({'name': 'dpn68'}, r"'dpn68' has no known stages .*MobileOne"),
            (
                {'name': 'tu-hrnet_w18_small'},
                "'tu-hrnet_w18_small' has no known stages",
            ),
            (
                {'in_channels': (3, 2, 1)},
                r'in_channels is \(3, 2, 1\): expected 1 to 2 items',
            ),
            ({'in_channels': 0}, 'in_channels is 0: expected at least 1'),
            (
                {'name': 'tu-resnet18', 'encoder_args': {'depth': 4}},
                'encoder_args may not hold depth',
            ),
            ({'encoder_args': {'a': 1}}, "are those of timm .* encoder is 'mit_b0'"),
        ],
    )
    def test_bad_arguments(self, kwargs: dict[str, Any], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            MoEEncoder(**({'name': 'mit_b0'} | kwargs))

    def test_known_encoders(self) -> None:
        for name in ('mit_b0', 'tu-resnet18', 'tu-resnet18.a1_in1k', 'tu-hf-hub:a/b'):
            check_encoder(name)

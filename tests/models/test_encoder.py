# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch
from segmentation_models_pytorch.encoders import get_encoder

from torchgeo_m2cd.models import MoEEncoder


class TestMoEEncoder:
    @pytest.mark.parametrize('name', [f'mit_b{i}' for i in range(6)])
    def test_without_moe_is_the_plain_encoder(self, name: str) -> None:
        encoder = MoEEncoder(name, in_channels=2, moe_stages=()).eval()
        plain = get_encoder(name, in_channels=2).eval()
        plain.load_state_dict(encoder.backbone.state_dict())
        images = torch.randn(3, 1, 2, 64, 64)
        with torch.no_grad():
            output = encoder(*images)
            expected = [plain(image) for image in images]
        assert output.balance_loss == 0
        assert output.gates == {}
        assert [f.shape[2] for f in output.features] == encoder.out_channels
        for i, feature in enumerate(output.features):
            for p in range(3):
                # Their LayerNorms have eps 1e-5 in some places
                torch.testing.assert_close(
                    feature[p], expected[p][i], rtol=0, atol=2e-4
                )

    def test_moe_replaces_the_output_of_its_stage(self) -> None:
        encoder = MoEEncoder('mit_b0', moe_stages=[2, 4]).eval()
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

    def test_paths_are_independent_and_share_all_weights(self) -> None:
        encoder = MoEEncoder('mit_b0').eval()
        a, b = torch.randn(2, 1, 3, 32, 32)
        with torch.no_grad():
            one, other, both = encoder(a), encoder(b), encoder(a, b)
        torch.testing.assert_close(
            both.balance_loss, one.balance_loss + other.balance_loss
        )
        for f, f1, f2 in zip(both.features, one.features, other.features, strict=True):
            torch.testing.assert_close(f, torch.cat((f1, f2)), rtol=0, atol=1e-4)

    def test_bad_arguments(self) -> None:
        with pytest.raises(
            ValueError, match="unknown encoder 'mit_bo', did you mean 'mit_b"
        ):
            MoEEncoder('mit_bo')
        with pytest.raises(ValueError, match=r'moe_stages \[0, 5\] do not exist'):
            MoEEncoder('mit_b0', moe_stages=[0, 1, 5])
        with pytest.raises(ValueError, match=r"'densenet121' .* has no known stages"):
            MoEEncoder('densenet121')

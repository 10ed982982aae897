# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from typing import Any

import pytest
import torch

from torchgeo_m2cd.models import M2CD


@pytest.fixture
def model() -> M2CD:
    torch.manual_seed(0)
    return M2CD('mit_b0')


class TestM2CD:
    @pytest.mark.parametrize('classes', [1, 3])
    def test_forward(self, classes: int) -> None:
        model = M2CD('mit_b0', in_channels=2, classes=classes).eval()
        image = torch.randn(2, 2, 4, 64, 96)
        logits = model(image)
        assert logits.shape == (2, classes, 64, 96)
        # Only the first channels are read
        torch.testing.assert_close(model(image[:, :, :2]), logits)
        torch.testing.assert_close(model.predict(image), logits)

    def test_order_of_the_images_matters(self, model: M2CD) -> None:
        image = torch.randn(1, 2, 3, 64, 64)
        model.eval()
        assert (model(image) - model(image.flip(1))).abs().max() > 1e-3

    def test_resize_of_the_head(self, model: M2CD) -> None:
        # Half-pixel centres, as the original: a bilinear ramp keeps its ends
        ramp = torch.arange(4.0).expand(1, 1, 4, 4)
        resized = model.segmentation_head[1](ramp)
        expected = torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
        torch.testing.assert_close(resized[0, 0, 0], expected)

    def test_o2sp_runs_in_training_only(self, model: M2CD) -> None:
        paths = []
        model.encoder.register_forward_pre_hook(lambda _, a: paths.append(len(a)))
        image = torch.randn(2, 2, 3, 64, 64)
        model(image)
        output = model.forward_train(image, image[:, 0])
        without = model.forward_train(image)
        assert paths == [2, 3, 2]
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

    @pytest.mark.parametrize('kwargs', [{}, {'moe_stages': []}, {'num_experts': 7}])
    def test_every_parameter_has_a_gradient(self, kwargs: dict[str, Any]) -> None:
        model = M2CD('mit_b0', **kwargs)
        image = torch.randn(2, 2, 3, 32, 32)
        output = model.forward_train(image, image[:, 0])
        loss = output.logits.mean() + output.balance_loss + output.guide_loss
        loss.backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []

    def test_without_moe(self) -> None:
        model = M2CD('mit_b0', moe_stages=[])
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

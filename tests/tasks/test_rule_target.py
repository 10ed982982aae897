# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch

from torchgeo_m2cd.models import ThresholdRule, rule_inputs
from torchgeo_m2cd.tasks import ChangeDetectionTask, RuleTarget

INPUTS = rule_inputs()


def make_batch() -> dict[str, torch.Tensor]:
    """Make two pairs in dB, flooded on the left, with masks that say otherwise."""
    generator = torch.Generator().manual_seed(0)
    image = torch.full((2, 2, 1, 64, 64), 2500.0)
    image[:, 1] = -9 + torch.randn(2, 1, 64, 64, generator=generator)
    image[:, 1, ..., :32] -= 12
    mask = torch.zeros(2, 1, 64, 64, dtype=torch.long)
    mask[..., :32, :] = 1
    mask[..., :4, :4] = 255
    return INPUTS.show({'image': image, 'mask': mask})


class TestRuleTarget:
    @pytest.mark.parametrize('weight', [0.0, 0.25, 1.0])
    def test_formula(self, weight: float) -> None:
        batch = make_batch()
        mask = batch['mask']
        target = RuleTarget(weight).blend(batch['image'], mask, INPUTS, 255)
        rule = ThresholdRule(inputs=INPUTS)(batch['image']).sigmoid()
        expected = (1 - weight) * mask + weight * rule
        counts = mask != 255
        torch.testing.assert_close(target[counts], expected[counts])
        assert (target[~counts] == 255).all()
        assert rule[..., 4:28].min() > 0.5 > rule[..., 36:].max()

    def test_mixed_precision(self) -> None:
        batch = make_batch()
        expected = RuleTarget(0.5).blend(batch['image'], batch['mask'], INPUTS, 255)
        with torch.autocast('cpu', torch.bfloat16):
            target = RuleTarget(0.5).blend(batch['image'], batch['mask'], INPUTS, 255)
        assert target.dtype == torch.float32
        assert torch.equal(target, expected)

    def test_nothing_ignored(self) -> None:
        batch = make_batch()
        target = RuleTarget(0.5).blend(batch['image'], batch['mask'], INPUTS, None)
        assert (target[..., :4, :4] > 100).all()

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match='weight is 2'):
            RuleTarget(2)
        batch = make_batch()
        with pytest.raises(ValueError, match='needs to know what the model is shown'):
            RuleTarget().blend(batch['image'], batch['mask'], None, 255)


class TestTask:
    def make(self, rule_target: object) -> ChangeDetectionTask:
        torch.manual_seed(0)
        task = ChangeDetectionTask(
            backbone='resnet18',
            in_channels=[1, 2],
            model_args={'experts': None},
            rule_target=rule_target,  # type: ignore[arg-type]
        )
        task.take_inputs(INPUTS)
        return task

    def test_loss(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The target is used in training only; the loss is that of soft labels."""
        monkeypatch.setattr(ChangeDetectionTask, 'log', lambda *args, **kwargs: None)
        batch = make_batch()
        plain, task = self.make(None), self.make(RuleTarget(0.5))
        for stage in ('val', 'train'):
            losses = [t._shared_step(batch, 1, stage) for t in (plain, task)]
            assert torch.equal(*losses) == (stage == 'val')
        logits = task.model(batch['image'])
        target = RuleTarget(0.5).blend(batch['image'], batch['mask'], INPUTS, 255)
        counts = batch['mask'] != 255
        expected = torch.nn.functional.binary_cross_entropy_with_logits(
            logits[counts], target[counts]
        )
        torch.testing.assert_close(losses[1], expected)

    def test_description(self) -> None:
        task = self.make(RuleTarget(0.5, sigma=1.0))
        saved = task.hparams['rule_target']
        assert saved['class_path'] == 'torchgeo_m2cd.tasks.RuleTarget'
        again = self.make(saved).rule_target
        assert again is not None
        assert (again.weight, again.sigma, again.margin) == (0.5, 1.0, 9.0)

    def test_other_loss(self) -> None:
        with pytest.raises(
            ValueError, match="rule_target got task='binary' and loss='d"
        ):
            ChangeDetectionTask(
                backbone='resnet18', loss='dice', rule_target=RuleTarget()
            )

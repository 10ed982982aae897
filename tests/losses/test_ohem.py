# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from typing import Any, cast

import pytest
import torch
from torch import nn

from torchgeo_m2cd.losses import OHEM, OHEMLoss

# Probabilities of the true class of four pixels, shape (2, 2)
PROBABILITIES = torch.tensor([[0.9, 0.6], [0.2, 0.8]])
NLL = -PROBABILITIES.log()


def two_classes() -> tuple[torch.Tensor, torch.Tensor]:
    """Make logits, shape (2, 2, 2), and classes, shape (2, 2)."""
    target = torch.tensor([[0, 1], [1, 0]])
    odds = torch.logit(PROBABILITIES) * torch.where(target == 1, 1, -1)
    return torch.stack([torch.zeros(2, 2), odds], dim=1), target


class TestOHEMLoss:
    @pytest.mark.parametrize(
        ('threshold', 'min_kept', 'kept'),
        [
            (0.7, 1, [0.6, 0.2]),
            (0.7, 3, [0.6, 0.2, 0.8]),  # only two are below the threshold
            (0.7, 100, [0.9, 0.6, 0.2, 0.8]),
            (0.85, 1, [0.6, 0.2, 0.8]),
            (0.1, 1, [0.2]),
            (0.0, 2, [0.6, 0.2]),
            (1.0, 1, [0.9, 0.6, 0.2, 0.8]),
        ],
    )
    def test_pixels(self, threshold: float, min_kept: int, kept: list[float]) -> None:
        expected = -torch.tensor(kept).log().mean()
        logits, target = two_classes()
        loss = OHEMLoss(nn.CrossEntropyLoss(), OHEM(threshold, min_kept))
        torch.testing.assert_close(loss(logits, target), expected)
        # The same pixels with one logit
        loss = OHEMLoss(nn.BCEWithLogitsLoss(), OHEM(threshold, min_kept))
        odds, labels = logits[:, 1:], target[:, None].float()
        torch.testing.assert_close(loss(odds, labels), expected)

    def test_weights(self) -> None:
        logits, target = two_classes()
        # The weight gives the pixel of 0.9 the largest loss, but it is not the hardest
        weight = torch.tensor([100.0, 1.0])
        loss = OHEMLoss(nn.CrossEntropyLoss(weight), OHEM(0.85, 1))(logits, target)
        expected = (100 * NLL[1, 1] + NLL[0, 1] + NLL[1, 0]) / 102
        torch.testing.assert_close(loss, expected)
        criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0))
        loss = OHEMLoss(criterion, OHEM(0.85, 1))(
            logits[:, 1:], target[:, None].float()
        )
        torch.testing.assert_close(
            loss, (NLL[1, 1] + 3 * NLL[0, 1] + 3 * NLL[1, 0]) / 3
        )

    def test_labels(self) -> None:
        # The first pixel is hard in its second label, the second pixel in neither
        probabilities = torch.tensor([[[0.9, 0.9], [0.5, 0.8]]])
        loss = OHEMLoss(nn.BCEWithLogitsLoss(), OHEM(0.7, 1))
        value = loss(torch.logit(probabilities), torch.ones(1, 2, 2))
        torch.testing.assert_close(value, -probabilities[0, :, 0].log().mean())

    def test_ignored(self) -> None:
        logits, target = two_classes()
        target[1, 0] = 255
        loss = OHEMLoss(nn.CrossEntropyLoss(ignore_index=255), OHEM(0.7, 2))
        expected = (NLL[0, 1] + NLL[1, 1]) / 2
        torch.testing.assert_close(loss(logits, target), expected)

    def test_gradient(self) -> None:
        logits, target = two_classes()
        OHEMLoss(nn.CrossEntropyLoss(), OHEM(0.7, 1))(
            logits.requires_grad_(), target
        ).backward()
        assert logits.grad is not None
        moved = logits.grad.abs().sum(dim=1) > 0
        assert moved.tolist() == [[False, True], [True, False]]

    def test_evaluation(self) -> None:
        loss = OHEMLoss(nn.CrossEntropyLoss(), OHEM(0.7, 1)).eval()
        torch.testing.assert_close(loss(*two_classes()), NLL.mean())

    @pytest.mark.parametrize(
        ('kwargs', 'match'),
        [
            ({'threshold': 70.0}, 'threshold is 70.0: expected from 0 to 1'),
            ({'min_kept': 0}, 'min_kept is 0: expected at least 1'),
        ],
    )
    def test_bad_arguments(self, kwargs: dict[str, Any], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            OHEM(**kwargs)

    def test_other_criterion(self) -> None:
        with pytest.raises(
            TypeError, match=r'criterion is MSELoss.*: expected an object of Cro'
        ):
            OHEMLoss(cast(Any, nn.MSELoss()), OHEM())

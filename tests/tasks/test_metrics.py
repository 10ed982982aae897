# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from typing import Any

import pytest
import torch
from torchgeo.tasks import ChangeDetection

from torchgeo_m2cd.tasks.metrics import make_metrics, to_probabilities

# This package's names of TorchGeo's metrics
NAMES = {
    'IoU': 'JaccardIndex',
    'F1': 'F1Score',
    'Precision': 'Precision',
    'Recall': 'Recall',
}


@pytest.mark.parametrize('ignore_index', [255, None])
@pytest.mark.parametrize(
    'kwargs',
    [
        {'task': 'binary'},
        {'task': 'multiclass', 'num_classes': 3, 'labels': ['land', 'water', 'flood']},
        {'task': 'multilabel', 'num_labels': 2},
    ],
    ids=lambda kwargs: kwargs['task'],
)
def test_numbers_are_those_of_torchgeo(
    kwargs: dict[str, Any], ignore_index: int | None
) -> None:
    task = kwargs['task']
    labels = kwargs.get('labels')
    channels = kwargs.get('num_classes') or kwargs.get('num_labels') or 1
    logits = torch.randn(4, channels, 8, 8)
    shape = (4, 8, 8) if task == 'multiclass' else (4, channels, 8, 8)
    mask = torch.randint(0, channels if task == 'multiclass' else 2, shape)
    if ignore_index is not None:
        mask[..., :2, :] = ignore_index
    metrics = make_metrics(**kwargs, ignore_index=ignore_index)
    theirs = ChangeDetection(
        'fcn',
        loss='ce' if task == 'multiclass' else 'bce',
        ignore_index=ignore_index,
        **kwargs,
    ).val_metrics
    probabilities = to_probabilities(logits, task)
    actual = metrics(probabilities, mask)
    expected = theirs(probabilities, mask)

    names = {'Accuracy': 'val_OverallAccuracy'}
    for ours, other in NAMES.items():
        names[ours] = f'val_Average{other}'
        if task != 'binary':
            for label in labels or range(channels):
                names[f'{ours}_{label}'] = f'val_Classwise{other}_{label}'
    assert actual.keys() == names.keys()
    for ours, other in names.items():
        torch.testing.assert_close(actual[ours], expected[other])
    # No number is logged twice
    if task != 'multilabel':
        assert len({round(value.item(), 6) for value in actual.values()}) == len(actual)


def test_by_hand() -> None:
    metrics = make_metrics('binary', ignore_index=255)
    probability = torch.tensor([0.9, 0.8, 0.7, 0.1, 0.2, 0.9])
    values = metrics(probability, torch.tensor([1, 1, 0, 1, 0, 255]))
    assert {name: round(value.item(), 4) for name, value in values.items()} == {
        'Accuracy': 0.6,
        'F1': 0.6667,
        'IoU': 0.5,
        'Precision': 0.6667,
        'Recall': 0.6667,
    }


def test_to_probabilities() -> None:
    logits = torch.tensor([[0.0, 2.0]], dtype=torch.bfloat16)
    odds = torch.tensor([1.0, torch.e**2])
    torch.testing.assert_close(
        to_probabilities(logits, 'multiclass')[0], odds / odds.sum()
    )
    torch.testing.assert_close(to_probabilities(logits, 'binary')[0], odds / (1 + odds))

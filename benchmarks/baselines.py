# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Baselines without training: thresholds of SAR, below which a pixel is flooded.

A baseline maps a batch of a data module (``image`` and ``mask``, in source units from 0 to 255)
to classes, shape (B, 1, H, W), True for flood. Baselines differ in how they choose the threshold.
The one that users have is a model: :class:`~torchgeo_m2cd.models.ThresholdRule`.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from kornia.filters import gaussian_blur2d
from torch import Tensor
from torchgeo.datasets.utils import unbind_samples

Batch = dict[str, Tensor]

#: How the threshold is chosen:
#:
#: * ``'rule'``: as :class:`~torchgeo_m2cd.models.ThresholdRule` does, with the inputs of the data
#: * ``'global'``: one for all chips, with the best IoU on the training split
#: * ``'oracle'``: the best one of each chip, given its mask; an upper bound
#: * ``'smooth-oracle'``: the same on smoothed SAR
THRESHOLDS = ('rule', 'global', 'oracle', 'smooth-oracle')


def make_baseline(threshold: str, datamodule: Any) -> Callable[[Batch], Tensor]:
    """Make a baseline.

    Args:
        threshold: One of :data:`THRESHOLDS` but ``'rule'``.
        datamodule: Data module whose training split ``'global'`` uses to choose its value.

    Returns:
        Function that maps a batch to classes, shape (B, 1, H, W), True for flood.
    """
    if threshold != 'global':
        return _oracle if threshold == 'oracle' else _smooth_oracle
    datamodule.setup('fit')
    limit = best_threshold(datamodule.train_dataset)
    return lambda batch: _sar(batch) <= limit


def _sar(batch: Batch) -> Tensor:
    """Return the first SAR band, shape (B, 1, H, W)."""
    return batch['image'][:, 1, :1]


def _oracle(batch: Batch) -> Tensor:
    """Apply to each chip its best threshold."""
    limits = [best_threshold([sample]) for sample in unbind_samples(batch)]
    return _sar(batch) <= torch.tensor(limits).reshape(-1, 1, 1, 1)


def _smooth_oracle(batch: Batch) -> Tensor:
    """Smooth SAR, then apply the best thresholds: speckle causes most errors."""
    image = batch['image'].clone()
    image[:, 1] = gaussian_blur2d(image[:, 1], (9, 9), (2.0, 2.0)).round()
    return _oracle({**batch, 'image': image})


def best_threshold(samples: Iterable[Batch]) -> int:
    """Find the SAR threshold with the best IoU over all samples.

    Args:
        samples: Chips in source units.

    Returns:
        Largest SAR value that is flood; -1 if no chip is flooded.
    """
    counts = torch.zeros(2, 256)  # by class and value
    for sample in samples:
        values, mask = sample['image'][1, 0].long(), sample['mask'][0]
        for label in (0, 1):
            counts[label] += torch.bincount(values[mask == label], minlength=256)
    false_alarms, hits = counts.cumsum(1)
    iou = hits / (counts[1].sum() + false_alarms)
    return int(iou.argmax()) if counts[1].any() else -1

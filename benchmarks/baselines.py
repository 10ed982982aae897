# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Baselines without training: thresholds of SAR, below which a pixel is flooded.

A baseline maps a batch of a data module (``image`` and ``mask``, in source units from 0 to 255)
to classes, shape (B, 1, H, W), True for flood. Baselines differ in how they choose the threshold.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from kornia.filters import gaussian_blur2d, otsu_threshold
from torch import Tensor
from torchgeo.datasets.utils import unbind_samples

Batch = dict[str, Tensor]

#: How the threshold is chosen:
#:
#: * ``'global'``: one for all chips, with the best IoU on the training split
#: * ``'otsu'``: Otsu's threshold of each chip
#: * ``'change'``: Otsu's, without pixels that are dark in the pre-event optical image
#: * ``'oracle'``: the best one of each chip, given its mask; an upper bound
#: * ``'smooth-oracle'``: the same on smoothed SAR
THRESHOLDS = ('global', 'otsu', 'change', 'oracle', 'smooth-oracle')


def make_baseline(threshold: str, datamodule: Any) -> Callable[[Batch], Tensor]:
    """Make a baseline.

    Args:
        threshold: One of :data:`THRESHOLDS`.
        datamodule: Data module whose training split ``'global'`` and ``'change'`` use to
            choose their values.

    Returns:
        Function that maps a batch to classes, shape (B, 1, H, W), True for flood.
    """
    match threshold:
        case 'global':
            datamodule.setup('fit')
            limit = best_threshold(datamodule.train_dataset)
            return lambda batch: _sar(batch) <= limit
        case 'change':
            datamodule.setup('fit')
            darkness = best_darkness(datamodule.train_dataset)
            return functools.partial(_otsu, darkness=darkness)
        case 'oracle':
            return _oracle
        case 'smooth-oracle':
            return _smooth_oracle
    return _otsu


def _sar(batch: Batch) -> Tensor:
    """Return the first SAR band, shape (B, 1, H, W)."""
    return batch['image'][:, 1, :1]


def _otsu(batch: Batch, darkness: int = -1) -> Tensor:
    """Apply Otsu's threshold, except where the optical mean is at most *darkness*."""
    sar = _sar(batch)
    flood = sar <= otsu_threshold(sar)[1].reshape(-1, 1, 1, 1)
    return flood & (batch['image'][:, 0].mean(1, keepdim=True).floor() > darkness)


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


def best_darkness(samples: Iterable[Batch]) -> int:
    """Find the optical value up to which a pixel was probably water before the flood.

    Considers pixels that are dark in SAR, by Otsu's threshold of their chip.

    Args:
        samples: Chips in source units.

    Returns:
        Mean over the optical bands that gives the best IoU over all samples.
    """
    counts = torch.zeros(2, 256)  # by class and optical value
    missed = 0
    for sample in samples:
        optical, sar, mask = (
            sample['image'][0].mean(0),
            sample['image'][1, :1],
            sample['mask'][0],
        )
        dark = sar[0] <= otsu_threshold(sar[None])[1]
        for label in (0, 1):
            values = optical[dark & (mask == label)].long()
            counts[label] += torch.bincount(values, minlength=256)
        missed += int((~dark & (mask == 1)).sum())
    # Counts of the pixels that are brighter than each value
    false_alarms, hits = counts.sum(1, keepdim=True) - counts.cumsum(1)
    positives = counts[1].sum() + missed
    return int((hits / (positives + false_alarms)).argmax())

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Pictures of maps by released weights, good and bad.

python -m benchmarks.gallery --root ../shared/data/ombria

Draws, for each event, the chips whose maps have the highest and the lowest IoU, into
``docs/results/gallery-EVENT.jpg``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchgeo.datasets.utils import quantile_normalization

from benchmarks.evaluate import LEVELS
from benchmarks.plots import label_outcomes, plot_outcomes
from benchmarks.tables import RESULTS
from torchgeo_m2cd.datasets import OMBRIA
from torchgeo_m2cd.predict import predict_pair
from torchgeo_m2cd.tasks import ChangeDetectionTask, load_task

COLUMNS = ('Sentinel-2, before', 'Sentinel-1, after', 'probability', 'outcome')


def score(probability: Tensor, mask: Tensor, threshold: float) -> float:
    """Compute the IoU of a map; NaN where less than a hundredth is flooded."""
    flood, truth = probability >= threshold, mask == 1
    if truth.float().mean() < 0.01:
        return float('nan')
    return float((flood & truth).sum() / (flood | truth).sum())


def choose(scores: Sequence[float], chips: int) -> list[int]:
    """Choose the chips with the highest and the lowest scores.

    Args:
        scores: Score of each chip; those that are NaN are left out.
        chips: Number of good ones, and of bad ones.

    Returns:
        Indices of the chips, the best one first.
    """
    order = [int(i) for i in np.argsort(scores)[::-1] if not np.isnan(scores[i])]
    return list(dict.fromkeys([*order[:chips], *order[-chips:]]))


def draw(task: ChangeDetectionTask, dataset: OMBRIA, chips: int) -> Figure:
    """Draw maps of chips.

    Args:
        task: Task with the model.
        dataset: The chips.
        chips: Number of good ones, and of bad ones.
    """
    threshold = task.threshold
    samples = [dataset[i] for i in range(len(dataset))]
    pairs = [sample['image'] for sample in samples]
    near_infrared = dataset.bands.index('G')
    maps = [
        # Grey values are dB but for an offset, which does not matter
        predict_pair(task, pair[0, [near_infrared]], pair[1, :1] * dataset.decibels)
        for pair in pairs
    ]
    scores = [
        score(found, sample['mask'][0], threshold)
        for found, sample in zip(maps, samples, strict=True)
    ]
    shown = choose(scores, chips)
    figure, axes = plt.subplots(
        len(shown), len(COLUMNS), figsize=(8.4, 2.1 * len(shown) + 0.5), squeeze=False
    )
    for row, index in zip(axes, shown, strict=True):
        optical, sar = pairs[index]
        row[0].imshow(quantile_normalization(optical).permute(1, 2, 0))
        row[1].imshow(sar[0], cmap='gray')
        row[2].imshow(maps[index], cmap='cividis', vmin=0, vmax=1)
        # Above the threshold or not
        flood = np.where(maps[index] >= threshold, LEVELS, 0)
        plot_outcomes(row[3], flood, samples[index]['mask'][0].numpy())
        row[0].set_ylabel(f'IoU {scores[index]:.2f}')
    label_outcomes(figure, axes, COLUMNS)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line interface."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--root', type=Path, default=Path('data/ombria'), help='OMBRIA')
    parser.add_argument('--weights', default='M2CD_Weights.DEFAULT')
    parser.add_argument('--events', nargs='+', default=['albania', 'timor'])
    parser.add_argument('--chips', type=int, default=3, help='good ones, and bad ones')
    parser.add_argument('--output', type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    task = load_task(args.weights).eval()
    for event in args.events:
        figure = draw(task, OMBRIA(args.root, event), args.chips)
        figure.savefig(
            args.output / f'gallery-{event}.jpg', dpi=80, pil_kwargs={'quality': 80}
        )
        plt.close(figure)


if __name__ == '__main__':
    main()

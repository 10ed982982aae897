# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Scores of the results of ``compare.py``: IoU, intervals and probability levels."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.evaluate import COUNTS, LEVELS, count
from benchmarks.matrix import Cell
from torchgeo_m2cd.utils import check_choice

Array = npt.NDArray[Any]


def iou(counts: Array) -> Array:
    """Compute the intersection over union of the flood.

    Args:
        counts: Numbers of pixels by outcome, in the order of
            :data:`~benchmarks.evaluate.COUNTS`, shape (..., 4).

    Returns:
        IoU, shape (...).
    """
    result: Array = counts[..., 0] / np.maximum(counts[..., :3].sum(-1), 1)
    return result


def bootstrap(counts: Array, repeats: int = 2000, seed: int = 0) -> Array:
    """Draw seeds and chips with replacement: a bootstrap of the IoU.

    Args:
        counts: Numbers of pixels by outcome, shape (seeds, chips, 4).
        repeats: Number of draws.
        seed: Seed of the draws; with the same one, all models get the same chips.

    Returns:
        IoU of each draw, shape (repeats,): over all pixels of the drawn chips, averaged over
        the drawn seeds.
    """
    # Two generators, so that splits of different sizes get the same draws of seeds
    seeds, chips = (
        np.random.default_rng([seed, axis]).integers(size, size=(repeats, size))
        for axis, size in enumerate(counts.shape[:2])
    )
    draws = [
        iou(counts[s][:, c].sum(axis=1)).mean()
        for s, c in zip(seeds, chips, strict=True)
    ]
    return np.array(draws)


def summarize(
    table: pd.DataFrame, events: Sequence[str], reference: str | None = None
) -> pd.DataFrame:
    """Compute scores and 95 % intervals.

    Args:
        table: Counts of ``compare.py``.
        events: Splits to average.
        reference: Model whose average to subtract from that of each model. Each draw has
            the same chips for both, so the interval is that of the difference.

    Returns:
        One row per dataset, model and split: ``IoU``, ``low``, ``high``, ``seeds``.

    Raises:
        ValueError: If *reference* is not a model of the table.
    """
    name = f'mean of {", ".join(events)}'
    found: dict[tuple[str, str], tuple[dict[str, float], dict[str, Array]]] = {}
    for key, mine in table.groupby(['dataset', 'model'], sort=False):
        scores, draws = found[key] = {}, {}
        for split, part in mine.groupby('split', sort=False):
            counts = np.stack(
                [seed[list(COUNTS)].to_numpy() for _, seed in part.groupby('seed')]
            )
            scores[split], draws[split] = iou(counts.sum(1)).mean(), bootstrap(counts)
        if events and set(events) <= set(scores):
            scores[name] = np.mean([scores[event] for event in events])
            draws[name] = np.mean([draws[event] for event in events], axis=0)
    if reference is not None:
        check_choice('reference', reference, dict.fromkeys(table['model']))
        for (dataset, _), (scores, draws) in found.items():
            other_scores, other_draws = found[dataset, reference]
            scores[f'minus {reference}'] = scores[name] - other_scores[name]
            draws[f'minus {reference}'] = draws[name] - other_draws[name]
    seeds = table.groupby(['dataset', 'model'])['seed'].nunique()
    rows = []
    for (dataset, model), (scores, draws) in found.items():
        for split, score in scores.items():
            low, high = np.quantile(draws[split], [0.025, 0.975])
            rows.append(
                {
                    'dataset': dataset,
                    'model': model,
                    'split': split,
                    'IoU': score,
                    'low': low,
                    'high': high,
                    'seeds': seeds[dataset, model],
                }
            )
    return pd.DataFrame(rows)


def sort_by_share(table: pd.DataFrame, edges: Sequence[float]) -> pd.DataFrame:
    """Group chips by their flooded share.

    Args:
        table: Counts of ``compare.py``.
        edges: Shares that separate the groups, in ascending order.

    Returns:
        The same counts; the split of each chip is its group.
    """
    flooded = table['tp'] + table['fn']
    share = flooded / table[list(COUNTS)].sum(axis=1)
    names = [
        f'flooded {low:g} to {high:g}'
        for low, high in itertools.pairwise([0, *edges, 1])
    ]
    classes = pd.cut(share, [0, *edges, 2], right=False, labels=names)
    # Sort by group; chips keep their order within it
    return table.assign(split=classes.astype(str)).sort_values('split', kind='stable')


def average_seeds(cells: Sequence[Cell]) -> pd.DataFrame:
    """Count the outcomes of the mean probability over the seeds of each model."""
    rows = []
    for model in dict.fromkeys(cell.model for cell in cells):
        mine = cells_of(cells, model)
        for split in mine[0].splits if len(mine) > 1 else ():
            files = [np.load(c.path / 'predictions' / f'{split}.npz') for c in mine]
            mean = np.mean([f['probability'] for f in files], axis=0).round()
            rows += [
                {
                    'dataset': mine[0].dataset,
                    'split': split,
                    'model': f'{model}, mean of {len(mine)}',
                    'seed': 0,
                    **count(probability, mask),
                }
                for probability, mask in zip(mean, files[0]['mask'], strict=True)
            ]
    return pd.DataFrame(rows)


def check(cells: Sequence[Cell]) -> float:
    """Compare the IoU of the saved predictions with that of TorchMetrics.

    Returns:
        The largest difference.

    Raises:
        ValueError: If the rounding of probabilities does not explain the difference.
    """
    largest = 0.0
    for cell in cells:
        scores = json.loads((cell.path / 'scores.json').read_text())
        for split, score in scores.items():
            written = np.load(cell.path / 'predictions' / f'{split}.npz')
            counts = sum(
                np.array(list(count(*pair).values()))
                for pair in zip(written['probability'], written['mask'], strict=True)
            )
            own = float(iou(np.asarray(counts)))
            largest = max(largest, abs(own - score['test_IoU']))
    if largest > 0.005:
        raise ValueError(f'IoU differs by {largest:.4f} from that of TorchMetrics')
    return largest


def count_levels(cells: Sequence[Cell], split: str) -> Array:
    """Count true and false positives at each probability level.

    Args:
        cells: The cells of a model.
        split: One of their splits.

    Returns:
        True and false positives over all chips and seeds, shape (2, 256), from the highest
        level (fewest positives) to the lowest (all pixels).
    """
    total = np.zeros((2, LEVELS + 1))
    for cell in cells:
        written = np.load(cell.path / 'predictions' / f'{split}.npz')
        for row, label in enumerate((1, 0)):
            values = written['probability'][written['mask'] == label]
            total[row] += np.bincount(values, minlength=LEVELS + 1)
    result: Array = total[:, ::-1].cumsum(1)
    return result


def best_levels(cells: Sequence[Cell]) -> pd.DataFrame:
    """Find the probability level with the best IoU on each split, given its masks.

    A model that ranks pixels well but expects another flooded share than the split has gains
    from a level other than 0.5. Thresholds have no levels and are left out.

    Returns:
        One row per model, two columns per split: the best IoU with its level, and the gain
        over level 0.5.
    """
    rows = []
    trained = [cell for cell in cells if cell.threshold is None]
    for model in dict.fromkeys(cell.model for cell in trained):
        mine = cells_of(trained, model)
        row = {'model': model}
        for split in mine[0].splits:
            true, false = count_levels(mine, split)
            scores = true / (true[-1] + false)
            best = int(scores.argmax())
            row[split] = f'{scores[best]:.3f} at {1 - best / LEVELS:.2f}'
            row[f'{split} gain'] = f'{scores[best] - scores[LEVELS // 2]:.3f}'
        rows.append(row)
    return pd.DataFrame(rows)


def cells_of(cells: Sequence[Cell], model: str) -> list[Cell]:
    """Return the cells of a model."""
    return [cell for cell in cells if cell.model == model]

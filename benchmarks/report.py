# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Tables and plots of what ``compare.py`` has trained.

python benchmarks/report.py benchmarks/compare.yaml output/compare docs/user/compare

Writes OUTPUT.csv, OUTPUT.md and OUTPUT.tex (intersection over union of the flood, mean over the
seeds, with 95 % intervals over chips and seeds), OUTPUT-levels.csv (the level of probability that
suits each split best), OUTPUT-iou.svg, OUTPUT-curves.svg (precision and recall), OUTPUT-cost.svg
(against latency and parameters) and OUTPUT-chips.png. Counts are made anew from the written
predictions, and compared with what TorchMetrics said.
"""

import argparse
import itertools
import json
import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator
from torchgeo.datasets.utils import quantile_normalization

if __package__ is None:  # As a script
    sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.compare import (
    COUNTS,
    LEVELS,
    Cell,
    count,
    load_run,
    make_datamodule,
    read_counts,
    read_matrix,
)
from benchmarks.tables import to_markdown
from torchgeo_m2cd.utils import check_choice

#: True negative, hit, miss, false alarm, in colours of Okabe and Ito.
OUTCOMES = {
    'no flood': 'black',
    'hit': 'white',
    'miss': '#D55E00',
    'false alarm': '#56B4E9',
}

Array = npt.NDArray[Any]


def iou(counts: Array) -> Array:
    """Compute the intersection over union of the flood.

    Args:
        counts: True positives, false positives, false negatives and more, shape (..., 4).

    Returns:
        IoU of shape (...).
    """
    result: Array = counts[..., 0] / np.maximum(counts[..., :3].sum(-1), 1)
    return result


def bootstrap(counts: Array, repeats: int = 2000, seed: int = 0) -> Array:
    """Draw seeds and chips anew, with replacement.

    Args:
        counts: Pixels by outcome, shape (seeds, chips, 4).
        repeats: Number of draws.
        seed: Seed of the draws: the same chips for all models.

    Returns:
        IoU of each draw, over all pixels of its chips, mean over its seeds.
    """
    # Apart, as splits of different size are to have the same draws of seeds
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
    """Compute scores and intervals.

    Args:
        table: Counts of ``compare.py``.
        events: Splits to take the mean of.
        reference: Model to subtract from that mean. It has the same chips in each draw, so
            that intervals are those of the difference.

    Returns:
        One row per dataset, model and split: ``IoU``, ``low``, ``high``, ``seeds``.

    Raises:
        ValueError: If there is no such model.
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
    """Sort chips by how much of them is flooded.

    Args:
        table: Counts of ``compare.py``.
        edges: Shares that divide the classes, in ascending order.

    Returns:
        The same counts, with the class of its share as the split of each chip.
    """
    flooded = table['tp'] + table['fn']
    share = flooded / table[list(COUNTS)].sum(axis=1)
    names = [
        f'flooded {low:g} to {high:g}'
        for low, high in itertools.pairwise([0, *edges, 1])
    ]
    classes = pd.cut(share, [0, *edges, 2], right=False, labels=names)
    # Of all chips of a class together, in the order of the classes
    return table.assign(split=classes.astype(str)).sort_values('split', kind='stable')


def average_seeds(cells: Sequence[Cell]) -> pd.DataFrame:
    """Count the pixels of the mean probability over all seeds of each model."""
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
    """Compare the scores of TorchMetrics with those of the written predictions.

    Returns:
        The largest difference of an IoU.

    Raises:
        ValueError: If it is larger than what rounding to parts of 255 can do.
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


def write_tables(scores: pd.DataFrame, output: Path) -> None:
    """Write the scores as CSV, Markdown and LaTeX."""
    cells = scores.assign(
        text=[f'{r.IoU:.3f} [{r.low:.2f}, {r.high:.2f}]' for r in scores.itertuples()]
    )
    wide = cells.pivot(index=['dataset', 'model', 'seeds'], columns='split')['text']
    order = list(dict.fromkeys(scores['split']))
    names = dict.fromkeys(
        zip(scores['dataset'], scores['model'], scores['seeds'], strict=True)
    )
    wide = wide[order].reindex(list(names)).fillna('').reset_index()
    wide = wide.drop(columns='dataset')
    wide.to_csv(f'{output}.csv', index=False)
    Path(f'{output}.md').write_text(to_markdown(wide.to_dict('records')))
    Path(f'{output}.tex').write_text(wide.to_latex(index=False, escape=True))


def plot_scores(scores: pd.DataFrame) -> Figure:
    """Plot the IoU of all models per split, with intervals."""
    splits = list(dict.fromkeys(scores['split']))
    models = list(dict.fromkeys(scores['model']))[::-1]
    figure, axes = plt.subplots(
        1, len(splits), figsize=(2.2 + 2.4 * len(splits), 1 + 0.32 * len(models)),
        sharey=True, layout='constrained', squeeze=False,
    )  # fmt: skip
    for axis, split in zip(axes[0], splits, strict=True):
        part = scores[scores['split'] == split].set_index('model').reindex(models)
        axis.hlines(models, part['low'], part['high'], color='#0072B2', lw=2)
        axis.plot(part['IoU'], models, 'o', color='#0072B2')
        axis.set_title(textwrap.fill(split, 18))
        axis.set_xlabel('IoU of the flood')
        axis.margins(y=0.5 / len(models))
        if split.startswith('minus '):
            axis.axvline(0, color='black', lw=1)
            axis.set_xlabel('difference of IoU')
        else:
            axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
    return figure


def count_levels(cells: Sequence[Cell], split: str) -> Array:
    """Count pixels that are called flood, by the level of probability from which on.

    Args:
        cells: The cells of a model.
        split: One of their splits.

    Returns:
        True and false positives over all chips and seeds, shape (2, 256): from the highest
        probability on, down to all pixels.
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
    """Find the level of probability that suits each split best, knowing its masks.

    Of trained models. A model that is worse for the share of floods in a split, and not for
    what it makes of the images, gains from another level than 0.5.

    Returns:
        One row per model, two columns per split: the IoU and that level, and what it gains
        over 0.5.
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


def plot_curves(cells: Sequence[Cell], models: Sequence[str]) -> Figure:
    """Plot precision against recall, over all chips and seeds, of some models."""
    splits = cells_of(cells, models[0])[0].splits
    figure, axes = plt.subplots(
        1, len(splits), figsize=(3.6 * len(splits), 4.4), sharey=True,
        layout='constrained', squeeze=False,
    )  # fmt: skip
    # Ten colours, and then the same with other lines
    styles = [f'C{i % 10}' for i in range(len(models))]
    colors = dict(zip(models, styles, strict=True))
    lines = {model: ('-', '--', ':')[i // 10 % 3] for i, model in enumerate(models)}
    for axis, split in zip(axes[0], splits, strict=True):
        for model in models:
            true, false = count_levels(cells_of(cells, model), split)
            precision, recall = true / np.maximum(true + false, 1), true / true[-1]
            if cells_of(cells, model)[0].threshold is None:
                axis.plot(recall, precision, lines[model], c=colors[model], label=model)
            else:
                axis.plot(
                    recall[0], precision[0], 'x', label=model, color=colors[model]
                )
        axis.set(title=split, xlabel='recall', xlim=(0, 1), ylim=(0, 1))
        axis.grid(alpha=0.3)
    axes[0, 0].set_ylabel('precision')
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=4, fontsize=8)
    return figure


def cells_of(cells: Sequence[Cell], model: str) -> list[Cell]:
    """Return the cells of a model."""
    return [cell for cell in cells if cell.model == model]


def measure(cells: Sequence[Cell], repeats: int = 7) -> dict[str, tuple[float, float]]:
    """Measure the models in turns.

    Returns:
        Milliseconds for a pair of 256 x 256 pixels, and millions of parameters.
    """
    trained = {c.model: c for c in cells if c.threshold is None}
    tasks = {name: load_run(cell)[0] for name, cell in trained.items()}
    times: dict[str, list[float]] = {name: [] for name in tasks}
    image = torch.randn(1, 2, 3, 256, 256)
    batch = {'image': image, 'source': image}
    with torch.inference_mode():
        for _ in range(repeats + 1):
            for name, task in tasks.items():
                assert task is not None
                task.predict_step(batch, 0)
                start = time.perf_counter()
                task.predict_step(batch, 0)
                times[name].append(time.perf_counter() - start)
    return {
        name: (
            1e3 * statistics.median(times[name][1:]),
            sum(p.numel() for p in task.parameters()) / 1e6 if task else 0.0,
        )
        for name, task in tasks.items()
    }


def plot_cost(scores: pd.DataFrame, costs: Mapping[str, tuple[float, float]]) -> Figure:
    """Plot the IoU on the last split against latency and parameters."""
    splits = list(dict.fromkeys(scores['split']))
    split = [s for s in splits if not s.startswith('minus ')][-1]
    part = scores[scores['split'] == split].set_index('model')['IoU']
    figure, axes = plt.subplots(
        1, 2, figsize=(11, 6.5), sharey=True, layout='constrained'
    )
    for axis, place, label in zip(
        axes, (0, 1), ('ms for a pair of 256 x 256', 'million parameters'), strict=True
    ):
        for i, (name, cost) in enumerate(costs.items()):
            marker = 'osD^'[i // 10 % 4]
            axis.plot(cost[place], part[name], marker, c=f'C{i % 10}', label=name)
        axis.set(xlabel=label)
        axis.set_xscale('log')
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter('{x:g}')
        axis.xaxis.set_minor_formatter('')
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f'IoU, {split}')
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside lower center', ncols=3, fontsize=8)
    return figure


def plot_chips(cells: Sequence[Cell], models: Sequence[str], chips: int = 2) -> Figure:
    """Draw predictions of the first seed side by side.

    Args:
        cells: The cells.
        models: Models to show.
        chips: Chips per split, spread evenly over it.
    """
    shown = [cells_of(cells, model)[0] for model in models]
    splits = shown[0].splits
    columns = ['Sentinel-2, before', 'Sentinel-1, after', *models]
    rows = chips * len(splits)
    figure, axes = plt.subplots(
        rows, len(columns), figsize=(1.8 * len(columns), 1.85 * rows + 0.6)
    )
    row = 0
    for split in splits:
        datamodule = make_datamodule(load_run(shown[0])[1], test_split=split)
        datamodule.setup('test')
        written = [
            np.load(cell.path / 'predictions' / f'{split}.npz') for cell in shown
        ]
        for k in range(chips):
            index = (2 * k + 1) * len(datamodule.test_dataset) // (2 * chips)
            optical, sar = datamodule.test_dataset[index]['image']
            axes[row, 0].imshow(quantile_normalization(optical).permute(1, 2, 0))
            axes[row, 1].imshow(sar[0], cmap='gray')
            axes[row, 0].set_ylabel(f'{split} {written[0]["chips"][index]}', fontsize=6)
            for axis, one in zip(axes[row, 2:], written, strict=True):
                plot_outcomes(axis, one['probability'][index], one['mask'][index])
            row += 1
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=7)
    handles = [
        Patch(facecolor=color, edgecolor='black', label=name)
        for name, color in OUTCOMES.items()
    ]
    figure.legend(handles=handles, loc='lower center', ncols=4)
    figure.tight_layout(rect=(0, 0.3 / rows, 1, 1))
    return figure


def plot_outcomes(axis: Axes, probability: Array, mask: Array) -> None:
    """Draw where a prediction is right and wrong."""
    flood, truth = probability > LEVELS / 2, mask == 1
    values = (flood & truth) + 2 * (~flood & truth) + 3 * (flood & ~truth)
    colors = ListedColormap(list(OUTCOMES.values()))
    axis.imshow(values, cmap=colors, vmin=0, vmax=3, interpolation='none')


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line interface."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('matrix', type=Path, help='YAML file')
    parser.add_argument('results', type=Path, help='folder that compare.py wrote')
    parser.add_argument('output', type=Path, help='without suffix')
    parser.add_argument('--dataset', default='OMBRIA', help='one of the matrix')
    parser.add_argument('--events', nargs='*', default=['albania', 'timor'])
    parser.add_argument('--reference', help='model to subtract from the others')
    parser.add_argument(
        '--shares', type=float, nargs='*', help='divide chips by their share of floods'
    )
    parser.add_argument('--only-tables', action='store_true')
    parser.add_argument(
        '--draw', nargs='+', metavar='MODEL', help='models of curves and chips'
    )
    args = parser.parse_args(argv)

    cells = [
        cell
        for cell in read_matrix(args.matrix, args.results)
        if cell.dataset == args.dataset and (cell.path / 'counts.csv').exists()
    ]
    if not cells:
        parser.error(f'{args.results} has no finished cell of dataset {args.dataset!r}')
    finished = [read_counts(cell) for cell in cells]
    counts = pd.concat([*finished, average_seeds(cells)])
    if args.shares:
        counts = pd.concat([counts, sort_by_share(counts, args.shares)])
    scores = summarize(counts, args.events, args.reference)
    print(
        f'IoU of the written predictions and of TorchMetrics: {check(cells):.1e} apart'
    )
    write_tables(scores, args.output)
    best_levels(cells).to_csv(f'{args.output}-levels.csv', index=False)
    print(Path(f'{args.output}.md').read_text())
    models = list(dict.fromkeys(cell.model for cell in cells))
    for model in args.draw or ():
        check_choice('model', model, dict.fromkeys(models))
    drawn = args.draw or models[:6]
    plots: dict[str, Callable[[], Figure]] = {
        'iou.svg': lambda: plot_scores(scores),
        'curves.svg': lambda: plot_curves(cells, drawn),
        'cost.svg': lambda: plot_cost(scores, measure(cells)),
        'chips.png': lambda: plot_chips(cells, drawn),
    }
    for name in () if args.only_tables else plots:
        figure = plots[name]()
        figure.savefig(f'{args.output}-{name}', dpi=80)
        plt.close(figure)


if __name__ == '__main__':
    main()

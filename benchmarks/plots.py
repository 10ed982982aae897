# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Plots of the results of ``compare.py``."""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator
from torchgeo.datasets.utils import quantile_normalization

from benchmarks.evaluate import LEVELS, load_run, make_datamodule
from benchmarks.matrix import Cell
from benchmarks.scores import Array, cells_of, count_levels

#: True negative, true positive, false negative, false positive; colours of Okabe and Ito.
OUTCOMES = {
    'no flood': 'black',
    'hit': 'white',
    'miss': '#D55E00',
    'false alarm': '#56B4E9',
}


def plot_scores(scores: pd.DataFrame) -> Figure:
    """Plot the IoU of all models with confidence intervals, one panel per split."""
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


def plot_curves(cells: Sequence[Cell], models: Sequence[str]) -> Figure:
    """Plot precision against recall of the given models, over all chips and seeds."""
    splits = cells_of(cells, models[0])[0].splits
    figure, axes = plt.subplots(
        1, len(splits), figsize=(3.6 * len(splits), 4.4), sharey=True,
        layout='constrained', squeeze=False,
    )  # fmt: skip
    # Matplotlib cycles through ten colours: change the line style every ten models
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


def plot_cost(scores: pd.DataFrame, costs: Mapping[str, tuple[float, float]]) -> Figure:
    """Plot the IoU of the last split against latency and number of parameters."""
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
    """Draw the predictions of the first seed side by side.

    Args:
        cells: The cells.
        models: Models to show.
        chips: Chips per split, evenly spaced.
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
    label_outcomes(figure, axes, columns)
    return figure


def label_outcomes(figure: Figure, axes: Array, columns: Sequence[str]) -> None:
    """Add the titles of the columns and the legend of the outcomes.

    Args:
        figure: The figure.
        axes: Its axes, shape (rows, columns).
        columns: Title of each column.
    """
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for axis, title in zip(axes[0], columns, strict=True):
        axis.set_title(title, fontsize=7)
    handles = [
        Patch(facecolor=color, edgecolor='black', label=name)
        for name, color in OUTCOMES.items()
    ]
    figure.legend(handles=handles, loc='lower center', ncols=4)
    figure.tight_layout(rect=(0, 0.3 / len(axes), 1, 1))


def plot_outcomes(axis: Axes, probability: Array, mask: Array) -> None:
    """Draw hits, misses and false alarms of a chip."""
    flood, truth = probability > LEVELS / 2, mask == 1
    values = (flood & truth) + 2 * (~flood & truth) + 3 * (flood & ~truth)
    colors = ListedColormap(list(OUTCOMES.values()))
    axis.imshow(values, cmap=colors, vmin=0, vmax=3, interpolation='none')

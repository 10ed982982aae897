# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""The page of results at a glance: ten models, in two tables and one plot.

python -m benchmarks.overview

Reads what ``report.py`` and ``release.py`` wrote, and writes these files to ``docs/results/``:

* overview.csv: one IoU per cell
* overview-intervals.csv: the 95 % intervals
* overview.svg: IoU beside the training chips and on new floods, with the intervals
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

from benchmarks.plots import plot_scores
from benchmarks.tables import RESULTS

#: Table, and name within it, of the models to show.
MODELS: dict[str, tuple[str, str]] = {
    'Rule, not trained': ('release', 'Rule'),
    'Released weights': ('release', 'M²CD'),
    'M²CD without experts': ('compare', 'M²CD without MoE'),
    'M²CD': ('compare', 'M²CD, MoE'),
    'M²CD and O2SP': ('compare', 'M²CD, MoE + O2SP'),
    'M²CD, all colours': ('compare', 'M²CD, MoE, colours'),
    'U-Net': ('compare', 'U-Net ResNet-18'),
    'SegFormer': ('compare', 'SegFormer MiT-b0'),
    'FC-Siam-diff': ('compare', 'FC-Siam-diff ResNet-18'),
    'Best threshold of each chip': (
        'compare',
        'SAR smoothed, threshold best of each chip',
    ),
}
#: The mean over the floods that no model was trained with.
MEAN = 'mean of albania, timor'
#: Names of the splits, and what they are called here.
SPLITS = {'test': 'Test', 'albania': 'Albania', 'timor': 'Timor', MEAN: 'New floods'}


def read_scores(folder: Path) -> pd.DataFrame:
    """Read the scores of :data:`MODELS`.

    Args:
        folder: Folder with compare.csv and release.csv.

    Returns:
        A row per model and split: ``IoU``, and the interval from ``low`` to ``high``.

    Raises:
        KeyError: If a table lacks a model or a split.
    """
    tables = {
        'compare': pd.read_csv(folder / 'compare.csv').set_index('model'),
        'release': pd.read_csv(folder / 'release.csv').set_index('split').T,
    }
    rows = []
    for model, (table, name) in MODELS.items():
        for key, split in SPLITS.items():
            # As in '0.563 [0.50, 0.62]'
            values = re.findall(r'[\d.]+', tables[table].loc[name, key])
            scores = zip(('IoU', 'low', 'high'), map(float, values), strict=True)
            rows.append({'model': model, 'split': split, **dict(scores)})
    return pd.DataFrame(rows)


def write_table(path: Path, scores: pd.DataFrame, cell: str) -> None:
    """Write a table with a row per model and a column per split.

    Args:
        path: CSV file to write.
        scores: Output of :func:`read_scores`.
        cell: What a cell says, as a format string.
    """
    texts = scores.assign(text=[cell.format(**row) for _, row in scores.iterrows()])
    wide = texts.pivot(index='model', columns='split', values='text')
    wide.loc[list(MODELS), list(SPLITS.values())].to_csv(path)


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line interface."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--folder', type=Path, default=RESULTS, help='default: %(default)s'
    )
    args = parser.parse_args(argv)
    scores = read_scores(args.folder)
    write_table(args.folder / 'overview.csv', scores, '{IoU:.3f}')
    intervals = '{low:.2f} to {high:.2f}'
    write_table(args.folder / 'overview-intervals.csv', scores, intervals)
    shown = scores[scores['split'].isin([SPLITS['test'], SPLITS[MEAN]])]
    figure = plot_scores(shown)
    figure.savefig(args.folder / 'overview.svg')
    plt.close(figure)


if __name__ == '__main__':
    main()

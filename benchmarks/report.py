# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Tables and plots of the results of ``compare.py``.

python -m benchmarks.report benchmarks/compare.yaml output/compare

Writes these files, where OUTPUT is ``docs/results/`` and the name of the matrix by default:

* OUTPUT.csv, OUTPUT.md, OUTPUT.tex: IoU of the flood, mean over the seeds, with 95 %
  intervals over chips and seeds
* OUTPUT-levels.csv: the best probability level of each split
* OUTPUT-iou.svg, OUTPUT-curves.svg (precision and recall), OUTPUT-cost.svg (IoU against latency
  and parameters), OUTPUT-chips.png

All scores are computed from the saved predictions, and checked against TorchMetrics.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.figure import Figure

from benchmarks.evaluate import load_run, read_counts
from benchmarks.matrix import Cell, read_matrix
from benchmarks.plots import plot_chips, plot_cost, plot_curves, plot_scores
from benchmarks.scores import (
    average_seeds,
    best_levels,
    check,
    sort_by_share,
    summarize,
)
from benchmarks.tables import RESULTS, to_markdown
from torchgeo_m2cd.utils import check_choice


def write_tables(scores: pd.DataFrame, output: Path) -> str:
    """Write the scores as CSV, Markdown and LaTeX, and return the Markdown."""
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
    text = to_markdown(wide.to_dict('records'))
    Path(f'{output}.md').write_text(text, encoding='utf-8')
    latex = wide.to_latex(index=False, escape=True)
    Path(f'{output}.tex').write_text(latex, encoding='utf-8')
    return text


def measure(cells: Sequence[Cell], repeats: int = 7) -> dict[str, tuple[float, float]]:
    """Measure the cost of trained models, which take turns.

    Returns:
        Milliseconds for a pair of 256 x 256 pixels and millions of parameters, by model.
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


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line interface."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('matrix', type=Path, help='YAML file')
    parser.add_argument('results', type=Path, help='output folder of compare.py')
    parser.add_argument('--output', type=Path, help='path to write to, without suffix')
    parser.add_argument('--dataset', default='OMBRIA', help='dataset of the matrix')
    parser.add_argument('--events', nargs='*', default=['albania', 'timor'])
    parser.add_argument('--reference', help='model to subtract from the others')
    parser.add_argument(
        '--shares', type=float, nargs='*', help='group chips by flooded share'
    )
    parser.add_argument('--only-tables', action='store_true')
    parser.add_argument(
        '--draw',
        nargs='+',
        metavar='MODEL',
        help='models to draw in the curves and chips',
    )
    args = parser.parse_args(argv)
    output = args.output or RESULTS / args.matrix.stem
    output.parent.mkdir(parents=True, exist_ok=True)

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
    print(f'IoU of the saved predictions and of TorchMetrics: {check(cells):.1e} apart')
    print(write_tables(scores, output))
    best_levels(cells).to_csv(f'{output}-levels.csv', index=False)
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
        figure.savefig(f'{output}-{name}', dpi=80)
        plt.close(figure)


if __name__ == '__main__':
    main()

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Time and memory of M²CD, compared with the original's arithmetic.

python -m benchmarks.speed                   # inference and training
python -m benchmarks.speed --mode growth     # by size, batch and number of experts

Writes OUTPUT.csv, OUTPUT.md and OUTPUT.svg, where OUTPUT is docs/results/speed or growth by default.
Variants take turns, on different images in each call. Times are medians.
"""

import argparse
import dataclasses
import datetime
import itertools
import platform
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch

from benchmarks.tables import RESULTS, to_markdown, write_csv
from benchmarks.timing import MODELS, Case, make_step, measure, peak_memory_apart, timed


def variants(args: argparse.Namespace, mode: str) -> Iterator[list[Case]]:
    """Yield lists of cases that are measured in turns."""
    for encoder, batch, size in itertools.product(
        args.encoders,
        args.batches if mode == 'inference' else [args.train_batch],
        args.sizes,
    ):
        # The original synchronises, which the compiler refuses
        yield [
            Case(mode, model, encoder, batch, size, dtype, compiled, device=args.device)
            for compiled, dtypes in ((False, args.dtypes), (True, args.compile))
            for dtype, model in itertools.product(dtypes, MODELS)
            if (mode == 'train' or 'O2SP' not in model)
            and not (compiled and model == 'original')
        ]


def growth(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure time and memory by size, batch and number of experts."""
    case = Case('inference', encoder=args.encoders[0], batch=1, device=args.device)
    for key, values in {
        'size': [128, 256, 512, 1024, 2048],
        'batch': [1, 2, 4, 8, 16],
        'experts': [1, 2, 4, 8, 16],
    }.items():
        for value in values:
            changes: dict[str, Any] = {key: value}
            if key == 'experts':
                changes['batch'] = 2
            one = dataclasses.replace(case, **changes)
            step = make_step(one)
            step()
            seconds = statistics.median(
                timed(step, args.device) for _ in range(args.repeats)
            )
            del step
            row = {
                'against': key,
                'value': value,
                'ms': round(seconds * 1e3, 1),
                'MiB': round(peak_memory_apart(one)),
            }
            print(*row.values(), sep='\t', flush=True)
            yield row


def plot_growth(rows: Sequence[dict[str, Any]]) -> None:
    """Plot time and memory, and fit the exponents of their growth."""
    keys = list(dict.fromkeys(row['against'] for row in rows))
    _, axes = plt.subplots(2, len(keys), figsize=(11, 6), layout='constrained')
    for column, key in zip(axes.T, keys, strict=True):
        mine = [row for row in rows if row['against'] == key]
        x = np.array([row['value'] for row in mine], float)
        for axis, unit in zip(column, ('ms', 'MiB'), strict=True):
            y = np.array([row[unit] for row in mine], float)
            # Fit the largest three: constant costs hide the growth of the others
            slope = np.polyfit(np.log(x[-3:]), np.log(y[-3:]), 1)[0]
            axis.loglog(x, y, 'o-')
            axis.set_xticks(x, [f'{int(v)}' for v in x])
            axis.minorticks_off()
            axis.set_title(f'$\\propto$ {key}$^{{{slope:.2f}}}$')
            axis.set(xlabel=key, ylabel=unit)
            axis.grid(alpha=0.3)


def plot_variants(rows: Sequence[dict[str, Any]]) -> None:
    """Plot pairs per second and memory of all variants."""
    labels = [
        f'{r["mode"]}, {r["encoder"]}, {r["batch"]} x {r["size"]}²: {r["variant"]}'
        for r in rows
    ]
    height = 0.26 * len(rows) + 1
    _, axes = plt.subplots(
        1, 2, figsize=(11, height), sharey=True, layout='constrained'
    )
    colors = ['C7' if 'original' in r['variant'] else 'C0' for r in rows]
    for axis, key in zip(axes, ('pairs/s', 'MiB'), strict=True):
        axis.barh(labels, [row[key] for row in rows], color=colors)
        axis.set_xlabel(key)
        axis.grid(axis='x', alpha=0.3)
    axes[0].invert_yaxis()


def write(output: Path, rows: Sequence[dict[str, Any]], device: str) -> None:
    """Write the table as CSV and Markdown, and the current plot."""
    write_csv(output.with_suffix('.csv'), rows)
    # The last commit that changed the models
    commit = subprocess.run(
        ['git', 'log', '-1', '--format=%h', '--', 'torchgeo_m2cd/models'],
        check=False,
        capture_output=True,
        text=True,
    ).stdout.strip()
    processor = platform.processor() or platform.machine()
    if Path('/proc/cpuinfo').exists():
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        processor = next(x for x in lines if x.startswith('model name')).split(': ')[1]
    if device != 'cpu':
        processor = torch.cuda.get_device_name()
    machine = f'{processor}, {torch.get_num_threads()} threads'
    today = datetime.datetime.now(datetime.UTC).date()
    text = (
        f'{to_markdown(rows)}\n{today}, models of commit {commit}, '
        f'PyTorch {torch.__version__}, {machine}\n'
    )
    output.with_suffix('.md').write_text(text, encoding='utf-8')
    with mpl.rc_context({'svg.hashsalt': 'speed'}):
        plt.savefig(output.with_suffix('.svg'), metadata={'Date': None})
    print(text, end='')


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line interface."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--output', type=Path, help='without suffix')
    parser.add_argument(
        '--mode',
        nargs='+',
        choices=('inference', 'train', 'growth'),
        default=['inference', 'train'],
    )
    parser.add_argument('--encoders', nargs='+', default=['mit_b1'])
    parser.add_argument('--batches', nargs='+', type=int, default=[1, 4])
    parser.add_argument('--train-batch', type=int, default=4)
    parser.add_argument('--sizes', nargs='+', type=int, default=[256])
    parser.add_argument('--dtypes', nargs='+', default=['float32', 'bfloat16'])
    parser.add_argument(
        '--compile',
        nargs='+',
        default=[],
        help='also measure compiled, in these dtypes',
    )
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--repeats', type=int, default=9)
    args = parser.parse_args(argv)
    growing = 'growth' in args.mode
    output = args.output or RESULTS / ('growth' if growing else 'speed')

    rows: list[dict[str, Any]] = []
    if growing:
        rows += growth(args)
        plot_growth(rows)
    else:
        for mode in args.mode:
            for cases in variants(args, mode):
                for row in measure(cases, args.repeats):
                    print(*row.values(), sep='\t', flush=True)
                    rows.append(row)
                write_csv(output.with_suffix('.csv'), rows)  # In case it is ended
        plot_variants(rows)
    write(output, rows, args.device)


if __name__ == '__main__':
    main()

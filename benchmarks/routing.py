# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Figures and a table of how trained models route tokens to experts.

Reads the files that RoutingLogger writes during training, one per model:

    torchgeo fit --config "$(python -m torchgeo_m2cd.configs ombria)" \
      --data.root data/ombria --model.model_args null \
      --trainer.callbacks.output output/m2cd.csv
    python -m benchmarks.routing output/m2cd.csv

Writes OUTPUT.csv, OUTPUT.md, OUTPUT-training.png, and OUTPUT-NAME.png for each NAME.csv. OUTPUT is
docs/results/routing by default.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.tables import RESULTS, to_markdown, write_csv
from torchgeo_m2cd.callbacks import plot_routing

#: Colour (of Okabe and Ito) and marker, by stage.
STYLES = {
    1: ('#0072B2', 'o'),
    2: ('#E69F00', 's'),
    3: ('#009E73', '^'),
    4: ('#D55E00', 'D'),
}


def final_shares(table: pd.DataFrame) -> dict[int, dict[str, Tensor]]:
    """Select the shares of the experts at the end of training.

    Args:
        table: Table of RoutingLogger.

    Returns:
        Shares, shape (E,), by stage and branch: on validation samples for the real images,
        on training samples for simulated SAR.
    """
    last = table[(table.step == table.step.max()) & (table.quantity == 'share')]
    last = last[(last.split == 'val') | (last.path == 'simulated')]
    shares: dict[int, dict[str, Tensor]] = {}
    for (stage, branch), rows in last.groupby(['stage', 'path']):
        values = rows.sort_values('expert').value.to_list()
        shares.setdefault(stage, {})[branch] = torch.tensor(values)
    return shares


def information(table: pd.DataFrame) -> pd.DataFrame:
    """Select the mutual information of the validations.

    Args:
        table: Table of RoutingLogger.

    Returns:
        Bits by step (rows) and stage (columns).
    """
    rows = table[(table.split == 'val') & (table.quantity == 'mutual_information')]
    return rows.pivot(index='step', columns='stage', values='value')


def tabulate(tables: Mapping[str, pd.DataFrame]) -> list[dict[str, str]]:
    """Make a table of the shares and the mutual information at the end of training.

    Args:
        tables: Tables of RoutingLogger, by name of the model.

    Returns:
        A row per model and stage.
    """
    rows = []
    for name, table in tables.items():
        bits = information(table).iloc[-1]
        for stage, branches in final_shares(table).items():
            shares = {
                f'{title}, %': ' / '.join(
                    f'{100 * s:.0f}' for s in branches.get(branch, ())
                )
                for branch, title in (
                    ('optical', 'optical'),
                    ('sar', 'SAR'),
                    ('simulated', 'simulated'),
                )
            }
            information_bits = {'mutual information, bit': f'{bits[stage]:.3f}'}
            rows.append(
                {'model': name, 'stage': str(stage), **shares, **information_bits}
            )
    return rows


def plot_information(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Draw the mutual information over the steps of training.

    Args:
        tables: Tables of RoutingLogger, by name of the model.

    Returns:
        Figure with one panel per model and one line per stage.
    """
    figure = Figure(figsize=(1 + 3.5 * len(tables), 3), layout='constrained')
    axes = figure.subplots(1, len(tables), sharey=True, squeeze=False)[0]
    for ax, (name, table) in zip(axes, tables.items(), strict=True):
        for stage, bits in information(table).items():
            color, marker = STYLES[stage]
            ax.plot(
                bits.index, bits, marker, c=color, ms=4, ls='-', label=f'stage {stage}'
            )
        ax.set(title=name, xlabel='iteration')
        ax.grid(alpha=0.3)
    axes[0].set_ylabel('mutual information\nof modality and expert, bit')
    axes[0].set_ylim(bottom=0)
    axes[0].legend()
    return figure


def main() -> None:
    """Command-line interface."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--output', type=Path, default=RESULTS / 'routing', help='without suffix'
    )
    parser.add_argument('tables', type=Path, nargs='+', help='CSV files, NAME.csv')
    args = parser.parse_args()
    tables = {path.stem: pd.read_csv(path) for path in args.tables}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    rows = tabulate(tables)
    write_csv(args.output.with_name(f'{args.output.name}.csv'), rows)
    text = to_markdown(rows)
    args.output.with_name(f'{args.output.name}.md').write_text(text, encoding='utf-8')
    print(text, end='')
    figures = {name: plot_routing(final_shares(t)) for name, t in tables.items()}
    figures['training'] = plot_information(tables)
    for name, figure in figures.items():
        path = args.output.with_name(f'{args.output.name}-{name}.png')
        figure.savefig(path, dpi=110)


if __name__ == '__main__':
    main()

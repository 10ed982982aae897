# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Train and test models under the same conditions: models x seeds x datasets.

python -m benchmarks.compare benchmarks/compare.yaml output/compare --jobs 2

``torchgeo fit`` trains each cell of the matrix in its own folder, and ``evaluate.py`` tests it on
every split. ``compare.yaml`` says how to add a row. After an interruption, run the same command
again: it skips finished cells and resumes the others from their last epoch.
OUTPUT/counts.csv has the true and false positives and negatives of every chip and model; the
folders of the cells have the predictions. ``report.py`` makes tables and plots of them.
"""

import argparse
import concurrent.futures
import dataclasses
import datetime
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from benchmarks.evaluate import read_counts
from benchmarks.matrix import Cell, fit_arguments, read_matrix
from torchgeo_m2cd.utils import check_choice, write_beside


def run_cell(cell: Cell, threads: int) -> str:
    """Train and test a cell, unless that has been done.

    Args:
        cell: The cell.
        threads: Threads to use.

    Returns:
        A message: what was done.

    Raises:
        RuntimeError: If training or testing fails.
        ValueError: If the folder holds a cell with other arguments.
    """
    cell.path.mkdir(parents=True, exist_ok=True)
    plan, made = cell.path / 'cell.json', json.dumps(dataclasses.asdict(cell), indent=1)
    if plan.exists() and json.loads(plan.read_text()) != json.loads(made):
        raise ValueError(f'{cell.folder} belongs to another matrix: remove it first')
    write_beside(plan, lambda file: file.write(made.encode()))
    if (cell.path / 'counts.csv').exists():
        return 'was finished'
    env = {**os.environ, 'OMP_NUM_THREADS': str(threads)}
    if cell.threshold is None and not (cell.path / 'fitted').exists():
        command = [sys.executable, '-m', 'torchgeo', 'fit', *fit_arguments(cell)]
        with (cell.path / 'starts').open('a') as file:
            file.write(f'{datetime.datetime.now(datetime.UTC).isoformat()}\n')
        _run(command, cell.path / 'fit.log', env)
        (cell.path / 'fitted').touch()
    command = [sys.executable, '-m', 'benchmarks.evaluate', cell.folder]
    _run(command, cell.path / 'test.log', env)
    return 'done'


def _run(command: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
    """Run a command; if it fails, raise an error with the last lines of its log."""
    with log.open('a') as file:
        result = subprocess.run(command, check=False, env=env, stdout=file, stderr=file)
    if result.returncode:
        words = log.read_text().strip().splitlines()[-3:]
        raise RuntimeError(f'{log}: exit code {result.returncode}: {" ".join(words)}')


def collect(cells: Sequence[Cell], output: Path) -> None:
    """Write the counts of all finished cells to one table."""
    tables = [
        read_counts(cell) for cell in cells if (cell.path / 'counts.csv').exists()
    ]
    if tables:
        text = pd.concat(tables).to_csv(index=False)
        write_beside(output / 'counts.csv', lambda file: file.write(text.encode()))


def run_all(cells: Sequence[Cell], jobs: int) -> Iterator[tuple[Cell, str | Exception]]:
    """Run *jobs* cells at a time; cells that start from others come last.

    Yields:
        Each cell with its message, or its error.
    """
    threads = max((os.cpu_count() or 1) // jobs, 1)
    first = [cell for cell in cells if cell.after is None]
    second = [cell for cell in cells if cell.after is not None]
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for part in (first, second):
            futures = {pool.submit(run_cell, cell, threads): cell for cell in part}
            for future in concurrent.futures.as_completed(futures):
                error = future.exception()
                if error is not None and not isinstance(error, Exception):
                    raise error
                yield futures[future], error or future.result()


def main(argv: Sequence[str] | None = None) -> int:
    """Command-line interface."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('matrix', type=Path, help='YAML file')
    parser.add_argument('output', type=Path, help='folder to write to')
    parser.add_argument('--jobs', type=int, default=1, help='cells at a time')
    parser.add_argument('--models', nargs='+', help='only these rows')
    args = parser.parse_args(argv)
    every = read_matrix(args.matrix, args.output)
    for model in args.models or ():
        check_choice('model', model, {cell.model: None for cell in every})
    cells = [cell for cell in every if not args.models or cell.model in args.models]
    failed = 0
    for number, (cell, result) in enumerate(run_all(cells, args.jobs), 1):
        failed += isinstance(result, Exception)
        place = f'{cell.dataset}, {cell.model}, seed {cell.seed}'
        print(f'[{number}/{len(cells)}] {place}: {result}', flush=True)
        collect(every, args.output)
    return min(failed, 1)


if __name__ == '__main__':
    sys.exit(main())

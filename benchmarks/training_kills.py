# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Kill a training at random moments, resume it, and compare it with one that ran through."""

import argparse
import csv
import math
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections.abc import Sequence
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, NamedTuple

import torch

from torchgeo_m2cd import cli
from torchgeo_m2cd.configs import config_path

#: Length of the training.
EPOCHS = 10

#: A training of a few seconds, with shuffling and augmentation, and checkpoints of 10 MB.
TINY = (
    *('--trainer.accelerator', 'cpu', '--trainer.max_epochs', str(EPOCHS)),
    *('--trainer.log_every_n_steps', '1', '--trainer.enable_progress_bar', 'false'),
    *('--trainer.enable_model_summary', 'false'),
    *('--trainer.logger', 'lightning.pytorch.loggers.CSVLogger'),
    *('--data.length', '24', '--data.eval_length', '8', '--data.batch_size', '4'),
    *('--data.size', '64', '--model.backbone', 'tu-resnet18', '--model.model_args'),
    '{experts: null, encoder_args: {channels: [16, 32, 64, 128]}}',
)

# Children need not import everything again
_FORK = multiprocessing.get_context('fork')

type Curve = dict[tuple[str, int], float]


class Row(NamedTuple):
    """What a kill did."""

    kill: int
    #: Seconds after the start.
    seconds: float
    #: Epochs that the checkpoint holds, 0 if there was none yet.
    epochs: int
    #: Half-written files that were left.
    parts: int
    #: Values of the curve after the resumption.
    values: int
    #: Largest difference from the uninterrupted training.
    difference: float
    #: Whether the weights at the end are those of the uninterrupted training.
    same_weights: bool


def train(folder: Path, *args: str) -> ForkProcess:
    """Start a training.

    Args:
        folder: Folder to write to.
        args: Further arguments.

    Returns:
        The process.
    """
    folder.mkdir(parents=True)
    words = [
        *('fit', '--config', str(config_path('synthetic')), *TINY, '--debug'),
        *('--trainer.logger.save_dir', str(folder)),
        *('--trainer.default_root_dir', str(folder), *args),
    ]
    process = _FORK.Process(target=_run, args=(words, folder / 'output.txt'))
    process.start()
    return process


def _run(words: Sequence[str], path: Path) -> None:
    """Run a command, with its output in a file."""
    with path.open('wb') as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    cli.main(words)


def finish(process: ForkProcess, folder: Path) -> None:
    """Wait for a training.

    Args:
        process: The process.
        folder: Its folder.

    Raises:
        RuntimeError: If it failed.
    """
    process.join()
    if process.exitcode:
        raise RuntimeError((folder / 'output.txt').read_text()[-2000:])


def read_curve(folder: Path) -> Curve:
    """Read all that a training has logged.

    Args:
        folder: Its folder.

    Returns:
        Values by name and step.
    """
    curve: Curve = {}
    for path in folder.rglob('metrics.csv'):
        with path.open(newline='') as file:
            for row in csv.DictReader(file):
                step = int(row.pop('step'))
                curve |= {(k, step): float(v) for k, v in row.items() if v}
    return curve


def compare(ours: Curve, theirs: Curve) -> float:
    """Compare a curve with another one that has at least its values.

    Args:
        ours: The curve.
        theirs: The other one.

    Returns:
        Largest difference; infinite if a value is missing.
    """
    return max(
        (abs(value - theirs.get(key, math.inf)) for key, value in ours.items()),
        default=0,
    )


def read_last(folder: Path) -> dict[str, Any]:
    """Read the last checkpoint of a training.

    Args:
        folder: Its folder.

    Returns:
        The checkpoint.
    """
    (path,) = folder.rglob('last.ckpt')
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint


def kill(number: int, seconds: float, folder: Path, whole: Path) -> Row:
    """Kill a training, resume it, and compare it.

    Args:
        number: Number of the kill.
        seconds: When to kill, after the start.
        folder: Folder to write to.
        whole: Folder of the uninterrupted training.

    Returns:
        What happened.
    """
    process = train(folder / 'killed')
    process.join(seconds)
    process.kill()
    process.join()
    again = folder / 'resumed'
    parts = len([*folder.rglob('*.part')])
    args: tuple[str, ...] = ()
    epochs = 0
    for path in folder.rglob('last.ckpt'):
        # An error if it is not whole
        epochs = read_last(folder)['epoch'] + 1
        args = ('--ckpt_path', str(path))
    finish(train(again, *args), again)
    curve = read_curve(again)
    difference = compare(curve, read_curve(whole))
    source = again if epochs < EPOCHS else folder
    weights, others = (read_last(path)['state_dict'] for path in (source, whole))
    same = all(torch.equal(weights[name], others[name]) for name in others)
    return Row(number, round(seconds, 2), epochs, parts, len(curve), difference, same)


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line interface.

    Args:
        argv: Arguments (defaults to those of the process).
    """
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks.training_kills', description=__doc__
    )
    parser.add_argument('--output', type=Path, default=Path('output/training_kills'))
    parser.add_argument('--kills', type=int, default=20)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(argv)
    shutil.rmtree(args.output, ignore_errors=True)
    whole: Path = args.output / 'whole'
    start = time.monotonic()
    finish(train(whole), whole)
    duration = time.monotonic() - start
    print(f'uninterrupted: {duration:.0f} s', flush=True)
    moments = random.Random(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    with (args.output / 'training_kills.csv').open('w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        for number in range(args.kills):
            seconds = moments.uniform(0.1, 1) * duration
            row = kill(number, seconds, args.output / str(number), whole)
            print(row, flush=True)
            writer.writerow(row)
            file.flush()
            shutil.rmtree(args.output / str(number))


if __name__ == '__main__':
    main()

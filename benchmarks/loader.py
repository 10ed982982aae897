# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Throughput of loading and augmentation, compared with the model.

python -m benchmarks.loader --ombria data/ombria

Measures pairs of 256 x 256 pixels per second, with batch augmentation: OMBRIA chips as in
training, patches of a synthetic scene as in prediction, and inference on such batches. Measurements
take turns. Also prints the import times of TorchGeo and of this package.
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule

from benchmarks.tables import RESULTS, write_csv
from torchgeo_m2cd.datamodules import OMBRIADataModule, SceneDataModule
from torchgeo_m2cd.datasets import SyntheticFlood
from torchgeo_m2cd.models import M2CD
from torchgeo_m2cd.transforms import Inputs, Standardize


def run_through(datamodule: Any, stage: str, batches: int) -> Callable[[], float]:
    """Make a function that loads and augments some batches.

    Args:
        datamodule: Data module, set up.
        stage: ``'train'`` or ``'predict'``.
        batches: Number of batches.

    Returns:
        Function that returns pairs per second, not counting the start of the workers.
    """

    def run() -> float:
        loader = getattr(datamodule, f'{stage}_dataloader')()
        iterator = iter(loader)
        next(iterator)
        pairs = 0
        start = time.perf_counter()
        for batch in itertools.islice(iterator, batches):
            augment = getattr(datamodule, f'{stage}_aug', None) or datamodule.aug
            image = augment(batch)['image']
            pairs += len(image)
        return pairs / (time.perf_counter() - start)

    return run


def inference(encoder: str, batch_size: int) -> Callable[[], float]:
    """Make a function that runs the model and returns pairs per second."""
    model = M2CD(encoder).eval()
    image = torch.randn(batch_size, 2, 3, 256, 256)

    @torch.inference_mode()
    def run() -> float:
        start = time.perf_counter()
        model(image)
        return batch_size / (time.perf_counter() - start)

    return run


def import_seconds(module: str) -> float:
    """Time the import of a module in a new interpreter."""
    start = time.perf_counter()
    subprocess.run([sys.executable, '-c', f'import {module}'], check=True)
    return time.perf_counter() - start


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line interface."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--output', type=Path, default=RESULTS / 'loader.csv', help='CSV file to write'
    )
    parser.add_argument('--ombria', type=Path, help='folder of the dataset')
    parser.add_argument('--encoder', default='mit_b1')
    parser.add_argument('--batch-size', type=int, default=8)
    parser.add_argument('--batches', type=int, default=12)
    parser.add_argument('--repeats', type=int, default=5)
    args = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as folder:
        scene = SyntheticFlood(split='test', length=1).write_scene(folder, size=2048)
        runs = {f'model {args.encoder}': inference(args.encoder, args.batch_size)}
        for workers in (0, 1, 2):
            settings = {'batch_size': args.batch_size, 'num_workers': workers}
            datamodules: dict[str, tuple[LightningDataModule, str]] = {
                'scene patches': (
                    SceneDataModule(
                        scene['optical'],
                        scene['sar'],
                        inputs=Inputs(
                            Standardize([0] * 4, [1] * 4), Standardize([0], [1])
                        ),
                        check=False,
                        **settings,
                    ),
                    'predict',
                )
            }
            if args.ombria:
                ombria = OMBRIADataModule(root=args.ombria, **settings)
                datamodules['OMBRIA chips'] = (ombria, 'train')
            for name, (datamodule, stage) in datamodules.items():
                datamodule.setup('fit' if stage == 'train' else stage)
                run = run_through(datamodule, stage, args.batches)
                runs[f'{name}, {workers} workers'] = run
        values: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(args.repeats):
            for name, function in runs.items():
                values[name].append(function())
    medians = {name: statistics.median(v) for name, v in values.items()}
    model = next(iter(medians.values()))
    rows = [
        {'what': name, 'pairs/s': f'{value:.1f}', 'model = 1': f'{value / model:.2f}'}
        for name, value in medians.items()
    ]
    write_csv(args.output, rows)
    for row in rows:
        print(*row.values(), sep='\t')

    modules = ('torchgeo', 'torchgeo_m2cd', 'torchgeo.tasks', 'torchgeo_m2cd.tasks')
    seconds: dict[str, list[float]] = {module: [] for module in modules}
    for _ in range(args.repeats):
        for module in modules:
            seconds[module].append(import_seconds(module))
    for module in modules:
        print(f'import {module}\t{statistics.median(seconds[module]):.2f} s')


if __name__ == '__main__':
    main()

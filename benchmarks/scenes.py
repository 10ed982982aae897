# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Throughput, memory and scaling to several processes on whole scenes.

python -m benchmarks.scenes --countries
python -m benchmarks.scenes --memory
python -m benchmarks.scenes --device cuda --backbone mit_b1 --size 8192 --workers 0 4 12

Maps synthetic scenes from file to file, each in a new process, and runs the model alone on the same
number of patches. Variants take turns. Times leave out the start of the process. --memory measures
scenes of several sizes instead. --countries writes a second table: the cost of mapping a country at
the measured rate.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Trainer
from rasterio.windows import Window

from benchmarks.tables import RESULTS, write_csv
from torchgeo_m2cd.datamodules import SceneDataModule, SyntheticFloodDataModule
from torchgeo_m2cd.datasets import SyntheticFlood
from torchgeo_m2cd.models import keep_memory
from torchgeo_m2cd.predict import predict_scene
from torchgeo_m2cd.tasks import ChangeDetectionTask

TILE = 1024
PATCH_SIZE = 512

#: Total areas in km², from The World Factbook.
COUNTRIES = {'Albania': 28_748, 'Bangladesh': 148_460, 'Pakistan': 796_095}


def write_scene(folder: Path, size: int) -> None:
    """Write a scene of any size by repeating a synthetic one."""
    dataset = SyntheticFlood(split='test', length=1)
    tile = dataset.write_scene(folder / 'tile', TILE, sar_resolution=10)
    for name in ('optical', 'sar'):
        with rasterio.open(tile[name]) as src:
            values, profile = src.read(), src.profile
        # The SAR image lies further south-east and has no data outside of the overlap
        values = np.nan_to_num(values, nan=-12.0)
        profile.update(
            height=size, width=size, tiled=True, blockxsize=512, blockysize=512,
            transform=rasterio.transform.from_origin(500_000, 5_300_000, 10, 10),
        )  # fmt: skip
        with rasterio.open(folder / f'{name}.tif', 'w', **profile) as dst:
            height, width = values.shape[1:]
            for row in range(0, size, height):
                for column in range(0, size, width):
                    h, w = min(height, size - row), min(width, size - column)
                    window = Window(column, row, w, h)
                    dst.write(values[:, :h, :w], window=window)


def run_child(job: dict[str, Any]) -> None:
    """Measure a job in this process and print the result as JSON."""
    folder, checkpoint = Path(job['scene']), job['checkpoint']
    paths = folder / 'optical.tif', folder / 'sar.tif'
    output = Path(job['output'])
    trainer_args: dict[str, Any] = {
        'accelerator': job['device'],
        'devices': job['processes'],
        'precision': job['precision'],
        'enable_progress_bar': False,
    }
    if job['processes'] > 1:
        trainer_args.update(strategy='ddp')
    data = {
        'batch_size': job['batch_size'],
        'patch_size': PATCH_SIZE,
        'stride': job['stride'],
        'num_workers': job['workers'],
    }
    if job['what'] == 'model':
        seconds = run_model(paths, checkpoint, data, trainer_args)
    else:
        start = time.perf_counter()
        predict_scene(
            *paths,
            output,
            checkpoint,
            data_args=data,
            trainer_args=trainer_args,
            overwrite=True,
        )
        seconds = time.perf_counter() - start
    if os.environ.get('RANK', '0') == '0':
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({'seconds': seconds, 'MiB': peak}))


def run_model(
    paths: tuple[Path, Path],
    checkpoint: str,
    data: dict[str, Any],
    trainer_args: dict[str, Any],
) -> float:
    """Time the model alone on as many patches as the scene has."""
    keep_memory()  # As the task does when it maps
    trainer = Trainer(logger=False, **trainer_args)
    device = trainer.strategy.root_device
    task = ChangeDetectionTask.load_from_checkpoint(
        checkpoint, map_location=device, weights_only=True
    ).eval()
    module = SceneDataModule(*paths, **data)
    module.trainer = trainer
    module.setup('predict')
    module.choose_inputs(task.inputs)
    loader = module.predict_dataloader()
    batch = module.aug(move_data_to_device(next(iter(loader)), device))
    with torch.inference_mode(), trainer.precision_plugin.predict_step_context():
        for _ in range(3):
            task.predict_step(batch, 0)
        start = time.perf_counter()
        for indices in loader.sampler:
            part = {key: value[: len(indices)] for key, value in batch.items()}
            probabilities = task.predict_step(part, 0)
        probabilities.cpu()  # Waits for a GPU
        return time.perf_counter() - start


def measure(job: dict[str, Any], threads: int) -> dict[str, float]:
    """Measure a job in new processes."""
    launcher = (
        [
            *('-m', 'torch.distributed.run', '--standalone'),
            f'--nproc-per-node={job["processes"]}',
        ]
        if job['processes'] > 1
        else []
    )
    result = subprocess.run(
        [
            *(sys.executable, *launcher, '-m', 'benchmarks.scenes'),
            *('--job', json.dumps(job)),
        ],
        env={**os.environ, 'OMP_NUM_THREADS': str(threads)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    values: dict[str, float] = json.loads(result.stdout.strip().splitlines()[-1])
    return values


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line interface."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--output', type=Path, help='CSV file to write')
    parser.add_argument('--job', help=argparse.SUPPRESS)
    parser.add_argument('--model', default='m2cd')
    parser.add_argument('--backbone', default='mit_b0')
    parser.add_argument('--size', type=int, default=4096)
    parser.add_argument('--memory', action='store_true')
    parser.add_argument(
        '--sizes', type=int, nargs='+', default=[4096, 16384], help='for --memory'
    )
    parser.add_argument('--stride', type=int, default=256)
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--precision', default='32-true', help="the trainer's")
    parser.add_argument('--batch-size', type=int, default=4)
    parser.add_argument(
        '--workers', type=int, nargs='+', default=[0, 1], help='that read'
    )
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--countries', action='store_true')
    args = parser.parse_args(argv)
    if args.job:
        run_child(json.loads(args.job))
        return

    cores = len(os.sched_getaffinity(0))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = make_checkpoint(folder, args.model, args.backbone)

        def job(
            what: str, size: int, processes: int = 1, workers: int = 0
        ) -> dict[str, Any]:
            scene = folder / str(size)
            if not scene.exists():
                scene.mkdir()
                write_scene(scene, size)
            return {
                'what': what, 'scene': str(scene), 'checkpoint': str(checkpoint),
                'processes': processes, 'workers': workers, 'stride': args.stride,
                'device': args.device, 'precision': args.precision,
                'batch_size': args.batch_size, 'output': str(folder / 'change.tif'),
            }  # fmt: skip

        if args.memory:
            for size in args.sizes:
                values = [measure(job('map', size), cores)]
                rows.append(make_row('file to file', size, values))
        else:
            variants = {'the model alone': (job('model', args.size), cores)}
            for workers in args.workers:
                name = f'file to file, {workers} workers'
                variants[name] = job('map', args.size, workers=workers), cores
            if args.device == 'cpu':
                for processes in (1, 2):
                    name = f'file to file, {processes} processes of 1 thread'
                    variants[name] = job('map', args.size, processes), 1
            rows = compare(variants, args.size, args.repeats)
    name = 'scenes_memory.csv' if args.memory else 'scenes.csv'
    write_csv(args.output or RESULTS / name, rows)
    for row in rows:
        print(*row.values(), sep='\t')
    if args.countries:
        fastest = max(float(row['km²/min at 10 m']) for row in rows[1:])
        write_csv(RESULTS / 'countries.csv', cost(fastest * 60 / cores))


def cost(rate: float) -> list[dict[str, Any]]:
    """Compute the cost of mapping countries.

    Args:
        rate: Area that one core maps per hour, in km².

    Returns:
        One row per country.
    """
    return [
        {
            'country': country,
            'km²': f'{area:,}',
            '10⁹ pixels of 10 m': f'{area / 1e5:.1f}',
            'core hours': f'{area / rate:.1f}',
            'on 128 cores': f'{area / rate / 128 * 60:.1f} min',
        }
        for country, area in COUNTRIES.items()
    ]


def compare(
    variants: dict[str, tuple[dict[str, Any], int]], size: int, repeats: int
) -> list[dict[str, Any]]:
    """Measure variants, each a job and a number of threads, which take turns."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for _ in range(repeats):
        for variant, (one, threads) in variants.items():
            results[variant].append(measure(one, threads))
            print(variant, results[variant][-1], flush=True)
    return [make_row(variant, size, values) for variant, values in results.items()]


def make_checkpoint(folder: Path, model: Any, backbone: str) -> Path:
    """Save a model with random weights, which do not change its speed."""
    torch.manual_seed(0)
    task = ChangeDetectionTask(model, backbone, in_channels=[4, 1])
    # Fixed statistics, so that scenes of all sizes have the same inputs
    task.inputs = SyntheticFloodDataModule().default_inputs()
    trainer = Trainer(accelerator='cpu', logger=False, enable_checkpointing=False)
    trainer.strategy.connect(task)
    path = folder / 'model.ckpt'
    trainer.save_checkpoint(path)
    return path


def make_row(variant: str, size: int, values: list[dict[str, float]]) -> dict[str, Any]:
    """Make a row of the table."""
    seconds = statistics.median(value['seconds'] for value in values)
    return {
        'what': variant,
        'pixels': f'{size} x {size}',
        's': f'{seconds:.1f}',
        'km²/min at 10 m': f'{size**2 * 1e-4 / seconds * 60:.0f}',
        'MiB': f'{max(value["MiB"] for value in values):.0f}',
    }


if __name__ == '__main__':
    main()

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Measure how much a map depends on the position and the size of the patches.

python -m benchmarks.seams best.ckpt [other.ckpt ...]
python -m benchmarks.seams best.ckpt --ombria data/ombria --patch-sizes 256 512 1024

Maps a synthetic scene in overlapping patches and as a single patch, and compares the
probabilities, except near the edge of the scene. Checkpoints are of models trained on
SyntheticFlood. Or maps mosaics of OMBRIA's chips in patches of one, four and sixteen chips, with
models trained on OMBRIA, and compares IoU and classes.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio

from benchmarks.tables import RESULTS, write_csv
from benchmarks.units import VARIANTS, map_scenes, read_chips, score, tile
from torchgeo_m2cd.datasets import SyntheticFlood
from torchgeo_m2cd.predict import predict_scene
from torchgeo_m2cd.tasks import ChangeDetectionTask, load_task


def predict(
    checkpoint: str, scene: dict[str, Path], output: Path, size: int, stride: int
) -> npt.NDArray[np.float32]:
    """Map a scene and return the probabilities."""
    predict_scene(
        scene['optical'],
        scene['sar'],
        output,
        checkpoint,
        overwrite=True,
        data_args={'patch_size': size, 'stride': stride, 'batch_size': 4},
        trainer_args={'accelerator': 'cpu', 'enable_progress_bar': False},
    )
    with rasterio.open(output) as src:
        probability: npt.NDArray[np.float32] = src.read(1)
    return probability


def measure_scene(
    task: ChangeDetectionTask,
    checkpoint: str,
    size: int,
    patch_sizes: Sequence[int],
    parts: Sequence[float],
) -> list[dict[str, Any]]:
    """Map a synthetic scene in patches; return a row per size and stride."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        output = Path(name, 'map.tif')
        scene = SyntheticFlood(split='test', length=1).write_scene(
            Path(name), size, index=2, sar_resolution=10
        )
        # The images overlap in 7/8 of the scene; patch sizes are multiples of 32
        side = -(-size * 7 // 8 // 32) * 32
        whole = predict(checkpoint, scene, output, side, side)
        for patch in patch_sizes:
            for part in parts:
                stride = round(patch * part)
                tiled = predict(checkpoint, scene, output, patch, stride)
                error = np.abs(tiled - whole)[128:-128, 128:-128]
                error = error[np.isfinite(error)]
                rows.append(
                    {
                        'model': f'{task.hparams["model"]} {task.hparams["backbone"]}',
                        'patch': patch,
                        'stride': stride,
                        'mean': f'{error.mean():.4f}',
                        '99 %': f'{np.quantile(error, 0.99):.4f}',
                        'largest': f'{error.max():.4f}',
                        'share above 0.01': f'{(error > 0.01).mean():.4f}',
                    }
                )
                print(*rows[-1].values(), sep='\t', flush=True)
    return rows


def measure_mosaics(
    task: ChangeDetectionTask, root: Path, splits: Sequence[str], sizes: Sequence[int]
) -> list[dict[str, Any]]:
    """Map mosaics of OMBRIA's chips in adjacent patches of several sizes.

    Args:
        task: Task with the model.
        root: OMBRIA.
        splits: Splits, each of which becomes a scene of adjacent chips.
        sizes: Sizes of a patch in pixels, first that of a chip.

    Returns:
        A row per split and size: IoU, and the share of pixels whose class is another one
        than with patches of the first size.
    """
    rows = []
    for split in splits:
        chips = read_chips(root, split)
        mask = tile(chips.mask[:, None])[0]
        first = None
        for size in sizes:
            with tempfile.TemporaryDirectory() as name:
                images = tile(chips.optical)[None], tile(chips.sar)[None]
                kinds = VARIANTS['grey values']
                (found,) = map_scenes(task, Path(name, 'a'), *images, kinds, size, size)
            flood = np.nan_to_num(found) >= task.threshold
            first = flood if first is None else first
            rows.append(
                {
                    'model': f'{task.hparams["model"]} {task.hparams["backbone"]}',
                    'split': split,
                    'patch': size,
                    'IoU': score(found, mask, task.threshold),
                    'other class': f'{(flood != first)[np.isfinite(found)].mean():.4f}',
                }
            )
            print(*rows[-1].values(), sep='\t', flush=True)
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line interface."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--output', type=Path, help='CSV file to write')
    parser.add_argument('checkpoints', nargs='+', help='or names of released weights')
    parser.add_argument('--size', type=int, default=1024, help='pixels of the scene')
    parser.add_argument('--patch-sizes', type=int, nargs='+', default=[256, 512])
    parser.add_argument(
        '--strides',
        type=float,
        nargs='+',
        default=[0.5, 0.75, 1.0],
        help='shares of a patch',
    )
    parser.add_argument('--ombria', type=Path, help='map mosaics of its chips instead')
    parser.add_argument('--splits', nargs='+', default=['test', 'albania', 'timor'])
    args = parser.parse_args(argv)

    rows = []
    for checkpoint in args.checkpoints:
        task = load_task(checkpoint)
        if args.ombria:
            sizes = args.patch_sizes
            rows += measure_mosaics(task, args.ombria, args.splits, sizes)
        else:
            sizes, parts = args.patch_sizes, args.strides
            rows += measure_scene(task, checkpoint, args.size, sizes, parts)
    name = 'seams-ombria.csv' if args.ombria else 'seams.csv'
    write_csv(args.output or RESULTS / name, rows)


if __name__ == '__main__':
    main()

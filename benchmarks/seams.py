# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Measure how much a map depends on the position of the patches.

python -m benchmarks.seams best.ckpt [other.ckpt ...]

Maps a synthetic scene in overlapping patches and as a single patch, and compares the
probabilities, except near the edge of the scene. Checkpoints are of models trained on
SyntheticFlood.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import rasterio

from benchmarks.tables import RESULTS, write_csv
from torchgeo_m2cd.datasets import SyntheticFlood
from torchgeo_m2cd.predict import predict_scene
from torchgeo_m2cd.tasks import ChangeDetectionTask


def predict(
    checkpoint: Path, scene: dict[str, Path], output: Path, size: int, stride: int
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


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line interface."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--output', type=Path, default=RESULTS / 'seams.csv', help='CSV file to write'
    )
    parser.add_argument('checkpoints', type=Path, nargs='+')
    parser.add_argument('--size', type=int, default=1024, help='pixels of the scene')
    parser.add_argument('--patch-sizes', type=int, nargs='+', default=[256, 512])
    parser.add_argument(
        '--strides',
        type=float,
        nargs='+',
        default=[0.5, 0.75, 1.0],
        help='shares of a patch',
    )
    args = parser.parse_args(argv)

    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene = SyntheticFlood(split='test', length=1).write_scene(
            folder, args.size, index=2, sar_resolution=10
        )
        for checkpoint in args.checkpoints:
            task = ChangeDetectionTask.load_from_checkpoint(
                checkpoint, map_location='cpu', weights_only=True
            )
            # The images overlap in 7/8 of the scene; patch sizes are multiples of 32
            side = -(-args.size * 7 // 8 // 32) * 32
            whole = predict(checkpoint, scene, folder / 'map.tif', side, side)
            for size in args.patch_sizes:
                for part in args.strides:
                    stride = round(size * part)
                    tiled = predict(checkpoint, scene, folder / 'map.tif', size, stride)
                    error = np.abs(tiled - whole)[128:-128, 128:-128]
                    error = error[np.isfinite(error)]
                    rows.append(
                        {
                            'model': f'{task.hparams["model"]} {task.hparams["backbone"]}',
                            'patch': size,
                            'stride': stride,
                            'mean': f'{error.mean():.4f}',
                            '99 %': f'{np.quantile(error, 0.99):.4f}',
                            'largest': f'{error.max():.4f}',
                            'share above 0.01': f'{(error > 0.01).mean():.4f}',
                        }
                    )
                    print(*rows[-1].values(), sep='\t', flush=True)
    write_csv(args.output, rows)


if __name__ == '__main__':
    main()

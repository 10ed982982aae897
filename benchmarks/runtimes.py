# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Time of inference on a CPU, compared with other runtimes of the same weights.

python -m benchmarks.runtimes                 # needs onnxruntime and openvino
python -m benchmarks.runtimes --threads 1     # on a busy machine

Variants take turns. Times are medians, with one thread of the time of the CPU, which other
processes hardly change, else of the clock. The other runtimes read the file of export_onnx, in
which all experts process all tokens. 99 % of the logits in single precision agree to 1e-3.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.tables import RESULTS, write_csv
from torchgeo_m2cd.models import (
    M2CD,
    M2CD_Weights,
    compile_inference,
    export_onnx,
    keep_memory,
    m2cd,
)

#: Function that makes each model.
MODELS: Mapping[str, Callable[[], M2CD]] = {
    'released': lambda: m2cd(M2CD_Weights.DEFAULT),
    'ResNet-18 without experts': lambda: M2CD('resnet18', experts=None),
    'MiT-b1 without experts': lambda: M2CD('mit_b1', experts=None),
    'MiT-b1': lambda: M2CD('mit_b1'),
}

#: Variants, the first of which others are compared with.
VARIANTS = (
    'eager',
    'eager, bfloat16',
    'onnxruntime',
    'openvino',
    'openvino, bfloat16',
    'compiled',
    'compiled, bfloat16',
)

Predict = Callable[[Tensor], Any]


def make(variant: str, model: M2CD, path: Path, threads: int) -> Predict:
    """Make the function that is timed.

    Args:
        variant: One of :data:`VARIANTS`.
        model: The model.
        path: The ONNX file of the model.
        threads: Number of threads.

    Returns:
        Function from images to logits.
    """
    bfloat16 = 'bfloat16' in variant
    if variant == 'onnxruntime':
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(path, options)
        return lambda image: session.run(None, {'image': image.numpy()})[0]
    if variant.startswith('openvino'):
        import openvino

        settings = {
            'INFERENCE_NUM_THREADS': threads,
            'INFERENCE_PRECISION_HINT': 'bf16' if bfloat16 else 'f32',
            'PERFORMANCE_HINT': 'LATENCY',
        }
        compiled = openvino.Core().compile_model(path, 'CPU', settings)
        return lambda image: compiled(image.numpy())[0]
    run: Any = compile_inference(model) if 'compiled' in variant else model

    def predict(image: Tensor) -> Tensor:
        with torch.inference_mode(), torch.autocast('cpu', enabled=bfloat16):
            logits: Tensor = run(image)
        return logits

    return predict


def measure(
    predictors: Mapping[str, Predict],
    batch: int,
    size: int,
    clock: Callable[[], float],
    n: int,
) -> dict[str, float]:
    """Measure variants in turns.

    Args:
        predictors: Functions by variant, the first in eager mode.
        batch: Number of pairs.
        size: Their height and width.
        clock: Clock, in seconds.
        n: Number of rounds.

    Returns:
        Medians of the seconds.
    """
    images = itertools.cycle([torch.randn(batch, 2, 3, size, size) for _ in range(8)])
    first = next(images)
    expected = next(iter(predictors.values()))(first)
    for variant, predict in predictors.items():
        tolerance = 1.0 if 'bfloat16' in variant else 1e-3
        output = torch.as_tensor(predict(first)).float()
        # Rounding sends a token to another expert where its gates are nearly equal
        share = ((output - expected).abs() > tolerance).float().mean()
        assert share < 0.01, f'{variant} differs in {share:.1%} of the logits'
    times: dict[str, list[float]] = {variant: [] for variant in predictors}
    for _ in range(n):
        for variant, predict in predictors.items():
            predict(next(images))  # Fills the caches again after the previous variant
            start = clock()
            predict(next(images))
            times[variant].append(clock() - start)
    return {variant: statistics.median(values) for variant, values in times.items()}


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line interface."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--output', type=Path, default=RESULTS / 'runtimes.csv', help='file to write'
    )
    parser.add_argument('--models', nargs='+', choices=MODELS, default=[*MODELS])
    parser.add_argument('--variants', nargs='+', choices=VARIANTS, default=[*VARIANTS])
    parser.add_argument(
        '--shapes',
        nargs='+',
        default=['1x256', '2x256', '8x256', '4x512'],
        help='pairs in a batch, and their height and width',
    )
    parser.add_argument('--threads', type=int, default=torch.get_num_threads())
    parser.add_argument('--repeats', type=int, default=9)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    keep_memory()  # As the task does
    clock = time.process_time if args.threads == 1 else time.perf_counter
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            torch.manual_seed(0)
            model = MODELS[name]().eval()
            model.inputs = M2CD_Weights.DEFAULT.transforms()
            path = Path(folder, 'model.onnx')
            export_onnx(model, path)
            predictors = {v: make(v, model, path, args.threads) for v in args.variants}
            for shape in args.shapes:
                batch, size = map(int, shape.split('x'))
                torch.compiler.reset()  # It compiles a limited number of shapes
                seconds = measure(predictors, batch, size, clock, args.repeats)
                eager = next(iter(seconds.values()))
                times = {v: f'{value / eager:.2f}' for v, value in seconds.items()}
                ms = f'{1e3 * eager:.0f}'
                rows.append({'model': name, 'pairs': shape, 'ms': ms, **times})
                print(*rows[-1].values(), sep='\t', flush=True)
                write_csv(args.output, rows)  # One after the other: it takes long


if __name__ == '__main__':
    main()

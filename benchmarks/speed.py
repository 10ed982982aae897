# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Time and memory of M²CD beside the original's arithmetic.

python benchmarks/speed.py docs/user/speed                   # inference and training
python benchmarks/speed.py docs/user/growth --mode growth    # by size, batch, experts

Writes OUTPUT.csv, OUTPUT.md and OUTPUT.svg. All variants take turns, round by round, on
images that change from call to call; times are medians. Memory is the peak above what
was there before the first call, each in a process of its own: of resident memory on a
CPU (Linux), of PyTorch's allocator on a GPU.
"""

import argparse
import dataclasses
import datetime
import itertools
import json
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from torchgeo_m2cd.models import M2CD, Experts, simulate_sar

if __package__ is None:  # As a script
    sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.original import Original
from benchmarks.tables import to_markdown, write_csv

#: Models, and whether they have experts.
MODELS = {
    'original': True,
    'm2cd': True,
    'm2cd without O2SP': True,
    'm2cd without MoE': False,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """What is measured."""

    mode: str
    model: str = 'm2cd'
    encoder: str = 'mit_b1'
    batch: int = 2
    size: int = 256
    dtype: str = 'float32'
    compiled: bool = False
    experts: int = 4
    device: str = 'cpu'

    @property
    def name(self) -> str:
        """Name of the variant."""
        words = [self.model]
        if self.compiled:
            words.append('compiled')
        if self.dtype != 'float32':
            words.append(self.dtype)
        return ', '.join(words)


def make_step(case: Case) -> Callable[[], None]:
    """Make what is timed.

    Args:
        case: What to measure.

    Returns:
        Function that makes one prediction, or one step of training.
    """
    torch.manual_seed(0)
    model = M2CD(
        case.encoder,
        experts=(
            Experts(num_experts=case.experts, top_k=min(2, case.experts))
            if MODELS[case.model]
            else None
        ),
    )
    run: nn.Module = (
        Original(model, case.encoder) if case.model == 'original' else model
    )
    run.to(case.device).train(case.mode == 'train')
    # Experts get another number of tokens each time, which oneDNN has not seen yet
    shape = (case.batch, 2, 3, case.size, case.size)
    images = itertools.cycle(
        [torch.randn(shape, device=case.device) for _ in range(24)]
    )
    autocast = torch.autocast(
        case.device, torch.bfloat16, enabled=case.dtype == 'bfloat16'
    )

    if case.mode == 'train':
        forward: Any = run.forward_train
        if case.compiled:
            forward = torch.compile(forward, fullgraph=True)
        optimizer = torch.optim.AdamW(run.parameters())
        for parameter in run.parameters():  # Its state is no part of the step
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
        mask = (torch.rand(case.batch, 1, case.size, case.size) > 0.5).float()
        mask = mask.to(case.device)

        def train() -> None:
            image = next(images)
            o2sp = 'without O2SP' not in case.model
            with autocast:
                output = forward(image, simulate_sar(image[:, 0]) if o2sp else None)
            loss = F.binary_cross_entropy_with_logits(output.logits.float(), mask)
            loss = loss + 0.01 * output.balance_loss + 1e-4 * output.guide_loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return train

    predict: Any = torch.compile(run, fullgraph=True) if case.compiled else run

    def infer() -> None:
        with torch.inference_mode(), autocast:
            predict(next(images))

    return infer


def timed(step: Callable[[], None], device: str) -> float:
    """Run a step and return how many seconds it took."""
    start = time.perf_counter()
    step()
    if device != 'cpu':
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(case: Case) -> float:
    """Measure the peak memory of two steps, in this process.

    Args:
        case: What to measure.

    Returns:
        Peak above what was there before, in MiB.
    """
    step = make_step(case)
    if case.device != 'cpu':
        allocated = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        step()
        return (torch.cuda.max_memory_allocated() - allocated) / 2**20

    def status(key: str) -> float:
        lines = Path('/proc/self/status').read_text().splitlines()
        return float(next(x for x in lines if x.startswith(key)).split()[1]) / 2**10

    before = status('VmRSS')
    Path('/proc/self/clear_refs').write_text('5')  # The peak starts anew
    step()
    step()
    return status('VmHWM') - before


def peak_memory_apart(case: Case) -> float:
    """Measure the peak memory in a process of its own."""
    arguments = [__file__, '--memory', json.dumps(dataclasses.asdict(case))]
    process = subprocess.run(
        [sys.executable, *arguments], check=True, capture_output=True, text=True
    )
    return float(process.stdout.split()[-1])


def products(dtype: str, device: str) -> list[Callable[[], None]]:
    """Make large matrix products, to know what the machine can do.

    Of 2048 x 2048 values, as a product and as a 1x1 convolution: on a CPU, two
    libraries do them.
    """
    a, b = torch.randn(2, 2048, 2048, dtype=getattr(torch, dtype), device=device)
    image = a.view(1, 32, 64, 2048).permute(0, 3, 1, 2)

    def product() -> None:
        a @ b

    def convolution() -> None:
        F.conv2d(image, b[:, :, None, None])

    return [product, convolution]


def count_gmac(case: Case) -> float:
    """Count the multiply-accumulates of one pair of images, in billions."""
    case = dataclasses.replace(
        case, dtype='float32', compiled=False, device='cpu', batch=1
    )
    step = make_step(case)
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops()) / 2e9


def measure(cases: Sequence[Case], repeats: int) -> Iterator[dict[str, Any]]:
    """Measure cases in turns.

    Args:
        cases: What to measure. Ratios are to the first.
        repeats: Number of rounds.

    Yields:
        One row per case.
    """
    device = cases[0].device
    steps = [make_step(case) for case in cases]
    dtypes = sorted({case.dtype for case in cases})
    peaks = {dtype: products(dtype, device) for dtype in dtypes}
    for step in steps:
        step()  # Compiles
        step()
    times: list[list[float]] = [[] for _ in cases]
    product_times: dict[str, list[list[float]]] = {d: [[], []] for d in dtypes}
    for _ in range(repeats):
        for step, values in zip(steps, times, strict=True):
            step()  # Or else it pays for the caches that the one before it has filled
            values.append(timed(step, device))
        for dtype in dtypes:
            for step, values in zip(peaks[dtype], product_times[dtype], strict=True):
                values.append(timed(step, device))
    del steps
    medians = [statistics.median(values) for values in times]
    memories = [peak_memory_apart(case) for case in cases]
    for case, seconds, memory in zip(cases, medians, memories, strict=True):
        best = min(statistics.median(values) for values in product_times[case.dtype])
        # PyTorch counts a grouped convolution's backward pass as if it had one group
        gmac = count_gmac(case) if case.mode == 'inference' else math.nan
        speed = gmac * 1e9 * case.batch / seconds
        yield {
            'mode': case.mode,
            'encoder': case.encoder,
            'batch': case.batch,
            'size': case.size,
            'variant': case.name,
            'ms': round(seconds * 1e3, 1),
            'pairs/s': round(case.batch / seconds, 2),
            'speedup': round(medians[0] / seconds, 2),
            'MiB': round(memory),
            'memory ratio': round(memory / memories[0], 2),
            'GMAC/pair': round(gmac, 2),
            'of peak': round(speed / (2048**3 / best), 2),
        }


def variants(args: argparse.Namespace, mode: str) -> Iterator[list[Case]]:
    """List the cases that are measured in turns."""
    for encoder, batch, size in itertools.product(
        args.encoders,
        args.batches if mode == 'inference' else [args.train_batch],
        args.sizes,
    ):
        case = Case(mode, encoder=encoder, batch=batch, size=size, device=args.device)
        models = [m for m in MODELS if mode == 'train' or 'O2SP' not in m]
        cases = [dataclasses.replace(case, model=model) for model in models]
        extra: list[dict[str, Any]] = []
        if 'bfloat16' in args.dtypes:
            extra += [{'model': m, 'dtype': 'bfloat16'} for m in ('original', 'm2cd')]
        if args.compile and mode == 'inference':
            extra += [{'compiled': True}]
            if 'bfloat16' in args.dtypes:
                extra += [{'compiled': True, 'dtype': 'bfloat16'}]
        yield cases + [dataclasses.replace(case, **values) for values in extra]


def growth(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure time and memory against size, batch and number of experts."""
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
    """Plot time and memory with the exponents of their growth."""
    keys = list(dict.fromkeys(row['against'] for row in rows))
    _, axes = plt.subplots(2, len(keys), figsize=(11, 6), layout='constrained')
    for column, key in zip(axes.T, keys, strict=True):
        mine = [row for row in rows if row['against'] == key]
        x = np.array([row['value'] for row in mine], float)
        for axis, unit in zip(column, ('ms', 'MiB'), strict=True):
            y = np.array([row[unit] for row in mine], float)
            # Of the larger half: what is constant hides the growth of the smaller
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
    """Write the table as CSV and Markdown, and the plot."""
    write_csv(output.with_suffix('.csv'), rows)
    # The last commit that changed what is measured
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
    output.with_suffix('.md').write_text(text)
    with mpl.rc_context({'svg.hashsalt': 'speed'}):
        plt.savefig(output.with_suffix('.svg'), metadata={'Date': None})
    print(text, end='')


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line interface."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('output', type=Path, nargs='?', help='without suffix')
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
        '--compile', action='store_true', help='compiled inference as well'
    )
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--repeats', type=int, default=9)
    parser.add_argument('--memory', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.memory:
        print(peak_memory(Case(**json.loads(args.memory))))
        return
    if args.output is None:
        parser.error('the output is missing')

    rows: list[dict[str, Any]] = []
    if 'growth' in args.mode:
        rows += growth(args)
        plot_growth(rows)
    else:
        for mode in args.mode:
            for cases in variants(args, mode):
                for row in measure(cases, args.repeats):
                    print(*row.values(), sep='\t', flush=True)
                    rows.append(row)
        plot_variants(rows)
    write(args.output, rows, args.device)


if __name__ == '__main__':
    main()

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Time, memory and multiply-accumulates of models, compared with the original.

Memory is the peak above the memory in use before the first call: resident memory on a CPU (Linux
only), memory of PyTorch's allocator on a GPU. Each case has its own process, which runs this module
with the case as JSON.
"""

import dataclasses
import itertools
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.original import Original
from torchgeo_m2cd.models import M2CD, Experts, simulate_sar

#: Models, and whether each has experts.
MODELS = {
    'original': True,
    'm2cd': True,
    'm2cd without O2SP': True,
    'm2cd without MoE': False,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A model and the conditions to measure it under."""

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
    """Make the function that is timed.

    Args:
        case: Case to measure.

    Returns:
        Function that makes one prediction or one training step.
    """
    torch.manual_seed(0)
    experts = Experts(num_experts=case.experts, top_k=min(2, case.experts))
    model = M2CD(case.encoder, experts=experts if MODELS[case.model] else None)
    run: nn.Module = (
        Original(model, case.encoder) if case.model == 'original' else model
    )
    run.to(case.device).train(case.mode == 'train')
    # New images in each call: the numbers of tokens per expert change, and oneDNN caches shapes
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
        for (
            parameter
        ) in run.parameters():  # Allocates the optimizer's state before the step
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
    """Run a step and return its duration in seconds."""
    start = time.perf_counter()
    step()
    if device != 'cpu':
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(case: Case) -> float:
    """Measure the peak memory of two steps in this process.

    Args:
        case: Case to measure.

    Returns:
        Peak above the memory in use before, in MiB.
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
    Path('/proc/self/clear_refs').write_text('5')  # Resets the peak
    step()
    step()
    return status('VmHWM') - before


def peak_memory_apart(case: Case) -> float:
    """Measure the peak memory in a new process."""
    arguments = ['-m', 'benchmarks.timing', json.dumps(dataclasses.asdict(case))]
    process = subprocess.run(
        [sys.executable, *arguments], check=True, capture_output=True, text=True
    )
    return float(process.stdout.split()[-1])


def products(dtype: str, device: str) -> list[Callable[[], None]]:
    """Make products of 2048 x 2048 matrices, to measure the machine's peak performance.

    The same product is computed as a matrix product and as a 1x1 convolution: on a CPU, PyTorch
    uses different libraries for them.
    """
    a, b = torch.randn(2, 2048, 2048, dtype=getattr(torch, dtype), device=device)
    image = a.view(1, 32, 64, 2048).permute(0, 3, 1, 2)

    def product() -> None:
        a @ b

    def convolution() -> None:
        F.conv2d(image, b[:, :, None, None])

    return [product, convolution]


def count_gmac(case: Case) -> float:
    """Count the multiply-accumulates of one pair, in billions."""
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
        cases: Cases to measure. Ratios are relative to the first.
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
            step()  # Not timed: fills the caches again after the previous case
            values.append(timed(step, device))
        for dtype in dtypes:
            for step, values in zip(peaks[dtype], product_times[dtype], strict=True):
                values.append(timed(step, device))
    del steps
    medians = [statistics.median(values) for values in times]
    memories = [peak_memory_apart(case) for case in cases]
    for case, seconds, memory in zip(cases, medians, memories, strict=True):
        best = min(statistics.median(values) for values in product_times[case.dtype])
        # PyTorch's counter ignores the groups of convolutions in the backward pass
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


if __name__ == '__main__':
    print(peak_memory(Case(**json.loads(sys.argv[1]))))

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Time, memory and multiply-accumulates of models, compared with the original.

Memory is the peak above the memory in use before the first call: resident memory on a CPU (Linux
only), where each case has its own process, which runs this module with the case as JSON; memory of
PyTorch's allocator on a GPU.

The roofline is the least time of a case on a machine: each matrix product, convolution and attention
takes as long as its arithmetic at the machine's peak or its inputs and outputs at the rate of its
memory, whichever is longer, and all else is fused into them and takes no time.
"""

import contextlib
import dataclasses
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import (
    flop_registry,
    register_flop_formula,
    sdpa_flop_count,
)

from benchmarks.original import Original
from torchgeo_m2cd.models import (
    M2CD,
    Experts,
    compile_inference,
    keep_memory,
    simulate_sar,
)
from torchgeo_m2cd.models.fast.experts import FastMixtureOfExperts

#: Models, and whether each has experts.
MODELS = {
    'original': True,
    'm2cd': True,
    'm2cd without O2SP': True,
    'm2cd without MoE': False,
}

#: Steps of one sample: a GPU would wait for the CPU after each of them.
_STEPS = {'cpu': 1, 'cuda': 5}

#: Edge of the matrices of the machine's peak.
_PRODUCT_SIZE = {'cpu': 2048, 'cuda': 8192}


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
    if case.device == 'cpu':
        keep_memory()  # As the task does
    else:
        torch.set_float32_matmul_precision('high')  # TensorFloat-32
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
            # Kernels are launched as one CUDA graph
            mode = 'default' if case.device == 'cpu' else 'reduce-overhead'
            forward = torch.compile(forward, fullgraph=True, dynamic=False, mode=mode)
        optimizer = torch.optim.AdamW(run.parameters(), fused=case.device != 'cpu')
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

    predict = compile_inference(run, case.batch) if case.compiled else run

    def infer() -> None:
        with torch.inference_mode(), autocast:
            predict(next(images))

    return infer


def timed(step: Callable[[], None], device: str) -> float:
    """Run a step, on a GPU several times, and return its duration in seconds."""
    start = time.perf_counter()
    for _ in range(_STEPS[device]):
        step()
    if device != 'cpu':
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / _STEPS[device]


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
    """Measure the peak memory, on a CPU in a new process."""
    if case.device != 'cpu':
        return peak_memory(case)
    arguments = ['-m', 'benchmarks.timing', json.dumps(dataclasses.asdict(case))]
    process = subprocess.run(
        [sys.executable, *arguments], check=True, capture_output=True, text=True
    )
    return float(process.stdout.split()[-1])


def products(dtype: str, device: str) -> list[Callable[[], None]]:
    """Make products of square matrices, to measure the machine's peak performance.

    The same product is computed as a matrix product and as a 1x1 convolution: on a CPU, PyTorch
    uses different libraries for them.
    """
    size = _PRODUCT_SIZE[device]
    a, b = torch.randn(2, size, size, dtype=getattr(torch, dtype), device=device)
    image = a.view(1, -1, 64, size).permute(0, 3, 1, 2)

    def product() -> None:
        a @ b

    def convolution() -> None:
        F.conv2d(image, b[:, :, None, None])

    return [product, convolution]


def make_copy(device: str) -> Callable[[], None]:
    """Make the copy of a GiB, to measure the rate of the machine's memory."""
    source = torch.randn(2**28, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)

    return copy


class Work(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Arithmetic and bytes of each matrix product, convolution and attention."""

    def __init__(self) -> None:
        """Initialize a new Work."""
        super().__init__()  # type: ignore[no-untyped-call]
        #: Floating-point operations and bytes of each call.
        self.calls: list[tuple[int, int]] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operator and count it."""
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet not in flop_registry:
            # Inference mode does not take operators apart
            with self:
                out = func.decompose(*args, **kwargs)
            return func(*args, **kwargs) if out is NotImplemented else out
        out = func(*args, **kwargs)
        if packet == torch.ops.aten.convolution_backward:
            flops = _count_convolution_backward(*args)
        else:
            flops = flop_registry[packet](*args, **kwargs, out_val=out)
        tensors = tree_leaves((args, kwargs, out))
        size = sum(x.nbytes for x in tensors if isinstance(x, torch.Tensor))
        self.calls.append((flops, size))
        return out

    def gmac(self) -> float:
        """Sum up the multiply-accumulates, in billions."""
        return sum(flops for flops, _ in self.calls) / 2e9

    def seconds(self, flops_rate: float, bytes_rate: float) -> float:
        """Compute the roofline.

        Args:
            flops_rate: Floating-point operations per second.
            bytes_rate: Bytes per second.

        Returns:
            Seconds.
        """
        return sum(
            max(flops / flops_rate, size / bytes_rate) for flops, size in self.calls
        )


def _count_convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, sizes: Any, *args: Any
) -> int:
    """Count the operations of a backward pass, of which PyTorch ignores the groups."""
    *settings, mask = args
    count = flop_registry[torch.ops.aten.convolution]
    forward = int(count(x, weight, None, *settings, out_val=grad))
    return forward * sum(map(int, mask[:2]))


# Attention on a CPU, which PyTorch does not count
@register_flop_formula(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu)
def _count_attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Count the operations of attention."""
    flops: int = sdpa_flop_count(query, key, value)  # type: ignore[no-untyped-call]
    return flops


# The grouped product of experts on a GPU
with contextlib.suppress(AttributeError):

    @register_flop_formula(torch.ops.aten._grouped_mm)
    def _count_grouped(x: Any, weight: Any, *_: Any, **__: Any) -> int:
        """Count the operations of a product of which each row meets one matrix."""
        return 2 * int(x[0]) * int(x[1]) * int(weight[-1])


def count_work(case: Case) -> Work:
    """Count the work of a step.

    On a GPU always in bfloat16, with the experts in a grouped product: elsewhere, they may see the
    tokens of others, too.
    """
    dtype = case.dtype if case.device == 'cpu' else 'bfloat16'
    step = make_step(dataclasses.replace(case, dtype=dtype, compiled=False))
    work = Work()
    with contextlib.ExitStack() as stack:
        if case.device != 'cpu':
            stack.enter_context(patch.object(FastMixtureOfExperts, 'mix', _mix_grouped))
        stack.enter_context(work)
        step()
    if dtype != case.dtype:
        work.calls = [(flops, 2 * size) for flops, size in work.calls]
    return work


def _mix_grouped(moe: FastMixtureOfExperts, x: Tensor, gates: Tensor) -> Tensor:
    """Sum up the experts in bfloat16, each with its own tokens."""
    return moe._mix_grouped(x.bfloat16(), gates)


def measure(cases: Sequence[Case], repeats: int) -> Iterator[dict[str, Any]]:
    """Measure cases in turns.

    Args:
        cases: Cases to measure. Ratios are relative to the first.
        repeats: Number of rounds.

    Yields:
        One row per case.
    """
    torch.compiler.reset()
    device = cases[0].device
    steps = [make_step(case) for case in cases]
    dtypes = sorted({case.dtype for case in cases})
    peaks = {dtype: products(dtype, device) for dtype in dtypes}
    copy = make_copy(device)
    for step in steps:
        # Compiles, and records CUDA graphs
        for _ in range(3):
            step()
    times: list[list[float]] = [[] for _ in cases]
    product_times: dict[str, list[list[float]]] = {d: [[], []] for d in dtypes}
    copy_times: list[float] = []
    for _ in range(repeats):
        for step, values in zip(steps, times, strict=True):
            step()  # Not timed: fills the caches again after the previous case
            values.append(timed(step, device))
        for dtype in dtypes:
            for step, values in zip(peaks[dtype], product_times[dtype], strict=True):
                values.append(timed(step, device))
        copy_times.append(timed(copy, device))
    del steps, peaks, copy
    bytes_rate = 2 * 2**30 / statistics.median(copy_times)
    flops = 2 * _PRODUCT_SIZE[device] ** 3
    flops_rates = {
        dtype: flops / min(statistics.median(values) for values in product_times[dtype])
        for dtype in dtypes
    }
    medians = [statistics.median(values) for values in times]
    memories = [peak_memory_apart(case) for case in cases]
    for case, seconds, memory in zip(cases, medians, memories, strict=True):
        work = count_work(case)
        gmac = work.gmac()
        rate = flops_rates[case.dtype]
        yield {
            'mode': case.mode,
            'encoder': case.encoder,
            'batch': case.batch,
            'size': case.size,
            'variant': case.name,
            'ms': round(seconds * 1e3, 1 if device == 'cpu' else 2),
            'pairs/s': round(case.batch / seconds, 2),
            'speedup': round(medians[0] / seconds, 2),
            'MiB': round(memory),
            'memory ratio': round(memory / memories[0], 2),
            'GMAC/pair': round(gmac / case.batch, 2),
            'of peak': round(gmac * 2e9 / rate / seconds, 2),
            'of roofline': round(work.seconds(rate, bytes_rate) / seconds, 2),
            'peak, TFLOP/s': round(rate / 1e12, 2),
            'memory, GB/s': round(bytes_rate / 1e9),
        }


if __name__ == '__main__':
    print(peak_memory(Case(**json.loads(sys.argv[1]))))

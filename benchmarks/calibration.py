# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Calibrate a model on groups of scenes that were left out of its training.

python -m benchmarks.calibration output/release/*/predictions/*.npz --chips 20 --root data/ombria

Reads predictions of ``evaluate.py``. Each file is a group, or each run of so many chips of it.
Writes calibration.json, with the temperature and the offset that belong into the last layer
(:func:`fold`) and the arguments of :class:`~torchgeo_m2cd.models.Reliability`, and a reliability
diagram, calibration.svg.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_calibration_error

from benchmarks.evaluate import LEVELS
from torchgeo_m2cd.datasets import OMBRIA
from torchgeo_m2cd.models import Look, Reliability, measure_look, rule_inputs
from torchgeo_m2cd.transforms import Inputs, Relative, RelativeDarkness

#: Pixels of each group by label, 0 or 1, and by probability, from 0 to 255, shape (2, 256).
Groups = Mapping[str, Tensor]

#: Bins of the calibration error and of the diagram.
_BINS = 15
#: Share of the groups whose area is within the interval.
_INSIDE = 0.9


class Calibration(NamedTuple):
    """How to calibrate logits: divide by the temperature, then add the offset."""

    temperature: float = 1.0
    offset: float = 0.0

    def probabilities(self) -> Tensor:
        """Return the calibrated probability of each stored one, shape (256,)."""
        # The ends stand for half a level, as a logit of 0 or 1 is infinite
        stored = (torch.arange(LEVELS + 1, dtype=torch.float64) / LEVELS).clamp(
            0.5 / LEVELS, 1 - 0.5 / LEVELS
        )
        return (stored.logit() / self.temperature + self.offset).sigmoid()


def read_groups(files: Sequence[Path], chips: int | None = None) -> dict[str, Tensor]:
    """Count the pixels of groups.

    Args:
        files: Predictions of ``evaluate.py``.
        chips: About as many chips are a group, in their order (defaults to all of a file).

    Returns:
        The groups.

    Raises:
        ValueError: If *chips* is not positive.
    """
    if chips is not None and chips < 1:
        raise ValueError(f'chips is {chips}: expected at least 1')
    groups = {}
    for file in files:
        written = np.load(file)
        total = len(written['mask'])
        # Runs of nearly the same length: a short rest would count as much as the others
        runs = max(round(total / (chips or total)), 1)
        for run in np.array_split(np.arange(total), runs):
            probability, mask = written['probability'][run], written['mask'][run]
            counts = [
                np.bincount(probability[mask == label], minlength=LEVELS + 1)
                for label in (0, 1)
            ]
            name = f'{file}, {written["chips"][run[0]]}'
            groups[name] = torch.from_numpy(np.stack(counts))
    return groups


def fit(groups: Groups) -> Calibration:
    """Find the calibration with the least cross-entropy, mean over the groups.

    Args:
        groups: The groups, which have equal weight.

    Returns:
        The calibration.
    """
    weights = torch.stack([counts / counts.sum() for counts in groups.values()])
    mean = weights.double().mean(dim=0)
    logits = Calibration().probabilities().logit()
    # Slope and offset: the cross-entropy is convex in both
    values = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [values], max_iter=200, tolerance_grad=1e-9, line_search_fn='strong_wolfe'
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        shifted = values[0] * logits + values[1]
        loss = (mean * nn.functional.softplus(torch.stack([shifted, -shifted]))).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    slope, offset = values.tolist()
    return Calibration(1 / slope, offset)


def calibration_error(groups: Groups, calibration: Calibration) -> float:
    """Compute the expected calibration error, mean over the groups.

    Args:
        groups: The groups.
        calibration: How to calibrate them.

    Returns:
        The error, from 0 to 1.
    """
    probabilities = calibration.probabilities().float()
    errors = [
        binary_calibration_error(
            probabilities.repeat(2).repeat_interleave(counts.flatten()),
            torch.arange(2).repeat_interleave(counts.sum(dim=1)),
            n_bins=_BINS,
        )
        for counts in groups.values()
    ]
    return float(torch.stack(errors).mean())


def best_threshold(groups: Groups, calibration: Calibration) -> float:
    """Find the probability from which on to map floods: that of the best mean IoU.

    Args:
        groups: The groups.
        calibration: How they are calibrated.

    Returns:
        Calibrated probability, rounded to two digits.
    """
    # Pixels at or above each stored probability
    true, false = (
        torch.stack(
            [counts[label].flip(0).cumsum(0).flip(0) for counts in groups.values()]
        )
        for label in (1, 0)
    )
    flooded = torch.stack([counts[1].sum() for counts in groups.values()])
    iou = true / (flooded[:, None] + false).clamp(min=1)
    return round(float(calibration.probabilities()[iou.mean(dim=0).argmax()]), 2)


def area_factors(groups: Groups) -> dict[str, float]:
    """Divide the flooded area of each group by the area that is mapped.

    Args:
        groups: The groups.

    Returns:
        Factor of each group, calibrated on the others. Groups without any flood, mapped or
        true, have none.
    """
    factors = {}
    for name, counts in groups.items():
        others = {key: value for key, value in groups.items() if key != name}
        calibration = fit(others)
        threshold = best_threshold(others, calibration)
        is_mapped = calibration.probabilities() >= threshold
        mapped, flooded = int(counts[:, is_mapped].sum()), int(counts[1].sum())
        if mapped and flooded:
            factors[name] = flooded / mapped
    return factors


def area_interval(factors: Sequence[float]) -> tuple[float, float]:
    """Find the interval that holds nine of ten factors.

    Args:
        factors: See :func:`area_factors`.

    Returns:
        Its ends, two of the factors: as many are below as above, as far as possible.

    Raises:
        ValueError: If there are fewer than three factors.
    """
    if len(factors) < 3:
        raise ValueError(
            f'{len(factors)} groups have a flood: expected at least 3, for an interval'
        )
    tail = (1 - _INSIDE) / 2
    low = np.quantile(factors, tail, method='lower')
    high = np.quantile(factors, 1 - tail, method='higher')
    return float(low), float(high)


@torch.no_grad()
def fold(head: nn.Module, calibration: Calibration) -> None:
    """Put a calibration into the last convolution of a head, for good.

    Args:
        head: The head, such as ``model.segmentation_head``.
        calibration: The calibration.
    """
    last = [module for module in head.modules() if isinstance(module, nn.Conv2d)][-1]
    last.weight /= calibration.temperature
    if last.bias is None:
        last.bias = nn.Parameter(last.weight.new_zeros(last.out_channels))
    last.bias /= calibration.temperature
    last.bias += calibration.offset


def measure_chips(
    dataset: Any, inputs: Inputs, calibrated: bool = False
) -> dict[str, tuple[float, float]]:
    """Measure what the chips of a training split look like.

    Args:
        dataset: The dataset.
        inputs: Inputs of the rule for its bands.
        calibrated: Whether SAR is calibrated, so that its level means something.

    Returns:
        Range that nine of ten chips are within, of each value of
        :class:`~torchgeo_m2cd.models.Look` that is known.
    """
    looks = []
    for index in range(len(dataset)):
        image = dataset[index]['image'][None]
        valid = torch.ones_like(image[:, 0, :1], dtype=torch.bool)
        batch = inputs.show({'image': image, 'valid': valid})
        looks += [
            measure_look(inputs, batch, inputs.sar.decibels if calibrated else None)
        ]
    values = torch.tensor([look for look in looks if look is not None])
    ends = torch.tensor([0.05, 0.95])
    low, high = values.nanquantile(ends, dim=0).tolist()
    ranges = zip(Look._fields, low, high, strict=True)
    # What is not known of any chip is NaN
    return {name: (start, end) for name, start, end in ranges if not math.isnan(start)}


def plot(groups: Groups, calibrations: Mapping[str, Calibration], path: Path) -> None:
    """Draw a reliability diagram, in which groups have equal weight.

    Args:
        groups: The groups.
        calibrations: Calibrations to compare, by name.
        path: File to write.
    """
    mean = torch.stack([c / c.sum() for c in groups.values()]).mean(dim=0).numpy()
    figure, axes = plt.subplots(figsize=(4, 4), layout='constrained')
    axes.plot([0, 1], [0, 1], color='grey', linewidth=1)
    for name, calibration in calibrations.items():
        points = _bin(calibration.probabilities().numpy(), mean)
        error = calibration_error(groups, calibration)
        axes.plot(*points, marker='o', label=f'{name}, error {error:.3f}')
    axes.set(xlabel='probability', ylabel='flooded share', xlim=(0, 1), ylim=(0, 1))
    axes.legend()
    figure.savefig(path)
    plt.close(figure)


def _bin(
    probabilities: npt.NDArray[np.float64], counts: npt.NDArray[np.float32]
) -> tuple[list[float], list[float]]:
    """Average probabilities and labels over bins."""
    numbers = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    total, expected, flooded = (
        np.bincount(numbers, values, _BINS)
        for values in (counts.sum(0), counts.sum(0) * probabilities, counts[1])
    )
    used = total > 0
    return list(expected[used] / total[used]), list(flooded[used] / total[used])


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line interface."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'files', nargs='+', type=Path, help='predictions of evaluate.py'
    )
    parser.add_argument('--chips', type=int, help='chips in a group')
    parser.add_argument(
        '--root', type=Path, help='OMBRIA, to measure its training split'
    )
    parser.add_argument('--output', type=Path, default=Path('output'))
    args = parser.parse_args(argv)
    groups = read_groups(args.files, args.chips)
    before, after = Calibration(), fit(groups)
    # Each group as calibrated without it
    factors = area_factors(groups)
    left_out = [
        calibration_error(
            {name: counts}, fit({k: c for k, c in groups.items() if k != name})
        )
        for name, counts in groups.items()
    ]
    looks = {}
    if args.root is not None:
        like = Inputs(RelativeDarkness([0, 0.5, 0]), Relative([10], decibels=0.2))
        looks = measure_chips(OMBRIA(args.root), rule_inputs(like))
    reliability = Reliability(
        area_interval(list(factors.values())),
        **looks,
        calibration_error=float(np.mean(left_out)),
        threshold=best_threshold(groups, after),
    )
    result = {
        **after._asdict(),
        'error_before': calibration_error(groups, before),
        'error_after': calibration_error(groups, after),
        'area': factors,
        'reliability': reliability.to_dict(),
    }
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / 'calibration.json').write_text(json.dumps(result, indent=1))
    calibrations = {'before': before, 'after': after}
    plot(groups, calibrations, args.output / 'calibration.svg')
    print(json.dumps({**result, 'area': f'{len(factors)} groups'}, indent=1))


if __name__ == '__main__':
    main()

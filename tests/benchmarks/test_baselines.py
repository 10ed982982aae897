# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import compare
from benchmarks.baselines import best_threshold
from benchmarks.evaluate import COUNTS
from tests.data.ombria.data import arrays
from torchgeo_m2cd.datasets import OMBRIA, stack_pair
from torchgeo_m2cd.models import ThresholdRule
from torchgeo_m2cd.transforms import Inputs, Relative, RelativeDarkness

Write = Callable[[dict[str, Any]], Path]

#: The rule, and the inputs that it needs.
RULE: dict[str, Any] = {
    'threshold': 'rule',
    'arguments': {
        'data.inputs': {
            'class_path': 'torchgeo_m2cd.transforms.Inputs',
            'init_args': {
                'optical': {
                    'class_path': 'torchgeo_m2cd.transforms.RelativeDarkness',
                    'init_args': {'shares': [0, 0.5, 0]},
                },
                'sar': {
                    'class_path': 'torchgeo_m2cd.transforms.Relative',
                    'init_args': {
                        'scale': [10], 'references': ['otsu', 1.0], 'decibels': 0.2,
                    },
                },
            },
        }
    },
}  # fmt: skip


def smooth(image: np.ndarray) -> np.ndarray:
    """Filter along the rows of pixels: Gaussian, 9 pixels, standard deviation 2."""
    kernel = np.exp(-(np.arange(-4, 5) ** 2) / 8)
    padded = np.pad(image, ((0, 0), (4, 4)), mode='reflect')
    rows = [np.convolve(row, kernel / kernel.sum(), mode='valid') for row in padded]
    return np.stack(rows)


class TestThresholds:
    @pytest.mark.slow
    def test_rule(self, matrix: dict[str, Any], write: Write, tmp_path: Path) -> None:
        matrix['models'] = {'Rule': {**RULE, 'seeds': [1]}}
        path, output = write(matrix), tmp_path / 'out'
        assert compare.main([str(path), str(output)]) == 0
        counts = pd.read_csv(output / 'counts.csv')
        assert list(counts['chip']) == [
            *('S1_mask_0013', 'S1_mask_0770'),
            *('gt_1', 'gt_2', 'gt_10'),
        ]
        total = counts[list(COUNTS)].sum(axis=1)
        assert (total == 64).all()
        # The model itself, on the pixels of the chips
        optical = RelativeDarkness([0, 0.5, 0])
        inputs = Inputs(optical, Relative([10], ['otsu', 1.0], OMBRIA.decibels))
        rule = ThresholdRule(inputs=inputs)
        flooded = 0
        for chip in counts.itertuples():
            before, after, mask = arrays(int(str(chip.chip).split('_')[-1]))
            pair = stack_pair(
                torch.from_numpy(before).permute(2, 0, 1).float(),
                torch.from_numpy(after)[None].float(),
            )
            flood = (rule(inputs(pair[None]))[0, 0] > 0).numpy()
            assert chip.tp == (flood & (mask > 0)).sum()
            assert chip.fp == (flood & (mask == 0)).sum()
            flooded += int(flood.sum())
        assert 0 < flooded < len(counts) * 64
        assert counts['versions'].str.contains('torchgeo ').all()
        # A second run changes nothing, and does not read the commit as a number
        (finished,) = (output / 'ombria').glob('*/1/counts.csv')
        one = pd.read_csv(finished).assign(commit='7e20829')
        one.to_csv(finished, index=False)
        written = finished.stat().st_mtime_ns
        assert compare.main([str(path), str(output)]) == 0
        assert finished.stat().st_mtime_ns == written
        assert set(pd.read_csv(output / 'counts.csv', dtype=str)['commit']) == {
            '7e20829'
        }
        # Other arguments are refused
        matrix['arguments']['data.batch_size'] = 1
        assert compare.main([str(write(matrix)), str(output)]) == 1

    def test_best(self) -> None:
        sar = torch.tensor([[10.0, 20.0, 30.0, 200.0]]).expand(2, 3, 1, 4)
        flood, none = torch.tensor([[[1, 1, 0, 255]]]), torch.zeros(1, 1, 4).long()
        samples = [{'image': sar, 'mask': mask} for mask in (flood, none)]
        assert best_threshold(samples[:1]) == 20
        assert best_threshold(samples) == 20
        assert best_threshold(samples[1:]) == -1

    @pytest.mark.usefixtures('in_process')
    @pytest.mark.parametrize('kind', ['rule', 'global', 'oracle', 'smooth-oracle'])
    def test_kinds(
        self, matrix: dict[str, Any], write: Write, tmp_path: Path, kind: str
    ) -> None:
        model = RULE if kind == 'rule' else {'threshold': kind}
        matrix['models'] = {kind: {**model, 'seeds': [0]}}
        output = tmp_path / 'out'
        assert compare.main([str(write(matrix)), str(output)]) == 0
        counts = pd.read_csv(output / 'counts.csv')
        for chip in counts.itertuples():
            number = int(str(chip.chip).split('_')[-1])
            _, sar, mask = arrays(number)
            if kind == 'smooth-oracle':
                sar = smooth(smooth(sar.astype(float)).T).T.round()
            best = max(
                (sar <= t)[mask > 0].sum() / ((sar <= t) | (mask > 0)).sum()
                for t in range(256)
            )
            iou = chip.tp / (chip.tp + chip.fp + chip.fn)
            assert iou == pytest.approx(best) if 'oracle' in kind else iou <= best

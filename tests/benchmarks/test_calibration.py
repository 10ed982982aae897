# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.calibration import (
    Calibration,
    area_factors,
    area_interval,
    best_threshold,
    calibration_error,
    fit,
    fold,
    main,
    measure_chips,
    read_groups,
)
from tests.data.ombria.data import make_ombria
from torchgeo_m2cd.datasets import SyntheticFlood
from torchgeo_m2cd.models import Reliability, rule_inputs
from torchgeo_m2cd.transforms import Inputs, RelativeDarkness, Standardize


def make_group(temperature: float, offset: float, total: int = 100_000) -> Tensor:
    """Make a group whose logits are right if they are calibrated by these values."""
    share = Calibration(temperature, offset).probabilities()
    frequency = torch.linspace(2, 1, 256, dtype=torch.float64)
    pixels = total * frequency / frequency.sum()
    return torch.stack([pixels * (1 - share), pixels * share]).round().long()


class TestFit:
    def test_known(self) -> None:
        """The fit finds the values that the groups were made with, for any sizes."""
        groups = {'a': make_group(2.5, -0.7), 'b': make_group(2.5, -0.7, 3_000_000)}
        temperature, offset = fit(groups)
        assert temperature == pytest.approx(2.5, rel=0.01)
        assert offset == pytest.approx(-0.7, abs=0.01)
        before, after = (
            calibration_error(groups, c) for c in (Calibration(), fit(groups))
        )
        assert before > 0.1
        assert after < 0.01

    def test_equal_weight(self) -> None:
        small, large = make_group(1, 1, 100_000), make_group(1, -1, 9_000_000)
        assert fit({'a': small, 'b': large}).offset == pytest.approx(0, abs=0.02)


class TestThreshold:
    def test_each_level(self) -> None:
        groups = {'a': make_group(1, 0), 'b': make_group(1, -1), 'c': make_group(2, 1)}
        probabilities = Calibration(1, -0.5).probabilities()
        scores = []
        for level in range(256):
            mapped = torch.arange(256) >= level
            scores.append(
                sum(
                    float(counts[1, mapped].sum())
                    / float(counts[1].sum() + counts[0, mapped].sum())
                    for counts in groups.values()
                )
            )
        expected = probabilities[int(np.argmax(scores))]
        found = best_threshold(groups, Calibration(1, -0.5))
        assert found == pytest.approx(float(expected), abs=0.005)
        assert 0.1 < found < 0.5

    def test_no_flood(self) -> None:
        none = make_group(1, 0) * torch.tensor([[1], [0]])
        group = make_group(1, 0)
        assert best_threshold({'a': group}, Calibration()) == best_threshold(
            {'a': group, 'none': none}, Calibration()
        )


class TestArea:
    def test_factors(self) -> None:
        """A group is calibrated on the others."""
        group = make_group(1, 0)
        groups = {'a': group, 'b': group, 'none': group * torch.tensor([[1], [0]])}
        factors = area_factors(groups)
        assert factors.keys() == {'a', 'b'}
        others = {'b': group, 'none': groups['none']}
        is_mapped = fit(others).probabilities() >= best_threshold(others, fit(others))
        expected = group[1].sum() / group[:, is_mapped].sum()
        assert factors['a'] == pytest.approx(float(expected))

    def test_interval(self) -> None:
        factors = [*np.linspace(0.5, 2, 38), 0.1, 9]
        low, high = area_interval(factors)
        assert sum(low <= factor <= high for factor in factors) >= 0.9 * len(factors)
        assert (low, high) > (0.1, 0)
        assert high < 9
        assert area_interval([2, 1, 0.5]) == (0.5, 2)
        with pytest.raises(
            ValueError, match='2 groups have a flood: expected at least 3'
        ):
            area_interval([1, 2])


@pytest.mark.parametrize('bias', [True, False])
def test_fold(bias: bool) -> None:
    head = nn.Sequential(
        nn.Conv2d(2, 3, 1), nn.Conv2d(3, 1, 1, bias=bias), nn.Identity()
    )
    image = torch.randn(1, 2, 4, 4)
    before = head(image)
    fold(head, Calibration(2, -0.5))
    torch.testing.assert_close(head(image), before / 2 - 0.5)


class TestMeasureChips:
    @pytest.mark.parametrize('calibrated', [True, False])
    def test_synthetic(self, calibrated: bool) -> None:
        dataset = SyntheticFlood(length=6, size=64)
        like = Inputs(RelativeDarkness([0, 0, 0, 0.5]), Standardize([0], [1]))
        ranges = measure_chips(dataset, rule_inputs(like, 1.0), calibrated)
        names = {'land', 'water', 'speckle'} if calibrated else {'water', 'speckle'}
        assert ranges.keys() == names
        assert all(low < high for low, high in ranges.values())
        assert 0.5 < ranges['speckle'][0] < 4
        if calibrated:
            assert -20 < ranges['land'][0] < ranges['land'][1] < 0


class TestMain:
    def test_files(self, tmp_path: Path) -> None:
        make_ombria(tmp_path / 'data')
        rng = np.random.default_rng(0)
        probability = rng.integers(0, 256, (8, 32, 32), dtype=np.uint8)
        mask = (rng.random(probability.shape) < probability / 255 / 2).astype(np.uint8)
        mask[:, :2] = 255
        chips = [f'chip_{i}' for i in range(8)]
        file = tmp_path / 'dry.npz'
        np.savez(file, probability=probability, mask=mask, chips=chips)
        main([
            *(str(file), '--chips', '2', '--root', str(tmp_path / 'data')),
            *('--output', str(tmp_path / 'new')),
        ])  # fmt: skip
        result = json.loads((tmp_path / 'new' / 'calibration.json').read_text())
        assert result['offset'] < -0.5
        assert result['error_after'] < result['error_before']
        assert list(result['area']) == [f'{file}, chip_{i}' for i in (0, 2, 4, 6)]
        reliability = Reliability.from_dict(result['reliability'])
        assert reliability.area is not None
        assert reliability.land is None
        assert reliability.calibration_error is not None
        assert (tmp_path / 'new' / 'calibration.svg').exists()

        groups = read_groups([file])
        (counts,) = groups.values()
        assert counts.sum() == 8 * 30 * 32
        assert counts[1].sum() == (mask == 1).sum()
        with pytest.raises(ValueError, match='chips is 0: expected at least 1'):
            read_groups([file], 0)

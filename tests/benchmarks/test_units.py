# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

from benchmarks.units import (
    VARIANTS,
    Chips,
    compare,
    convert_optical,
    convert_sar,
    is_stable,
    read_chips,
    score,
    tile,
)
from torchgeo_m2cd.tasks import ChangeDetectionTask
from torchgeo_m2cd.transforms import Inputs, Relative, RelativeDarkness

REAL = Path(__file__).parents[2].parent / 'shared' / 'data' / 'ombria'


def test_tile() -> None:
    chips = np.arange(3 * 2 * 4 * 5).reshape(3, 2, 4, 5)
    whole = tile(chips)
    assert whole.shape == (2, 8, 10)
    np.testing.assert_array_equal(whole[:, :4, :5], chips[0])
    np.testing.assert_array_equal(whole[:, :4, 5:], chips[1])
    np.testing.assert_array_equal(whole[:, 4:, :5], chips[2])
    assert not whole[:, 4:, 5:].any()


def test_values() -> None:
    grey = np.array([0, 100, 255], np.uint8)
    np.testing.assert_allclose(convert_sar(grey, 'db', 100.0), [-29, -9, 22], rtol=1e-6)
    np.testing.assert_allclose(
        convert_sar(grey, 'power', 100.0), 10 ** np.array([-2.9, -0.9, 2.2]), rtol=1e-5
    )
    np.testing.assert_allclose(
        convert_sar(grey, 'amplitude', 100.0),
        10 ** np.array([-1.45, -0.45, 1.1]),
        rtol=1e-5,
    )
    optical = np.array([[[0]], [[0]], [[0]]], np.uint8)
    assert not convert_optical(optical, 'uint16').any()
    optical[1] = 10
    assert convert_optical(optical, 'uint16').ravel().tolist() == [1000, 1200, 1000]
    assert convert_optical(optical, 'int16').ravel().tolist() == [0, 200, 0]
    assert convert_optical(optical, 'float32').ravel()[1] == np.float32(0.02)


def test_score() -> None:
    probability = np.array([0.5, 0.4, np.nan, 0.9])
    mask = np.array([True, True, False, False])
    assert score(probability, mask, 0.5) == 0.3333
    assert score(probability, mask, 0.4) == 0.6667
    row = {'units': 'dB', 'chips': 0.3, 'scene': 0.4}
    assert is_stable([row, row | {'scene': 0.391}])
    assert not is_stable([row, row | {'chips': 0.288}])


class Rule(nn.Module):
    """Logits of floods: below Otsu's threshold, and not dark before."""

    def forward(self, image: Tensor) -> Tensor:
        """Map pairs of shape (B, 2, C, H, W)."""
        return 10 * image[:, 0, :1] - 5 * image[:, 1, :1]


@pytest.mark.filterwarnings('ignore')
@pytest.mark.skipif(
    not REAL.is_dir(), reason='needs real data in ../shared/data/ombria'
)
def test_real_chips() -> None:
    """The same floods are mapped in all units."""
    task = ChangeDetectionTask('fcn', in_channels=2)
    task.model = Rule()
    task.hparams['model'] = 'm2cd'  # It takes pairs
    optical, sar = RelativeDarkness([0.5]), Relative([10.0], ['otsu', 0.5], 0.2)
    task.inputs = Inputs(optical, sar, 256, ['nir'], ['VV'])
    chips = read_chips(REAL, 'albania')
    chips = Chips(chips.optical[:4], chips.sar[:4], chips.mask[:4])
    variants = [name for name, kinds in VARIANTS.items() if kinds[1] != 'picture']
    rows = compare(task, chips, variants)
    assert is_stable(rows)
    assert rows[0]['chips'] > 0.1

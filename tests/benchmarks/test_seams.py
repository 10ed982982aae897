# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import pytest
from torch import Tensor, nn

from benchmarks.seams import measure_mosaics
from tests.data.ombria.data import make_ombria
from torchgeo_m2cd.tasks import ChangeDetectionTask
from torchgeo_m2cd.transforms import Inputs, LeftOut, Standardize


class Dark(nn.Module):
    """Logits: where SAR is dark, by itself or beside the mean of the patch."""

    def __init__(self, is_relative: bool) -> None:
        super().__init__()
        self.is_relative = is_relative

    def forward(self, image: Tensor) -> Tensor:
        """Map pairs of shape (B, 2, C, H, W)."""
        sar = image[:, 1, :1]
        return sar.mean(dim=(2, 3), keepdim=True) - sar if self.is_relative else -sar


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('is_relative', [False, True])
def test_measure_mosaics(is_relative: bool, tmp_path: Path) -> None:
    """Only a model that looks at all of a patch depends on its size."""
    make_ombria(tmp_path, {'albania': [1, 40, 100, 180]})
    task = ChangeDetectionTask('fcn', in_channels=3)
    task.model = Dark(is_relative)
    task.hparams['model'] = 'm2cd'  # It takes pairs
    task.inputs = Inputs(LeftOut(3), Standardize([128], [10]))
    rows = measure_mosaics(task, tmp_path, ['albania'], [8, 16])
    assert [row['patch'] for row in rows] == [8, 16]
    assert rows[0]['other class'] == '0.0000'
    assert (rows[0]['IoU'] != rows[1]['IoU']) == is_relative
    assert (float(rows[1]['other class']) > 0.01) == is_relative

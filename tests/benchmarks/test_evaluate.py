# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torchmetrics.classification import BinaryConfusionMatrix, BinaryJaccardIndex

from benchmarks.evaluate import COUNTS, average_orientations, count, make_datamodule
from benchmarks.scores import iou
from tests.data.chips.data import make_chips
from torchgeo_m2cd.configs import config_path


def test_average_orientations() -> None:
    class Corner:
        """A model of the upper left pixel only."""

        def predict_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
            output = torch.zeros_like(batch['image'][:, 0])
            output[..., 0, 0] = batch['image'][:, 0, ..., 0, 0]
            return output

    image = torch.arange(16.0).reshape(1, 1, 1, 4, 4)
    output = average_orientations(Corner(), {'image': image})  # type: ignore[arg-type]
    corners = torch.zeros(4, 4)
    for row, column in ((0, 0), (0, 3), (3, 0), (3, 3)):
        corners[row, column] = image[0, 0, 0, row, column] / 4
    torch.testing.assert_close(output[0, 0], corners)


def test_count_and_iou() -> None:
    rng = np.random.default_rng(0)
    probability = rng.integers(256, size=(40, 50)).astype(np.uint8)
    mask = rng.choice([0, 1, 255], size=(40, 50)).astype(np.uint8)
    counts = count(probability, mask)
    p, m = torch.from_numpy(probability >= 128).int(), torch.from_numpy(mask).int()
    expected = BinaryConfusionMatrix(ignore_index=255)(p, m)
    assert expected.tolist() == [
        [counts['tn'], counts['fp']],
        [counts['fn'], counts['tp']],
    ]
    jaccard = BinaryJaccardIndex(ignore_index=255)(p, m)
    values = np.array([counts[name] for name in COUNTS])
    assert iou(values) == pytest.approx(jaccard.item())


def test_make_datamodule(tmp_path: Path) -> None:
    """Sources may be mappings without a class path, as ``fit`` reads and writes them."""
    make_chips(tmp_path)
    config = yaml.safe_load(config_path('chips').read_text())
    config['data']['init_args'] |= {
        'root': str(tmp_path),
        'optical': {'paths': '{split}/A/*', 'bands': [3]},
        'sar': {'paths': '{split}/B/*', 'scale': 'db'},
        'mask': {'paths': '{split}/label/*', 'classes': {0: 0, 255: 1}},
    }
    datamodule = make_datamodule(config, batch_size=1)
    datamodule.setup('test')
    assert datamodule.batch_size == 1
    assert datamodule.num_workers == 0
    sample = datamodule.test_dataset[0]
    assert sample['mask'].unique().tolist() == [0, 1]
    assert len(datamodule.test_dataset.bands) == 1

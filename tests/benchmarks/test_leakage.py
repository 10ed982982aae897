# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from benchmarks import leakage
from tests.data.ombria.data import SIZE, make_ombria, names


def test_same_chip_in_two_splits(tmp_path: Path) -> None:
    numbers = {'train': [9, 100], 'test': [13, 100], 'timor': [7]}
    make_ombria(tmp_path, numbers)
    for part, chips in numbers.items():
        for number in chips:
            rng = np.random.default_rng(number)
            for name, channels in zip(names(part, number), ((3,), ()), strict=False):
                values = rng.integers(256, size=(SIZE, SIZE, *channels))
                Image.fromarray(values.astype(np.uint8)).save(tmp_path / name)
    output = tmp_path / 'leakage.csv'
    splits = ['train', 'test', 'timor']
    arguments = ['--output', str(output), '--root', str(tmp_path)]
    leakage.main([*arguments, '--splits', *splits])
    table = pd.read_csv(output)
    same = table.iloc[0]
    assert (same['split'], same['other']) == ('train', 'test')
    assert same['most alike'] == 'S1_mask_0100 and S1_mask_0100'
    assert same['correlation'] == pytest.approx(1)
    assert list(table['pairs above 0.95']) == [1, 0, 0]


def test_orientations() -> None:
    torch.manual_seed(0)
    image = torch.randn(4, 8, 8)
    image = image / image.flatten(1).norm(dim=1)[:, None, None]
    turned = torch.stack([image[0], image[1].rot90(), image[2].T, image[3].flip(0)])
    result = leakage.correlate(image, turned)
    torch.testing.assert_close(result.diagonal(), torch.ones(4))
    assert (result - torch.eye(4)).max() < 0.7

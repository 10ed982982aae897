# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import math
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import gallery
from tests.data.ombria.data import make_ombria


def test_score() -> None:
    probability = torch.tensor([[0.3, 0.2], [0.1, 0.4]])
    mask = torch.tensor([[1, 1], [0, 255]])
    assert gallery.score(probability, mask, 0.25) == pytest.approx(1 / 3)
    assert math.isnan(gallery.score(probability, 0 * mask, 0.25))


def test_choose() -> None:
    scores = [0.5, math.nan, 0.1, 0.9, 0.3]
    assert gallery.choose(scores, 1) == [3, 2]
    assert gallery.choose(scores, 2) == [3, 0, 4, 2]
    assert gallery.choose(scores, 3) == [3, 0, 4, 2]


def test_main(tmp_path: Path) -> None:
    make_ombria(tmp_path / 'data')
    gallery.main(
        [
            *('--root', str(tmp_path / 'data'), '--output', str(tmp_path)),
            *('--weights', 'threshold', '--events', 'albania', '--chips', '1'),
        ]
    )
    with Image.open(tmp_path / 'gallery-albania.jpg') as image:
        assert image.height > 300

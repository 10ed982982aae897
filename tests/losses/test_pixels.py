# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import torch

from torchgeo_m2cd.losses import select_pixels


def test_select_pixels() -> None:
    logits = torch.arange(12.0).reshape(1, 3, 2, 2)
    mask = torch.tensor([[[[0, 1], [255, 2]], [[0, 255], [1, 1]]]])
    everything = select_pixels(logits, mask, None)
    assert [tuple(t.shape) for t in everything] == [(1, 3, 4), (1, 2, 4)]
    # Two pixels are ignored in one of their two labels
    kept, labels = select_pixels(logits, mask, 255)
    assert kept.tolist() == [[[0, 3], [4, 7], [8, 11]]]
    assert labels.tolist() == [[[0, 2], [0, 1]]]

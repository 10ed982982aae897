# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Make a folder of chips: python -m tests.data.chips.data DIRECTORY."""

import argparse
import pathlib
from collections.abc import Mapping

import numpy as np

from tests.data.cau_flood.data import write

SIZE = 32
SPLITS = {'train': 4, 'val': 2, 'test': 2}


def arrays(number: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return optical image, SAR image in dB, and mask, of shape (bands, H, W).

    The left of a chip is flooded: dark in SAR, and land before.
    """
    rng = np.random.default_rng(number)
    mask = np.zeros((1, size, size), np.uint8)
    mask[..., : size // 4 * (1 + number % 3)] = 255
    optical = rng.normal(2000, 300, (4, size, size)).round()
    sar = rng.normal(-10, 1, (2, size, size)) - 10 * (mask == 255)
    return optical.astype(np.uint16), sar.astype(np.float32), mask


def make_chips(
    root: pathlib.Path, splits: Mapping[str, int] = SPLITS, size: int = SIZE
) -> None:
    """Write chips in the folders A, B and label of each split.

    Args:
        root: Directory to write to.
        splits: Number of chips of each split.
        size: Height and width of a chip in pixels.
    """
    first = 0
    for split, count in splits.items():
        for number in range(first, first + count):
            names = ('A/{}.tif', 'B/{}.tif', 'label/{}.png')
            for name, array in zip(names, arrays(number, size), strict=True):
                write(root / split / name.format(number), array)
        first += count


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('directory', type=pathlib.Path)
    make_chips(parser.parse_args().directory)

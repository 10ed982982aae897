# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Make fake OMBRIA data: python -m tests.data.ombria.data DIRECTORY."""

import argparse
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

SIZE = 8
EVENTS = ('albania', 'france', 'guyana', 'timor')
# Training numbers on both sides of the borders of runs for validation, a gap, and numbers
# of different length, whose order as text is another one
NUMBERS: dict[str, Sequence[int]] = {
    'train': (9, 10, 21, 22, 31, 32, 100, 773),
    'test': (13, 770),
    'albania': (1, 2, 10),
    'france': (3,),
    'guyana': (4, 5),
    'timor': (7,),
}


def names(part: str, number: int) -> tuple[str, str, str]:
    """Return the names of the optical image, the SAR image, and the mask."""
    if part in EVENTS:
        event = f'2021/{part.upper()}'
        return (
            f'{event}/Sentinel2/BEFORE/imbefore_{number}.png',
            f'{event}/Sentinel1/AFTER/imafter_{number}.png',
            f'{event}/Sentinel1/MASK/gt_{number}.png',
        )
    return (
        f'OmbriaS2/{part}/BEFORE/S2_before_{number:04}.png',
        f'OmbriaS1/{part}/AFTER/S1_after_{number:04}.png',
        f'OmbriaS1/{part}/MASK/S1_mask_{number:04}.png',
    )


def arrays(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pixels of one chip, all different and known from its number."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    index = rows * SIZE + columns
    red = (number + index) % 256
    optical = np.stack([red, (red + 50) % 256, (red + 100) % 256], axis=-1)
    sar = 255 - red
    mask = np.where(columns < number % SIZE, 255, 0)
    return optical.astype(np.uint8), sar.astype(np.uint8), mask.astype(np.uint8)


def make_ombria(
    root: pathlib.Path, numbers: Mapping[str, Sequence[int]] = NUMBERS
) -> None:
    """Write fake data.

    Args:
        root: Directory to write to.
        numbers: Numbers of the chips in each part of the dataset.
    """
    for part, chips in numbers.items():
        for number in chips:
            for name, array in zip(names(part, number), arrays(number), strict=True):
                path = root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('directory', type=pathlib.Path)
    make_ombria(parser.parse_args().directory)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Make fake CAU-Flood data: python -m tests.data.cau_flood.data DIRECTORY."""

import argparse
import pathlib
import warnings

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning

SIZE = 8
FOLDERS = {'authors': ('opt', 'vv', 'flood_vv'), 'original': ('A', 'B', 'label')}


def arrays(
    number: int, bands: int, changed: int = 255
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return optical image, SAR image, and mask, of shape (bands, H, W)."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    index = rows * SIZE + columns
    optical = np.stack([number + 40 * band + index for band in range(bands)])
    sar = 200 - index - number
    mask = np.where(rows < number % SIZE, changed, 0)
    return optical, sar[None], mask[None]


def write(path: pathlib.Path, array: np.ndarray) -> None:
    """Write an image of shape (bands, H, W); the suffix decides the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    driver = 'PNG' if path.suffix == '.png' else 'GTiff'
    count, height, width = array.shape
    with (
        warnings.catch_warnings(category=NotGeoreferencedWarning, action='ignore'),
        rasterio.open(
            path,
            'w',
            driver=driver,
            count=count,
            height=height,
            width=width,
            dtype=array.dtype,
        ) as dst,
    ):
        dst.write(array)


def make_cau_flood(
    root: pathlib.Path,
    layout: str = 'authors',
    suffix: str = '.png',
    dtype: str = 'uint8',
    changed: int = 255,
    train: int = 32,
) -> None:
    """Write fake data.

    Args:
        root: Directory to write to.
        layout: 'authors' (4 bands, train and test) or 'original' (3 bands, also val).
        suffix: '.png' or '.tif'.
        dtype: Data type of the images.
        changed: Value of changed pixels in masks.
        train: Number of training samples; there are two in the other folders.
    """
    bands = 4 if layout == 'authors' else 3
    splits = {'train': train, 'test': 2} | ({'val': 2} if bands == 3 else {})
    for split, length in splits.items():
        for number in range(length):
            optical, sar, mask = arrays(number, bands, changed)
            for folder, array, kind in zip(
                FOLDERS[layout],
                (optical, sar, mask),
                (dtype, dtype, 'uint8'),
                strict=True,
            ):
                path = root / split / folder / f'chip_{number}{suffix}'
                write(path, array.astype(kind))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('directory', type=pathlib.Path)
    make_cau_flood(parser.parse_args().directory)

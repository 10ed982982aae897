# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Make fake BRIGHT data: python -m tests.data.bright.data DIRECTORY."""

import argparse
import pathlib

import numpy as np
import rasterio
from rasterio.transform import Affine

SIZE = 32
#: Folder, list of the names, and number of samples of each split of TorchGeo's.
SPLITS = {
    'train': ('train', 'train_setlevel.txt', 4),
    'val': ('train', 'holdout_setlevel.txt', 2),
    'test': ('val', 'val_setlevel.txt', 2),
}


def arrays(number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return optical image, SAR image, and mask, of shape (bands, H, W)."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    index = 2 * rows + columns + number
    optical = np.stack([index, 60 + index, 120 + index])
    sar = (255 - index)[None]
    mask = (rows * 4 // SIZE)[None]
    return optical, sar, mask


def write(path: pathlib.Path, array: np.ndarray) -> None:
    """Write a georeferenced 8-bit image of shape (bands, H, W)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        'w',
        driver='GTiff',
        count=len(array),
        height=SIZE,
        width=SIZE,
        dtype='uint8',
        crs='EPSG:32637',
        transform=Affine(0.5, 0, 5e5, 0, -0.5, 4e6),
    ) as dst:
        dst.write(array.astype(np.uint8))


def make_bright(root: pathlib.Path) -> None:
    """Write fake data.

    Args:
        root: Directory to write to.
    """
    number = 0
    base = root / 'dfc25_track2_trainval'
    for split, (folder, listing, length) in SPLITS.items():
        names = []
        for _ in range(length):
            name = f'fake-earthquake_{number:08d}'
            optical, sar, mask = arrays(number)
            write(base / folder / 'pre-event' / f'{name}_pre_disaster.tif', optical)
            write(base / folder / 'post-event' / f'{name}_post_disaster.tif', sar)
            if split != 'test':
                write(base / folder / 'target' / f'{name}_building_damage.tif', mask)
            names.append(name)
            number += 1
        (base / listing).write_text('\n'.join(names) + '\n')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('directory', type=pathlib.Path)
    make_bright(parser.parse_args().directory)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Map the same floods in the units of several products.

python -m benchmarks.units --weights M2CD_Weights.DEFAULT --root ../shared/data/ombria

Turns OMBRIA's chips into plausible dB, linear power, amplitude and reflectance, writes them as
GeoTIFFs, each chip by itself and all of a split as one scene, and maps both with the same model.
Fails if IoU differs from that of grey values by more than 0.01.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import rasterio
import torch
from lightning.pytorch import Trainer
from rasterio.transform import from_origin

from benchmarks.tables import RESULTS, write_csv
from torchgeo_m2cd.callbacks import SceneWriter
from torchgeo_m2cd.datamodules import SceneDataModule
from torchgeo_m2cd.datasets import OMBRIA, SARSource, Source
from torchgeo_m2cd.tasks import ChangeDetectionTask, load_task

Image = npt.NDArray[Any]

#: Decibels of a grey value, and level of land in dB.
UNIT, LAND = OMBRIA.decibels, -9.0
#: Reflectance x 10,000 of a grey value.
REFLECTANCE = 20
#: Largest change of IoU.
LIMIT = 0.01

#: How each optical and SAR image is written, and read.
VARIANTS: dict[str, tuple[str, str]] = {
    'grey values': ('grey', 'other'),
    'grey values, contrast by speckle': ('grey', 'picture'),
    'dB': ('grey', 'db'),
    'dB x 100, int16': ('grey', 'hundredths'),
    'power': ('grey', 'power'),
    'amplitude': ('grey', 'amplitude'),
    'reflectance x 10,000, int16; dB': ('int16', 'db'),
    'Sentinel-2 since 2022, uint16; power': ('uint16', 'power'),
    'reflectance, float32; amplitude': ('float32', 'amplitude'),
}
SETTINGS: dict[str, dict[str, Any]] = {
    'other': {'scale': 'other', 'decibels': UNIT},
    'hundredths': {'gain': 0.01},
    'power': {'scale': 'power'},
    'amplitude': {'scale': 'amplitude'},
    'uint16': {'offset': -1000.0},
}


class Chips(NamedTuple):
    """The chips of a split."""

    #: Grey values, shape (N, 3, 256, 256).
    optical: npt.NDArray[np.uint8]
    #: Grey values, shape (N, 1, 256, 256).
    sar: npt.NDArray[np.uint8]
    #: Floods, shape (N, 256, 256).
    mask: npt.NDArray[np.bool_]


def read_chips(root: Path, split: str) -> Chips:
    """Read the chips of a split."""
    dataset = OMBRIA(root, split)
    samples = [dataset[i] for i in range(len(dataset))]
    images = np.stack([sample['image'].numpy().astype(np.uint8) for sample in samples])
    masks = np.stack([sample['mask'][0].numpy() == 1 for sample in samples])
    return Chips(images[:, 0], images[:, 1, :1], masks)


def convert_optical(grey: npt.NDArray[np.uint8], kind: str) -> Image:
    """Turn grey values into the values of a product, 0 where there are no data."""
    if kind == 'grey':
        return grey
    values = grey.astype(np.int32) * REFLECTANCE
    if kind == 'float32':
        return (values / 10_000).astype(np.float32)
    if kind == 'uint16':
        empty = (grey == 0).all(axis=-3, keepdims=True)
        values = np.where(empty, 0, values + 1000)
    return values.astype(kind)


def convert_sar(grey: npt.NDArray[np.uint8], kind: str, land: float) -> Image:
    """Turn grey values into the values of a product.

    Args:
        grey: Grey values.
        kind: One of those of :data:`VARIANTS`.
        land: Grey value of land, which gets :data:`LAND` dB.

    Returns:
        The values.
    """
    if kind in ('other', 'picture'):
        return grey
    decibels = (grey.astype(np.float32) - land) * UNIT + LAND
    if kind == 'db':
        return decibels
    if kind == 'hundredths':
        return (decibels * 100).round().astype(np.int16)
    return np.asarray(10 ** (decibels / (10 if kind == 'power' else 20)), np.float32)


def write(path: Path, values: Image, names: Sequence[str | None]) -> Path:
    """Write a GeoTIFF with names of bands."""
    with rasterio.open(
        path, 'w', driver='GTiff', count=len(values), dtype=values.dtype,
        height=values.shape[1], width=values.shape[2], crs='EPSG:32633',
        transform=from_origin(500_000, 5_300_000, 10, 10), photometric='minisblack',
    ) as dst:  # fmt: skip
        dst.write(values)
        dst.descriptions = tuple(names)
    return path


def tile(chips: Image) -> Image:
    """Put chips, shape (N, C, H, W), beside each other on a square, shape (C, H', W')."""
    side = math.ceil(len(chips) ** 0.5)
    empty = np.zeros((side**2 - len(chips), *chips.shape[1:]), chips.dtype)
    grid = np.concatenate([chips, empty]).reshape(side, side, *chips.shape[1:])
    columns = list(np.moveaxis(grid, 1, 0))
    return np.concatenate(list(np.concatenate(columns, axis=-1)), axis=-2)


def map_scenes(
    task: ChangeDetectionTask,
    folder: Path,
    optical: Image,
    sar: Image,
    kinds: Sequence[str],
    patch_size: int = 256,
    stride: int | None = None,
) -> list[Image]:
    """Write images as scenes and map them.

    Args:
        task: Task with the model.
        folder: Folder to make for the files.
        optical: Optical images, shape (N, C, H, W).
        sar: SAR images, shape (N, C, H, W).
        kinds: How both are to be read, keys of :data:`SETTINGS`.
        patch_size: Height and width of a patch in pixels.
        stride: Distance of patches in pixels (default: half a patch).

    Returns:
        Probabilities of each scene, shape (H, W).
    """
    folder.mkdir()
    lines = ['name,optical,sar']
    for number, pair in enumerate(zip(optical, sar, strict=True)):
        write(folder / f'o{number}.tif', pair[0], (None, 'B08', None))
        write(folder / f's{number}.tif', pair[1], ('VV',))
        lines.append(f'{number},o{number}.tif,s{number}.tif')
    (folder / 'list.csv').write_text('\n'.join(lines))
    datamodule = SceneDataModule(
        Source(**SETTINGS.get(kinds[0], {})),
        SARSource(**SETTINGS.get(kinds[1], {})),
        scenes=folder / 'list.csv',
        patch_size=patch_size,
        stride=stride,
        batch_size=8,
    )
    trainer = Trainer(
        accelerator='cpu', logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[SceneWriter(folder / 'map{name}.tif')],
    )  # fmt: skip
    trainer.predict(task, datamodule=datamodule)
    maps = []
    for number in range(len(optical)):
        with rasterio.open(folder / f'map{number}.tif') as src:
            maps.append(src.read(1))
    return maps


def score(probability: Image, mask: Image, threshold: float) -> float:
    """Compute the intersection over union of floods."""
    flood = np.nan_to_num(probability) >= threshold
    return round(float((flood & mask).sum()) / max(float((flood | mask).sum()), 1.0), 4)


def compare(
    task: ChangeDetectionTask, chips: Chips, variants: Sequence[str]
) -> list[dict[str, Any]]:
    """Map the chips of a split in several units.

    Args:
        task: Task with the model.
        chips: The chips.
        variants: Keys of :data:`VARIANTS`.

    Returns:
        A row per variant: IoU of the chips and of the scene.
    """
    threshold = task.threshold
    # Where there are data
    land = float(np.median(chips.sar[(chips.optical != 0).any(axis=1, keepdims=True)]))
    rows = []
    for variant in variants:
        kinds = VARIANTS[variant]
        optical = convert_optical(chips.optical, kinds[0])
        sar = convert_sar(chips.sar, kinds[1], land)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            images = tile(optical)[None], tile(sar)[None]
            (whole,) = map_scenes(task, folder / 'scene', *images, kinds)
            if kinds[1] == 'picture':
                # A chip alone may not be sure of its contrast
                maps = []
            else:
                maps = map_scenes(task, folder / 'chips', optical, sar, kinds)
        rows.append(
            {
                'units': variant,
                'chips': score(np.stack(maps), chips.mask, threshold)
                if maps
                else math.nan,
                'scene': score(whole, tile(chips.mask[:, None])[0], threshold),
            }
        )
    return rows


def is_stable(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether no IoU is further than :data:`LIMIT` from that of the first row.

    Estimated contrasts are those of the chips, which are not all what they are taken for.
    """
    return all(
        abs(row[column] - rows[0][column]) <= LIMIT
        for row in rows
        for column in ('chips', 'scene')
        if VARIANTS[row['units']][1] != 'picture'
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line interface."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--output', type=Path, default=RESULTS / 'units.csv', help='CSV file to write'
    )
    parser.add_argument('--root', type=Path, default=Path('data/ombria'), help='OMBRIA')
    parser.add_argument('--splits', nargs='+', default=['albania', 'timor'])
    parser.add_argument('--variants', nargs='+', default=[*VARIANTS])
    parser.add_argument(
        '--weights',
        default='M2CD_Weights.DEFAULT',
        help='see torchgeo_m2cd.tasks.load_task, default: %(default)s',
    )
    args = parser.parse_args(argv)
    task = load_task(args.weights)
    torch.set_num_threads(1)
    rows, stable = [], True
    for split in args.splits:
        found = compare(task, read_chips(args.root, split), args.variants)
        rows += [{'split': split, **row} for row in found]
        print(split, pd.DataFrame(found).round(4).to_string(index=False), sep='\n')
        stable &= is_stable(found)
    write_csv(args.output, rows)
    if not stable:
        sys.exit(f'IoU differs by more than {LIMIT} between units')


if __name__ == '__main__':
    main()

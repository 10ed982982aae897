# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""What can be wrong with the values of a scene."""

from collections.abc import Callable

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ..datasets import SARSource, SceneDataset
from ..datasets.paths import name_paths
from ..transforms import estimate_decibels


def probe(scene: SceneDataset, count: int = 6, size: int = 32) -> Tensor:
    """Read a regular pattern of small windows, to see what the values are like.

    Args:
        scene: The scene.
        count: Windows along each axis.
        size: Height and width of a window in pixels.

    Returns:
        Valid pixels, shape (2, C, N).

    Raises:
        RuntimeError: If a file cannot be read.
        ValueError: If SAR values that cannot be negative are.
    """
    rows, columns = (
        np.unique(np.linspace(0, max(length - size, 0), count).astype(int)).tolist()
        for length in scene.shape
    )
    pixels = []
    for row in rows:
        for column in columns:
            sample = scene.read(*scene.pixel_slice(row, column, size, size))
            pixels.append(sample['image'][:, :, sample['valid'][0]])
    return torch.cat(pixels, dim=-1)


def check_values(
    scene: SceneDataset, fits: Callable[[Tensor], None] | None = None
) -> int:
    """Check that the values of a scene are what its sources, and a model, expect.

    Args:
        scene: The scene.
        fits: Raises a ValueError if pixels, shape (2, C, N), cannot be in the units of a
            model, see :meth:`~torchgeo_m2cd.transforms.Inputs.check`.

    Returns:
        Number of valid pixels among those that were looked at.

    Raises:
        RuntimeError: If a file cannot be read.
        ValueError: If the images look swapped, the SAR values do not fit their scale, or
            the values cannot be in the units of the model.
    """
    pixels = probe(scene)
    if pixels.shape[-1] == 0:
        return 0
    optical, sar = (
        image[:count].median().item()
        for image, count in zip(pixels, scene.band_counts, strict=True)
    )
    source = scene.sar.source
    assert isinstance(source, SARSource)
    optical_file, sar_file = (
        f'{image.name} file {name_paths(image.paths)}'
        for image in (scene.optical, scene.sar)
    )
    if optical < 0:
        raise ValueError(
            f'{optical_file} has mostly negative values (median {optical:.4g}), like SAR '
            'in dB: are optical and sar swapped?'
        )
    if source.scale != 'other' and sar > 10:
        raise ValueError(
            f'{sar_file} has a median of {sar:.4g} dB with scale={source.scale!r}: are '
            "optical and sar swapped, or the values uncalibrated (scale='other')?"
        )
    if source.scale == 'db' and sar > 0:
        raise ValueError(
            f'{sar_file} has mostly positive values (median {sar:.4g}), but scale is '
            "'db': expected negative ones, or scale='power' or 'amplitude'"
        )
    if fits is not None:
        try:
            fits(pixels)
        except ValueError as error:
            raise ValueError(
                f'the scene of {optical_file} and {sar_file} does not fit the model: '
                f'{error}'
            ) from error
    return pixels.shape[-1]


def check_contrast(scene: SceneDataset, decibels: float) -> None:
    """Warn if speckle says that a unit of SAR is not what it is taken for.

    Args:
        scene: The scene.
        decibels: Decibels that a unit is taken for.
    """
    size = min(256, *scene.shape)
    row, column = ((length - size) // 2 for length in scene.shape)
    sample = scene.read(*scene.pixel_slice(row, column, size, size))
    try:
        found = estimate_decibels(sample['image'][1, 0], sample['valid'][0])
    except ValueError:  # Too small, or hardly any data
        return
    if not 1 / 1.6 < found / decibels < 1.6:
        rank_zero_warn(
            f'by its speckle, a unit of SAR file {name_paths(scene.sar.paths)} is about '
            f'{found:.2g} dB, but it is taken for {decibels:.2g} dB: water and land '
            'would differ by more or less than in training. Expected sar.decibels, or '
            'files in dB or linear power (sar.scale)'
        )


def check_mask(scene: SceneDataset, num_classes: int | None) -> None:
    """Check that the mask of a scene has labels there, and only those of the task.

    Warns if nothing is changed.

    Args:
        scene: The scene.
        num_classes: Number of classes of the task, if it is known.

    Raises:
        RuntimeError: If a file cannot be read.
        ValueError: If there are no labels, or those of other classes.
    """
    assert scene.mask is not None
    name = f'mask file {name_paths(scene.mask.paths)}'
    classes = sorted(scene.mask.classes)
    if num_classes is not None and classes[-1] >= num_classes:
        raise ValueError(
            f'{name} has the classes {classes}, but the task has {num_classes}: expected '
            f'0 to {num_classes - 1}, or mask.classes, the class of each value'
        )
    labels = scene.mask.read(*scene.overview_slice(2048))
    found = set(torch.unique(labels).tolist()) - {scene.ignore_index}
    if not found:
        west, south, east, north = scene.index.total_bounds.tolist()
        raise ValueError(
            f'{name} has no label in the scene, which is west {west:g}, south {south:g}, '
            f'east {east:g}, north {north:g} in {scene.grid.crs.to_string()}: expected a '
            'mask of this place'
        )
    if found == {0}:
        rank_zero_warn(
            f'{name} has only the class 0 where it was looked at: expected 1 where '
            'changed. Is it the mask of this scene?'
        )

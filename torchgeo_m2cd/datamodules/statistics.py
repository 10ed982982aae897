# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""What a new model is shown of a scene."""

import torch
from torch import Tensor
from torchgeo.samplers import RandomPatchSampler

from ..datasets import SceneDataset
from ..datasets.grid_raster import GridRaster
from ..datasets.paths import name_paths
from ..transforms import Inputs, Standardize
from .checks import no_data


def measure_statistics(train: SceneDataset, size: tuple[int, int]) -> Inputs:
    """Measure mean and standard deviation of each band on random patches.

    Args:
        train: The training split.
        size: Height and width of a patch in pixels.

    Returns:
        Inputs that standardise both images.

    Raises:
        RuntimeError: If a file cannot be read.
        ValueError: If there are no data, or a band is constant.
    """
    pixels = []
    for x, y in RandomPatchSampler(train, size=size, length=64, generator=0):
        sample = train[x, y]
        image = sample['image']
        # As for Inputs, zeros in all optical bands are no data
        seen = (image[0, : train.optical.band_count] != 0).any(dim=0)
        # Neighbours say little that is new
        pixels.append(image[:, :, seen & sample['valid'][0]][..., ::97])
    values = torch.cat(pixels, dim=-1)
    if values.shape[-1] == 0:
        raise no_data('train', train)
    optical, sar = map(_standardize, (train.optical, train.sar), values)
    return Inputs(optical, sar)


def _standardize(image: GridRaster, values: Tensor) -> Standardize:
    """Make the step for the values of an image, shape (C, N)."""
    std, mean = torch.std_mean(values[: image.band_count], dim=-1)
    for band, (level, spread) in enumerate(zip(mean, std, strict=True), 1):
        if not spread > 0:
            raise ValueError(
                f'band {band} of {image.name} file {name_paths(image.paths)} is '
                f'{level:.4g} wherever it was looked at: expected bands that vary, see '
                f'{image.name.lower()}.bands'
            )
    return Standardize(mean.tolist(), std.tolist())

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""What a new model is shown, unless somebody says it: standardised images."""

from collections.abc import Iterable, Sequence

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from torchgeo.datasets import NonGeoDataset
from torchgeo.datasets.utils import Sample
from torchgeo.samplers import RandomPatchSampler

from ..datasets import SceneDataset
from ..datasets.paths import name_paths
from ..transforms import Inputs, Standardize
from .checks import no_data

# Largest numbers of chips, and of pixels of each, to measure
_MOST_CHIPS, _MOST_PIXELS = 2000, 1000


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
    patches = RandomPatchSampler(train, size=size, length=64, generator=0)
    names = [
        f'{image.name} file {name_paths(image.paths)}'
        for image in (train.optical, train.sar)
    ]
    inputs = _measure((train[x, y] for x, y in patches), train.band_counts, names, 97)
    if inputs is None:
        raise no_data('train', train)
    return inputs


def measure_chips(train: NonGeoDataset, num_workers: int = 0) -> Inputs:
    """Measure mean and standard deviation of each band on chips.

    Reads up to 2,000 chips, evenly distributed over the dataset.

    Args:
        train: The training split. If it does not name its bands, each image has as many
            as the sample has channels.
        num_workers: Number of workers to read chips with.

    Returns:
        Inputs that standardise both images.

    Raises:
        RuntimeError: If a file cannot be read.
        ValueError: If there are no data, or a band is constant, or a file is not what the
            dataset expects.
    """
    count = min(len(train), _MOST_CHIPS)
    chosen = [index * len(train) // count for index in range(count)]
    _, channels, height, width = train[0]['image'].shape
    names = getattr(train, 'band_names', ([''] * channels, [''] * channels))
    samples = DataLoader(
        Subset(train, chosen), batch_size=None, num_workers=num_workers
    )
    counts = len(names[0]), len(names[1])
    rank_zero_info(
        f'measuring mean and standard deviation of the bands, on {count} chips'
    )
    step = max(height * width // _MOST_PIXELS, 1)
    inputs = _measure(samples, counts, ('optical images', 'SAR images'), step)
    if inputs is None:
        raise ValueError('the training split has no pixels with data in both images')
    return inputs


def _measure(
    samples: Iterable[Sample], counts: tuple[int, int], names: Sequence[str], step: int
) -> Inputs | None:
    """Measure every so many pixels of samples, None if they have no data.

    Args:
        samples: The samples.
        counts: Numbers of optical and of SAR bands.
        names: What both images are, for messages.
        step: One of so many pixels is looked at.

    Returns:
        Inputs that standardise both images.
    """
    pixels = []
    for sample in samples:
        image = sample['image']
        # As for Inputs, zeros in all optical bands are no data
        seen = (image[0, : counts[0]] != 0).any(dim=0)
        if 'valid' in sample:
            seen &= sample['valid'][0]
        # Neighbours say little that is new
        pixels.append(image[:, :, seen][..., ::step])
    values = torch.cat(pixels, dim=-1)
    if values.shape[-1] == 0:
        return None
    optical, sar = map(_standardize, names, values, counts)
    return Inputs(optical, sar)


def _standardize(name: str, values: Tensor, count: int) -> Standardize:
    """Make the step for the values of an image, shape (C, N)."""
    std, mean = torch.std_mean(values[:count], dim=-1)
    for band, (level, spread) in enumerate(zip(mean, std, strict=True), 1):
        if not spread > 0:
            raise ValueError(
                f'band {band} of {name} is {level:.4g} wherever it was looked at: expected '
                f'bands that vary, see {name.split()[0].lower()}.bands'
            )
    return Standardize(mean.tolist(), std.tolist())

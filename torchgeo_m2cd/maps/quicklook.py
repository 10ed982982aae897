# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""A picture of a scene and its map."""

import rasterio
import torch
from matplotlib.figure import Figure
from torchgeo.datasets.utils import Path, quantile_normalization

from ..checks import Count, checked
from ..datasets import SceneDataset


@checked
def plot_quicklook(
    dataset: SceneDataset, probability: Path, max_size: Count = 1024
) -> Figure:
    """Plot both images of a scene and the probability of change side by side.

    Args:
        dataset: The scene.
        probability: Raster file of the probability of change, or of each class, the
            first of which is unchanged.
        max_size: Largest height and width of an image in pixels.

    Returns:
        The figure.
    """
    sample = dataset.overview(max_size)
    optical, sar = sample['image']
    with rasterio.open(probability) as src:
        values = src.read(1, out_shape=tuple(sar.shape[-2:]), masked=True)
        if src.count > 1:
            values = 1 - values
    valid = sample['valid'][0]
    # 0 is where there are no data
    bands = [quantile_normalization(optical[i]) for i in dataset.rgb_channels]
    rgb = torch.stack(bands) * valid + ~valid
    grey = quantile_normalization(sar[0]) * valid + ~valid

    height, width = sar.shape[-2:]
    figure = Figure(figsize=(15, 15 / 3 * height / width + 1), layout='constrained')
    axes = figure.subplots(1, 3)
    axes[0].imshow(rgb.permute(1, 2, 0).numpy())
    axes[1].imshow(grey.numpy(), cmap='gray', vmin=0, vmax=1)
    mapped = axes[2].imshow(values, cmap='cividis', vmin=0, vmax=1)
    figure.colorbar(mapped, ax=axes[2], shrink=0.8)
    for axis, title in zip(
        axes, ('Optical (before)', 'SAR (after)', 'Probability of change'), strict=True
    ):
        axis.set_title(title)
        axis.set_axis_off()
    return figure

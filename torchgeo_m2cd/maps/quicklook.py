# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""A picture of a scene and its map."""

from collections.abc import Mapping

import numpy as np
import rasterio
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torchgeo.datasets.utils import Path, quantile_normalization

from ..checks import Count, checked
from ..datasets import SceneDataset
from .styles import color_classes


@checked
def plot_quicklook(
    dataset: SceneDataset,
    classes: Path,
    labels: Mapping[int, str],
    title: str = '',
    max_size: Count = 1024,
) -> Figure:
    """Plot both images of a scene and its map side by side.

    The map is drawn over the SAR image, in the colours of its QGIS style.

    Args:
        dataset: The scene.
        classes: Raster file of the classes; 0 is unchanged, and not drawn.
        labels: Name of each class.
        title: Title of the picture, what was found for example.
        max_size: Largest height and width of an image in pixels.

    Returns:
        The figure.
    """
    sample = dataset.overview(max_size)
    optical, sar = sample['image']
    with rasterio.open(classes) as src:
        values = src.read(1, out_shape=tuple(sar.shape[-2:]), masked=True)
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
    axes[2].imshow(grey.numpy(), cmap='gray', vmin=0, vmax=1)
    colors = color_classes(labels)
    shown = {value: name for value, name in labels.items() if value > 0}
    axes[2].imshow(
        np.ma.masked_equal(values, 0),
        cmap=ListedColormap([colors[value] for value in shown]),
        vmin=1,
        vmax=max(shown),
        interpolation='none',
    )
    patches = [Patch(color=colors[value], label=name) for value, name in shown.items()]
    figure.legend(handles=patches, loc='outside lower right', ncols=len(patches))
    names = ('Optical (before)', 'SAR (after)', 'Map')
    for axis, name in zip(axes, names, strict=True):
        axis.set_title(name)
        axis.set_axis_off()
    figure.suptitle(title)
    return figure

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Base class for all optical-SAR change detection datasets."""

import math
from collections.abc import Callable
from typing import Literal

import matplotlib.pyplot as plt
import torch
from einops import rearrange
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor
from torchgeo.datasets import NonGeoDataset, RGBBandsMissingError
from torchgeo.datasets.utils import Sample, quantile_normalization

from ..checks import checked
from .bands import name_band

# Values of the panels beside 0 and 1
_MISSED, _FALSE_ALARM, _NO_DATA = 2, 3, 4


@checked
def stack_pair(optical: Tensor, sar: Tensor) -> Tensor:
    """Stack an optical and a SAR image of the same size into one pair.

    Both images get as many channels as the image with more bands. The bands of the other
    image are repeated cyclically: next to RGB, VV and VH become VV, VH, VV. A model that
    knows the band counts reads the first channels of each image and loses nothing. Models
    that need equal counts, like TorchGeo's Siamese models, work as well.

    Args:
        optical: Optical image of shape (C1, H, W).
        sar: SAR image of shape (C2, H, W).

    Example:
        >>> import torch
        >>> from torchgeo_m2cd.datasets import stack_pair
        >>> pair = stack_pair(torch.rand(3, 64, 64), torch.rand(2, 64, 64))
        >>> pair.shape  # red, green, blue; VV, VH, VV
        torch.Size([2, 3, 64, 64])

    Returns:
        Pair of shape (2, C, H, W), optical first, SAR second, with C = max(C1, C2).

    Raises:
        ValueError: If the images do not have the same height and width.
    """
    if optical.shape[1:] != sar.shape[1:]:
        raise ValueError(
            f'optical image is {tuple(optical.shape[1:])} pixels and SAR image is '
            f'{tuple(sar.shape[1:])}: expected the same height and width'
        )
    pair = optical.new_empty(2, max(len(optical), len(sar)), *optical.shape[1:])
    for bands, image in zip(pair, (optical, sar), strict=True):
        for start in range(0, len(bands), len(image)):
            bands[start : start + len(image)] = image[: len(bands) - start]
    return pair


class OpticalSARDataset(NonGeoDataset):
    """Base class for all optical-SAR change detection datasets.

    A sample holds:

    * ``image``: float32 tensor of shape (2, C, H, W) in source units. Index 0 is the
      pre-event optical image, index 1 the post-event SAR image. :func:`stack_pair`
      describes the channels.
    * ``mask``: int64 tensor of shape (1, H, W). 0 is unchanged, 1 is changed, and 255 has
      no data and is ignored.

    Subclasses set the attributes below.
    """

    #: Names of the classes, of value 0 and 1.
    classes: tuple[str, ...] = ('unchanged', 'changed')
    #: Mask value of pixels without data, which losses and metrics ignore.
    ignore_index = 255
    #: Names of the optical bands, in the order of the channels.
    bands: tuple[str, ...]
    #: Names of the SAR bands, in the order of the channels.
    sar_bands: tuple[str, ...]
    #: Names of the optical bands shown as red, green, and blue.
    rgb_bands: tuple[str, ...]
    #: Whether SAR values are linear in the logarithm, the power, or the amplitude of the
    #: backscatter. 8-bit images count as 'db'.
    sar_scale: Literal['db', 'power', 'amplitude'] = 'db'

    #: Decibels of one unit of the SAR images, None if they are not known.
    decibels: float | None = None

    transforms: Callable[[Sample], Sample] | None = None

    # Colours of 0, 1, missed, false alarm, and no data. Readers with any kind of colour
    # blindness can tell orange and blue (Okabe and Ito) from black, white, and grey.
    _colors = ('black', 'white', '#D55E00', '#56B4E9', '#999999')

    @property
    def band_names(self) -> tuple[list[str], list[str]]:
        """Names of the optical and of the SAR bands that all datasets share.

        A name is a polarisation (``'VV'``) or a band of Sentinel-2 (``'B08'``), and empty
        where it is not known.
        """
        return [*map(name_band, self.bands)], [*map(name_band, self.sar_bands)]

    def plot(
        self, sample: Sample, show_titles: bool = True, suptitle: str | None = None
    ) -> Figure:
        """Plot a sample from the dataset.

        The optical image and the first SAR band are stretched between their 2 % and 98 %
        quantiles. Linear SAR is shown in dB. If the sample has both a mask and a
        prediction, another panel shows the errors.

        Args:
            sample: A sample of the dataset. The mask is optional, and so
                is ``prediction``, 0 or 1, of shape (1, H, W) or (H, W).
            show_titles: Flag indicating whether to show titles above each panel.
            suptitle: Optional string to use as a suptitle.

        Returns:
            A matplotlib Figure with the rendered sample.

        Raises:
            RGBBandsMissingError: If *bands* does not include all RGB bands.
        """
        try:
            rgb = [self.bands.index(band) for band in self.rgb_bands]
        except ValueError as error:
            raise RGBBandsMissingError from error

        optical, sar = sample['image'].cpu().float()
        images = {
            'Optical (before)': rearrange(
                quantile_normalization(optical[rgb]), 'c h w -> h w c'
            ),
            'SAR (after)': self._stretch_sar(sar[0]),
        }
        maps = self._class_maps(sample)
        height, width = sar.shape[-2:]
        count = len(images) + len(maps)
        fig, axs = plt.subplots(
            1,
            count,
            figsize=(3 * count, 3 * height / width + 0.7),
            layout='constrained',
        )
        for ax, image in zip(axs, images.values(), strict=False):
            ax.imshow(image.numpy(), cmap='gray', vmin=0, vmax=1)
        colors = ListedColormap(self._colors)
        for ax, classes in zip(axs[len(images) :], maps.values(), strict=True):
            ax.imshow(
                classes.numpy(),
                cmap=colors,
                vmin=0,
                vmax=colors.N - 1,
                interpolation='none',
            )
        for ax, title in zip(axs, [*images, *maps], strict=True):
            ax.set_xticks([])
            ax.set_yticks([])
            if show_titles:
                ax.set_title(title)
        if maps:
            self._add_legend(fig, maps)
        if suptitle is not None:
            fig.suptitle(suptitle)
        return fig

    def _class_maps(self, sample: Sample) -> dict[str, Tensor]:
        """Make the panels of classes, with the values of *_colors*.

        Args:
            sample: A sample, see :meth:`plot`.

        Returns:
            Int64 tensors of shape (H, W) by title.
        """
        height, width = sample['image'].shape[-2:]
        maps = {}
        if 'mask' in sample:
            mask = sample['mask'].cpu().reshape(height, width).long()
            ignored = mask == self.ignore_index
            maps['Ground truth'] = mask.masked_fill(ignored, _NO_DATA)
        if 'prediction' in sample:
            prediction = sample['prediction'].cpu().reshape(height, width).long()
            maps['Prediction'] = prediction
        if 'mask' in sample and 'prediction' in sample:
            errors = prediction.clone()
            errors[(mask == 1) & (prediction == 0)] = _MISSED
            errors[(mask == 0) & (prediction == 1)] = _FALSE_ALARM
            maps['Errors'] = errors.masked_fill(ignored, _NO_DATA)
        return maps

    def _add_legend(self, fig: Figure, maps: dict[str, Tensor]) -> None:
        """Add a legend of the colours in the panels of classes.

        Args:
            fig: The figure.
            maps: Output of :meth:`_class_maps`.
        """
        labels = (*self.classes[:2], 'missed', 'false alarm', 'no data')
        values = [0, 1]
        if 'Errors' in maps:
            values += [_MISSED, _FALSE_ALARM]
        if any((classes == _NO_DATA).any() for classes in maps.values()):
            values.append(_NO_DATA)
        handles = [
            Patch(facecolor=self._colors[value], edgecolor='black', label=labels[value])
            for value in values
        ]
        fig.legend(handles=handles, loc='outside lower center', ncols=len(handles))

    def _stretch_sar(self, band: Tensor) -> Tensor:
        """Stretch one SAR band for display.

        Args:
            band: SAR band of shape (H, W), in the scale of :attr:`sar_scale`.

        Returns:
            Grey values in [0, 1] of shape (H, W), linear in dB.
        """
        if self.sar_scale != 'db':
            # The stretch undoes the factor of 10 or 20 that is missing here
            positive = band[band > 0]
            floor = positive.min() if len(positive) else torch.tensor(1.0)
            band = band.clamp(min=floor).log10()
        return quantile_normalization(band, nodata=math.nan)

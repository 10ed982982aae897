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


def stack_pair(optical: Tensor, sar: Tensor) -> Tensor:
    """Stack an optical and a SAR image of the same size into one pair.

    Both images get as many channels as the larger one has: the bands of the smaller
    one are repeated cyclically, e.g. VV, VH becomes VV, VH, VV next to RGB. A model
    that knows the band counts reads the first channels of each and loses nothing; one
    that needs equal counts, like the Siamese models of TorchGeo, works too.

    Args:
        optical: Optical image of shape (C1, H, W).
        sar: SAR image of shape (C2, H, W).

    Returns:
        Pair of shape (2, C, H, W) with C = max(C1, C2): optical first, SAR second.

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

    * ``image``: float32 tensor of shape (2, C, H, W) in the units of the source; index
      0 is the pre-event optical image, index 1 the post-event SAR image, see
      :func:`stack_pair` for the channels
    * ``mask``: int64 tensor of shape (1, H, W); 0 is unchanged, 1 is changed,
      and 255 is to be ignored because there is no data

    Subclasses set the attributes below.
    """

    #: Names of the classes, of value 0 and 1.
    classes: tuple[str, ...] = ('unchanged', 'changed')
    #: Mask value of pixels without data, to be left out of losses and metrics.
    ignore_index = 255
    #: Names of the optical bands, in the order of the channels.
    bands: tuple[str, ...]
    #: Names of the SAR bands, in the order of the channels.
    sar_bands: tuple[str, ...]
    #: Names of the optical bands shown as red, green, and blue.
    rgb_bands: tuple[str, ...]
    #: Whether SAR values grow with the logarithm of the backscatter or linearly with
    #: its power or its amplitude. 8-bit images count as 'db'.
    sar_scale: Literal['db', 'power', 'amplitude'] = 'db'

    transforms: Callable[[Sample], Sample] | None = None

    # Black and white for what is right and orange and blue (Okabe and Ito) for what is
    # wrong stay apart for readers with any kind of colour blindness.
    _black, _white, _grey = 'black', 'white', '#999999'
    _missed, _false_alarm = '#D55E00', '#56B4E9'

    @property
    def band_counts(self) -> tuple[int, int]:
        """Number of bands of the optical and of the SAR image."""
        return len(self.bands), len(self.sar_bands)

    def plot(
        self, sample: Sample, show_titles: bool = True, suptitle: str | None = None
    ) -> Figure:
        """Plot a sample from the dataset.

        The optical image is stretched between its 2 % and 98 % quantile, and so is the
        SAR image (in dB if it is linear; only its first band). With both a mask and a
        prediction, a map of the errors is added.

        Args:
            sample: A sample returned by :meth:`__getitem__`, optionally with
                a ``prediction`` of shape (1, H, W) or (H, W), 0 or 1. The
                mask is optional, too.
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
        height, width = sar.shape[-2:]
        panels = {
            'Optical (before)': rearrange(
                quantile_normalization(optical[rgb]), 'c h w -> h w c'
            ),
            'SAR (after)': self._stretch_sar(sar[0]),
        }

        # Colour and name of each value in the panels below
        legend = {
            self._black: self.classes[0],
            self._white: self.classes[1],
            self._missed: 'missed',
            self._false_alarm: 'false alarm',
            self._grey: 'no data',
        }
        colors = list(legend)
        ignored = torch.zeros(height, width, dtype=torch.bool)
        if 'mask' in sample:
            mask = sample['mask'].cpu().reshape(height, width).long()
            ignored = mask == self.ignore_index
            panels['Ground truth'] = mask.masked_fill(ignored, 4)
        if 'prediction' in sample:
            prediction = sample['prediction'].cpu().reshape(height, width).long()
            panels['Prediction'] = prediction
        if 'mask' in sample and 'prediction' in sample:
            errors = prediction.clone()
            errors[(mask == 1) & (prediction == 0)] = 2
            errors[(mask == 0) & (prediction == 1)] = 3
            panels['Errors'] = errors.masked_fill(ignored, 4)

        fig, axs = plt.subplots(
            1,
            len(panels),
            figsize=(3 * len(panels), 3 * height / width + 0.7),
            layout='constrained',
        )
        for ax, (title, panel) in zip(axs, panels.items(), strict=True):
            if title in ('Optical (before)', 'SAR (after)'):
                ax.imshow(panel.numpy(), cmap='gray', vmin=0, vmax=1)
            else:
                ax.imshow(
                    panel.numpy(),
                    cmap=ListedColormap(colors),
                    vmin=0,
                    vmax=len(colors) - 1,
                    interpolation='none',
                )
            ax.set_xticks([])
            ax.set_yticks([])
            if show_titles:
                ax.set_title(title)

        if len(panels) > 2:
            wrong = (2, 3) if 'Errors' in panels else ()
            values = (0, 1, *wrong, *((4,) if ignored.any() else ()))
            handles = [
                Patch(facecolor=color, edgecolor='black', label=legend[color])
                for color in (colors[value] for value in values)
            ]
            fig.legend(handles=handles, loc='outside lower center', ncols=len(handles))

        if suptitle is not None:
            fig.suptitle(suptitle)

        return fig

    def _stretch_sar(self, band: Tensor) -> Tensor:
        """Stretch one SAR band for display.

        Args:
            band: SAR band of shape (H, W), see *sar_scale*.

        Returns:
            Grey values in [0, 1] of shape (H, W), linear in dB.
        """
        if self.sar_scale != 'db':
            # 10 log10 of the power; a factor only changes what the stretch undoes
            positive = band[band > 0]
            floor = positive.min() if len(positive) else torch.tensor(1.0)
            band = band.clamp(min=floor).log10()
        return quantile_normalization(band, nodata=math.nan)

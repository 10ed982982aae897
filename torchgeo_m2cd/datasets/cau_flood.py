# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""CAU-Flood dataset."""

import pathlib
from collections.abc import Callable
from typing import ClassVar, NamedTuple, NoReturn

from torchgeo.datasets import DatasetNotFoundError
from torchgeo.datasets.utils import Path, Sample

from ..checks import Names, checked
from ..utils import check_choice
from .chip_folder import ChipFolder
from .masks import MaskSource
from .source import SARSource, Source


class _Layout(NamedTuple):
    """Names of the folders in one layout of the dataset, and its bands."""

    optical: str
    sar: str
    mask: str
    bands: tuple[str, ...]  # optical bands in the order of the files


class CAUFlood(ChipFolder):
    """CAU-Flood dataset.

    `CAU-Flood <https://github.com/CAU-HE/CMCDNet>`__ is a dataset for flood mapping. It
    has Sentinel-2 images before and Sentinel-1 images after the floods in 18 study plots.

    Download the dataset in a browser, since its share link does not work without one. The
    link is in the `README of CMCDNet <https://github.com/CAU-HE/CMCDNet#install>`__.
    Extract both archives into the root directory.

    Dataset format:

    There are two layouts. The names of the folders decide which one is read:

    * ``{train,test}/{opt,vv,flood_vv}/``, published by the authors of the dataset: 4-band
      optical images, 1-band SAR images (VV), and masks
    * ``{train,val,test}/{A,B,label}/``, rearranged by the authors of M2CD: optical images
      with 3 bands (RGB), SAR images, and masks

    The files are PNG or GeoTIFF, 8 bit or float, 256 x 256 pixels. The three files of a
    sample have the same name apart from the suffix. Masks are 0 for no flood, and either
    1 or 255 for flood.

    .. note::
       Neither the paper nor the code documents the order of the bands. This class assumes
       B02, B03, B04, and B08 in the first layout and B04, B03, and B02 in the second. If
       water and vegetation do not look natural in ``plot``, change :attr:`layouts`.

    Dataset classes:

    0. unchanged
    1. flood

    If there is no folder for validation, the training chips are sorted by name (numbers
    in names by value) and divided into 16 runs of equal length. The 4th and the 12th run
    are for validation (12.5 %), the others for training. Chips of one scene mostly have
    successive names, so few neighbours end up in different splits.

    If you use this dataset in your research, please cite the following paper:

    * https://doi.org/10.1016/j.jag.2023.103197
    """

    classes = ('unchanged', 'flood')
    all_bands: tuple[str, ...] = ('B02', 'B03', 'B04', 'B08')
    rgb_bands = ('B04', 'B03', 'B02')
    all_sar_bands = ('VV',)
    counts_black = True

    splits = ('train', 'val', 'test')

    #: Folders and optical bands of the layouts.
    layouts: ClassVar[tuple[_Layout, ...]] = (
        _Layout('opt', 'vv', 'flood_vv', ('B02', 'B03', 'B04', 'B08')),
        _Layout('A', 'B', 'label', ('B04', 'B03', 'B02')),
    )

    #: Which of the 16 runs of training chips are for validation.
    val_runs = ('4', '12')

    @checked
    def __init__(
        self,
        root: Path = 'data',
        split: str = 'train',
        bands: Names | None = None,
        transforms: Callable[[Sample], Sample] | None = None,
    ) -> None:
        """Initialize a new CAUFlood dataset instance.

        Args:
            root: Root directory of the dataset, which has the folders ``train`` and
                ``test``.
            split: One of 'train', 'val', or 'test'.
            bands: Optical bands to return, in this order (defaults to all bands of the
                layout).
            transforms: A function/transform that takes an input sample and returns
                a transformed version.

        Raises:
            DatasetNotFoundError: If the dataset is not found.
            FileNotFoundError: If a file of a sample is missing.
            ValueError: If *split* is unknown or empty, if *bands* is empty or has a band
                that is not in the layout, or if two files have the same name apart from
                the suffix.
        """
        check_choice('split', split, self.splits)
        self.root = root
        has_val = self._find_layout('val') is not None
        folder = 'train' if split == 'val' and not has_val else split
        layout = self._find_layout(folder)
        if layout is None:
            self._raise_not_found(folder)
        self.all_bands = layout.bands
        optical, sar, mask = (f'{{split}}/{name}/*' for name in layout[:3])
        super().__init__(
            root,
            split,
            optical=Source(optical, bands=bands),
            # 8 bit or float, of unknown contrast
            sar=SARSource(sar, scale='other'),
            mask=MaskSource(mask, classes={0: 0, 1: 1, 255: 1}),
            splits=None if has_val else {'val': self.val_runs},
            transforms=transforms,
        )

    def _find_layout(self, folder: str) -> _Layout | None:
        """Return the first layout that has files in a folder of the root."""
        for layout in self.layouts:
            if any(
                any(pathlib.Path(self.root, folder, name).glob('*'))
                for name in layout[:3]
            ):
                return layout
        return None

    def _raise_not_found(self, folder: str) -> NoReturn:
        """Raise an error that says how to get the dataset.

        Args:
            folder: Folder of the split.

        Raises:
            DatasetNotFoundError: Always.
        """
        error = DatasetNotFoundError(self)
        folders = ' or '.join(
            f'{folder}/{{{",".join(layout[:3])}}}' for layout in self.layouts
        )
        message = (
            f'{error} Get the link from https://github.com/CAU-HE/CMCDNet, open it in a '
            f'browser, and extract the archives such that {folders} in the root hold the '
            'images.'
        )
        error.args = (message,)
        raise error

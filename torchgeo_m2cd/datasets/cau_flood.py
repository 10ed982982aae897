# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""CAU-Flood dataset."""

import pathlib
import re
from collections.abc import Callable
from typing import ClassVar, NamedTuple, NoReturn

from torchgeo.datasets import DatasetNotFoundError
from torchgeo.datasets.utils import Path, Sample

from ..checks import Names, checked
from ..utils import check_choice
from .base import OpticalSARDataset
from .chips import Files, match_files, read_sample


class _Layout(NamedTuple):
    """Names of the folders in one layout of the dataset, and its bands."""

    optical: str
    sar: str
    mask: str
    bands: tuple[str, ...]  # optical bands in the order of the files


class CAUFlood(OpticalSARDataset):
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
       water and vegetation do not look natural in :meth:`plot`, change :attr:`layouts`.

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
    all_bands = ('B02', 'B03', 'B04', 'B08')
    rgb_bands = ('B04', 'B03', 'B02')
    sar_bands = ('VV',)

    splits = ('train', 'val', 'test')
    suffixes = ('.png', '.tif', '.tiff')

    #: Folders and optical bands of the layouts.
    layouts: ClassVar[tuple[_Layout, ...]] = (
        _Layout('opt', 'vv', 'flood_vv', ('B02', 'B03', 'B04', 'B08')),
        _Layout('A', 'B', 'label', ('B04', 'B03', 'B02')),
    )

    #: Indices of the *num_runs* runs of training chips that are for validation.
    num_runs = 16
    val_runs = (3, 11)

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
            FileNotFoundError: If a file of a sample is missing, or if the split is empty.
            ValueError: If *split* is unknown, if *bands* is empty or has a band that is not
                in the layout, or if two files have the same name apart from the suffix.
        """
        check_choice('split', split, self.splits)
        self.root = root
        self.split = split
        self.transforms = transforms

        has_val = self._find_layout('val') is not None
        self.folder = 'train' if split == 'val' and not has_val else split
        layout = self._find_layout(self.folder)
        if layout is None:
            self._raise_not_found()
        self.layout = layout

        self.bands = layout.bands if bands is None else tuple(bands)
        for band in self.bands:
            check_choice('band', band, layout.bands)
        self.files = self._load_files(divide=self.folder == 'train' and not has_val)

    def __getitem__(self, index: int) -> Sample:
        """Return an index within the dataset.

        Args:
            index: Index to return.

        Returns:
            Sample with ``image`` in source units of shape (2, C, 256, 256), where C is the
            number of *bands*, and ``mask`` of shape (1, 256, 256).

        Raises:
            RuntimeError: If a file cannot be read.
            ValueError: If a file has wrong bands or values, or another size.
        """
        sample = read_sample(
            self.files[index],
            optical_count=len(self.layout.bands),
            sar_count=len(self.sar_bands),
            optical_indices=[self.layout.bands.index(band) for band in self.bands],
            changed=(1, 255),
        )
        if self.transforms is not None:
            sample = self.transforms(sample)
        return sample

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.files)

    def _find_layout(self, folder: str) -> _Layout | None:
        """Return the first layout that has images in a folder of the root."""
        for layout in self.layouts:
            if any(self._list(folder, name) for name in layout[:3]):
                return layout
        return None

    def _list(self, folder: str, name: str) -> dict[str, str]:
        """List image files by stem, sorted by name (numbers in names by value).

        Args:
            folder: Folder in the root.
            name: Folder in *folder*.

        Returns:
            Paths by stem.

        Raises:
            ValueError: If two files have the same stem.
        """
        paths: dict[str, str] = {}
        for path in pathlib.Path(self.root, folder, name).glob('[!.]*'):
            if path.suffix.lower() in self.suffixes:
                if path.stem in paths:
                    raise ValueError(
                        f'{paths[path.stem]} and {path} have the same name: expected '
                        'one file per sample'
                    )
                paths[path.stem] = str(path)
        return {stem: paths[stem] for stem in sorted(paths, key=_natural_key)}

    def _load_files(self, divide: bool) -> list[Files]:
        """List the files of the split.

        Args:
            divide: Whether to divide the folder into training and validation.

        Returns:
            The files of each sample.

        Raises:
            FileNotFoundError: If a file of a sample is missing, or if the split is empty.
        """
        optical, sar, mask = (self._list(self.folder, name) for name in self.layout[:3])
        files = match_files(optical, sar, mask)
        if divide:
            kept = [
                sample
                for index, sample in enumerate(files)
                if (index * self.num_runs // len(files) in self.val_runs)
                == (self.split == 'val')
            ]
            if not kept:
                raise FileNotFoundError(
                    f'{len(files)} sample(s) in the train folder of {self.root!r} are '
                    f'too few to divide for split {self.split!r}: expected at least '
                    f'{self.num_runs}, or a val folder'
                )
            files = kept
        return files

    def _raise_not_found(self) -> NoReturn:
        """Raise an error that says how to get the dataset.

        Raises:
            DatasetNotFoundError: Always.
        """
        error = DatasetNotFoundError(self)
        folders = ' or '.join(
            f'{self.folder}/{{{",".join(layout[:3])}}}' for layout in self.layouts
        )
        message = (
            f'{error} Get the link from https://github.com/CAU-HE/CMCDNet, open it in a '
            f'browser, and extract the archives such that {folders} in the root hold '
            f'{", ".join(self.suffixes)} files.'
        )
        error.args = (message,)
        raise error


def _natural_key(name: str) -> list[str | int]:
    """Return a sort key that compares numbers in names by value."""
    # Numbers have odd indices and text even ones, so like is compared with like
    return [int(s) if s.isdecimal() else s for s in re.split(r'([0-9]+)', name)]

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Chips of one's own."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import ClassVar, cast

import torch
from torch import Tensor
from torchgeo.datasets.utils import Path, Sample

from ..checks import CountOrZero, checked
from .base import OpticalSARDataset, stack_pair
from .chip_files import ImageReader, read_mask, read_values
from .chip_splits import Splits, load_chips
from .chips import Chip
from .classes import Value
from .masks import MaskSource
from .paths import Paths, list_paths, name_paths
from .source import SARSource, Source


class ChipFolder(OpticalSARDataset):
    """Chips of one's own: any raster files, found by patterns or listed in a table.

    Dataset format, by default, is that of many datasets for change detection:

    * optical: ``{split}/A``, one file per chip, any format and number of bands
    * SAR: ``{split}/B``
    * masks: ``{split}/label``

    The files of a chip have the same size, and the same name apart from the suffix.
    Patterns say other places and other names. In them, ``*`` is any text, ``{name}`` what
    the files of a chip have in common, and ``{group}`` a folder, or a part of the name,
    whose chips belong together:

    .. code-block:: text

       {split}/opt/*.png                      train/opt/chip_1.png
       {group}/S2/before_{name}.tif           albania/S2/before_0007.tif
       S2Hand/{group}_{name}_S2Hand.tif       S2Hand/Ghana_103272_S2Hand.tif

    Dataset splits are those of the folders, or of a column of the table, or *splits*
    divide the chips by shares, lists, or groups. A division by shares keeps groups
    together. Chips without groups are divided into 16 runs of successive names, since
    neighbours mostly have such names.

    Where a file has no data, see *nodata* of :class:`~torchgeo_m2cd.datasets.Source`, the
    mask is 255 and ``valid``, a bool tensor of shape (1, H, W) in each sample, is False.
    SAR in power or amplitude becomes dB. An alpha band is a band like others, since four
    bands are often stored as RGBA.

    Example:
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from torchgeo_m2cd.datasets import ChipFolder
        >>> for folder, mode in {'before': 'RGB', 'after': 'L', 'mask': 'L'}.items():
        ...     Path('chips', folder).mkdir(parents=True)
        ...     for number in range(20):
        ...         Image.new(mode, (64, 64)).save(f'chips/{folder}/{number}.png')
        >>> dataset = ChipFolder(
        ...     'chips',
        ...     'train',
        ...     'before/*.png',
        ...     'after/*.png',
        ...     'mask/*.png',
        ...     splits={'val': 0.2},
        ... )
        >>> len(dataset), dataset[0]['image'].shape
        (16, torch.Size([2, 3, 64, 64]))
    """

    #: Names of all bands of the optical files, if these do not name them.
    all_bands: tuple[str, ...] = ()
    #: Names of all bands of the SAR files, if these do not name them.
    all_sar_bands: tuple[str, ...] = ()
    rgb_bands: tuple[str, ...] = ()
    #: Whether masks and metrics count pixels where all optical bands are 0, as in the
    #: published figures of a benchmark.
    counts_black: ClassVar[bool] = False

    # Settings that scenes have, too, but chips have not
    _unused: ClassVar[set[str]] = {
        'naming', 'date', 'trim', 'layer', 'attribute', 'area', 'area_layer'
    }  # fmt: skip

    @checked
    def __init__(
        self,
        root: Path = 'data',
        split: str = 'train',
        optical: Source | Paths = '{split}/A/*',
        sar: SARSource | Paths = '{split}/B/*',
        mask: MaskSource | Paths | None = '{split}/label/*',
        table: Path | None = None,
        splits: Splits | None = None,
        seed: CountOrZero = 0,
        transforms: Callable[[Sample], Sample] | None = None,
    ) -> None:
        """Initialize a new ChipFolder instance.

        Args:
            root: Folder that patterns, *table* and list files are relative to.
            split: Split to load.
            optical: Pre-event optical images: a pattern, or a source with ``paths`` and
                ``bands``, ``nodata``, ``gain`` or ``offset``.
            sar: Post-event SAR images: a pattern, or a source, also with ``scale`` or
                ``decibels``.
            mask: Change masks: a pattern, or a source with ``classes``, the class of each
                value, 255 if not known. None for samples without masks.
            table: Table (CSV, GeoPackage, GeoJSON) with a row per chip, in place of the
                patterns. Its columns are ``optical``, ``sar`` and, optionally, ``mask``,
                ``name``, ``group`` and ``split``. Files are relative to it.
            splits: What each split takes of the chips: a share (``{'val': 0.1}``), the
                names in a text file (``{'val': 'val.txt'}``) or groups (``{'val':
                ['ghana']}``). All others are for training, if it is not one of them. With
                ``{split}`` in the patterns, or a column ``split``, the chips for training
                are divided.
            seed: Seed of a division by shares.
            transforms: Function that takes a sample and returns it transformed.

        Raises:
            FileNotFoundError: If nothing matches a pattern, a chip lacks a file, or a
                table or list does not exist.
            RuntimeError: If a file cannot be read.
            ValueError: If a band does not exist, *split* is unknown or empty, a chip is in
                two splits, or an argument is not for chips.
        """
        self.root = root
        self.split = split
        self.transforms = transforms
        self.mask = None if mask is None else MaskSource.of(mask)
        sources = {'optical': Source.of(optical), 'sar': SARSource.of(sar)}
        if self.mask is not None:
            sources['mask'] = self.mask
        paths = {kind: self._find_paths(kind, sources[kind], table) for kind in sources}
        #: The chips of the split.
        self.files = self._list_chips(paths, table, splits, seed)
        first = self.files[0]
        self._optical = ImageReader.of(
            'optical',
            sources['optical'],
            first.optical,
            self.all_bands,
            self.counts_black,
        )
        self._sar = ImageReader.of('SAR', sources['sar'], first.sar, self.all_sar_bands)
        self.bands, self.sar_bands = self._optical.bands, self._sar.bands
        if not self.rgb_bands:
            named = ('B04', 'B03', 'B02')
            shown = named if {*named} <= {*self.bands} else self.bands[:3]
            self.rgb_bands = (*shown, *shown[-1:] * (3 - len(shown)))
        self.decibels = cast(SARSource, self._sar.source).unit

    def __getitem__(self, index: int) -> Sample:
        """Return an index within the dataset.

        Args:
            index: Index to return.

        Returns:
            Sample with ``image`` of shape (2, C, H, W), ``valid`` of shape (1, H, W),
            *index*, by which errors name the chip, and, if there are masks, ``mask`` of
            shape (1, H, W).

        Raises:
            RuntimeError: If a file cannot be read.
            ValueError: If a file has other bands than the first one, wrong values, or
                another size.
        """
        chip = self.files[index]
        optical, seen = self._optical.read(chip.optical)
        sar, measured = self._sar.read(chip.sar)
        mask = None if self.mask is None else read_mask(chip.mask, self.mask)
        self._check_sizes(chip, optical, sar, optical if mask is None else mask)
        sample: Sample = {
            'image': stack_pair(optical, sar),
            'valid': seen & measured,
            'index': torch.tensor(index),
        }
        if mask is not None:
            sample['mask'] = mask.masked_fill(~sample['valid'], self.ignore_index)
        if self.transforms is not None:
            sample = self.transforms(sample)
        return sample

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.files)

    def mask_classes(self, index: int) -> dict[Value, int]:
        """Read the mask of a chip, and no image.

        Args:
            index: Index of the chip.

        Returns:
            Class of each value of the file, 255 if it is not known.

        Raises:
            RuntimeError: If the file cannot be read.
            ValueError: If the file has bands that differ, or a value without class.
        """
        assert self.mask is not None
        return read_values(self.files[index].mask, self.mask)[1]

    def _list_chips(
        self,
        paths: Mapping[str, Paths],
        table: Path | None,
        splits: Splits | None,
        seed: int,
    ) -> list[Chip]:
        """List the chips of the split."""
        return load_chips(self.root, paths, table, self.split, splits, seed)

    def _find_paths(self, kind: str, source: Source, table: Path | None) -> Paths:
        """Return the patterns of the files of a kind, and check the other settings."""
        for field in fields(source):
            value = getattr(source, field.name)
            if field.name in self._unused and value != field.default:
                raise ValueError(
                    f'{kind}.{field.name} is {value!r}: expected none, it is for scenes'
                )
        folder = {'optical': 'A', 'sar': 'B', 'mask': 'label'}[kind]
        default = [f'{{split}}/{folder}/*']
        patterns = list_paths(source.paths, kind) or default
        if table is not None and patterns != default:
            raise ValueError(
                f'got table, and {kind} {name_paths(patterns)}: expected one of them'
            )
        return patterns

    def _check_sizes(self, chip: Chip, *tensors: Tensor) -> None:
        """Check that the files of a chip have the size of the first chip."""
        if all(tensor.shape[1:] == self._optical.size for tensor in tensors):
            return
        sizes = ', '.join(
            f'{name_paths(path)} has {tensor.shape[1]} x {tensor.shape[2]} pixels'
            for path, tensor in zip(chip, tensors, strict=False)
            if path
        )
        height, width = self._optical.size
        raise ValueError(
            f'{sizes}: expected the same size, and {height} x {width} as '
            f'{name_paths(self.files[0].optical)} has'
        )

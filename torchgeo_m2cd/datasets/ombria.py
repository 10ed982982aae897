# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""OMBRIA dataset."""

import os
import pathlib
import re
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple, NoReturn

from torchgeo.datasets import DatasetNotFoundError
from torchgeo.datasets.utils import Path, Sample, download_url

from ..checks import Names, checked
from ..utils import check_choice
from .archives import extract_images
from .chip_folder import ChipFolder
from .chips import Chip, pair_files
from .masks import MaskSource
from .source import SARSource, Source


class _Folders(NamedTuple):
    """Folders of one part of the dataset, relative to the root."""

    optical: str
    sar: str
    mask: str


class OMBRIA(ChipFolder):
    """OMBRIA dataset.

    `OMBRIA <https://github.com/geodrak/OMBRIA>`__ is a dataset for flood mapping. It has
    Sentinel-2 images before and Sentinel-1 images after 23 floods around the world from
    2017 to 2021. The masks were derived from maps by the Copernicus Emergency Management
    Service.

    Dataset format:

    * optical: 3-channel PNG, 256 x 256 pixels, 8 bit, a false-colour composite in
      which vegetation is green and water is black: R is short-wave infrared, G near
      infrared, and B visible
    * SAR: 1-channel PNG, 8 bit, with the contrast of an image in dB, 0.2 dB per grey value

    The files do not name the bands. Over the darkest G, which is water, the medians of R and
    B are 3 to 7 and 38, and 72 and 26 over all: so water absorbs R and G. G is called B08,
    though it may be B8A; the others have no names. SAR is taken for VV.

    About 7 % of the chips reach beyond the border of a scene. There, the optical image is
    black and the SAR image is black, grey, or white. The masks say "no flood" there. They
    are not corrected, so that scores stay comparable.

    Dataset classes:

    0. unchanged
    1. flood

    Dataset splits:

    * ``train``: 551 of the 624 chips in the training folders
    * ``val``: the other 73
    * ``test``: 70 chips
    * ``albania``, ``france``, ``guyana``, ``timor``: 22, 88, 30, and 10 chips of four
      later floods
    * ``events``: all 150 chips of these four, for out-of-distribution tests
    * ``dry``, ``green``, ``fields``, ``rivers``, ``plain``: groups of scenes, which
      together are all 624 chips of the training folders, see below

    The authors provide no validation split. Chips are numbered along the lines of scenes,
    so chips with successive numbers are often neighbours: among 648 pairs of chips *n*
    and *n + 1* in the training and test data, the grey values of the facing edges
    correlate by more than 0.85 in 431 pairs, but only in 0.1 % of random pairs. Chips 107
    to 132 and 258 to 275 show the same ground, shifted by half a chip. A random validation
    split would therefore contain neighbours of training chips. This one consists of whole
    runs of chip numbers (:attr:`val_numbers`), which share no edge and no ground with
    other chips. The authors' test chips, however, lie between the training chips: 55 of
    70 are right beside one. Expect higher scores on ``test`` than on ``val`` and on the
    events.

    To compare methods on floods that differ from all training data, exclude scenes that
    look different from training (*leave_out*) and test on them: ``dry`` has bright soil,
    and ``green`` has the brightest and the darkest SAR images. In ``plain``, what the
    masks mark looks in SAR like what they do not, as if they were of another day.

    If you use this dataset in your research, please cite the following paper:

    * https://doi.org/10.1109/JSTARS.2022.3155559
    """

    commit = '38a490355f76da8ce27ed051138f03f3492a6e46'
    url = f'https://github.com/geodrak/OMBRIA/archive/{commit}.zip'
    zipfile = 'OMBRIA.zip'

    classes = ('unchanged', 'flood')
    all_bands = ('R', 'G', 'B')
    rgb_bands = ('R', 'G', 'B')
    all_sar_bands = ('VV',)
    counts_black = True
    decibels = 0.2

    events = ('albania', 'france', 'guyana', 'timor')
    #: First and last number of the runs of training chips in each group. Jumps of the
    #: median colour and SAR value divide the chips into 24 segments. 'dry' and 'green' are
    #: the segments that differ most from the rest.
    groups: ClassVar[dict[str, tuple[tuple[int, int], ...]]] = {
        'dry': ((1, 31), (313, 341)),
        'green': ((342, 435),),
        'fields': ((32, 79), (256, 312)),
        'rivers': ((80, 255), (721, 790)),
        'plain': ((436, 720),),
    }
    splits = ('train', 'val', 'test', 'events', *events, *groups)

    #: Number of chips per part of the dataset. They replace a checksum: GitHub creates
    #: archives on demand and does not promise identical bytes forever.
    counts: ClassVar[dict[str, int]] = {
        'train': 624,
        'test': 70,
        'albania': 22,
        'france': 88,
        'guyana': 30,
        'timor': 10,
    }

    #: First and last number of the runs of chips in the validation split. Its 73 chips
    #: include dry and green scenes, and 30 % of their pixels are flooded (33 % in the
    #: training split).
    val_numbers = ((22, 31), (37, 73), (563, 602), (721, 734), (755, 771))

    @checked
    def __init__(
        self,
        root: Path = 'data',
        split: str = 'train',
        transforms: Callable[[Sample], Sample] | None = None,
        download: bool = False,
        checksum: bool = False,
        leave_out: Sequence[str] = (),
        bands: Names = all_bands,
    ) -> None:
        """Initialize a new OMBRIA dataset instance.

        Args:
            root: Root directory of the dataset, which has the folders ``OmbriaS1``,
                ``OmbriaS2``, and ``2021``. Only the folders of *split* are needed.
            split: One of 'train', 'val', 'test', 'events', the name of one event
                ('albania', 'france', 'guyana', 'timor'), or the name of a group of
                training chips ('dry', …).
            transforms: A function/transform that takes an input sample and returns
                a transformed version.
            download: If True, download the dataset and store it in the root directory.
            checksum: If True, check that the folders have as many files as the original
                dataset. This check always follows a download. Without it, an incomplete
                copy can be used on purpose.
            leave_out: Names of :attr:`groups` to exclude from 'train' and 'val'.
            bands: Optical bands to return, ``['G']`` for the near infrared alone.

        Raises:
            DatasetNotFoundError: If the dataset is not found and *download* is False.
            FileNotFoundError: If parts of the dataset are missing.
            RuntimeError: If the archive is corrupted, or if the number of files is wrong.
            ValueError: If *split*, *leave_out* or a band is unknown, or there is no band.
        """
        check_choice('split', split, self.splits)
        for group in leave_out:
            check_choice('leave_out', group, self.groups)
        self.root = root
        self.split = split
        self.download = download
        self.checksum = checksum
        self.leave_out = leave_out
        self._verify()
        super().__init__(
            root,
            split,
            optical=Source(bands=bands),
            sar=SARSource(scale='other', decibels=self.decibels),
            mask=MaskSource(classes={0: 0, 255: 1}),
            transforms=transforms,
        )

    @property
    def band_names(self) -> tuple[list[str], list[str]]:
        """Names that other datasets have for the optical and for the SAR bands, too."""
        return ['B08' if band == 'G' else '' for band in self.bands], [*self.sar_bands]

    @property
    def _parts(self) -> tuple[str, ...]:
        """Parts of the dataset that the split takes its chips from."""
        if self.split == 'events':
            return self.events
        in_train = self.split == 'val' or self.split in self.groups
        return ('train',) if in_train else (self.split,)

    def _list_chips(self, *unused: object) -> list[Chip]:
        """List the chips of the split, by event and number.

        Returns:
            The chips.

        Raises:
            FileNotFoundError: If a file of a chip is missing, or the split is empty.
        """
        chips = []
        for part in self._parts:
            files = zip(_Folders._fields, _list_images(part, self.root), strict=True)
            found = {
                kind: {('', str(number)): path for number, path in paths.items()}
                for kind, paths in files
            }
            chips += [
                chip
                for chip in pair_files(found)
                if part != 'train' or self._is_in_split(int(chip.name))
            ]
        if not chips:
            raise FileNotFoundError(
                f'none of the chips in {self.root!r} belongs to split {self.split!r}: '
                f'validation chips have numbers within {self.val_numbers}, groups '
                f'within {self.groups}'
            )
        return chips

    def _is_in_split(self, number: int) -> bool:
        """Return whether a chip of the training folders belongs to the split."""
        if self.split in self.groups:
            return _is_in(self.groups[self.split], number)
        if any(_is_in(self.groups[group], number) for group in self.leave_out):
            return False
        return _is_in(self.val_numbers, number) == (self.split == 'val')

    def _verify(self) -> None:
        """Find, extract, or download the dataset, and count its files if asked to."""
        missing = self._missing()
        if missing:
            path = os.path.join(self.root, self.zipfile)
            if os.path.isfile(path):
                self._extract()
            elif self.download:
                download_url(self.url, self.root, filename=self.zipfile)
                self._extract()
            else:
                self._raise_missing(missing)
        if self.checksum:
            _check_counts(self.root, self._parts)

    def _missing(self) -> list[str]:
        """Return the folders of the split that have no images."""
        return [
            folder
            for part in self._parts
            for folder, paths in zip(
                _folders(part), _list_images(part, self.root), strict=True
            )
            if not paths
        ]

    def _raise_missing(self, missing: list[str]) -> NoReturn:
        """Raise an error that says which folders are missing.

        Args:
            missing: Folders that have no images, relative to the root.

        Raises:
            DatasetNotFoundError: If all folders are missing.
            FileNotFoundError: If some folders are missing.
        """
        if len(missing) == 3 * len(self._parts):
            raise DatasetNotFoundError(self)
        message = (
            f'split {self.split!r} in {self.root!r} is incomplete, there is no PNG file '
            f'in {", ".join(missing)}: add them, or use `download=True`'
        )
        if self.split == 'events':
            message += ', or use single events by their names as split'
        raise FileNotFoundError(message)

    def _extract(self) -> None:
        """Extract the archive and count its files.

        Only the images that this class reads are extracted. They go into a temporary
        directory first and are then moved folder by folder. So no file of the archive can
        end up elsewhere, and no folder is ever half-written. Existing folders are kept.

        Raises:
            RuntimeError: If the archive is corrupted or incomplete.
        """
        path = os.path.join(self.root, self.zipfile)
        folders = [folder for part in self.counts for folder in _folders(part)]
        with tempfile.TemporaryDirectory(prefix='.ombria-', dir=self.root) as temp:
            try:
                extract_images(path, folders, temp)
                _check_counts(temp, tuple(self.counts))
            except (zipfile.BadZipFile, EOFError, RuntimeError) as error:
                raise RuntimeError(
                    f'{path} is not a complete archive of OMBRIA, delete it and '
                    f'download it again: {error}'
                ) from error
            for folder in folders:
                target = pathlib.Path(self.root, folder)
                if target.is_dir() and not any(target.iterdir()):
                    target.rmdir()
                if not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    os.replace(pathlib.Path(temp, folder), target)


def _check_counts(root: Path, parts: tuple[str, ...]) -> None:
    """Check the number of files in each folder.

    Args:
        root: Directory to look in.
        parts: Parts of the dataset to check.

    Raises:
        RuntimeError: If a number is wrong.
    """
    wrong = [
        f'{folder} has {len(paths)} instead of {OMBRIA.counts[part]}'
        for part in parts
        for folder, paths in zip(_folders(part), _list_images(part, root), strict=True)
        if len(paths) != OMBRIA.counts[part]
    ]
    if wrong:
        raise RuntimeError(f'wrong number of PNG files in {root!r}: {", ".join(wrong)}')


def _folders(part: str) -> _Folders:
    """Return the folders of one part of the dataset, relative to the root."""
    if part in ('train', 'test'):
        return _Folders(
            f'OmbriaS2/{part}/BEFORE', f'OmbriaS1/{part}/AFTER', f'OmbriaS1/{part}/MASK'
        )
    event = f'2021/{part.upper()}'
    return _Folders(
        f'{event}/Sentinel2/BEFORE',
        f'{event}/Sentinel1/AFTER',
        f'{event}/Sentinel1/MASK',
    )


def _is_in(runs: Sequence[tuple[int, int]], number: int) -> bool:
    """Return whether a chip number lies in a run, both ends included."""
    return any(low <= number <= high for low, high in runs)


def _list_images(part: str, root: Path) -> list[dict[int, str]]:
    """List the files in each folder of one part by chip number, sorted."""
    listing = []
    for folder in _folders(part):
        paths = {
            int(match[1]): os.fspath(path)
            for path in pathlib.Path(root, folder).glob('*.png')
            if (match := re.fullmatch(r'[a-zA-Z]\w*_(\d+)\.png', path.name))
        }
        listing.append(dict(sorted(paths.items())))
    return listing

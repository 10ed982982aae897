# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Which files belong together."""

import datetime
import itertools
import os
import re
from collections.abc import Sequence

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torchgeo.datasets import RasterDataset

from .bands import BANDS, name_band
from .granules import Band, Granule
from .paths import expand, list_files, name_paths
from .source import Source
from .stac import is_stac, read_items

# Year, month and day, as a word of its own or before a time
_DATE = re.compile(r'(?<!\d)((?:19|20)\d\d)([-_]?)(\d\d)\2(\d\d)(?!\d)')

# Folder, and words of a name without band and resolution
type _Group = tuple[str, tuple[str, ...]]

# Resolution in names of Sentinel-2: folders R10m, files ..._10m.jp2
_RESOLUTION = re.compile(r'(?<![a-z0-9])r?(\d0)m(?![a-z0-9])', re.IGNORECASE)


def find_granules(source: Source, what: str) -> list[Granule]:
    """List the granules of an image.

    The files of a folder are one granule each, unless their names tell bands apart, like
    those of Sentinel-2 products, HyP3 or the Planetary Computer. Then the files that only
    differ by the band are one granule, and what has no band in its name is passed over.
    A STAC item is one granule.

    Args:
        source: The files, and how to read them.
        what: What the files are, for messages.

    Returns:
        Granules, in the order of the paths of the source, those of a folder by name. The
        bands of a file that are not known before it is opened have the number 0.

    Raises:
        DatasetNotFoundError: If *naming* knows none of the files.
        FileNotFoundError: If a file does not exist.
        ValueError: If there is no granule of *date*, a band is unknown, or a STAC item has
            no image.
    """
    naming = source.name_files(what)
    if naming is not None:
        granules = _find_named(naming, what)
    else:
        granules = _find_files(source, what)
    return _choose_date(granules, source.date, what)


def _find_files(source: Source, what: str) -> list[Granule]:
    """List the granules of files and of STAC items, in the order of the paths."""
    granules = []
    for of_items, group in itertools.groupby(source.find_paths(what), key=is_stac):
        if of_items:
            granules += [granule for path in group for granule in read_items(path)]
        else:
            files = [file for path in group for file in list_files(path)]
            granules += _group_files(list(dict.fromkeys(files)), source)
    return granules


def _find_named(naming: RasterDataset, what: str) -> list[Granule]:
    """List the granules that a dataset of TorchGeo finds."""
    pattern = re.compile(naming.filename_regex, re.VERBOSE)
    bands: list[str] = [str(band) for band in naming.bands or ()]
    granules = []
    for path in naming.files:
        folder, base = os.path.split(path)
        match = pattern.match(base)
        if match is None:
            continue
        if bands and naming.separate_files:
            start, end = match.span('band')
            found = tuple(
                Band(
                    os.path.join(folder, base[:start] + name + base[end:]),
                    name=name_band(name) or name,
                )
                for name in bands
            )
            expand(what, [band.path for band in found])
        elif bands:
            found = tuple(
                Band(path, naming.all_bands.index(name) + 1, name_band(name) or name)
                for name in bands
            )
        else:
            found = (Band(path, 0),)
        granules.append(Granule(found, _find_date(path)))
    return granules


def _group_files(files: Sequence[str], source: Source) -> list[Granule]:
    """Put the files together that are the bands of one granule."""
    # Masks of Sentinel-2 products have bands in their names, too
    files = [file for file in files if source.names(file) or 'QI_DATA' not in file]
    groups: dict[_Group, dict[str, list[str]]] = {}
    for file in files:
        name = name_band(os.path.basename(file))
        group = groups.setdefault(_name_group(file) if name else (file, ()), {})
        group.setdefault(name, []).append(file)
    complete = [key for key, group in groups.items() if len(group) > 1]
    if not complete:
        return [Granule((Band(file, 0),), _find_date(file)) for file in files]
    others = [
        key
        for key, group in groups.items()
        if _is_something_else(key, complete, '' in group)
        and not any(source.names(file) for same in group.values() for file in same)
    ]
    if others:
        found = [f for key in others for same in groups[key].values() for f in same]
        rank_zero_info(
            f'passed over {name_paths(found)}: others have a band in the name, and no '
            'more words'
        )
    return [
        Granule(
            tuple(
                Band(min(group[name], key=_find_resolution), 0, name)
                for name in ('', *BANDS)
                if name in group
            ),
            _find_date(next(iter(group.values()))[0]),
        )
        for key, group in groups.items()
        if key not in others
    ]


def _name_group(file: str) -> _Group:
    """Return what the files of a granule have in common: all but band and resolution."""
    folder, base = os.path.split(file)
    words = re.split(r'[^A-Za-z0-9]+', base)
    if words[0].lower().startswith('s1'):
        # Sentinel-1 numbers its polarisations: s1a-iw-grd-vv-...-001.tiff
        words = [word for word in words if not re.fullmatch(r'00\d', word)]
    return _RESOLUTION.sub('', folder), tuple(
        word for word in words if not (name_band(word) or _RESOLUTION.fullmatch(word))
    )


def _is_something_else(
    key: _Group, complete: Sequence[_Group], is_nameless: bool
) -> bool:
    """Whether a file is no band of an image: it has no band, or further words.

    As in S1_VV.tif, S1_VH.tif and S1_VV_incidence.tif.
    """
    folder, words = key
    return is_nameless or any(
        folder == other and set(words) > set(fewer)
        for other, fewer in complete
        if key not in complete
    )


def _find_resolution(file: str) -> int:
    """Return the resolution in the name of a file, 0 if there is none."""
    found = _RESOLUTION.findall(file)
    return int(found[-1]) if found else 0


def _find_date(path: str) -> str:
    """Return the first date in the name of a file, or else of its folders."""
    for part in reversed(re.split(r'[/\\]', path)):
        # 20230501T101031: the time is no part of the word
        for found in _DATE.finditer(re.sub(r'(?<=\d{8})[Tt]\d{6}', ' ', part)):
            try:
                return datetime.date(*map(int, found.group(1, 3, 4))).isoformat()
            except ValueError:
                continue  # Another number
    return ''


def _choose_date(granules: list[Granule], date: str | None, what: str) -> list[Granule]:
    """Keep the granules of a day, and say so if there are several days."""
    dates = sorted({granule.date for granule in granules} - {''})
    if date is None:
        if len(dates) > 1:
            rank_zero_warn(
                f'{what} files are of several days, {", ".join(dates)}: the first file '
                f'is on top where they overlap. Choose one with {what.lower()}.date'
            )
        return granules
    wanted = date.replace('-', '')
    chosen = [g for g in granules if g.date.replace('-', '') == wanted]
    if not chosen:
        raise ValueError(
            f'no {what} file has the date {date!r} in its name: expected one of {dates}'
        )
    return chosen

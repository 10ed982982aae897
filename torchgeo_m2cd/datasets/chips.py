# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Finding the files of chips, and dividing the chips among splits."""

import os
import pathlib
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torchgeo.datasets.utils import Path

from ..utils import check_choice
from .catalogue import read_table
from .paths import Paths, expand, is_remote, list_paths, name_paths, resolve

#: How the chips are divided: the share, the list file, or the groups of each split.
Splits = Mapping[str, float | str | Sequence[str]]

# Chips without groups are divided into as many runs of successive names
_NUM_RUNS = 16

_FIELDS = ('split', 'group', 'name')

# What files are in messages
_NAMES = {'optical': 'optical', 'sar': 'SAR', 'mask': 'mask'}

# Parts of a pattern that stand for something else, as in glob
_TOKENS = re.compile(r'(\{group\}|\{name\}|\*\*/|\*|\?|\[[^]/]+\])')


class Chip(NamedTuple):
    """The files of a chip."""

    #: Pre-event optical image.
    optical: str
    #: Post-event SAR image.
    sar: str
    #: Change mask, empty if there is none.
    mask: str
    #: What the names of the files have in common.
    name: str
    #: Chips of a group stay in one split: neighbours, or those of one event.
    group: str = ''
    #: Split that the chip belongs to, empty if it is not known.
    split: str = ''


def find_chips(
    root: Path, paths: Mapping[str, Paths], split: str = 'train'
) -> list[Chip]:
    """Find the chips whose files match patterns.

    Args:
        root: Folder that patterns are relative to.
        paths: One or more patterns of ``'optical'`` and ``'sar'`` and, if there are
            masks, ``'mask'``. ``{name}`` in a pattern is what the files of a chip have in
            common (by default, their names without suffixes), ``{group}`` is the group of
            a chip, and ``{split}`` the split.
        split: What ``{split}`` stands for.

    Returns:
        The chips, sorted by group and name, numbers by value.

    Raises:
        FileNotFoundError: If nothing matches a pattern, or a chip lacks a file.
        ValueError: If a pattern has an unknown field, patterns have different fields, or
            a chip has several files of one kind.
    """
    _check_fields(paths)
    found = {kind: _find_files(kind, root, paths[kind], split) for kind in paths}
    _check_pairs(found)
    return [
        Chip(
            found['optical'][key],
            found['sar'][key],
            found['mask'][key] if 'mask' in found else '',
            name=key[1],
            group=key[0],
        )
        for key in sorted(found['optical'], key=lambda key: [*map(_natural, key)])
    ]


def read_chips(path: Path, kinds: Sequence[str]) -> list[Chip]:
    """Read a table of chips.

    Args:
        path: The table (CSV, GeoPackage, GeoJSON) with a row per chip and the columns
            ``optical``, ``sar`` and, optionally, ``mask``, ``name``, ``group`` and
            ``split``. Files are relative to it.
        kinds: Columns that are needed: ``'optical'``, ``'sar'`` and, if there are masks,
            ``'mask'``.

    Returns:
        The chips, in the order of the table.

    Raises:
        FileNotFoundError: If the table or a file does not exist.
        ValueError: If the table cannot be read, or lacks a column or a value, or if a
            file is in two splits.
    """
    path = resolve(os.fspath(path))
    what = f'table of chips {name_paths(path)}'
    table = read_table(path, what)
    missing = sorted(set(kinds) - set(table.columns))
    if missing or not len(table):
        raise ValueError(
            f'{what} has {len(table)} rows with the columns {list(table.columns)}: '
            f'expected one row or more, and the columns {", ".join(kinds)}'
        )
    chips = []
    for number, row in enumerate(table.fillna('').to_dict('records'), 1):
        empty = [kind for kind in kinds if not row[kind]]
        if empty:
            raise ValueError(f'{what} has no {empty[0]} in row {number}')
        files = {kind: resolve(row[kind], path) for kind in kinds}
        for file in files.values():
            if not (is_remote(file) or os.path.isfile(file)):
                raise FileNotFoundError(
                    f'{what} names {name_paths(file)} in row {number}, which does not '
                    'exist'
                )
        fields = {field: str(row[field]) for field in _FIELDS if row.get(field)}
        fields.setdefault('name', pathlib.PurePath(files['optical']).stem)
        chips.append(Chip(**{'mask': '', **files, **fields}))
    splits: dict[str, str] = {}
    for chip in chips:
        for file in filter(None, chip[:3]):
            if splits.setdefault(file, chip.split) != chip.split:
                raise ValueError(
                    f'{what} has {name_paths(file)} in the splits {splits[file]!r} and '
                    f'{chip.split!r}: expected a file in one split'
                )
    return chips


def divide(
    chips: Sequence[Chip], splits: Splits, seed: int = 0, root: Path = ''
) -> list[Chip]:
    """Divide chips among splits.

    Chips that no split takes are for training, if *splits* do not name ``'train'``. Else
    they are left out.

    Args:
        chips: The chips. If none has a group, runs of successive chips are the groups
            ``'1'`` to ``'16'``.
        splits: What each split takes: a share of the chips, in whole groups; the path of
            a text file with a name, or group and name ``group/name``, in each line; or a
            list of groups.
        seed: Seed of the division by shares.
        root: Folder that the paths of text files are relative to.

    Returns:
        The chips with their groups and splits.

    Raises:
        FileNotFoundError: If a text file does not exist.
        ValueError: If splits are of different kinds, shares are not within [0, 1], a
            group or a name is unknown, or a chip is in two splits.
    """
    if not any(chip.group for chip in chips):
        chips = [
            chip._replace(group=str(index * _NUM_RUNS // len(chips) + 1))
            for index, chip in enumerate(chips)
        ]
    values = list(splits.values())
    if all(isinstance(value, float | int) for value in values):
        taken = _take_shares(chips, splits, seed)
    elif all(isinstance(value, str) for value in values):
        taken = _take_names(chips, splits, root)
    elif not any(isinstance(value, str | float | int) for value in values):
        taken = _take_groups(chips, splits)
    else:
        raise ValueError(
            f'splits is {dict(splits)}: expected shares, list files, or lists of groups '
            'for all of them'
        )
    rest = '' if 'train' in splits else 'train'
    return [
        chip._replace(split=split or rest)
        for chip, split in zip(chips, taken, strict=True)
    ]


def load_chips(
    root: Path,
    paths: Mapping[str, Paths],
    table: Path | None,
    split: str,
    splits: Splits | None,
    seed: int,
) -> list[Chip]:
    """List the chips of a split.

    Args:
        root: See :func:`find_chips`.
        paths: See :func:`find_chips`. With *table*, their keys are the columns to read.
        table: See :func:`read_chips`.
        split: The split.
        splits: See :func:`divide`. Where patterns or table tell splits apart, the chips
            for training are divided.
        seed: See :func:`divide`.

    Returns:
        The chips, at least one.

    Raises:
        FileNotFoundError: If a file does not exist or nothing matches a pattern.
        ValueError: If the split is unknown or empty, or see the functions above.
    """
    is_part = splits is not None and split in {*splits, 'train'}
    folder = 'train' if is_part else split
    if table is None:
        chips = find_chips(root, paths, folder)
        known = any('{split}' in path for path in list_paths(paths['optical']))
        said = '{split} in the paths'
    else:
        chips = read_chips(os.path.join(root, table), list(paths))
        known = any(chip.split for chip in chips)
        said = 'a column split'
        if known:
            check_choice('split', folder, {chip.split: None for chip in chips})
            chips = [chip for chip in chips if chip.split == folder]
    for chip in chips:
        files = [file for file in chip[:3] if file]
        if len(set(files)) < len(files):
            raise ValueError(
                f'chip {chip.name!r} has the files {name_paths(files)}: expected optical '
                'image, SAR image and mask in files of their own'
            )
    if splits is not None and is_part:
        divided = divide(chips, splits, seed, root)
        chips = [chip for chip in divided if chip.split == split]
        if not chips:
            count = Counter(chip.split or 'none' for chip in divided)
            raise ValueError(
                f'split {split!r} is empty: the {len(divided)} chips of '
                f'{len({chip.group for chip in divided})} groups are divided as '
                f'{dict(count)}, by splits={dict(splits)}'
            )
    elif splits is not None and not known:
        check_choice('split', split, {**splits, 'train': None})
    elif split in ('train', 'val') and not known:
        raise ValueError(
            f'nothing says which chips are for split {split!r}: expected {said}, or '
            'splits, as in splits={val: 0.1, test: 0.1}'
        )
    return chips


def _check_fields(paths: Mapping[str, Paths]) -> None:
    """Check that patterns have known fields, and the same ones."""
    found = {}
    for kind in paths:
        for pattern in list_paths(paths[kind], kind):
            fields = set(re.findall(r'\{(\w*)\}', pattern))
            for field in sorted(fields):
                check_choice(f'field of {kind} {pattern!r}', field, _FIELDS)
            found[pattern] = fields - {'name'}
    (first, fields), *others = found.items()
    for pattern, other in others:
        if other != fields:
            field = min(fields ^ other)
            has, lacks = (first, pattern) if field in fields else (pattern, first)
            raise ValueError(
                f'{has!r} has {{{field}}}, and {lacks!r} has not: expected it in both'
            )


def _find_files(
    kind: str, root: Path, paths: Paths, split: str
) -> dict[tuple[str, str], str]:
    """Find the files that match patterns, by group and name."""
    files: dict[tuple[str, str], str] = {}
    for given in list_paths(paths, kind):
        pattern = given.replace('{split}', split)
        regex = _to_regex(pathlib.PurePath(pattern).as_posix())
        pattern = re.sub(r'\{(group|name)\}', '*', pattern)
        for path in expand(_NAMES[kind], os.path.join(root, pattern)):
            match = regex.search(path.replace(os.sep, '/'))
            if match is None or not os.path.isfile(path):
                continue
            fields = match.groupdict()
            key = fields.get('group', ''), fields.get('name', pathlib.Path(path).stem)
            if files.setdefault(key, path) != path:
                raise ValueError(
                    f'{name_paths(files[key])} and {name_paths(path)} have the same '
                    f'name: expected one {_NAMES[kind]} file per chip, or {{group}} in the '
                    'place of the folder that tells them apart'
                )
        if not files:
            raise FileNotFoundError(
                f'no {_NAMES[kind]} file matches {given!r} in {root!r}'
            )
    return files


def _to_regex(pattern: str) -> re.Pattern[str]:
    """Turn a pattern of files into a regular expression for the end of their paths."""
    regex = '^' if pattern.startswith('/') else '(?:^|/)'
    seen: set[str] = set()
    others = {'**/': '(?:.*/)?', '*': '[^/]*', '?': '[^/]'}
    for token in _TOKENS.split(pattern):
        if token in ('{group}', '{name}'):
            field = token[1:-1]
            # The shortest group: in a_1_2.tif, {group}_{name} is a and 1_2
            regex += f'(?P={field})' if field in seen else f'(?P<{field}>[^/]+?)'
            seen.add(field)
        elif token.startswith('['):
            regex += token.replace('[!', '[^')
        else:
            regex += others.get(token, re.escape(token))
    return re.compile(regex + '$')


def _check_pairs(found: Mapping[str, Mapping[tuple[str, str], str]]) -> None:
    """Check that each chip has one file of each kind."""
    for files in found.values():
        for kind, others in found.items():
            lonely = [path for key, path in files.items() if key not in others]
            if lonely:
                more = f' (nor have {len(lonely) - 1} more)' if lonely[1:] else ''
                counts = ', '.join(f'{len(found[k])} {_NAMES[k]}' for k in found)
                raise FileNotFoundError(
                    f'{lonely[0]} has no {_NAMES[kind]} file{more}: found {counts} '
                    'files, expected one of each for every chip, with the same name. '
                    '{name} in the patterns is what names have in common'
                )


def _take_shares(
    chips: Sequence[Chip], splits: Mapping[str, object], seed: int
) -> list[str]:
    """Give each chip the split that its group falls to, by the shares of the splits."""
    shares = {split: float(str(share)) for split, share in splits.items()}
    if not all(0 <= share <= 1 for share in shares.values()) or (
        sum(shares.values()) > 1 + 1e-6
    ):
        raise ValueError(
            f'splits is {dict(splits)}: expected shares from 0 to 1, in all at most 1'
        )
    lacking = {split: share * len(chips) for split, share in shares.items()}
    rest = '' if 'train' in shares else 'train'
    lacking[rest] = len(chips) - sum(lacking.values())
    sizes = Counter(chip.group for chip in chips)
    groups = sorted(sizes)
    random.Random(seed).shuffle(groups)
    # Large groups first: the small ones then fill the gaps
    groups.sort(key=lambda group: -sizes[group])
    empty = {split for split, count in lacking.items() if count > 0.5}
    split_of = {}
    for number, group in enumerate(groups):
        # Of few groups, each split gets one
        open_splits = empty if len(groups) - number <= len(empty) else lacking
        split_of[group] = max(open_splits, key=lambda split: lacking[split])
        lacking[split_of[group]] -= sizes[group]
        empty.discard(split_of[group])
    return [split_of[chip.group] for chip in chips]


def _take_groups(chips: Sequence[Chip], splits: Mapping[str, object]) -> list[str]:
    """Give each chip the split that names its group."""
    known = dict.fromkeys(chip.group for chip in chips)
    split_of: dict[str, str] = {}
    for split, groups in splits.items():
        assert isinstance(groups, Sequence)
        for group in groups:
            check_choice(f'group of split {split!r}', group, known)
            if split_of.setdefault(group, split) != split:
                raise ValueError(
                    f'group {group!r} is in the splits {split_of[group]!r} and '
                    f'{split!r}: expected it in one'
                )
    return [split_of.get(chip.group, '') for chip in chips]


def _take_names(
    chips: Sequence[Chip], splits: Mapping[str, object], root: Path
) -> list[str]:
    """Give each chip the split whose list has its name."""
    lines = {split: _read_lines(root, str(path)) for split, path in splits.items()}
    known = {
        name for chip in chips for name in (chip.name, f'{chip.group}/{chip.name}')
    }
    for split, names in lines.items():
        unknown = [name for name in names if name not in known]
        if unknown:
            more = f' and {len(unknown) - 1} more' if unknown[1:] else ''
            raise ValueError(
                f'{splits[split]} lists {unknown[0]!r}{more}, but no chip has this name: '
                f'expected names like {chips[0].name!r}'
            )
    taken = []
    for chip in chips:
        named = {chip.name, f'{chip.group}/{chip.name}'}
        found = [split for split, names in lines.items() if named & names.keys()]
        if len(found) > 1:
            raise ValueError(
                f'chip {chip.name!r} is in the splits {found[0]!r} and {found[1]!r}: '
                'expected it in one list'
            )
        taken.append(found[0] if found else '')
    return taken


def _read_lines(root: Path, path: str) -> dict[str, None]:
    """Read the names in a list file, in their order and without suffixes of files."""
    path = os.path.join(root, path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f'list of chips {path!r} does not exist')
    lines = pathlib.Path(path).read_text(encoding='utf-8').split('\n')
    suffix = re.compile(r'\.(tiff?|png|jpe?g|jp2|img|vrt)$', re.IGNORECASE)
    return {suffix.sub('', line.strip()): None for line in lines if line.strip()}


def _natural(name: str) -> list[str | int]:
    """Return a sort key that compares numbers in names by value."""
    # Numbers have odd indices and text even ones, so like is compared with like
    return [int(s) if s.isdecimal() else s for s in re.split(r'([0-9]+)', name)]

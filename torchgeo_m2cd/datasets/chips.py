# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Finding the files of chips."""

import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd
from torchgeo.datasets.utils import Path

from ..utils import check_choice
from .catalogue import read_table
from .paths import Paths, expand, is_remote, list_paths, name_paths, resolve

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
    return pair_files(
        {kind: _find_files(kind, root, paths[kind], split) for kind in paths}
    )


def pair_files(found: Mapping[str, Mapping[tuple[str, str], str]]) -> list[Chip]:
    """Put the files of each chip together.

    Args:
        found: Files of ``'optical'``, ``'sar'`` and, if there are masks, ``'mask'``, by
            group and name of the chip.

    Returns:
        The chips, sorted by group and name, numbers by value.

    Raises:
        FileNotFoundError: If a chip lacks a file.
    """
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
    columns = [name for name in (*kinds, *_FIELDS) if name in table.columns]
    # Numbers become text, also 0; a table of vectors has a geometry, too
    cells = pd.DataFrame(table)[columns].astype(object)
    cells = cells.where(cells.notna(), '').astype(str)
    chips = []
    for number, row in enumerate(cells.to_dict('records'), 1):
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
        fields = {field: row[field] for field in _FIELDS if row.get(field)}
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
            place = path if os.path.isabs(pattern) else os.path.relpath(path, root)
            match = regex.fullmatch(place.replace(os.sep, '/'))
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
    """Turn a pattern of files into a regular expression."""
    regex = ''
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
    return re.compile(regex)


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


def _natural(name: str) -> list[str | int]:
    """Return a sort key that compares numbers in names by value."""
    # Numbers have odd indices and text even ones, so like is compared with like
    return [int(s) if s.isdecimal() else s for s in re.split(r'([0-9]+)', name)]

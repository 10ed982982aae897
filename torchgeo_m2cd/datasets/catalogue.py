# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Lists of scenes."""

import dataclasses
import os
from typing import NamedTuple

import geopandas as gpd
import pandas as pd
from torchgeo.datasets.utils import Path

from .paths import (
    is_remote,
    list_paths,
    name_stem,
    public_path,
    refuse_pipe,
    resolve,
    without_secrets,
)
from .source import SARSource, Source
from .stac import is_stac, load_items, locate_asset


class Entry(NamedTuple):
    """A scene of a catalogue."""

    #: Name of the scene, for the names of files.
    name: str
    #: Pre-event optical image.
    optical: Source
    #: Post-event SAR image.
    sar: SARSource


def list_scenes(
    optical: Source, sar: SARSource, catalogue: Path | None = None
) -> list[Entry]:
    """List the scenes of a catalogue, or the one scene of two sources.

    Args:
        optical: Optical image, or with a catalogue how to read those of all scenes.
        sar: SAR image, or with a catalogue how to read those of all scenes.
        catalogue: A table (CSV, GeoPackage) with the columns ``optical``, ``sar`` and,
            optionally, ``name``, where several files are separated by ``;``; or STAC
            items (JSON) with the assets ``optical`` and ``sar``. A local file or a URL.
            Paths are relative to it.

    Returns:
        The scenes, named like their first optical file if there are no names.

    Raises:
        FileNotFoundError: If the catalogue does not exist.
        TypeError: If a path is none.
        ValueError: If it cannot be read, holds no scenes, lacks a column, or has a name
            twice or one that is no file name; or if there are not either both sources
            or a catalogue.
    """
    paths = [list_paths(optical.paths, 'optical'), list_paths(sar.paths, 'sar')]
    if catalogue is None:
        if not all(paths):
            raise ValueError(
                'expected the paths of optical and sar, or scenes; beside other settings, '
                'they are optical.paths and sar.paths'
            )
        return [Entry(name_stem(paths[0][0]), optical, sar)]
    if any(paths):
        raise ValueError(
            'got scenes, and paths of optical or sar: expected one of them'
        )
    path = resolve(os.fspath(catalogue))
    what = f'list of scenes {public_path(path)!r}'
    table = _read_stac(path) if is_stac(path) else read_table(path, what)
    _check_table(table, what)
    files = {
        column: [_split(value, path, what) for value in table[column]]
        for column in ('optical', 'sar')
    }
    names = pd.Series([name_stem(first[0]) for first in files['optical']], table.index)
    if 'name' in table:
        names = table['name'].fillna(names).astype(str)
    for name in names:
        # It becomes part of a path, and must not lead to another folder
        if (
            not name.isprintable()
            or not name
            or name in ('.', '..')
            or set('/\\<>') & set(name)
        ):
            raise ValueError(
                f'{what} has the name {name!r}: expected no slashes, no < or >, no '
                'control characters, and some letters'
            )
    if names.duplicated().any():
        raise ValueError(
            f'{what} has two scenes of the name '
            f'{names[names.duplicated()].iloc[0]!r}: expected a column name that tells '
            'them apart'
        )
    return [
        Entry(
            name,
            dataclasses.replace(optical, paths=first),
            dataclasses.replace(sar, paths=second),
        )
        for name, first, second in zip(
            names, files['optical'], files['sar'], strict=True
        )
    ]


def read_table(path: str, what: str) -> pd.DataFrame:
    """Read a table.

    Args:
        path: A CSV file, or one of vectors; local or remote.
        what: What the table is, for messages.

    Returns:
        The table, of a CSV file all as text, with NaN in empty cells.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read.
    """
    refuse_pipe(path, what)
    if not (is_remote(path) or os.path.isfile(path)):
        raise FileNotFoundError(f'{what} does not exist')
    try:
        if public_path(path).lower().endswith('.csv'):
            return pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[''])
        return gpd.read_file(path)
    except (OSError, RuntimeError, ValueError) as error:
        reason = without_secrets(str(error))
        raise ValueError(f'{what} cannot be read: {reason}') from error


def _read_stac(path: str) -> pd.DataFrame:
    """Read STAC items, one row per scene."""
    return pd.DataFrame(
        [
            {
                'name': item.id,
                **{
                    key: [locate_asset(item, key, path)]
                    for key in item.assets
                    if key in ('optical', 'sar')
                },
            }
            for item in load_items(path)
        ]
    )


def _check_table(table: pd.DataFrame, what: str) -> None:
    """Check that there are scenes, and files of each."""
    missing = sorted({'optical', 'sar'} - set(table.columns))
    if missing or not len(table) or table[['optical', 'sar']].isna().any(axis=None):
        raise ValueError(
            f'{what} has {len(table)} rows with the columns {list(table.columns)}: '
            'expected one row or more, with values for optical and sar'
        )


def _split(value: str | list[str], catalogue: str, what: str) -> list[str]:
    """Return the files of a cell of the table."""
    if isinstance(value, list):  # Of STAC items, whose URLs may have semicolons
        return value
    items = [item.strip() for item in value.split(';')]
    if not all(items):
        raise ValueError(
            f'{what} has the files {value!r}: expected one path or more, separated by '
            'semicolons'
        )
    return [resolve(item, catalogue) for item in items]

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Lists of scenes."""

import dataclasses
import json
import pathlib
from typing import Any, NamedTuple

import geopandas as gpd
import pandas as pd
from torchgeo.datasets.utils import Path

from ..utils import list_paths
from .source import SARSource, Source, is_remote


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
            optionally, ``name``; or STAC items (JSON) with the assets ``optical`` and
            ``sar``. Several files are separated by ``;``. Paths are relative to the
            catalogue.

    Returns:
        The scenes, named like their first optical file if there are no names.

    Raises:
        FileNotFoundError: If the catalogue does not exist.
        ValueError: If it cannot be read, holds no scenes, lacks a column, or has a name
            twice or one that is no file name; or if there are not either both sources
            or a catalogue.
    """
    paths = [list_paths(source.paths) for source in (optical, sar)]
    if catalogue is None:
        if not all(paths):
            raise ValueError(
                'expected the paths of optical and sar, or scenes; beside other settings, '
                'they are optical.paths and sar.paths'
            )
        return [Entry(pathlib.PurePath(paths[0][0]).stem, optical, sar)]
    if any(paths):
        raise ValueError(
            'got scenes, and paths of optical or sar: expected one of them'
        )
    path = pathlib.Path(catalogue)
    what = f'list of scenes {str(path)!r}'
    table = _read_table(path, what)
    files = {
        column: [_split(value, path, what) for value in table[column]]
        for column in ('optical', 'sar')
    }
    names = pd.Series(
        [pathlib.PurePath(first[0]).stem for first in files['optical']], table.index
    )
    if 'name' in table:
        names = table['name'].fillna(names).astype(str)
    for name in names:
        # It becomes part of a path, and must not lead to another folder
        if name != pathlib.PurePath(name).name or '\\' in name or name == '..':
            raise ValueError(f'{what} has the name {name!r}: expected no slashes')
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


def _read_table(path: pathlib.Path, what: str) -> pd.DataFrame:
    """Read a catalogue, one row per scene."""
    if not path.is_file():
        raise FileNotFoundError(f'{what} does not exist')
    try:
        match path.suffix.lower():
            case '.csv':
                table = pd.read_csv(
                    path, dtype=str, keep_default_na=False, na_values=['']
                )
            case '.json' | '.geojson':
                table = _read_stac(json.loads(path.read_text(encoding='utf-8')))
            case _:
                table = gpd.read_file(path)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f'{what} cannot be read: {error}') from error
    missing = sorted({'optical', 'sar'} - set(table.columns))
    if missing or not len(table) or table[['optical', 'sar']].isna().any(axis=None):
        raise ValueError(
            f'{what} has {len(table)} rows with the columns {list(table.columns)}: '
            'expected one row or more, with values for optical and sar'
        )
    return table


def _read_stac(document: Any) -> pd.DataFrame:
    """Read STAC items: one, or a collection of them."""
    items = document.get('features', [document])
    return pd.DataFrame(
        [
            {
                'name': item.get('id'),
                **{
                    key: asset.get('href')
                    for key, asset in item.get('assets', {}).items()
                    if key in ('optical', 'sar')
                },
            }
            for item in items
        ]
    )


def _split(value: str, catalogue: pathlib.Path, what: str) -> list[str]:
    """Return the files of a cell of the table."""
    items = [item.strip() for item in value.split(';')]
    if not all(items):
        raise ValueError(
            f'{what} has the files {value!r}: expected one path or more, separated by '
            'semicolons'
        )
    return [item if is_remote(item) else str(catalogue.parent / item) for item in items]

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Argument checks, paths, and settings for the whole package."""

import difflib
import os
import pathlib
import re
from collections.abc import Callable, Iterable
from typing import BinaryIO

# Copied from TorchGeo, which takes long to import
type Path = str | os.PathLike[str]

#: Arguments of :class:`rasterio.Env` for reading and writing scenes. By default, the cache
#: of each process may take a twentieth of the machine's memory.
GDAL_ENV = {'GDAL_CACHEMAX': 64 * 2**20}  # in bytes, since rasterio does not take MiB


def check_choice(argument: str, value: str, choices: Iterable[str]) -> None:
    """Check that an argument is one of a fixed set of names.

    Args:
        argument: Name of the argument, for the message.
        value: Value that the user gave.
        choices: The accepted names.

    Raises:
        ValueError: If *value* is not one of *choices*. The message suggests the nearest
            one.
    """
    choices = list(choices)
    if value in choices:
        return
    message = f'unknown {argument} {value!r}'
    nearest = difflib.get_close_matches(str(value), choices, n=1)
    if nearest:
        message += f', did you mean {nearest[0]!r}?'
    # A long list would bury the suggestion
    if len(choices) <= 20:
        message += f' (expected one of {", ".join(map(repr, choices))})'
    elif not nearest:
        few = ', '.join(map(repr, choices[:10]))
        message += f' (expected one of {len(choices)}: {few}, …)'
    raise ValueError(message)


def list_paths(paths: Path | Iterable[Path]) -> list[str]:
    """List one or more paths.

    Args:
        paths: One path, or several.

    Returns:
        The paths as strings.
    """
    paths = [paths] if isinstance(paths, str | os.PathLike) else paths
    return [os.fspath(path) for path in paths]


def name_paths(paths: Path | Iterable[Path]) -> str:
    """Name files or folders in a message.

    Args:
        paths: One path, or several.

    Returns:
        At most three paths, quoted, and the number of the others.
    """
    paths = list_paths(paths)
    more = [f'and {len(paths) - 3} more'] if len(paths) > 3 else []
    return ', '.join([*map(repr, paths[:3]), *more])


def beside(path: pathlib.Path, suffix: str) -> pathlib.Path:
    """Make a path beside another one, in the same folder.

    Args:
        path: The other path.
        suffix: Suffix to append to its name, without the dot.

    Returns:
        Path with the longer name.
    """
    return path.with_name(f'{path.name}.{suffix}')


def write_beside(path: pathlib.Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file beside its place, and rename it when it is complete.

    Args:
        path: File to write or replace.
        write: Function that writes to the open file.
    """
    part = beside(path, f'{os.getpid()}.part')
    try:
        with part.open('wb') as file:
            write(file)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def public_path(path: str) -> str:
    """Remove the secrets of a remote path: its query, and user and password.

    Args:
        path: A URL, a path of GDAL, or a local path, which may hold a question mark.

    Returns:
        The path without secrets; a local path as it is.
    """
    if '://' not in path and not path.startswith('/vsi'):
        return path
    return re.sub(r'://[^/@]*@', '://', path.split('?')[0])

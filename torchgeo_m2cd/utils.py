# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Argument checks, files beside others, and settings for the whole package."""

import contextlib
import difflib
import os
import pathlib
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

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


def beside(path: pathlib.Path, suffix: str) -> pathlib.Path:
    """Make a path beside another one, in the same folder.

    Args:
        path: The other path.
        suffix: Suffix to append to its name, without the dot.

    Returns:
        Path with the longer name.
    """
    return path.with_name(f'{path.name}.{suffix}')


def create_beside(path: pathlib.Path) -> BinaryIO:
    """Create a file of a new name beside another one, in the same folder.

    The name is random: no link can wait there, and two processes never share it.

    Args:
        path: The other path.

    Returns:
        The file, open to be written. Its name is one of :func:`list_beside`.
    """
    with naming(path):
        return beside(path, f'{secrets.token_hex(8)}.part').open('xb')


def list_beside(path: pathlib.Path) -> list[pathlib.Path]:
    """List the files that :func:`create_beside` left beside a path.

    Args:
        path: The path.

    Returns:
        The files, of killed processes or of those that are still at work.
    """
    name = re.compile(re.escape(path.name) + r'\.[0-9a-f]{16}\.part')
    if not path.parent.is_dir():
        return []
    return [file for file in path.parent.iterdir() if name.fullmatch(file.name)]


def write_beside(path: pathlib.Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file beside its place, and rename it when it is complete.

    After a crash or a full disk there is the old file or the new one, never a part.

    Args:
        path: File to write or replace.
        write: Function that writes to the open file.

    Raises:
        OSError: If the file cannot be written; it names *path*.
    """
    file = create_beside(path)
    part = pathlib.Path(file.name)
    try:
        with naming(path):
            with file:
                write(file)
                sync(file)
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def sync(file: BinaryIO) -> None:
    """Wait until a file is on the disk: a rename may get there before the contents.

    Args:
        file: The open file.
    """
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def naming(path: pathlib.Path) -> Iterator[None]:
    """Name the file in errors of the system, such as that of a full disk.

    Args:
        path: The file that the user knows.

    Yields:
        Nothing.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def count_values(
    value: Any, list_children: Callable[[Any], Iterable[Any]], most: int
) -> int:
    """Count values in containers, each as often as it would be printed.

    Few containers that hold each other may stand for billions of values.

    Args:
        value: The value.
        list_children: Function that lists the values in a container, none in others.
        most: Most values that there may be.

    Returns:
        Number of values, containers among them.

    Raises:
        OverflowError: If there are more than *most*, or a container contains itself.
        RecursionError: If containers are nested too deeply.
    """
    # With the containers, or else others might get their identity
    known: dict[int, tuple[int, Any]] = {}

    def count(value: Any) -> int:
        key = id(value)
        if key not in known:
            children = list(list_children(value))
            if not children:
                return 1
            # More than allowed, until the values within are counted
            known[key] = most + 1, value
            known[key] = 1 + sum(map(count, children)), value
        number, _ = known[key]
        if number > most:
            raise OverflowError(f'more than {most:,} values')
        return number

    return count(value)

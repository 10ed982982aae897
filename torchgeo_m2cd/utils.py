# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Argument checks and settings shared by the whole package."""

import difflib
from collections.abc import Iterable

#: Settings to read and write scenes with, see :class:`rasterio.Env`: GDAL would keep a
#: twentieth of the machine's memory, per process.
GDAL_ENV = {'GDAL_CACHEMAX': 64 * 2**20}  # Bytes: rasterio does not take MiB


def check_choice(argument: str, value: str, choices: Iterable[str]) -> None:
    """Check that an argument is one of a fixed set of names.

    Args:
        argument: Name of the argument, for the message.
        value: Value that the user gave.
        choices: The names that are accepted.

    Raises:
        ValueError: If *value* is not one of *choices*; the message suggests the
            nearest one.
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

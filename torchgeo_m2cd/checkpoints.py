# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Checkpoints as files: read what may come from anywhere, write what a kill spares."""

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_warn

from .utils import count_values, list_beside, write_beside

#: Most values that a checkpoint may hold, tensors and numbers each counted once. An optimizer
#: has a few per parameter.
MAX_VALUES = 1_000_000

# Archives, and pickles of the second protocol and later: what torch.save writes
_MAGIC = (b'PK', b'\x80')


def read_checkpoint(
    path: str | os.PathLike[str],
    argument: str = 'checkpoint',
    map_location: Any = 'cpu',
) -> Any:
    """Read a file of :func:`torch.save`, without ever running code of it.

    Args:
        path: Path of the file.
        argument: What it was given as, for messages.
        map_location: Where to put tensors, see :func:`torch.load`.

    Returns:
        The content of the file, which is tensors, plain values, and containers of them.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read.
        ValueError: If it is no regular file, is empty or damaged, holds anything else, or
            contains itself.
    """
    name = f'{argument} {os.fspath(path)!r}'
    path = Path(path)
    _check_file(path, name)
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # A damaged file may raise anything, also of the system
        # PyTorch's message advises to run what the file holds
        found = re.search(r'GLOBAL ([\w.]+)', str(error))
        reason = (
            f'holds {found[1]}, which could run any code: expected tensors and plain '
            'values only'
            if found
            else 'is damaged, or no checkpoint: expected a complete file of torch.save'
        )
        raise ValueError(f'{name} {reason}') from error
    try:
        count_values(content, _list_children, MAX_VALUES)
    except (OverflowError, RecursionError) as error:
        raise ValueError(
            f'{name} contains itself, or more than {MAX_VALUES:,} values: expected a '
            'checkpoint'
        ) from error
    return content


def _check_file(path: Path, name: str) -> None:
    """Check that a file may be one of ``torch.save``, before it is opened as that."""
    if not path.exists():
        nearest = difflib.get_close_matches(
            path.name, [p.name for p in path.parent.glob('*.ckpt')], n=1
        )
        hint = f', did you mean {nearest[0]!r}?' if nearest else ''
        raise FileNotFoundError(
            f'{name} does not exist{hint or ": expected the path of a checkpoint"}'
        )
    if not path.is_file():
        kind = 'a folder' if path.is_dir() else 'no regular file'
        raise ValueError(f'{name} is {kind}: expected a checkpoint')
    with path.open('rb') as file:
        start = file.read(20)
    if not start:
        raise ValueError(f'{name} is empty: expected a checkpoint')
    if not start.startswith(_MAGIC):
        raise ValueError(f'{name} begins with {start!r}: expected a file of torch.save')


def _list_children(value: Any) -> Iterable[Any]:
    """List the values in a container."""
    if isinstance(value, Mapping):
        return [*value, *value.values()]
    return value if isinstance(value, list | tuple | set) else ()


def find_resumable(path: str | os.PathLike[str]) -> str:
    """Find the checkpoint that a training can resume from.

    Args:
        path: Path of the checkpoint that the user wants.

    Returns:
        The same path; or that of ``best.ckpt`` beside it, with a warning, if the file is
        there and damaged.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read, nor is there a ``best.ckpt`` that can.
    """
    try:
        read_checkpoint(path, 'ckpt_path')
    except ValueError as error:
        best = Path(path).with_name('best.ckpt')
        if not Path(path).is_file() or best == Path(path) or not best.is_file():
            raise
        read_checkpoint(best, 'ckpt_path')
        rank_zero_warn(f'{error}. Going on from {os.fspath(best)!r}')
        return os.fspath(best)
    return os.fspath(path)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Reads and writes checkpoints, which are complete at any moment.

    Lightning writes to the temporary folder, and copies if that is on another file
    system: a kill then leaves half a checkpoint. This writes beside the target, waits
    until the disk has it, and renames. Remote files are Lightning's.
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | os.PathLike[str],
        storage_options: Any | None = None,
    ) -> None:
        """Save a checkpoint.

        Args:
            checkpoint: What to save.
            path: File to write or replace. Its folder is made.
            storage_options: Lightning's; only None is known.

        Raises:
            OSError: If the file cannot be written.
            TypeError: If *storage_options* is given.
        """
        if storage_options is not None or '://' in str(path):
            super().save_checkpoint(checkpoint, str(path), storage_options)
            return

        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # Left by trainings that were killed while writing
        for old in list_beside(Path(path)):
            old.unlink(missing_ok=True)
        write_beside(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(
        self,
        path: str | os.PathLike[str],
        map_location: Callable[..., Any] | None = lambda storage, loc: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Load a checkpoint, see :func:`read_checkpoint`.

        Args:
            path: File to read.
            map_location: Where to put tensors.
            weights_only: Ignored: no code of a checkpoint is ever run.

        Returns:
            The checkpoint.
        """
        if '://' in str(path):
            return super().load_checkpoint(str(path), map_location, weights_only=True)
        content: dict[str, Any] = read_checkpoint(path, 'ckpt_path', map_location)
        return content

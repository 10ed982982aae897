# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""The lock that keeps two runs from writing the same map."""

import contextlib
import os
import pathlib
import secrets

from filelock import FileLock, Timeout

_LOCK, _OWNER = 'lock', 'owner'
# Seconds to wait for another run that only looks at a folder
_PATIENCE = 10
# How often a folder is tried that another run is removing
_ATTEMPTS = 10


class RunLock:
    """Keep other runs out of the folders in which a run makes its maps.

    The file ``lock`` in the first folder is locked; the system unlocks it when the process
    ends, however it does. A file ``owner`` in each folder holds the key of the run, and
    the path of that lock. A lock in each of them would be an open file each, and a list
    may have thousands of scenes.
    """

    def __init__(self) -> None:
        """Initialize a new RunLock instance."""
        # Folders in the order in which they were taken, and the lock of the first one
        self._folders: list[pathlib.Path] = []
        self._lock: FileLock | None = None
        self._key = secrets.token_hex(8)

    def claim(self, folder: pathlib.Path) -> bool:
        """Take a folder, unless another run has it.

        Args:
            folder: The folder, created if missing.

        Returns:
            Whether it could be taken.

        Raises:
            OSError: If the folder cannot be written.
        """
        for _ in range(_ATTEMPTS):
            # Another run that ends may be removing it
            with contextlib.suppress(FileExistsError, FileNotFoundError):
                folder.mkdir(parents=True, exist_ok=True)
                return self._claim(folder)
        return self._claim(folder)

    def _claim(self, folder: pathlib.Path) -> bool:
        """Take a folder that exists."""
        lock = FileLock(folder / _LOCK, blocking=False, thread_local=False)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock)
            except Timeout:
                return False
            if self._is_taken(folder):
                return False
            if self._lock is None:
                self._lock = lock
                stack.pop_all()  # It stays locked
            place = os.path.realpath(self._lock.lock_file)
            path = os.path.relpath(place, folder.resolve())
            (folder / _OWNER).write_text(f'{self._key} {path}')
        self._folders.append(folder)
        return True

    def owns(self, folder: pathlib.Path) -> bool:
        """Whether this run has taken a folder.

        Args:
            folder: The folder.

        Returns:
            Whether it has.
        """
        return folder in self._folders

    def release(self, folder: pathlib.Path) -> None:
        """Let other runs have a folder, and remove it if it is empty.

        The first folder stays locked until all are released, since they depend on it.

        Args:
            folder: A folder that was taken.
        """
        assert self._lock is not None
        self._folders.remove(folder)
        first = pathlib.Path(self._lock.lock_file).parent
        if folder.resolve() != first.resolve():
            lock = FileLock(folder / _LOCK, timeout=_PATIENCE, thread_local=False)
            # Another run may look at it right now
            with contextlib.suppress(Timeout), lock:
                _remove(folder)
            remove_empty(folder)
        if not self._folders:
            _remove(first)
            self._lock.release()
            self._lock = None
            remove_empty(first)

    def _is_taken(self, folder: pathlib.Path) -> bool:
        """Whether another run that is alive has a folder which is not its first one."""
        key, place = _read_owner(folder)
        # Nothing else is ever opened, whatever the file says
        is_lock = place.name == _LOCK and place.parent.suffix == folder.suffix
        if not is_lock or not place.exists() or place.parent == folder.resolve():
            return False
        # The run may be gone, and its lock be that of another one
        if key != _read_owner(place.parent)[0]:
            return False
        try:
            with FileLock(place, blocking=False, thread_local=False):
                return False
        except Timeout:
            return True


def _read_owner(folder: pathlib.Path) -> tuple[str, pathlib.Path]:
    """Read the key of the run that owns a folder, and the path of its lock."""
    try:
        text = (folder / _OWNER).read_text()
    except (FileNotFoundError, UnicodeDecodeError):
        text = ''
    key, _, path = text.partition(' ')
    return key, folder.resolve() / path


def remove_empty(folder: pathlib.Path) -> None:
    """Remove a folder unless something is in it.

    Args:
        folder: The folder.
    """
    with contextlib.suppress(OSError):
        folder.rmdir()


def _remove(folder: pathlib.Path) -> None:
    """Remove the files of a lock."""
    for name in (_OWNER, _LOCK):
        with contextlib.suppress(OSError):  # Windows keeps a file that is open
            (folder / name).unlink()

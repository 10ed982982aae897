# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch

from torchgeo_m2cd.checkpoints import (
    AtomicCheckpointIO,
    find_resumable,
    read_checkpoint,
)
from torchgeo_m2cd.utils import create_beside


def make_bytes(content: Any, folder: Path) -> bytes:
    torch.save(content, folder / 'made')
    return (folder / 'made').read_bytes()


def loop() -> dict[str, Any]:
    """Make a mapping that contains itself."""
    content: dict[str, Any] = {'state_dict': {}}
    content['state_dict']['again'] = content
    return content


class Code:
    """Makes a folder when it is read from a pickle."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


def bomb() -> list[Any]:
    """Make a list of 100 bytes or so that would print as a billion words."""
    content: list[Any] = ['word'] * 10
    for _ in range(8):
        content = [content] * 10
    return content


class TestReadCheckpoint:
    def test_same(self, tmp_path: Path) -> None:
        """Shared parts do not count as a loop. Old files, a single pickle, are read."""
        shared = torch.arange(3)
        content = {'a': [shared, shared], 'b': {'c': (1, 'x', None)}}
        for zipped in (True, False):
            path = tmp_path / f'{zipped}.ckpt'
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
            found = read_checkpoint(path)
            assert found['b'] == content['b']
            assert torch.equal(found['a'][1], shared)

    @pytest.mark.parametrize(
        ('content', 'message'),
        [
            (b'', 'is empty: expected a checkpoint'),
            (b'hello', "begins with b'hello': expected a file of torch.save"),
            (bytes(99), 'begins with '),
            (b'PK\3\4 cut off', 'is damaged, or no checkpoint'),
            (b'\x80', 'is damaged, or no checkpoint'),
            (pickle.dumps(os.getcwd), 'is damaged, or no checkpoint'),
        ],
    )
    def test_no_checkpoint(self, content: bytes, message: str, tmp_path: Path) -> None:
        path = tmp_path / 'a.ckpt'
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^ckpt_path '.*a.ckpt' ") as caught:
            read_checkpoint(path, 'ckpt_path')
        assert message in str(caught.value)
        assert 'weights_only' not in str(caught.value)

    @pytest.mark.parametrize('share', [0.01, 0.5, 0.99])
    def test_truncated(self, share: float, tmp_path: Path) -> None:
        content = make_bytes({'state_dict': {'a': torch.zeros(1000)}}, tmp_path)
        path = tmp_path / 'a.ckpt'
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match='is damaged, or no checkpoint'):
            read_checkpoint(path)

    def test_code(self, tmp_path: Path) -> None:
        """Code in a file does not run, and the error does not advise to allow it."""
        content = {'state_dict': {}, 'more': Code(tmp_path / 'pwned')}
        torch.save(content, tmp_path / 'a.ckpt')
        with pytest.raises(
            ValueError, match=r'holds \w+\.mkdir, which could'
        ) as caught:
            read_checkpoint(tmp_path / 'a.ckpt')
        assert 'trust' not in str(caught.value)
        assert not (tmp_path / 'pwned').exists()

    @pytest.mark.parametrize('make', [loop, bomb])
    def test_endless(self, make: Any, tmp_path: Path) -> None:
        torch.save(make(), tmp_path / 'a.ckpt')
        with pytest.raises(ValueError, match='contains itself, or more than 1,000,000'):
            read_checkpoint(tmp_path / 'a.ckpt')

    def test_missing(self, tmp_path: Path) -> None:
        path = tmp_path / 'bets.ckpt'
        with pytest.raises(
            FileNotFoundError, match='expected the path of a checkpoint'
        ):
            read_checkpoint(path)
        (tmp_path / 'best.ckpt').touch()
        with pytest.raises(FileNotFoundError, match=r"did you mean 'best\.ckpt'\?"):
            read_checkpoint(path)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match='is a folder: expected a checkpoint'):
            read_checkpoint(tmp_path)
        os.mkfifo(tmp_path / 'pipe')
        with pytest.raises(ValueError, match='is no regular file: expected a check'):
            read_checkpoint(tmp_path / 'pipe')

    def test_system(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Errors of the operating system are passed on."""

        def fail(*args: Any, **kwargs: Any) -> None:
            raise PermissionError('not yours')

        torch.save({}, tmp_path / 'a.ckpt')
        monkeypatch.setattr(Path, 'open', fail)
        with pytest.raises(PermissionError, match='not yours'):
            read_checkpoint(tmp_path / 'a.ckpt')

    def test_memory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Lack of memory is not reported as a damaged file."""

        def fail(*args: Any, **kwargs: Any) -> None:
            raise MemoryError

        torch.save({}, tmp_path / 'a.ckpt')
        monkeypatch.setattr(torch, 'load', fail)
        with pytest.raises(MemoryError):
            read_checkpoint(tmp_path / 'a.ckpt')


class TestFindResumable:
    def test_good(self, tmp_path: Path) -> None:
        path = tmp_path / 'last.ckpt'
        torch.save({}, path)
        assert find_resumable(path) == str(path)

    def test_damaged(self, tmp_path: Path) -> None:
        last, best = tmp_path / 'last.ckpt', tmp_path / 'best.ckpt'
        last.touch()
        with pytest.raises(ValueError, match=r"last\.ckpt' is empty"):
            find_resumable(last)
        torch.save({}, best)
        with pytest.warns(UserWarning, match=r"last.ckpt' is empty.*best\.ckpt'"):
            assert find_resumable(last) == str(best)
        best.write_bytes(b'')
        for path in (last, best):
            with pytest.raises(ValueError, match=r"best\.ckpt' is empty"):
                find_resumable(path)

    def test_missing(self, tmp_path: Path) -> None:
        """A missing file is not reported as damaged."""
        torch.save({}, tmp_path / 'best.ckpt')
        with pytest.raises(FileNotFoundError, match=r'lasst\.ckpt'):
            find_resumable(tmp_path / 'lasst.ckpt')
        with pytest.raises(ValueError, match='is a folder'):
            find_resumable(tmp_path)


# Saves again and again, and prints a line before each time
_SAVE = """
import sys, torch
from torchgeo_m2cd.checkpoints import AtomicCheckpointIO

content = {'state_dict': {'a': torch.zeros(5_000_000)}}
while True:
    AtomicCheckpointIO().save_checkpoint(content, sys.argv[1])
    print('saved', flush=True)
"""


class TestAtomicCheckpointIO:
    def test_round_trip(self, tmp_path: Path) -> None:
        path = tmp_path / 'new' / 'last.ckpt'
        plugin = AtomicCheckpointIO()
        for number in (1, 2):
            plugin.save_checkpoint({'epoch': number}, path)
            assert plugin.load_checkpoint(path) == {'epoch': number}
        assert [p.name for p in path.parent.iterdir()] == ['last.ckpt']
        plugin.remove_checkpoint(path)
        assert not path.exists()

    def test_failure(self, tmp_path: Path) -> None:
        """A failed write keeps the old file and removes the new one."""
        path = tmp_path / 'last.ckpt'
        plugin = AtomicCheckpointIO()
        plugin.save_checkpoint({'epoch': 1}, path)
        with pytest.raises((AttributeError, pickle.PicklingError)):
            plugin.save_checkpoint({'state': torch.zeros(9), 'bad': lambda: 0}, path)
        assert plugin.load_checkpoint(path) == {'epoch': 1}
        assert len([*tmp_path.iterdir()]) == 1

    def test_damaged(self, tmp_path: Path) -> None:
        (tmp_path / 'a.ckpt').touch()
        with pytest.raises(ValueError, match=r"^ckpt_path '.*' is empty"):
            AtomicCheckpointIO().load_checkpoint(tmp_path / 'a.ckpt')

    def test_remote(self) -> None:
        """Lightning writes files that are not on this machine."""
        path, plugin = 'memory://folder/a.ckpt', AtomicCheckpointIO()
        plugin.save_checkpoint({'epoch': 1}, path)
        assert plugin.load_checkpoint(path) == {'epoch': 1}
        with pytest.raises(TypeError, match='storage_options'):
            plugin.save_checkpoint({}, path, storage_options={})

    def test_remote_code(self, tmp_path: Path) -> None:
        """Code in a remote file does not run, although Lightning would run it."""
        fs, path = fsspec.filesystem('memory'), 'memory://folder/code.ckpt'
        fs.pipe(path, make_bytes(Code(tmp_path / 'pwned'), tmp_path))
        with pytest.raises(pickle.UnpicklingError, match='Weights only'):
            AtomicCheckpointIO().load_checkpoint(path, weights_only=False)
        assert not (tmp_path / 'pwned').exists()

    def test_rests(self, tmp_path: Path) -> None:
        """The partial file of a killed training is removed."""
        path = tmp_path / 'last.ckpt'
        with create_beside(path) as file:
            rest = Path(file.name)
        AtomicCheckpointIO().save_checkpoint({'epoch': 1}, path)
        assert not rest.exists()
        assert read_checkpoint(path) == {'epoch': 1}

    @pytest.mark.slow
    def test_kill(self, tmp_path: Path) -> None:
        """A kill while saving leaves a complete checkpoint.

        The temporary folder is on another file system.
        """
        path = tmp_path / 'last.ckpt'
        process = subprocess.Popen(
            [sys.executable, '-c', _SAVE, str(path)],
            stdout=subprocess.PIPE,
            env={**os.environ, 'TMPDIR': '/dev/shm'},
        )
        assert process.stdout is not None
        try:
            process.stdout.readline()
            deadline = time.monotonic() + 60
            # In the middle of a file, which grows beside the complete one
            while time.monotonic() < deadline:
                parts = [p for p in tmp_path.iterdir() if p != path]
                if parts and parts[0].stat().st_size:
                    break
        except FileNotFoundError:  # renamed in between: killed at another moment
            warnings.warn('not killed within a file', stacklevel=1)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert read_checkpoint(path)['state_dict']['a'].shape == (5_000_000,)

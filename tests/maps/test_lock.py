# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import os
import subprocess
import sys
from pathlib import Path

import pytest

from torchgeo_m2cd.maps import RunLock

# Claims the folders of its arguments, and prints which it got
TAKE = """
import pathlib, sys
from torchgeo_m2cd.maps import RunLock
lock = RunLock()
print([lock.claim(pathlib.Path(name)) for name in sys.argv[1:]], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    folders = [tmp_path / f'{i}' / 'a.tif.parts' for i in range(4)]
    for folder in folders:
        folder.mkdir(parents=True)
    return folders


class TestRunLock:
    def test_several(self, folders: list[Path]) -> None:
        """A run locks many folders with one open file."""
        before = len(os.listdir('/dev/fd'))
        lock = RunLock()
        assert all(map(lock.claim, folders))
        assert all(map(lock.owns, folders))
        assert len(os.listdir('/dev/fd')) == before + 1
        other = RunLock()
        assert not any(map(other.claim, folders))
        assert not any(map(other.owns, folders))
        # The first one stays until all are released, in whatever order
        lock.release(folders[0])
        assert not any(map(other.claim, folders))
        for folder in folders[:0:-1]:
            assert not other.claim(folder)
            lock.release(folder)
            assert not folder.exists()
        assert not folders[0].exists()
        assert not lock.owns(folders[0])

    def test_shared_folders(self, folders: list[Path]) -> None:
        """Two runs never hold the same folder."""
        one, two = RunLock(), RunLock()
        assert one.claim(folders[0])
        assert two.claim(folders[2])
        assert one.claim(folders[1])
        assert not one.claim(folders[2])
        assert not two.claim(folders[1])
        one.release(folders[1])
        folders[1].mkdir()
        assert two.claim(folders[1])

    def test_removed_by_another_run(
        self, folders: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A folder that vanishes while it is claimed is made again; a file is kept."""
        claim, calls = RunLock._claim, []

        def miss_first(self: RunLock, folder: Path) -> bool:
            calls.append(folder)
            if len(calls) < 3:
                raise FileNotFoundError(folder)
            return claim(self, folder)

        with monkeypatch.context() as patch:
            patch.setattr(RunLock, '_claim', miss_first)
            assert RunLock().claim(folders[0])
        assert len(calls) == 3
        folders[1].rmdir()
        folders[1].write_text('precious')
        with pytest.raises(OSError, match=r'a\.tif\.parts'):
            RunLock().claim(folders[1])
        assert folders[1].read_text() == 'precious'

    @pytest.mark.slow
    def test_killed(self, folders: list[Path]) -> None:
        """The folders of a killed process can be claimed in any order."""
        with subprocess.Popen(
            [sys.executable, '-c', TAKE, *folders],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b'[True, True, True, True]\n'
            assert not any(map(RunLock().claim, folders))
            process.kill()
        last = RunLock()
        assert last.claim(folders[3])
        last.release(folders[3])
        # Two runs share what it had, one of them its first folder
        one, two = RunLock(), RunLock()
        assert one.claim(folders[0])
        assert two.claim(folders[1])
        one.release(folders[0])
        two.release(folders[1])
        lock = RunLock()
        # The lock of the killed process is that of the third one now
        assert all(lock.claim(folders[i]) for i in (2, 0, 1, 3))
        for folder in folders:
            lock.release(folder)
        assert not any(folder.exists() for folder in folders)

    @pytest.mark.parametrize(
        'text', [b'../b.tif', b'k ../b.tif', b'', b'\xff\xfe', b'k ../c.parts/lock']
    )
    def test_foreign_owner(self, text: bytes, folders: list[Path]) -> None:
        """A foreign owner file is ignored, and the path in it is not touched."""
        other = folders[0].parent / 'b.tif'
        other.write_text('precious')
        (folders[0] / 'owner').write_bytes(text)
        assert RunLock().claim(folders[0])
        assert other.read_text() == 'precious'
        assert not (folders[0].parent / 'c.parts').exists()

    def test_look(self, folders: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
        """A folder that another run is checking stays, with its lock."""
        lock, other = RunLock(), RunLock()
        assert lock.claim(folders[0])
        assert lock.claim(folders[1])
        (folders[1] / 'owner').unlink()
        assert other.claim(folders[1])
        monkeypatch.setattr('torchgeo_m2cd.maps.lock._PATIENCE', 0.1)
        lock.release(folders[1])
        assert (folders[1] / 'lock').exists()

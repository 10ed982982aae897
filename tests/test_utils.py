# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import errno
import re
import stat
from pathlib import Path
from typing import Any, BinaryIO
from unittest.mock import Mock

import pytest

from torchgeo_m2cd.utils import (
    check_choice,
    count_values,
    create_beside,
    list_beside,
    write_beside,
)


def test_check_choice() -> None:
    check_choice('split', 'val', ('train', 'val'))


@pytest.mark.parametrize(
    ('value', 'choices', 'message'),
    [
        (
            'vall',
            ['train', 'val'],
            "unknown split 'vall', did you mean 'val'? (expected one of 'train', 'val')",
        ),
        ('x', ['train', 'val'], "unknown split 'x' (expected one of 'train', 'val')"),
        ('n99x', [f'n{i}' for i in range(100)], "unknown split 'n99x', did you mean"),
    ],
)
def test_unknown_choice(value: str, choices: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        check_choice('split', value, choices)
    assert len(str(error.value)) < 100


def test_many_choices() -> None:
    match = r"unknown split 'x' \(expected one of 100: 'n0', .*'n9', …\)$"
    with pytest.raises(ValueError, match=match):
        check_choice('split', 'x', [f'n{i}' for i in range(100)])


class TestWriteBeside:
    def test_contents(self, tmp_path: Path) -> None:
        """The file is replaced as a whole and gets the permissions of a new file."""
        path = tmp_path / 'a.csv'
        for text in (b'1', b'22'):
            write_beside(path, lambda file, text=text: file.write(text))  # type: ignore[misc]
            assert path.read_bytes() == text
        (tmp_path / 'b').touch()
        modes = {
            stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ('a.csv', 'b')
        }
        assert len(modes) == 1
        assert list_beside(path) == []

    def test_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """On a full disk, the old file stays, no part remains, and the error names it."""
        path = tmp_path / 'a.csv'
        path.write_text('before')
        full = Mock(side_effect=OSError(errno.ENOSPC, 'No space left on device'))
        monkeypatch.setattr('os.fsync', full)
        with pytest.raises(OSError, match=r"No space left on device: '.*a\.csv'$"):
            write_beside(path, lambda file: file.write(b'after'))
        assert path.read_text() == 'before'
        assert list(tmp_path.iterdir()) == [path]

    def test_other_errors(self, tmp_path: Path) -> None:
        """Other errors are not changed."""

        def write(file: BinaryIO) -> None:
            raise OSError('no number')

        with pytest.raises(OSError, match=r'^no number$'):
            write_beside(tmp_path / 'a.csv', write)

    def test_links(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A symbolic link with the name of the temporary file is not followed."""
        path, target = tmp_path / 'a.csv', tmp_path / 'precious'
        target.write_text('precious')
        monkeypatch.setattr('secrets.token_hex', lambda size: 'ab' * size)
        (tmp_path / f'a.csv.{"ab" * 8}.part').symlink_to(target)
        with pytest.raises(FileExistsError, match=r'a\.csv'):
            create_beside(path)
        assert target.read_text() == 'precious'

    def test_list(self, tmp_path: Path) -> None:
        """Only files with exactly such names are listed."""
        path = tmp_path / 'a.csv'
        with create_beside(path) as file:
            assert list_beside(path) == [Path(file.name)]
        (tmp_path / f'ba.csv.{"0" * 16}.part').touch()
        (tmp_path / 'a.csv.part').touch()
        assert list_beside(path) == [Path(file.name)]
        assert list_beside(tmp_path / 'missing' / 'a.csv') == []


class TestCountValues:
    def list_children(self, value: Any) -> list[Any]:
        return value if isinstance(value, list) else []

    def test_number(self) -> None:
        """As many values as are printed: containers that are there twice count twice."""
        twice = [1, 2]
        assert count_values(7, self.list_children, 10) == 1
        assert count_values([twice, twice, [], 'x'], self.list_children, 9) == 9
        with pytest.raises(OverflowError, match='more than 8 values'):
            count_values([twice, twice, [], 'x'], self.list_children, 8)

    def test_bomb(self) -> None:
        value: list[Any] = ['x']
        for _ in range(100):
            value = [value, value]
        with pytest.raises(OverflowError):
            count_values(value, self.list_children, 1000)
        value.append(value)
        with pytest.raises(OverflowError):
            count_values(value, self.list_children, 10**40)

    def test_temporary_values(self) -> None:
        """Containers that are made while they are counted are all counted."""
        children = {5: [4, 4], 4: [3, 3, 3]}

        def list_children(value: list[int]) -> list[list[int]]:
            return [[n] for n in children.get(value[0], [])]

        assert count_values([5], list_children, 100) == 9

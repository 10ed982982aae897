# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.datasets.helpers import touch
from torchgeo_m2cd.datasets.chip_splits import divide, load_chips
from torchgeo_m2cd.datasets.chips import Chip

DEFAULT = {'optical': '{split}/A/*', 'sar': '{split}/B/*', 'mask': '{split}/label/*'}


def chip(name: str, group: str = '') -> Chip:
    return Chip(f'{name}.o', f'{name}.s', f'{name}.m', name, group)


class TestDivide:
    def test_runs(self) -> None:
        """Neighbours stay together; a share is a share of the chips."""
        chips = [chip(f'{number}') for number in range(320)]
        divided = divide(chips, {'val': 0.125, 'test': 0.25})
        count = Counter(chip.split for chip in divided)
        assert count == {'train': 200, 'val': 40, 'test': 80}
        splits = [chip.split for chip in divided]
        assert all(len(set(splits[i : i + 20])) == 1 for i in range(0, 320, 20))
        # They are no groups of the user, by which files would be named
        assert not any(chip.group for chip in divided)
        assert divide(chips, {'val': 0.125, 'test': 0.25}) == divided
        assert divide(chips, {'val': 0.125, 'test': 0.25}, seed=1) != divided

    @pytest.mark.parametrize('seed', range(5))
    def test_groups_of_different_sizes(self, seed: int) -> None:
        sizes = [50, 20, 10, 5, 5, 5, 3, 1, 1]
        chips = [
            chip(str(n), str(g)) for g, size in enumerate(sizes) for n in range(size)
        ]
        divided = divide(chips, {'train': 0.5, 'val': 0.25, 'test': 0.25}, seed)
        count = Counter(chip.split for chip in divided)
        assert count['train'] == 50
        assert abs(count['val'] - 25) <= 3
        assert all(
            len({c.split for c in divided if c.group == str(g)}) == 1 for g in range(9)
        )

    def test_few_groups(self) -> None:
        """Each split gets a group if there are as many."""
        for seed in range(5):
            chips = [chip(str(n), 'abc'[n % 3]) for n in range(9)]
            divided = divide(chips, {'val': 0.1, 'test': 0.1}, seed)
            count = Counter(chip.split for chip in divided)
            assert count == {'train': 3, 'val': 3, 'test': 3}

    def test_rest(self) -> None:
        """Remaining chips are for training, or left out if training has a share."""
        chips = [chip(str(n), str(n)) for n in range(10)]
        count = Counter(c.split for c in divide(chips, {'val': 0.2}))
        assert count == {'train': 8, 'val': 2}
        count = Counter(c.split for c in divide(chips, {'train': 0.5, 'val': 0.2}))
        assert count == {'train': 5, 'val': 2, '': 3}

    def test_groups(self) -> None:
        chips = [chip(str(n), 'abcd'[n]) for n in range(4)]
        splits = {'val': ['b'], 'test': ['d', 'c']}
        found = [c.split for c in divide(chips, splits)]
        assert found == ['train', 'val', 'test', 'test']
        found = [c.split for c in divide(chips, {'train': ['a'], 'val': ('b',)})]
        assert found == ['train', 'val', '', '']
        with pytest.raises(ValueError, match=r"unknown group of split 'val' 'e' \(exp"):
            divide(chips, {'val': ['e']})
        match = "group 'b' is in the splits 'val' and 'test'"
        with pytest.raises(ValueError, match=match):
            divide(chips, {'val': ['b'], 'test': ['b']})

    def test_lists(self, tmp_path: Path) -> None:
        chips = [chip('1', 'a'), chip('2', 'a'), chip('2', 'b'), chip('x.y', 'b')]
        (tmp_path / 'val.txt').write_text('a/2\n\n  x.y.TIF \r\n')
        (tmp_path / 'test.txt').write_text('1.png')
        splits = {'val': 'val.txt', 'test': str(tmp_path / 'test.txt')}
        found = [c.split for c in divide(chips, splits, root=tmp_path)]
        assert found == ['test', 'val', 'train', 'val']
        (tmp_path / 'test.txt').write_text('2')
        with pytest.raises(ValueError, match="'2' is in the splits 'val' and 'test'"):
            divide(chips, splits, root=tmp_path)
        (tmp_path / 'test.txt').write_text('3\n4\n1')
        match = r"test\.txt lists '3' and 1 more, but no chip has .* like '1'"
        with pytest.raises(ValueError, match=match):
            divide(chips, splits, root=tmp_path)
        with pytest.raises(FileNotFoundError, match=r"no\.txt' does not exist"):
            divide(chips, {'val': 'no.txt'}, root=tmp_path)

    @pytest.mark.parametrize('splits', [{'val': -0.1}, {'val': 0.7, 'test': 0.4}])
    def test_shares_out_of_range(self, splits: dict[str, float]) -> None:
        with pytest.raises(ValueError, match='expected shares from 0 to 1, in all'):
            divide([chip('1')], splits)

    def test_mixed(self) -> None:
        with pytest.raises(
            ValueError, match=r'splits is .*expected shares, list files'
        ):
            divide([chip('1')], {'val': 0.1, 'test': 'test.txt'})


class TestLoadChips:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        for split, count in (('train', 16), ('test', 2)):
            for number in range(count):
                names = (f'{split}/{kind}/{number}.tif' for kind in ('A', 'B', 'label'))
                touch(tmp_path, *names)
        return tmp_path

    def load(self, root: Path, split: str, splits: Any = None) -> list[Chip]:
        return load_chips(root, DEFAULT, None, split, splits, 0)

    def test_folders(self, root: Path) -> None:
        assert len(self.load(root, 'train')) == 16
        assert len(self.load(root, 'test')) == 2
        with pytest.raises(FileNotFoundError, match=r'/val/A/\*'):
            self.load(root, 'val')

    def test_part_of_training(self, root: Path) -> None:
        """A split without a folder is a part of the training folder."""
        splits = {'val': 0.25}
        train, val = (self.load(root, split, splits) for split in ('train', 'val'))
        assert (len(train), len(val)) == (12, 4)
        assert {c.name for c in train} & {c.name for c in val} == set()
        assert {c.split for c in val} == {'val'}
        assert len(self.load(root, 'test', splits)) == 2

    def test_empty(self, root: Path) -> None:
        match = (
            r"split 'val' is empty: the 16 chips, in 16 groups, are divided as "
            r"\{'train': 16\}, by splits=\{'val': 0.01\}"
        )
        with pytest.raises(ValueError, match=match):
            self.load(root, 'val', {'val': 0.01})

    def test_no_folders(self, root: Path) -> None:
        paths = {'optical': 'train/A/*', 'sar': 'train/B/*'}
        for split in ('train', 'val'):
            match = r"for split '.*': expected \{split\} in the paths, or splits"
            with pytest.raises(ValueError, match=match):
                load_chips(root, paths, None, split, None, 0)
        # Nothing is trained with them
        assert len(load_chips(root, paths, None, 'test', None, 0)) == 16
        splits = {'train': 0.5, 'val': 0.5}
        assert len(load_chips(root, paths, None, 'val', splits, 0)) == 8
        match = r"unknown split 'test' \(expected one of 'train', 'val'\)"
        with pytest.raises(ValueError, match=match):
            load_chips(root, paths, None, 'test', splits, 0)

    def test_one_file_for_both(self, root: Path) -> None:
        paths = {'optical': '{split}/A/*', 'sar': '{split}/?/*'}
        (root / 'train/B').rename(root / 'B')
        with pytest.raises(ValueError, match=r"chip '0' has the files .* of their own"):
            load_chips(root, paths, None, 'train', None, 0)

    def test_table(self, root: Path) -> None:
        rows = [
            f'train/A/{n}.tif,train/B/{n}.tif,{"test" if n > 11 else "train"}'
            for n in range(16)
        ]
        (root / 'c.csv').write_text('\n'.join(['optical,sar,split', *rows]))
        kinds = {'optical': '', 'sar': ''}
        counts = {
            split: len(load_chips(root, kinds, 'c.csv', split, {'val': 0.25}, 0))
            for split in ('train', 'val', 'test')
        }
        assert counts == {'train': 9, 'val': 3, 'test': 4}
        with pytest.raises(
            ValueError, match=r"unknown split 'val' \(expected one of 't"
        ):
            load_chips(root, kinds, 'c.csv', 'val', None, 0)
        rows = [row.rpartition(',')[0] for row in rows]
        (root / 'c.csv').write_text('\n'.join(['optical,sar', *rows]))
        with pytest.raises(ValueError, match='expected a column split, or splits'):
            load_chips(root, kinds, 'c.csv', 'val', None, 0)

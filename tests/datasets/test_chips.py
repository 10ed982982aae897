# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from collections import Counter
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import shapely

from torchgeo_m2cd.datasets.chips import (
    Chip,
    divide,
    find_chips,
    load_chips,
    read_chips,
)

DEFAULT = {'optical': '{split}/A/*', 'sar': '{split}/B/*', 'mask': '{split}/label/*'}


def touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def chip(name: str, group: str = '') -> Chip:
    return Chip(f'{name}.o', f'{name}.s', f'{name}.m', name, group)


def keys(chips: list[Chip]) -> list[str]:
    return [f'{chip.group}/{chip.name}' if chip.group else chip.name for chip in chips]


class TestFindChips:
    def test_default(self, tmp_path: Path) -> None:
        """Pairs have the same stem, numbers are sorted by value, the rest is ignored."""
        for number in (10, 9):
            touch(tmp_path, f'train/A/c_{number}.tif', f'train/B/c_{number}.png')
            touch(tmp_path, f'train/label/c_{number}.png')
        touch(tmp_path, 'train/A/.c_1.tif', 'train/A/c_9.tif.aux.xml', 'val/A/c_1.tif')
        (tmp_path / 'train/A/c_folder').mkdir()
        found = find_chips(tmp_path, DEFAULT)
        assert keys(found) == ['c_9', 'c_10']
        folder = tmp_path / 'train'
        files = folder / 'A/c_9.tif', folder / 'B/c_9.png', folder / 'label/c_9.png'
        assert found[0][:3] == tuple(map(str, files))

    @pytest.mark.parametrize(
        ('patterns', 'files', 'expected'),
        [
            (
                ('S2/before_{name}.png', 'S1/after_{name}.png'),
                ('S2/before_1_x.png', 'S1/after_1_x.png'),
                '1_x',
            ),
            (
                ('{group}/{split}/A/*', '{group}/{split}/B/*.tif'),
                ('b/train/A/1.tif', 'b/train/B/1.tif', 'b/val/B/1.tif'),
                'b/1',
            ),
            (
                ('o/{group}_{name}_S2.tif', 's/{group}_{name}_S1.tif'),
                ('o/Ghana_1_2_S2.tif', 's/Ghana_1_2_S1.tif'),
                'Ghana/1_2',
            ),
            (
                ('{group}/{group}_{name}_o.tif', '{group}/{group}_{name}_s.tif'),
                ('b_c/b_c_1_o.tif', 'b_c/b_c_1_s.tif', 'd/b_1_o.tif'),
                'b_c/1',
            ),
            (
                ('./o//**/?[!x].tif', 's/[a-b]1.tif'),
                ('o/1/2/a1.tif', 'o/ax.tif', 's/a1.tif', 's/c1.tif'),
                'a1',
            ),
            ((['x/*.tif', 'y/*.tif'], 's/*'), ('y/1.tif', 's/1.tif'), '1'),
        ],
    )
    def test_patterns(
        self,
        patterns: tuple[Any, Any],
        files: tuple[str, ...],
        expected: str,
        tmp_path: Path,
    ) -> None:
        root = tmp_path / 'a [1]'
        touch(root, *files)
        if isinstance(patterns[0], list):
            touch(root, 'x/2.tif', 's/2.tif')
            expected = '1 2'
        found = find_chips(root, dict(zip(('optical', 'sar'), patterns, strict=True)))
        assert keys(found) == expected.split()
        assert not any(chip.mask for chip in found)

    def test_absolute(self, tmp_path: Path) -> None:
        touch(tmp_path, 'o/1.tif', 's/1.tif')
        paths = {
            'optical': str(tmp_path / 'o/*'),
            'sar': str(tmp_path / 's/{name}.tif'),
        }
        assert keys(find_chips('elsewhere', paths)) == ['1']

    def test_nothing_matches(self, tmp_path: Path) -> None:
        touch(tmp_path, 'train/A/1.tif', 'train/B/1.tif')
        with pytest.raises(
            FileNotFoundError, match=r"no mask file matches '.*train/label/\*'$"
        ):
            find_chips(tmp_path, DEFAULT)
        with pytest.raises(FileNotFoundError, match=r"no optical .*'.*valid/A/\*'$"):
            find_chips(tmp_path, DEFAULT, 'valid')
        touch(tmp_path, 'o/a_b', 's/1.tif')
        paths = {'optical': 'o/*_{name}[0-9]', 'sar': 's/*'}
        with pytest.raises(FileNotFoundError, match=r"no optical file matches '.*o/"):
            find_chips(tmp_path, paths)
        (tmp_path / 'p/1').mkdir(parents=True)
        with pytest.raises(
            FileNotFoundError, match=r"no optical file matches 'p/\*' in"
        ):
            find_chips(tmp_path, {'optical': 'p/*', 'sar': 's/*'})

    @pytest.mark.parametrize(
        ('lonely', 'kind', 'more'),
        [
            (['B/2.tif'], 'optical', ''),
            (['A/2.tif', 'label/2.tif'], 'SAR', ''),
            (
                ['A/2.tif', 'A/3.tif', 'B/2.tif', 'B/3.tif'],
                'mask',
                r' \(nor have 1 more',
            ),
        ],
    )
    def test_lonely(
        self, lonely: list[str], kind: str, more: str, tmp_path: Path
    ) -> None:
        both = ['A/1.tif', 'B/1.tif', 'label/1.tif']
        touch(tmp_path, *(f'train/{name}' for name in (*both, *lonely)))
        match = (
            rf'2\.tif has no {kind} file{more}.*: found \d opt.*, with the same name'
        )
        with pytest.raises(FileNotFoundError, match=match):
            find_chips(tmp_path, DEFAULT)

    def test_same_name(self, tmp_path: Path) -> None:
        touch(tmp_path, 'o/x/1.tif', 'o/y/1.tif', 's/x/1.tif', 's/y/1.tif')
        paths = {'optical': 'o/*/*', 'sar': 's/*/*'}
        match = r"x/1\.tif' and '.*y/1\.tif' have the same name: .* or \{group\}"
        with pytest.raises(ValueError, match=match):
            find_chips(tmp_path, paths)
        paths = {kind: path.replace('/*/', '/{group}/') for kind, path in paths.items()}
        assert keys(find_chips(tmp_path, paths)) == ['x/1', 'y/1']

    def test_fields(self, tmp_path: Path) -> None:
        match = r"unknown field of sar '\{spilt\}/B/\*' 'spilt', did you mean 'split'"
        with pytest.raises(ValueError, match=match):
            find_chips(tmp_path, {'optical': '*', 'sar': '{spilt}/B/*'})
        for paths in (('{group}/{name}', '*'), ('*', '{group}/{name}')):
            match = r"'\{group\}/\{name\}' has \{group\}, and '\*' has not"
            with pytest.raises(ValueError, match=match):
                find_chips(tmp_path, dict(zip(('optical', 'sar'), paths, strict=True)))


class TestReadChips:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        touch(
            tmp_path, 'o/1.tif', 's/1.tif', 'm/1.tif', 'o/2.tif', 's/2.tif', 'm/2.tif'
        )
        return tmp_path

    def test_csv(self, root: Path) -> None:
        path = root / 'chips.csv'
        path.write_text(
            'optical,sar,mask,split,group,name\n'
            'o/2.tif,s/2.tif,m/2.tif,val,7,\no/1.tif,s/1.tif,m/1.tif,train,,x\n'
        )
        first, second = read_chips(path, ['optical', 'sar', 'mask'])
        assert first[:3] == tuple(str(root / f'{kind}/2.tif') for kind in 'osm')
        assert first[3:] == ('2', '7', 'val')
        assert second[3:] == ('x', '', 'train')
        assert read_chips(path, ['optical', 'sar'])[0].mask == ''

    @pytest.mark.parametrize('suffix', ['gpkg', 'geojson'])
    def test_vector(self, suffix: str, root: Path) -> None:
        path = root / f'chips.{suffix}'
        table = {'optical': ['o/1.tif'], 'sar': ['s/1.tif'], 'group': [3]}
        geometry = [shapely.Point(0, 0)]
        gpd.GeoDataFrame(table, geometry=geometry, crs=4326).to_file(path)
        (found,) = read_chips(path, ['optical', 'sar'])
        files = [str(root / f'{kind}/1.tif') for kind in 'os']
        assert found == (*files, '', '1', '3', '')

    @pytest.mark.parametrize(
        ('text', 'message'),
        [
            (
                'optical,sar\no/1.tif,s/1.tif',
                r"\['optical', 'sar'\]: .* optical, sar, m",
            ),
            ('optical,sar,mask\n', 'has 0 rows'),
            ('optical,sar,mask\no/1.tif,,m/1.tif', 'has no sar in row 1'),
            (
                (
                    'optical,sar,mask,split\no/1.tif,s/1.tif,m/1.tif,train\n'
                    'o/1.tif,s/2.tif,m/2.tif,val'
                ),
                r"has '.*o/1\.tif' in the splits 'train' and 'val'",
            ),
        ],
    )
    def test_errors(self, text: str, message: str, root: Path) -> None:
        (root / 'c.csv').write_text(text)
        with pytest.raises(ValueError, match=rf"table of chips '.*c\.csv'.*{message}"):
            read_chips(root / 'c.csv', ['optical', 'sar', 'mask'])

    def test_no_file(self, root: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"no\.csv' does not exist"):
            read_chips(root / 'no.csv', ['optical'])
        (root / 'c.csv').write_text(
            'optical,sar\no/1.tif,https://host/1.tif\no/9.tif,x'
        )
        with pytest.raises(
            FileNotFoundError, match=r"o/9\.tif' in row 2, which does not"
        ):
            read_chips(root / 'c.csv', ['optical', 'sar'])


class TestDivide:
    def test_runs(self) -> None:
        """Neighbours stay together, and a share is that of the chips."""
        chips = [chip(f'{number}') for number in range(320)]
        divided = divide(chips, {'val': 0.125, 'test': 0.25})
        count = Counter(chip.split for chip in divided)
        assert count == {'train': 200, 'val': 40, 'test': 80}
        splits = [chip.split for chip in divided]
        assert all(len(set(splits[i : i + 20])) == 1 for i in range(0, 320, 20))
        assert [chip.group for chip in divided[::20]] == [str(i) for i in range(1, 17)]
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
        """What nobody takes is for training, or left out if training has a share."""
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
        """Where there is no folder, a part of that for training is taken."""
        splits = {'val': 0.25}
        train, val = (self.load(root, split, splits) for split in ('train', 'val'))
        assert (len(train), len(val)) == (12, 4)
        assert {c.name for c in train} & {c.name for c in val} == set()
        assert {c.split for c in val} == {'val'}
        assert len(self.load(root, 'test', splits)) == 2

    def test_empty(self, root: Path) -> None:
        match = (
            r"split 'val' is empty: the 16 chips of 16 groups are divided as "
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

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import shapely

from tests.datasets.helpers import touch
from torchgeo_m2cd.datasets.chips import Chip, find_chips, read_chips

DEFAULT = {'optical': '{split}/A/*', 'sar': '{split}/B/*', 'mask': '{split}/label/*'}


def keys(chips: list[Chip]) -> list[str]:
    return [f'{chip.group}/{chip.name}' if chip.group else chip.name for chip in chips]


class TestFindChips:
    def test_default(self, tmp_path: Path) -> None:
        """Pairs share a stem, numbers are sorted by value, other files are ignored."""
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

    def test_group_within_root(self, tmp_path: Path) -> None:
        """Folders above the root are no groups."""
        root = tmp_path / 'data'
        touch(root, *(f'{g}/x/{k}/1.tif' for g in 'ab' for k in 'os'))
        paths = {'optical': '{group}/**/o/*', 'sar': '{group}/**/s/*'}
        assert keys(find_chips(root, paths)) == ['a/1', 'b/1']

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
        # 0 is a group, and a row needs no place
        table['group'], geometry = [0], [None]
        gpd.GeoDataFrame(table, geometry=geometry, crs=4326).to_file(path)
        assert read_chips(path, ['optical', 'sar'])[0].group == '0'

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

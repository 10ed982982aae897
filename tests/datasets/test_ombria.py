# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import os
import pathlib
import zipfile
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from torchgeo.datasets import DatasetNotFoundError, RGBBandsMissingError

from tests.data.ombria.data import NUMBERS, SIZE, arrays, make_ombria, names
from torchgeo_m2cd.datasets import OMBRIA, archives
from torchgeo_m2cd.transforms import Inputs, LeftOut

REAL = pathlib.Path(__file__).parents[2].parent / 'shared' / 'data' / 'ombria'


def numbers(dataset: OMBRIA) -> list[int]:
    """Return the numbers in the names of the optical images."""
    return [int(pathlib.Path(f.optical).stem.split('_')[-1]) for f in dataset.files]


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root = tmp_path_factory.mktemp('ombria')
    make_ombria(root)
    return root


class TestOMBRIA:
    @pytest.mark.parametrize(
        ('split', 'expected'),
        [
            ('train', [9, 10, 21, 32, 100, 773]),
            ('val', [22, 31]),
            ('test', [13, 770]),
            ('albania', [1, 2, 10]),
            ('timor', [7]),
            ('events', [1, 2, 10, 3, 4, 5, 7]),
        ],
    )
    def test_splits(self, root: pathlib.Path, split: str, expected: list[int]) -> None:
        dataset = OMBRIA(root, split)
        assert numbers(dataset) == expected
        assert len(dataset) == len(expected)

    def test_getitem(self, root: pathlib.Path) -> None:
        sample = OMBRIA(root, 'albania')[1]
        optical, sar, mask = map(torch.from_numpy, arrays(2))
        assert sample['image'].shape == (2, 3, SIZE, SIZE)
        assert sample['image'].dtype == torch.float32
        assert torch.equal(sample['image'][0], optical.permute(2, 0, 1).float())
        for band in sample['image'][1]:
            assert torch.equal(band, sar.float())
        assert sample['mask'].dtype == torch.int64
        assert torch.equal(sample['mask'], (mask == 255).long()[None])

    @pytest.mark.parametrize('bands', [['G'], ['B', 'R']])
    def test_bands(self, root: pathlib.Path, bands: list[str]) -> None:
        dataset = OMBRIA(root, 'albania', bands=bands)
        optical, sar, _ = map(torch.from_numpy, arrays(2))
        image = dataset[1]['image']
        expected = optical[..., ['RGB'.index(band) for band in bands]]
        assert torch.equal(image[0], expected.permute(2, 0, 1).float())
        assert torch.equal(image[1], sar.float().expand(len(bands), -1, -1))
        names = ['B08' if band == 'G' else '' for band in bands]
        assert dataset.band_names == (names, ['VV'])
        with pytest.raises(RGBBandsMissingError):
            dataset.plot(dataset[1])

    def test_dark_water(self, tmp_path: pathlib.Path) -> None:
        """Black near infrared alone is dark water; no data are 0 in all bands."""
        make_ombria(tmp_path, {'timor': [1]})
        path = tmp_path / names('timor', 1)[0]
        image = np.full((SIZE, SIZE, 3), 40, np.uint8)
        image[:2, :, :2] = image[2:4] = 0
        Image.fromarray(image).save(path)
        for bands in (['G'], ['R', 'G'], ['R', 'G', 'B']):
            optical = OMBRIA(tmp_path, 'timor', bands=bands)[0]['image']
            valid = Inputs(LeftOut(len(bands)), LeftOut(1)).valid(optical)[0]
            assert valid[:2].all()
            assert not valid[2:4].any()
            assert valid[4:].all()
            assert (optical[0, :2, :4] < 1e-30).all()

    def test_wrong_bands(self, root: pathlib.Path) -> None:
        with pytest.raises(ValueError, match="unknown optical band 'NIR'"):
            OMBRIA(root, bands=['NIR'])
        with pytest.raises(
            ValueError, match=r'bands is \[\]: expected at least 1 item'
        ):
            OMBRIA(root, bands=[])

    def test_transforms(self, root: pathlib.Path) -> None:
        new = torch.zeros(1)
        dataset = OMBRIA(root, transforms=lambda sample: sample | {'image': new})
        assert dataset[0]['image'] is new

    def test_plot(self, root: pathlib.Path) -> None:
        dataset = OMBRIA(root)
        sample = dataset[0]
        sample['prediction'] = sample['mask']
        assert len(dataset.plot(sample).axes) == 5
        plt.close()

    def test_only_needed_folders(self, tmp_path: pathlib.Path) -> None:
        make_ombria(tmp_path, {'timor': [3]})
        assert numbers(OMBRIA(tmp_path, 'timor')) == [3]

    def test_other_files(self, tmp_path: pathlib.Path) -> None:
        make_ombria(tmp_path, {'timor': [3]})
        folder = tmp_path / '2021/TIMOR/Sentinel2/BEFORE'
        for name in ('._imbefore_4.png', 'Thumbs.db', 'imbefore.png'):
            (folder / name).touch()
        assert numbers(OMBRIA(tmp_path, 'timor')) == [3]

    def test_groups(self, root: pathlib.Path) -> None:
        assert numbers(OMBRIA(root, 'dry')) == [9, 10, 21, 22, 31]
        left = {'train': [32, 100, 773], 'test': [13, 770]}
        for split in ('train', 'test'):
            dataset = OMBRIA(root, split, leave_out=['dry', 'green'])
            assert numbers(dataset) == left[split]
        with pytest.raises(FileNotFoundError, match="belongs to split 'val'"):
            OMBRIA(root, 'val', leave_out=['dry'])
        with pytest.raises(ValueError, match="unknown leave_out 'val'"):
            OMBRIA(root, leave_out=['val'])

    def test_unknown_split(self, root: pathlib.Path) -> None:
        with pytest.raises(
            ValueError, match=r"unknown split 'Timor'.* did you mean 'timor'"
        ):
            OMBRIA(root, 'Timor')

    def test_not_found(self, tmp_path: pathlib.Path) -> None:
        for split in OMBRIA.splits:
            with pytest.raises(DatasetNotFoundError, match='use `download=True`'):
                OMBRIA(tmp_path, split)

    def test_missing_folder(self, tmp_path: pathlib.Path) -> None:
        make_ombria(tmp_path, {'test': [1]})
        (tmp_path / 'OmbriaS1/test/MASK/S1_mask_0001.png').unlink()
        with pytest.raises(
            FileNotFoundError, match=r'no PNG file in OmbriaS1/test/MASK: add .*=True`$'
        ):
            OMBRIA(tmp_path, 'test')

    def test_missing_events(self, tmp_path: pathlib.Path) -> None:
        make_ombria(tmp_path, {'albania': [1], 'timor': [1], 'france': [1]})
        with pytest.raises(
            FileNotFoundError, match=r'2021/GUYANA/Sentinel2/BEFORE, .*single events by'
        ) as error:
            OMBRIA(tmp_path, 'events')
        assert 'FRANCE' not in str(error.value)

    @pytest.mark.parametrize('index', range(3))
    def test_missing_partner(self, tmp_path: pathlib.Path, index: int) -> None:
        make_ombria(tmp_path, {'test': [1, 2, 3]})
        (tmp_path / names('test', 2)[index]).unlink()
        kind = ('optical', 'SAR', 'mask')[index]
        with pytest.raises(FileNotFoundError, match=f'_0002.png has no {kind} file'):
            OMBRIA(tmp_path, 'test')

    @pytest.mark.parametrize(('split', 'number'), [('val', 1), ('train', 22)])
    def test_empty_split(self, tmp_path: pathlib.Path, split: str, number: int) -> None:
        make_ombria(tmp_path, {'train': [number]})
        with pytest.raises(
            FileNotFoundError, match=f'belongs to split {split!r}: valid'
        ):
            OMBRIA(tmp_path, split)

    def test_mask_values(self, tmp_path: pathlib.Path) -> None:
        make_ombria(tmp_path, {'test': [1]})
        path = tmp_path / names('test', 1)[2]
        Image.new('L', (SIZE, SIZE), 1).save(path)
        with pytest.raises(
            ValueError, match=r"S1_mask_0001.png' has the values 1: expected all"
        ):
            OMBRIA(tmp_path, 'test')[0]

    def test_checksum(self, tmp_path: pathlib.Path) -> None:
        make_ombria(tmp_path, {'timor': range(9)})
        OMBRIA(tmp_path, 'timor')
        with pytest.raises(RuntimeError, match='Sentinel2/BEFORE has 9 instead of 10'):
            OMBRIA(tmp_path, 'timor', checksum=True)
        make_ombria(tmp_path, {'timor': [9]})
        OMBRIA(tmp_path, 'timor', checksum=True)


MakeArchive = Callable[..., pathlib.Path]


class TestDownload:
    @pytest.fixture
    def make_archive(
        self,
        root: pathlib.Path,
        tmp_path: pathlib.Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> MakeArchive:
        """Make a fake of GitHub's archive, which the class then downloads."""

        def make(without: str = '', extra: str = '') -> pathlib.Path:
            path = tmp_path / 'github.zip'
            with zipfile.ZipFile(path, 'w') as archive:
                archive.writestr(f'OMBRIA-{OMBRIA.commit}/README.md', '# OMBRIA')
                archive.writestr('OMBRIA/OmbriaS2/train/AFTER/S2_after_0001.png', '')
                for file in root.rglob('*.png'):
                    name = file.relative_to(root).as_posix()
                    if name != without:
                        archive.write(file, f'OMBRIA-{OMBRIA.commit}/{name}')
                if extra:
                    archive.writestr(extra, 'evil')
            monkeypatch.setattr(OMBRIA, 'url', path.as_uri())
            counts = {part: len(chips) for part, chips in NUMBERS.items()}
            monkeypatch.setattr(OMBRIA, 'counts', counts)
            return path

        return make

    @pytest.fixture
    def target(self, tmp_path: pathlib.Path) -> pathlib.Path:
        return tmp_path / 'a' / 'data'

    def test_download(self, make_archive: MakeArchive, target: pathlib.Path) -> None:
        make_archive()
        dataset = OMBRIA(target, 'val', download=True, checksum=True)
        assert numbers(dataset) == [22, 31]
        optical, _, _ = arrays(22)
        assert torch.equal(
            dataset[0]['image'][0], torch.from_numpy(optical).permute(2, 0, 1).float()
        )
        # Other splits need neither the network nor the archive
        (target / 'OMBRIA.zip').unlink()
        for split in set(OMBRIA.splits) - {
            'green',
            'plain',
        }:  # No such chip in the fake data
            OMBRIA(target, split, checksum=True)
        assert sorted(os.listdir(target)) == ['2021', 'OmbriaS1', 'OmbriaS2']
        assert not (target / 'OmbriaS2/train/AFTER').exists()

    def test_archive_is_there(
        self, make_archive: MakeArchive, target: pathlib.Path
    ) -> None:
        target.mkdir(parents=True)
        make_archive().rename(target / 'OMBRIA.zip')
        assert numbers(OMBRIA(target, 'timor')) == [7]

    def test_keep_folders(
        self, make_archive: MakeArchive, target: pathlib.Path
    ) -> None:
        make_ombria(target, {'timor': [77]})
        (target / '2021/FRANCE/Sentinel1/MASK').mkdir(parents=True)
        make_archive()
        dataset = OMBRIA(target, 'events', download=True)
        assert numbers(dataset) == [1, 2, 10, 3, 4, 5, 77]

    @pytest.mark.parametrize(
        'extra',
        [
            '../evil.png',
            '../../evil.png',
            f'OMBRIA-{OMBRIA.commit}/../evil.png',
            f'OMBRIA-{OMBRIA.commit}/OmbriaS1/train/MASK/../../../../evil.png',
            f'OMBRIA-{OMBRIA.commit}/OmbriaS1/train/MASK/..\\evil.png',
            '/evil.png',
        ],
    )
    def test_path_traversal(
        self,
        make_archive: MakeArchive,
        target: pathlib.Path,
        tmp_path: pathlib.Path,
        extra: str,
    ) -> None:
        make_archive(extra=extra)
        OMBRIA(target, download=True)
        assert not list(tmp_path.rglob('*evil*'))
        assert not pathlib.Path('/evil.png').exists()

    @pytest.mark.parametrize(
        ('without', 'extra', 'message'),
        [
            (
                names('guyana', 4)[1],
                '',
                '2021/GUYANA/Sentinel1/AFTER has 1 instead of 2',
            ),
            ('', 'O/OmbriaS1/test/MASK/S1_mask_0001.png', 'MASK has 3 instead of 2'),
        ],
    )
    def test_wrong_counts(
        self,
        make_archive: MakeArchive,
        target: pathlib.Path,
        without: str,
        extra: str,
        message: str,
    ) -> None:
        make_archive(without, extra)
        with pytest.raises(RuntimeError, match=f'delete it and .*{message}'):
            OMBRIA(target, download=True)
        assert os.listdir(target) == ['OMBRIA.zip']

    def test_bomb(
        self,
        make_archive: MakeArchive,
        target: pathlib.Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """An archive that is too large is not unpacked and leaves no files."""
        make_archive()
        monkeypatch.setattr(archives, 'MAX_FOLDER', 200)
        with pytest.raises(RuntimeError, match='has more than 200 bytes when unpacked'):
            OMBRIA(target, download=True)
        assert os.listdir(target) == ['OMBRIA.zip']

    @pytest.mark.parametrize('size', [0, 100, -100])
    def test_corrupt(
        self, make_archive: MakeArchive, target: pathlib.Path, size: int
    ) -> None:
        path = make_archive()
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(
            RuntimeError, match=r'OMBRIA\.zip is not a complete archive'
        ):
            OMBRIA(target, download=True)
        assert os.listdir(target) == ['OMBRIA.zip']


@pytest.mark.skipif(
    not REAL.is_dir(), reason='needs the real data in ../shared/data/ombria'
)
class TestReal:
    @pytest.mark.parametrize(
        ('split', 'length'),
        [('train', 551), ('val', 73), ('test', 70), ('albania', 22), ('timor', 10)],
    )
    def test_counts(self, split: str, length: int) -> None:
        dataset = OMBRIA(REAL, split, checksum=True)
        assert len(dataset) == length
        sample = dataset[length // 2]
        assert sample['image'].shape == (2, 3, 256, 256)
        assert sample['mask'].unique().tolist() == [0, 1]

    def test_disjoint(self) -> None:
        splits = [
            set(numbers(OMBRIA(REAL, split))) for split in ('train', 'val', 'test')
        ]
        assert len(set.union(*splits)) == sum(map(len, splits)) == 694

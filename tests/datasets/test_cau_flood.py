# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import pathlib

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torchgeo.datasets import DatasetNotFoundError, RGBBandsMissingError

from tests.data.cau_flood.data import SIZE, arrays, make_cau_flood, write
from torchgeo_m2cd.datasets import CAUFlood


def numbers(dataset: CAUFlood) -> list[int]:
    """Return the numbers in the names of the optical images."""
    return [int(pathlib.Path(f.optical).stem.split('_')[-1]) for f in dataset.files]


@pytest.fixture(scope='module')
def authors(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root = tmp_path_factory.mktemp('authors')
    make_cau_flood(root, 'authors')
    return root


@pytest.fixture(scope='module')
def original(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root = tmp_path_factory.mktemp('original')
    make_cau_flood(root, 'original')
    return root


class TestCAUFlood:
    def test_divided(self, authors: pathlib.Path) -> None:
        # 32 samples make 16 runs of two. The 4th and the 12th run are for validation
        val = [6, 7, 22, 23]
        assert numbers(CAUFlood(authors, 'val')) == val
        train = CAUFlood(authors, 'train')
        assert numbers(train) == [i for i in range(32) if i not in val]
        assert len(train) == 28
        assert numbers(CAUFlood(authors, 'test')) == [0, 1]

    def test_val_folder(self, original: pathlib.Path) -> None:
        assert numbers(CAUFlood(original, 'train')) == list(range(32))
        dataset = CAUFlood(original, 'val')
        assert numbers(dataset) == [0, 1]
        assert pathlib.Path(dataset.files[0].sar).parent == original / 'val' / 'B'

    def test_authors_layout(self, authors: pathlib.Path) -> None:
        dataset = CAUFlood(authors)
        assert dataset.bands == ('B02', 'B03', 'B04', 'B08')
        sample = dataset[3]
        optical, sar, mask = map(torch.from_numpy, arrays(3, 4, changed=1))
        assert torch.equal(sample['image'][0], optical.float())
        assert torch.equal(sample['image'][1], sar.float().expand(4, -1, -1))
        assert torch.equal(sample['mask'], mask)
        assert sample['image'].dtype == torch.float32
        assert sample['mask'].dtype == torch.int64

    def test_original_layout(self, original: pathlib.Path) -> None:
        dataset = CAUFlood(original, 'test')
        assert dataset.bands == ('B04', 'B03', 'B02')
        sample = dataset[1]
        assert sample['image'].shape == (2, 3, SIZE, SIZE)
        optical, _, _ = arrays(1, 3)
        assert torch.equal(sample['image'][0], torch.from_numpy(optical).float())

    @pytest.mark.parametrize('layout', ['authors', 'original'])
    def test_bands(self, request: pytest.FixtureRequest, layout: str) -> None:
        dataset = CAUFlood(
            request.getfixturevalue(layout), bands=('B03', 'B04'), split='test'
        )
        index = [1, 2] if layout == 'authors' else [1, 0]
        optical, _, _ = arrays(0, 4 if layout == 'authors' else 3)
        expected = torch.from_numpy(optical[index]).float()
        assert torch.equal(dataset[0]['image'][0], expected)

    def test_float_and_ones(self, tmp_path: pathlib.Path) -> None:
        make_cau_flood(tmp_path, suffix='.tif', dtype='float32', changed=1, train=0)
        sample = CAUFlood(tmp_path, 'test')[1]
        optical, sar, mask = map(torch.from_numpy, arrays(1, 4, changed=1))
        assert torch.equal(sample['image'][0], optical.float())
        assert torch.equal(sample['image'][1, 0], sar[0].float())
        assert torch.equal(sample['mask'], mask)

    def test_other_files(self, tmp_path: pathlib.Path) -> None:
        make_cau_flood(tmp_path, train=0)
        for name in ('.chip_9.png', 'Thumbs.db'):
            (tmp_path / 'test' / 'opt' / name).touch()
        assert len(CAUFlood(tmp_path, 'test')) == 2

    def test_transforms(self, authors: pathlib.Path) -> None:
        new = torch.zeros(1)
        dataset = CAUFlood(authors, transforms=lambda sample: sample | {'image': new})
        assert dataset[0]['image'] is new

    def test_plot(self, authors: pathlib.Path) -> None:
        dataset = CAUFlood(authors)
        sample = dataset[7]
        sample['prediction'] = sample['mask']
        assert len(dataset.plot(sample, suptitle='Test').axes) == 5
        plt.close()

    def test_plot_rgb_missing(self, authors: pathlib.Path) -> None:
        dataset = CAUFlood(authors, bands=('B08',))
        with pytest.raises(RGBBandsMissingError):
            dataset.plot(dataset[0])

    def test_unknown_split(self, authors: pathlib.Path) -> None:
        with pytest.raises(
            ValueError, match=r"unknown split 'valid'.* did you mean 'val'"
        ):
            CAUFlood(authors, 'valid')

    def test_unknown_band(self, authors: pathlib.Path, original: pathlib.Path) -> None:
        with pytest.raises(
            ValueError, match=r"unknown optical band 'B8'.* did you mean 'B08'"
        ):
            CAUFlood(authors, bands=('B02', 'B8'))
        with pytest.raises(ValueError, match=r"unknown optical band 'B08'"):
            CAUFlood(original, bands=('B08',))
        with pytest.raises(
            ValueError, match=r'bands is \(\): expected at least 1 item'
        ):
            CAUFlood(original, bands=())

    @pytest.mark.parametrize('split', CAUFlood.splits)
    def test_not_found(self, tmp_path: pathlib.Path, split: str) -> None:
        (tmp_path / 'train' / 'opt').mkdir(parents=True)
        folder = 'test' if split == 'test' else 'train'
        with pytest.raises(
            DatasetNotFoundError,
            match=rf'CMCDNet, .*{folder}/{{opt,vv,flood_vv}} or {folder}/{{A,B,label}}',
        ):
            CAUFlood(tmp_path, split)

    @pytest.mark.parametrize(
        ('folder', 'kind'), [('opt', 'optical'), ('vv', 'SAR'), ('flood_vv', 'mask')]
    )
    def test_missing_partner(
        self, tmp_path: pathlib.Path, folder: str, kind: str
    ) -> None:
        make_cau_flood(tmp_path, train=0)
        (tmp_path / 'test' / folder / 'chip_1.png').unlink()
        with pytest.raises(FileNotFoundError, match=f'chip_1.png has no {kind} file'):
            CAUFlood(tmp_path, 'test')

    def test_ambiguous_name(self, tmp_path: pathlib.Path) -> None:
        make_cau_flood(tmp_path, suffix='.tif', train=0)
        write(tmp_path / 'test/vv/chip_1.tiff', np.zeros((1, SIZE, SIZE), np.uint8))
        with pytest.raises(
            ValueError, match='have the same name: expected one SAR file'
        ):
            CAUFlood(tmp_path, 'test')

    def test_too_few(self, tmp_path: pathlib.Path) -> None:
        make_cau_flood(tmp_path, train=2)
        with pytest.raises(
            ValueError,
            match=r"unknown group of split 'val' '4' \(expected one of '1', '9",
        ):
            CAUFlood(tmp_path, 'val')

    def test_wrong_bands(self, tmp_path: pathlib.Path) -> None:
        make_cau_flood(tmp_path, train=0)
        write(tmp_path / 'test/opt/chip_0.png', np.zeros((3, SIZE, SIZE), np.uint8))
        dataset = CAUFlood(tmp_path, 'test')
        with pytest.raises(
            ValueError, match=r"chip_0\.png' has 3 band\(s\): expected 4"
        ):
            dataset[0]

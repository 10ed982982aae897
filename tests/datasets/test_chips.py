# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import pathlib

import numpy as np
import pytest
import torch

from tests.data.cau_flood.data import write
from torchgeo_m2cd.datasets.chips import (
    Files,
    match_files,
    read_image,
    read_mask,
    read_sample,
)

H, W = 4, 6


class TestReadImage:
    @pytest.mark.parametrize(
        ('name', 'dtype'),
        [
            ('a.png', 'uint8'),
            ('a.png', 'uint16'),
            ('a.tif', 'int16'),
            ('a.tif', 'float32'),
        ],
    )
    def test_read(self, tmp_path: pathlib.Path, name: str, dtype: str) -> None:
        array = (np.arange(3 * H * W).reshape(3, H, W) * 3).astype(dtype)
        write(tmp_path / name, array)
        image = read_image(tmp_path / name, 3)
        assert image.dtype == torch.float32
        np.testing.assert_array_equal(image.numpy(), array.astype(np.float32))

    def test_count(self, tmp_path: pathlib.Path) -> None:
        write(tmp_path / 'a.png', np.zeros((4, H, W), dtype=np.uint8))
        with pytest.raises(ValueError, match=r'a\.png has 4 band\(s\): expected 3'):
            read_image(tmp_path / 'a.png', 3)

    @pytest.mark.parametrize('value', [np.nan, np.inf])
    def test_not_finite(self, tmp_path: pathlib.Path, value: float) -> None:
        array = np.zeros((1, H, W), dtype=np.float32)
        array[0, 1, 2:4] = value
        write(tmp_path / 'a.tif', array)
        with pytest.raises(
            ValueError, match=r'a\.tif has 2 NaN or infinite value\(s\)'
        ):
            read_image(tmp_path / 'a.tif', 1)

    @pytest.mark.parametrize('name', ['a.png', 'a.tif'])
    def test_truncated(self, tmp_path: pathlib.Path, name: str) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (3, 64, 64))
        path = tmp_path / name
        write(path, noise.astype(np.uint8))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(
            RuntimeError, match=f'{name} cannot be read: expected a comp'
        ):
            read_image(path, 3)

    def test_not_an_image(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / 'a.png').write_text('not an image')
        with pytest.raises(RuntimeError, match=r'a\.png cannot be read'):
            read_image(tmp_path / 'a.png', 3)


class TestReadMask:
    @pytest.mark.parametrize(('value', 'changed'), [(255, (255,)), (1, (1, 255))])
    def test_read(
        self, tmp_path: pathlib.Path, value: int, changed: tuple[int, ...]
    ) -> None:
        array = np.zeros((1, H, W), dtype=np.uint8)
        array[0, 1:3, 2] = value
        write(tmp_path / 'a.png', array)
        mask = read_mask(tmp_path / 'a.png', changed)
        assert mask.dtype == torch.int64
        np.testing.assert_array_equal(mask.numpy(), array // value)

    @pytest.mark.parametrize('value', [0, 255])
    def test_one_value(self, tmp_path: pathlib.Path, value: int) -> None:
        write(tmp_path / 'a.png', np.full((1, H, W), value, dtype=np.uint8))
        assert (read_mask(tmp_path / 'a.png') == value // 255).all()

    @pytest.mark.parametrize(
        ('values', 'changed', 'message'),
        [
            ([1], (255,), r'value\(s\) 1 beside 0: expected 0 for .* and 255 for'),
            ([7, 255], (255,), r'value\(s\) 7, 255 beside 0'),
            ([1, 255], (1, 255), r'value\(s\) 1, 255 beside 0: .* and 1 or 255 for'),
        ],
    )
    def test_values(
        self,
        tmp_path: pathlib.Path,
        values: list[int],
        changed: tuple[int, ...],
        message: str,
    ) -> None:
        array = np.zeros((1, H, W), dtype=np.uint8)
        array[0, 0, : len(values)] = values
        write(tmp_path / 'a.png', array)
        with pytest.raises(ValueError, match=r'a\.png has mask ' + message):
            read_mask(tmp_path / 'a.png', changed)

    def test_count(self, tmp_path: pathlib.Path) -> None:
        write(tmp_path / 'a.png', np.zeros((3, H, W), dtype=np.uint8))
        with pytest.raises(ValueError, match=r'has 3 bands: expected a mask of 1 band'):
            read_mask(tmp_path / 'a.png')


class TestReadSample:
    @pytest.fixture
    def files(self, tmp_path: pathlib.Path) -> Files:
        files = Files(*(str(tmp_path / f'{name}.tif') for name in Files._fields))
        optical = np.arange(4 * H * W, dtype=np.float32).reshape(4, H, W)
        write(pathlib.Path(files.optical), optical)
        write(pathlib.Path(files.sar), optical[:1] - 100)
        write(pathlib.Path(files.mask), np.full((1, H, W), 255, dtype=np.uint8))
        return files

    def test_all_bands(self, files: Files) -> None:
        sample = read_sample(files, 4, 1)
        expected = torch.arange(4 * H * W).reshape(4, H, W)
        assert torch.equal(sample['image'][0], expected.float())
        assert torch.equal(sample['image'][1], (expected[[0] * 4] - 100).float())
        assert torch.equal(sample['mask'], torch.ones(1, H, W, dtype=torch.long))

    def test_some_bands(self, files: Files) -> None:
        sample = read_sample(files, 4, 1, optical_indices=(2, 0))
        expected = torch.arange(4 * H * W).reshape(4, H, W)
        assert torch.equal(sample['image'][0], expected[[2, 0]].float())
        assert sample['image'].shape == (2, 2, H, W)

    @pytest.mark.parametrize('name', ['sar', 'mask'])
    def test_size(self, files: Files, name: str) -> None:
        write(pathlib.Path(getattr(files, name)), np.zeros((1, 5, 7), dtype=np.uint8))
        with pytest.raises(
            ValueError, match=rf'optical\.tif has 4 x 6 .*{name}\.tif has 5 x 7 pixels'
        ):
            read_sample(files, 4, 1)


class TestMatchFiles:
    def test_match(self) -> None:
        files = match_files({2: 'o2', 1: 'o1'}, {1: 's1', 2: 's2'}, {1: 'm1', 2: 'm2'})
        assert files == [('o2', 's2', 'm2'), ('o1', 's1', 'm1')]

    def test_one_missing(self) -> None:
        with pytest.raises(
            FileNotFoundError,
            match=r'^o1 has no SAR file: found 1 optical, 0 SAR, and 1 mask files',
        ):
            match_files({1: 'o1'}, {}, {1: 'm1'})

    def test_more_missing(self) -> None:
        with pytest.raises(
            FileNotFoundError,
            match=r'^m2 has no optical file \(nor have 1 more\): found',
        ):
            match_files({1: 'o'}, {1: 's'}, {1: 'm', 2: 'm2', 3: 'm3'})

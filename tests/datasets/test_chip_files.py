# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch

from tests.data.cau_flood.data import write
from torchgeo_m2cd.datasets import MaskSource, SARSource, Source
from torchgeo_m2cd.datasets.chip_files import ImageReader, read_mask

H, W = 4, 6


def ramp(count: int, dtype: str = 'float32') -> np.ndarray:
    return (np.arange(count * H * W).reshape(count, H, W) * 2).astype(dtype)


def tag(path: Path, **values: Any) -> None:
    """Set tags of a file, such as its value for no data."""
    with rasterio.open(path, 'r+') as file:
        for key, value in values.items():
            setattr(file, key, value)


def save(path: Path, array: np.ndarray, **tags: Any) -> str:
    write(path, array)
    if tags:
        tag(path, **tags)
    return str(path)


def optical(path: str, **settings: Any) -> ImageReader:
    return ImageReader.of('optical', Source(**settings), path)


def sar(path: str, **settings: Any) -> ImageReader:
    return ImageReader.of('SAR', SARSource(**settings), path)


pytestmark = pytest.mark.filterwarnings('ignore:Dataset has no geotransform')


class TestImageReader:
    @pytest.mark.parametrize(
        ('name', 'dtype'),
        [
            ('a.png', 'uint8'),
            ('a.png', 'uint16'),
            ('a.tif', 'int16'),
            ('a.tif', 'float64'),
        ],
    )
    def test_read(self, tmp_path: Path, name: str, dtype: str) -> None:
        array = ramp(3, dtype)
        path = save(tmp_path / name, array)
        reader = optical(path)
        assert reader.bands == ('1', '2', '3')
        assert reader.size == (H, W)
        image, valid = reader.read(path)
        assert image.dtype == torch.float32
        np.testing.assert_array_equal(image.numpy(), array.astype(np.float32))
        assert valid.dtype == torch.bool
        assert valid.shape == (1, H, W)
        assert valid.all()

    def test_four_bands_of_a_picture(self, tmp_path: Path) -> None:
        """The fourth band of a picture is a band, not transparency."""
        array = ramp(4, 'uint8')
        array[3, :2] = 0
        path = save(tmp_path / 'a.png', array)
        image, valid = optical(path).read(path)
        np.testing.assert_array_equal(image.numpy(), array)
        assert valid.all()

    @pytest.mark.parametrize(
        ('descriptions', 'bands', 'names', 'index'),
        [
            (None, None, ('1', '2', '3'), [0, 1, 2]),
            (None, [3, 1], ('3', '1'), [2, 0]),
            (None, ['red', 'green', 'x'], ('red', 'green', 'x'), [0, 1, 2]),
            (('red', 'B8', 'slope'), None, ('B04', 'B08', 'slope'), [0, 1, 2]),
            (('red', 'B8', 'slope'), ['slope', 'B04'], ('slope', 'B04'), [2, 0]),
            (('red', 'B8', 'slope'), [2], ('B08',), [1]),
            (None, {'B04': 3, 'B02': 1}, ('B04', 'B02'), [2, 0]),
            (('Band 1', 'Band 2', 'Band 3'), {'nir': 2}, ('nir',), [1]),
        ],
    )
    def test_bands(
        self,
        tmp_path: Path,
        descriptions: Any,
        bands: Any,
        names: Any,
        index: list[int],
    ) -> None:
        tags = {} if descriptions is None else {'descriptions': descriptions}
        path = save(tmp_path / 'a.tif', ramp(3), **tags)
        reader = optical(path, bands=bands)
        assert reader.bands == names
        np.testing.assert_array_equal(reader.read(path)[0].numpy(), ramp(3)[index])

    @pytest.mark.parametrize(
        ('bands', 'message'),
        [
            (
                [1, 3],
                r'optical.bands has 3: expected numbers from 1 to 2, the bands of',
            ),
            ({'B04': 3}, r'optical.bands has 3: expected numbers from 1 to 2, the'),
            (['B4'], r"unknown optical band 'B4', did you mean 'B04'"),
        ],
    )
    def test_wrong_bands(self, tmp_path: Path, bands: Any, message: str) -> None:
        path = save(tmp_path / 'a.tif', ramp(2), descriptions=('red', None))
        with pytest.raises(ValueError, match=message):
            optical(path, bands=bands)

    def test_other_file(self, tmp_path: Path) -> None:
        """All files must have the named bands of the first file."""
        reader = optical(save(tmp_path / 'a.tif', ramp(2), descriptions=('B04', None)))
        reader.read(save(tmp_path / 'b.tif', ramp(2)))
        path = save(tmp_path / 'c.tif', ramp(2), descriptions=('B08', 'B04'))
        match = (
            r"optical file '.*c\.tif' has the bands \[B08, B04\]: .*\[B04, \?\], as in"
        )
        with pytest.raises(ValueError, match=match):
            reader.read(path)
        path = save(tmp_path / 'd.tif', ramp(3))
        with pytest.raises(ValueError, match=r"d\.tif' has 3 band\(s\): expected 2"):
            reader.read(path)
        path = save(tmp_path / 'e.tif', ramp(2, 'complex64'))
        with pytest.raises(ValueError, match=r"e\.tif' has complex values"):
            reader.read(path)

    def test_infinite(self, tmp_path: Path) -> None:
        array = ramp(1)
        array[0, 1, 2:4] = np.inf
        path = save(tmp_path / 'a.tif', array)
        with pytest.raises(ValueError, match=r"a\.tif' has 2 infinite value\(s\)"):
            sar(path).read(path)

    @pytest.mark.parametrize(
        ('settings', 'tags'),
        [({}, {}), ({}, {'nodata': -9}), ({'nodata': -9}, {'nodata': -8})],
    )
    def test_no_data(self, tmp_path: Path, settings: Any, tags: Any) -> None:
        """Settings, tags or NaN in any band that is read mark no data."""
        array = ramp(2) + 1
        array[0, 0, 0] = array[1, 0, 1] = (tags and -9) or np.nan
        path = save(tmp_path / 'a.tif', array, **tags)
        image, valid = sar(path, **settings).read(path)
        assert not valid[0, 0, :2].any()
        assert valid.sum() == H * W - 2
        assert (image[:, 0, :2] == 0).all()
        assert torch.equal(image[:, 1:], torch.from_numpy(array[:, 1:]))
        _, valid = sar(path, bands=[2], **settings).read(path)
        assert valid.sum() == H * W - 1

    @pytest.mark.parametrize('nodata', [None, 0, -9])
    def test_zeros(self, tmp_path: Path, nodata: float | None) -> None:
        """An optical image has no data where all bands of the file are 0, and only there.

        This is so whatever the file says, but not if another value is given.
        """
        array = ramp(3) + 1
        array[:2, 0] = array[:, 1] = 0
        path = save(
            tmp_path / 'a.tif', array, **({} if nodata is None else {'nodata': nodata})
        )
        settings: Any = {'bands': [1, 2], 'offset': -1, 'gain': 2}
        image, valid = optical(path, **settings).read(path)
        assert valid[:, [0, 2, 3]].all()
        assert not valid[:, 1].any()
        assert ((image[:, 0] > 0) & (image[:, 0] < 1e-30)).all()
        assert (image[:, 1] == 0).all()
        for given in (np.nan, -9):
            image, valid = optical(path, **settings, nodata=given).read(path)
            assert valid.all()
            assert ((image[:, :2] > 0) & (image[:, :2] < 1e-30)).all()
        # A benchmark may count them, though no model sees them
        source = Source(**settings)
        image, valid = ImageReader.of('optical', source, path, (), True).read(path)
        assert valid[:, 1].all() == (nodata != 0)
        assert (image[:, 1] == 0).all()
        expected = array[:2, 2:] * 2 - 1
        assert torch.equal(image[:, 2:], torch.from_numpy(expected))
        _, valid = sar(path).read(path)
        assert valid[:, 0].any() == (nodata != 0)

    def test_tags_of_scale(self, tmp_path: Path) -> None:
        """Optical samples are reflectance x 10,000, as of scenes."""
        tags = {'scales': (2e-5, 1.0), 'offsets': (-0.1, 0.0)}
        path = save(tmp_path / 'a.tif', ramp(2), **tags)
        image, _ = optical(path).read(path)
        expected = torch.from_numpy(ramp(2))
        expected[0] = expected[0] * 0.2 - 1000
        torch.testing.assert_close(image, expected)

    @pytest.mark.parametrize(
        ('dtype', 'settings', 'scale', 'unit'),
        [
            ('uint8', {}, 'other', None),
            ('uint16', {'decibels': 0.2}, 'other', 0.2),
            ('uint16', {'gain': 0.1}, 'db', 1),
            ('float32', {}, 'db', 1),
            ('float32', {'scale': 'other'}, 'other', None),
        ],
    )
    def test_scale(
        self, tmp_path: Path, dtype: str, settings: Any, scale: str, unit: float | None
    ) -> None:
        source = sar(save(tmp_path / 'a.tif', ramp(1, dtype)), **settings).source
        assert isinstance(source, SARSource)
        assert (source.scale, source.unit) == (scale, unit)

    def test_power(self, tmp_path: Path) -> None:
        array = 10 ** (-ramp(1) / 10)
        array[0, 0, 0] = np.nan
        path = save(tmp_path / 'a.tif', array)
        image, valid = sar(path, scale='power').read(path)
        expected = -torch.from_numpy(ramp(1)).clamp(max=40)
        torch.testing.assert_close(image[valid], expected[valid])
        assert image[0, 0, 0] == 0

    @pytest.mark.parametrize('name', ['a.png', 'a.tif'])
    def test_truncated(self, tmp_path: Path, name: str) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (3, 64, 64))
        path = tmp_path / name
        reader = optical(save(path, noise.astype(np.uint8)))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(RuntimeError, match=rf"{name}' cannot be read: expected a"):
            reader.read(str(path))

    @pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='needs pipes with names')
    def test_pipe(self, tmp_path: Path) -> None:
        """A pipe is refused without waiting for it."""
        os.mkfifo(tmp_path / 'a.tif')
        with pytest.raises(ValueError, match=r"optical file '.*a\.tif' is a pipe"):
            optical(str(tmp_path / 'a.tif'))

    def test_not_an_image(self, tmp_path: Path) -> None:
        (tmp_path / 'a.png').write_text('not an image')
        with pytest.raises(
            RuntimeError, match=r"optical file '.*a\.png' cannot be read"
        ):
            optical(str(tmp_path / 'a.png'))


class TestReadMask:
    @pytest.mark.parametrize(
        ('values', 'tags', 'settings', 'expected'),
        [
            ([0, 1, 2], {}, {}, [0, 1, 2]),
            ([0, 255, 255], {}, {'classes': {0: 0, 255: 1}}, [0, 1, 1]),
            ([0, 255, 255], {}, {'classes': {255: 1}}, [0, 1, 1]),
            ([0, 1, 255], {}, {'classes': {0: 0, 1: 1, 255: 255}}, [0, 1, 255]),
            ([7, 8, 9], {}, {'classes': {7: 1, 8: 255, 9: 0}}, [1, 255, 0]),
            ([0, 1, 255], {'nodata': 255}, {}, [0, 1, 255]),
            ([0, 1, 9], {}, {'nodata': 9}, [0, 1, 255]),
            ([0, 1, 1], {'nodata': 0}, {}, [0, 1, 1]),
            ([0, 1, 1], {'nodata': 0}, {'nodata': 0}, [255, 1, 1]),
            ([-1, 0, 1], {}, {}, [255, 0, 1]),
            ([np.nan, 0, 1], {}, {}, [255, 0, 1]),
        ],
    )
    def test_classes(
        self,
        tmp_path: Path,
        values: list[float],
        tags: Any,
        settings: Any,
        expected: Any,
    ) -> None:
        dtype = np.float32 if min(values) < 0 or np.isnan(values[0]) else np.uint8
        array = np.repeat(np.array(values, dtype), H * W // 3).reshape(1, H, W)
        path = save(tmp_path / 'a.tif', array, **tags)
        mask = read_mask(path, MaskSource(**settings))
        assert mask.dtype == torch.int64
        assert mask.shape == (1, H, W)
        assert mask.flatten().tolist() == np.repeat(expected, H * W // 3).tolist()

    @pytest.mark.parametrize(
        ('values', 'settings', 'message'),
        [
            (
                [0, 255],
                {},
                r'has the value 255: .*--data\.mask\.classes "\{0: 0, 255: 1\}"',
            ),
            (
                [0, 7, 255],
                {'classes': {0: 0, 255: 1}},
                (
                    r'has the values 7: expected all of them in mask\.classes, which is '
                    r'\{0: 0, 255: 1\}\. If .* \(--data\.mask\.classes '
                    r'"\{0: 0, 255: 1, 7: 255\}", or in YAML '
                    r'mask: \{classes: \{0: 0, 255: 1, 7: 255\}\}\)$'
                ),
            ),
            ([0, 0.5], {}, 'has the values 0.5: expected whole numbers'),
        ],
    )
    def test_not_mapped(
        self, tmp_path: Path, values: list[float], settings: Any, message: str
    ) -> None:
        array = np.resize(np.array(values, np.float32), (1, H, W))
        path = save(tmp_path / 'a.tif', array)
        with pytest.raises(ValueError, match=rf"mask file '.*a\.tif' {message}"):
            read_mask(path, MaskSource(**settings))

    def test_bands(self, tmp_path: Path) -> None:
        """A picture of three bands is a mask if its bands are equal."""
        array = np.zeros((3, H, W), np.uint8)
        array[:, 0] = 1
        path = save(tmp_path / 'a.png', array)
        assert read_mask(path, MaskSource()).sum() == W
        array[0] = 0
        path = save(tmp_path / 'a.png', array)
        with pytest.raises(
            ValueError, match=r'has 3 bands that differ: .* mask.bands='
        ):
            read_mask(path, MaskSource())
        assert read_mask(path, MaskSource(bands=[1])).sum() == 0
        with pytest.raises(ValueError, match=r'has 3 band\(s\): .* mask.bands=\[4\]'):
            read_mask(path, MaskSource(bands=[4]))

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import torch
import yaml
from rasterio.transform import from_origin

from tests.data.geotiff import NORTH, WEST, write
from torchgeo_m2cd.datamodules.checks import (
    check_mask,
    check_possible,
    check_values,
    find_impossible,
    probe,
)
from torchgeo_m2cd.datasets import SARSource, SceneDataset, Source
from torchgeo_m2cd.datasets.source import SARScale
from torchgeo_m2cd.transforms import Inputs, Standardize


class TestCheckValues:
    @pytest.fixture
    def real(self, tmp_path: Path) -> tuple[Path, Path]:
        """A scene with plausible values."""
        rng = np.random.default_rng(0)
        image = rng.normal(2000, 300, (3, 100, 120)).astype(np.uint16)
        sar = rng.normal(-12, 4, (1, 100, 120)).astype(np.float32)
        return write(tmp_path / 'o.tif', image), write(tmp_path / 's.tif', sar)

    MEAN = torch.tensor([[2000.0] * 3, [-12.0] * 3])

    def inputs(self, optical_std: float = 300.0, sar_mean: float = -12.0) -> Inputs:
        return Inputs(
            Standardize([2000.0] * 3, [optical_std] * 3), Standardize([sar_mean], [4.0])
        )

    def test_probe(self, real: tuple[Path, Path]) -> None:
        pixels = probe(SceneDataset(*real), 4, 16)
        assert pixels.shape == (2, 3, 16 * 256)
        mean = pixels.mean(-1)
        torch.testing.assert_close(mean, self.MEAN, rtol=0.02, atol=0)

    def test_good(self, real: tuple[Path, Path]) -> None:
        dataset = SceneDataset(*real)
        assert check_values(dataset) == 36 * 32 * 32
        seen: list[torch.Tensor] = []
        assert check_values(dataset, seen.append) == 36 * 32 * 32
        assert torch.equal(seen[0], probe(dataset))
        assert check_values(dataset, self.inputs().check) == 36 * 32 * 32

    def test_swapped(self, real: tuple[Path, Path]) -> None:
        with pytest.raises(ValueError, match=r's\.tif.* are optical and sar swapped'):
            check_values(SceneDataset(*real[::-1]))
        # A linear scale is not negative
        with pytest.raises(ValueError, match=r'median of 33\.01 dB .* swapped'):
            check_values(SceneDataset(real[0], SARSource(real[0], scale='power')))

    def test_linear_that_was_said_to_be_decibels(
        self, real: tuple[Path, Path], tmp_path: Path
    ) -> None:
        path = write(tmp_path / 'power.tif', np.full((100, 120), 0.06, np.float32))
        with pytest.raises(ValueError, match=r"power\.tif' has mostly positive values"):
            check_values(SceneDataset(real[0], path))
        scales: tuple[SARScale, ...] = ('power', 'other')
        for scale in scales:
            dataset = SceneDataset(real[0], SARSource(path, scale=scale))
            assert check_values(dataset) > 0

    @pytest.mark.parametrize(
        ('changed', 'match'),
        [
            ({'optical_std': 30_000.0}, 'optical band 1 has the median'),
            ({'sar_mean': 488.0}, 'SAR band 1 has the median'),
        ],
    )
    def test_other_units(
        self, changed: dict[str, float], match: str, real: tuple[Path, Path]
    ) -> None:
        match = rf"o\.tif' and SAR file .*s\.tif' does not fit the model: {match}"
        with pytest.raises(ValueError, match=match):
            check_values(SceneDataset(*real), self.inputs(**changed).check)

    def test_other_units_than_decibels(
        self, real: tuple[Path, Path], tmp_path: Path
    ) -> None:
        """Values that are far too low as a whole, such as dB x 100."""
        values = np.full((100, 120), -1200, np.int16)
        path = write(tmp_path / 'hundred.tif', values)
        match = (
            r"hundred\.tif' has a median of -1200 dB .*\(scale='other'\), or .*nodata"
        )
        with pytest.raises(ValueError, match=match):
            check_values(SceneDataset(real[0], path))
        check_possible(SceneDataset(real[0], path))
        check_values(SceneDataset(real[0], SARSource(path, scale='other')))

    def test_no_data(self, real: tuple[Path, Path], tmp_path: Path) -> None:
        path = write(tmp_path / 'nan.tif', np.full((100, 120), np.nan, np.float32))
        asked: list[torch.Tensor] = []
        assert check_values(SceneDataset(real[0], path), asked.append) == 0
        assert asked == []


class TestCheckMask:
    def test_elsewhere(self, tmp_path: Path) -> None:
        """A mask elsewhere has no labels of the scene."""
        optical = write(tmp_path / 'o.tif', np.ones((3, 100, 120)))
        sar = write(tmp_path / 's.tif', np.ones((100, 120)))
        values = np.zeros((50, 50), np.uint8)
        values[20:30] = 1
        inside = write(tmp_path / 'in.tif', values)
        check_mask(SceneDataset(optical, sar, inside), 2)
        there = from_origin(WEST + 5000, NORTH, 10, 10)
        outside = write(tmp_path / 'out.tif', values, there)
        with pytest.raises(
            ValueError,
            match=r"out\.tif' has no label in the scene, .* west 500000, .*32633",
        ):
            check_mask(SceneDataset(optical, sar, outside), 2)


def put(image: npt.NDArray[Any], value: float, share: float) -> npt.NDArray[Any]:
    """Put a value into the first columns of an image, in all bands."""
    image = image.copy()
    flat = image.reshape(len(image), -1)
    flat[:, : max(round(share * flat.shape[1]), 1)] = value
    return image


RNG = np.random.default_rng(0)
SHAPE = (3, 100, 100)
LAND = RNG.normal(2000, 300, SHAPE)
DECIBELS = RNG.normal(-12, 3, (2, 100, 100))
# Half of it clouds and snow, up to a reflectance of 1.6
BRIGHT = np.where(RNG.random(SHAPE) < 0.5, LAND, RNG.uniform(10_000, 16_000, SHAPE))
# All of it water, but for a few pixels of land
WATER = np.where(RNG.random(SHAPE) < 0.001, LAND, RNG.gamma(2, 30, SHAPE))
FLOAT32_MIN = float(np.finfo(np.float32).min)
# Of an image with values from 0 to 255, whose border is 0 and 255
PICTURE = put(put(RNG.integers(100, 130, SHAPE), 0, 0.2), 255, 0.1)


class TestFindImpossible:
    @pytest.mark.parametrize('share', [0.0001, 0.2, 0.9])
    @pytest.mark.parametrize('value', [-9999, -32768, -99999, 1e20, FLOAT32_MIN])
    @pytest.mark.parametrize('image', [LAND, BRIGHT, WATER, LAND / 10_000])
    def test_no_data_of_optical(
        self, image: npt.NDArray[Any], value: float, share: float
    ) -> None:
        bad = find_impossible(put(image, value, share).astype(np.float32))
        expected = put(np.zeros(SHAPE, dtype=bool), True, share)
        assert np.array_equal(bad, expected)

    @pytest.mark.parametrize(
        ('image', 'value', 'share'),
        [
            (LAND, 65535, 0.1),  # At the end of their type
            (LAND, 32767, 0.1),
            (LAND, 64535, 0.1),  # The same with the offset of Sentinel-2
            (LAND, -10999, 0.1),
            (LAND, 55537, 0.1),  # -9999 in uint16
            (BRIGHT, 65535, 0.1),
            (LAND, -999, 0.1),
            (LAND / 10_000, -1, 0.1),
            (LAND / 10_000, -99, 0.0001),
            (LAND / 10_000, 9999, 0.0001),
            (LAND / 10_000, 65535, 0.0001),
            (LAND, 9999, 0.1),
        ],
    )
    def test_reflectance(
        self, image: npt.NDArray[Any], value: float, share: float
    ) -> None:
        bad = find_impossible(put(image, value, share).astype(np.float32))
        assert np.array_equal(bad, put(np.zeros(SHAPE, dtype=bool), True, share))

    def test_several(self) -> None:
        image = put(put(put(LAND, 65535, 0.3), -9999, 0.2), -1e12, 0.1)
        expected = put(np.zeros(SHAPE, dtype=bool), True, 0.3)
        assert np.array_equal(find_impossible(image.astype(np.float32)), expected)
        # In one band, and beside no data
        image = LAND.copy()
        image[1, :20] = -9999
        image[:, 50:] = np.nan
        bad = find_impossible(image.astype(np.float32))
        assert np.array_equal(bad, image == -9999)

    @pytest.mark.parametrize(
        'image',
        [
            LAND,
            BRIGHT,
            BRIGHT / 10_000,
            WATER,
            WATER / 10_000,
            PICTURE,
            put(LAND, 65535, 0.001),  # Saturated
            put(WATER, 65535, 0.001),
            put(LAND, 0, 0.5),
            put(LAND, -1000, 0.1),  # Reflectance -0.1
            put(WATER, -1000, 0.1),
            WATER - 1000,
            put(LAND / 10_000, -0.1, 0.1),
            RNG.integers(0, 65536, SHAPE),  # A picture of 16 bits
            RNG.normal(0, 1, SHAPE).clip(-1, 1),  # One that was stretched
            LAND * np.nan,
            np.zeros(SHAPE),
            np.full(SHAPE, 65535),
            np.where(RNG.random(SHAPE) < 0.5, 500, 2000),
            DECIBELS,  # Swapped, which is for check_values to say
            LAND[..., :0],
        ],
    )
    def test_possible(self, image: npt.NDArray[Any]) -> None:
        assert not find_impossible(image.astype(np.float32)).any()

    @pytest.mark.parametrize('share', [0.0001, 0.2, 0.9])
    @pytest.mark.parametrize(
        'value', [-9999, -32768, -101, 61, 32767, np.inf, -np.inf, FLOAT32_MIN]
    )
    def test_decibels(self, value: float, share: float) -> None:
        if share == 0.9 and value in (-101, 61, 32767):
            pytest.skip('all of it is of another scale')
        scales: tuple[SARScale, ...] = ('db', 'power', 'amplitude')
        values = put(DECIBELS, value, share).astype(np.float32)
        for scale in scales:
            bad = find_impossible(values, scale)
            assert np.array_equal(bad, put(np.zeros(values.shape, bool), True, share))

    def test_many_that_are_alone(self) -> None:
        """-99 dB, and linear power of 9999."""
        for value in (-99, 40):
            values = put(DECIBELS, value, 0.1).astype(np.float32)
            assert np.array_equal(find_impossible(values, 'db'), values == value)
            values = put(DECIBELS, value, 0.001).astype(np.float32)
            assert not find_impossible(values, 'db').any()

    @pytest.mark.parametrize(
        'image',
        [
            DECIBELS,
            put(DECIBELS, -100, 0.1),  # The floor of others
            put(DECIBELS, -40, 0.5),  # Ours, over calm water
            put(DECIBELS, 35, 0.0001),  # A ship
            put(DECIBELS, 0, 0.2),
            put(DECIBELS, np.nan, 0.5),
            LAND,  # Uncalibrated, which is for check_values to say
            100 * DECIBELS,
            DECIBELS[..., :0],
        ],
    )
    def test_possible_decibels(self, image: npt.NDArray[Any]) -> None:
        assert not find_impossible(image.astype(np.float32), 'db').any()

    @pytest.mark.parametrize('value', [-9999, -32768, np.inf, -1e31, FLOAT32_MIN])
    def test_other_scale(self, value: float) -> None:
        images = (
            RNG.integers(0, 65536, SHAPE),
            put(RNG.integers(0, 65536, SHAPE), 65535, 0.1),
            PICTURE,
            LAND * 1e4,
            # dB x 1000
            (1000 * DECIBELS).round(),
        )
        for image in images:
            values = image.astype(np.float32)
            assert not find_impossible(values, 'other').any()
        for image in images[:-1]:
            values = put(image.astype(np.float32), value, 0.1)
            assert np.array_equal(find_impossible(values, 'other'), values == value)


class TestCheckPossible:
    """All files are checked at low resolution."""

    @pytest.fixture
    def optical(self, tmp_path: Path) -> Path:
        return write(tmp_path / 'optical.tif', LAND.astype(np.uint16))

    def make_sar(self, path: Path, value: float, share: float = 0.2) -> Path:
        return write(path, put(DECIBELS, value, share).astype(np.float32))

    @pytest.mark.parametrize(
        ('value', 'written'),
        [(-9999, '-9999'), (-np.inf, '-.inf'), (FLOAT32_MIN, repr(FLOAT32_MIN))],
    )
    def test_sar(
        self, value: float, written: str, optical: Path, tmp_path: Path
    ) -> None:
        path = self.make_sar(tmp_path / 'sar.tif', value)
        match = (
            rf"SAR file '.*sar\.tif' has impossible values: {re.escape(written)} in "
            r'0\.2 of the pixels\. If they stand for no data, set sar\.nodata to it, '
            rf'such as sar\.nodata={re.escape(written)}; check=False'
        )
        with pytest.raises(ValueError, match=match):
            check_possible(SceneDataset(optical, path))
        # What the message says
        source = SARSource(path, nodata=float(yaml.safe_load(written)))
        scene = SceneDataset(optical, source)
        check_possible(scene)
        assert scene.overview()['valid'].float().mean().item() == pytest.approx(0.8)
        # Values that a tag declares are no data anyway
        with rasterio.open(path, 'r+') as dst:
            dst.nodata = value
        check_possible(SceneDataset(optical, path))

    def test_power(self, optical: Path, tmp_path: Path) -> None:
        """Power may be slightly negative after noise removal, but not 65535 or inf."""
        power = 10 ** (DECIBELS / 10)
        calm = put(power, 0, 0.1)
        calm[0, 30:40] = -0.001
        path = write(tmp_path / 'calm.tif', calm.astype(np.float32))
        check_possible(SceneDataset(optical, SARSource(path, scale='power')))
        path = write(tmp_path / 'p.tif', put(power, 65535, 0.1).astype(np.float32))
        scales: tuple[SARScale, ...] = ('power', 'amplitude')
        for scale in scales:
            match = r'p\.tif. has impossible values: 65535 in 0\.1 of .*nodata=65535;'
            with pytest.raises(ValueError, match=match):
                check_possible(SceneDataset(optical, SARSource(path, scale=scale)))
        path = write(tmp_path / 'inf.tif', put(power, np.inf, 0.1).astype(np.float32))
        with pytest.raises(ValueError, match=r'values: \.inf in 0\.1 of'):
            check_possible(SceneDataset(optical, SARSource(path, scale='power')))

    def test_optical(self, optical: Path, tmp_path: Path) -> None:
        sar = self.make_sar(tmp_path / 'sar.tif', -12)
        check_possible(SceneDataset(optical, sar))
        path = write(tmp_path / 'o.tif', put(LAND, -9999, 0.05).astype(np.int16))
        match = r"^optical file '.*o\.tif' has impossible values: -9999 in 0\.05 of .*"
        with pytest.raises(ValueError, match=match + r'optical\.nodata=-9999'):
            check_possible(SceneDataset(path, sar))
        check_possible(SceneDataset(Source(path, nodata=-9999), sar))
        # Other scales have no units
        other = self.make_sar(tmp_path / 'other.tif', -9999)
        with pytest.raises(ValueError, match='has impossible values: -9999 in 0'):
            check_possible(SceneDataset(optical, SARSource(other, scale='other')))

    def test_several(self, optical: Path, tmp_path: Path) -> None:
        """The message names the three most frequent values."""
        image = DECIBELS.copy()
        image[:, 0, :10] = np.arange(-1010, -1000)
        image[:, 1:11] = -9999
        image[:, 11:16] = np.inf
        path = write(tmp_path / 'sar.tif', image.astype(np.float32))
        match = r': -9999 in 0\.1, \.inf in 0\.05, -1010 in 0\.0001 of the pixels, and 9 more'
        with pytest.raises(ValueError, match=match):
            check_possible(SceneDataset(optical, path))

    def test_each_file(self, optical: Path, tmp_path: Path) -> None:
        """One tile of a mosaic is enough."""
        for i, value in enumerate((-12, -9999)):
            self.make_sar(tmp_path / 'sar' / f'{i}.tif', value)
        with pytest.raises(ValueError, match=r"SAR file '.*1\.tif' has impossible"):
            check_possible(SceneDataset(optical, tmp_path / 'sar'))

    def test_border(self, tmp_path: Path) -> None:
        """A border narrower than a coarse pixel is found."""
        sar = RNG.normal(-12, 3, (1, 64, 3000)).astype(np.float32)
        sar[:, :, 0] = -9999
        scene = SceneDataset(
            write(tmp_path / 'o.tif', np.full((64, 3000), 2000, np.uint16)),
            write(tmp_path / 's.tif', sar),
        )
        check_possible(scene)
        with pytest.raises(
            ValueError, match=r's\.tif. has impossible values: -9999 in'
        ):
            check_values(scene)

    def test_anywhere(self, tmp_path: Path) -> None:
        """Values between the windows of the unit check are found in a large file."""
        sar = RNG.normal(-12, 3, (1, 1500, 2600)).astype(np.float32)
        sar[:, 700:760, 1000:1100] = -9999
        scene = SceneDataset(
            write(tmp_path / 'o.tif', np.full((1500, 2600), 2000, np.uint16)),
            write(tmp_path / 's.tif', sar),
        )
        assert (probe(scene)[1] > -50).all()
        with pytest.raises(ValueError, match=r'-9999 in 0\.001\d of the pixels'):
            check_possible(scene)

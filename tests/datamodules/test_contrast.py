# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from rasterio.transform import from_origin

from tests.data.geotiff import NORTH, WEST, write
from torchgeo_m2cd.datamodules import SceneDataModule
from torchgeo_m2cd.datasets import SARSource
from torchgeo_m2cd.transforms import (
    Inputs,
    LeftOut,
    Relative,
    RelativeDarkness,
    Standardize,
)

Image = npt.NDArray[np.float64]
SIZE = 300


def make_decibels(size: int = SIZE, seed: int = 0) -> Image:
    """Make land and, below, water in dB, with the speckle of 4.4 looks."""
    noise = np.random.default_rng(seed).gamma(4.4, 1 / 4.4, (size, size))
    image = 10 * np.log10(noise) - 9
    image[size * 2 // 3 :] -= 9
    return np.asarray(image)


def to_grey(decibels: Image, unit: float = 0.2) -> npt.NDArray[np.uint8]:
    """Turn dB into grey values, of which 0 is -45 dB for 0.2 dB."""
    return (decibels / unit + 225).round().clip(1, 255).astype(np.uint8)


def smooth(image: Image, size: int) -> Image:
    """Average squares of pixels."""
    windows = np.lib.stride_tricks.sliding_window_view(image, (size, size))
    return np.asarray(windows.mean(axis=(-1, -2)))


@pytest.fixture
def optical(tmp_path: Path) -> Path:
    rng = np.random.default_rng(1)
    return write(
        tmp_path / 'optical.tif', rng.normal(2500, 200, (SIZE, SIZE)).astype(np.uint16)
    )


@pytest.fixture
def trained() -> Inputs:
    """Inputs of a model that was trained with units of 0.2 dB."""
    return Inputs(
        RelativeDarkness([0.5]), Relative([10.0], ['otsu', 0.5], decibels=0.2), SIZE
    )


def prepare(
    optical: Path, sar: SARSource | Path, inputs: Inputs, **kwargs: Any
) -> SceneDataModule:
    datamodule = SceneDataModule(
        optical, sar, inputs=inputs, patch_size=SIZE, batch_size=1, **kwargs
    )
    datamodule.setup('predict')
    return datamodule


def show(datamodule: SceneDataModule) -> Image:
    """Return the SAR image as a model is shown it, shape (C, H, W)."""
    batch = datamodule.aug(next(iter(datamodule.predict_dataloader())))
    return np.asarray(batch['image'][0, 1].numpy(), np.float64)


class TestPicture:
    @pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
    @pytest.mark.parametrize('unit', [0.2, 0.12])
    def test_as_decibels(
        self,
        unit: float,
        dtype: type[np.integer[Any]],
        optical: Path,
        trained: Inputs,
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A model is shown the same of a picture and of dB."""
        decibels = make_decibels()
        grey = (decibels / unit + 255 - 7 / unit).round().clip(1, 255).astype(dtype)
        picture = write(tmp_path / 'picture.tif', grey)
        caplog.set_level(logging.INFO)
        datamodule = prepare(optical, picture, trained)
        found = show(datamodule)
        original = write(tmp_path / 'original.tif', decibels.astype(np.float32))
        expected = show(prepare(optical, original, trained))
        inside = (grey > 1) & (grey < 255)
        assert inside.mean() > 0.98
        np.testing.assert_allclose(
            found[:, inside], expected[:, inside], rtol=0.1, atol=0.03
        )
        assert datamodule.inputs is not None
        assert datamodule.inputs.sar.decibels == 1
        sar = datamodule.scenes.scenes[0].sar
        (gain,) = sar.describe()['gain']
        assert gain == pytest.approx(unit, rel=0.08)
        assert sar.describe()['scale'] == 'other'
        assert sar.describe()['assumed'] == [
            f"scale is 'other', since {np.dtype(dtype).name} is never negative",
            f'one grey value is {gain:.2g} dB, estimated from speckle',
        ]
        assert [m for m in caplog.messages if 'picture.tif' in m and 'estimated' in m]
        # Nothing changes the second time
        datamodule.choose_inputs()
        assert len(sar.describe()['assumed']) == 2

    def test_given(self, optical: Path, trained: Inputs, tmp_path: Path) -> None:
        """A contrast that the user gives is not estimated."""
        picture = write(tmp_path / 'picture.tif', to_grey(make_decibels()))
        for kwargs, unit in (
            ({'decibels': 0.3}, 1.0),
            ({'decibels': 0.3, 'scale': 'other'}, 0.3),
            ({'scale': 'other'}, 0.2),
            ({'gain': 0.3, 'offset': -45.0}, 1.0),
        ):
            source = SARSource(picture, **cast(dict[str, Any], kwargs))
            datamodule = prepare(optical, source, trained, check=False)
            inputs = datamodule.choose_inputs()
            assert inputs.sar.decibels == unit
            (scene,) = datamodule.scenes.scenes
            (gain,) = scene.sar.describe()['gain']
            step = {'decibels': 0.3}.items() <= kwargs.items() or 'gain' in kwargs
            assert gain * unit == pytest.approx(0.3 if step else 0.2)
            assert not [a for a in scene.sar.describe()['assumed'] if 'speckle' in a]

    def test_tags(self, optical: Path, trained: Inputs, tmp_path: Path) -> None:
        """Tags of scale and offset turn integers into dB."""
        picture = write(tmp_path / 'picture.tif', to_grey(make_decibels()))
        with rasterio.open(picture, 'r+') as dst:
            dst.scales, dst.offsets = (0.2,), (-45.0,)
        datamodule = prepare(optical, picture, trained)
        datamodule.choose_inputs()
        assert datamodule.scenes.scenes[0].sar.describe()['scale'] == 'db'

    def test_other_inputs(self, optical: Path, tmp_path: Path) -> None:
        """Inputs that do not depend on decibels use the values of the file."""
        picture = write(tmp_path / 'picture.tif', np.full((SIZE, SIZE), 90, np.uint8))
        for sar in (Standardize([80.0], [10.0]), LeftOut(1)):
            inputs = Inputs(RelativeDarkness([0.5]), sar)
            assert prepare(optical, picture, inputs).choose_inputs() is inputs
        inputs = Inputs(RelativeDarkness([0.5]), Standardize([80.0], [10.0]))
        shown = show(prepare(optical, picture, inputs, check=False))
        np.testing.assert_allclose(shown, 1)

    def test_bands(self, optical: Path, tmp_path: Path) -> None:
        """Each band has a stretch of its own, and files may be mosaicked."""
        decibels = make_decibels()
        stack = np.stack([to_grey(decibels), to_grey(decibels, 0.4)])
        east = from_origin(WEST + 1500, NORTH, 10, 10)
        picture = write(tmp_path / 'a.tif', stack[:, :, :150], nodata=255)
        other = write(tmp_path / 'b.tif', stack[:, :, 150:], east, nodata=255)
        inputs = Inputs(RelativeDarkness([0.5]), Relative([10.0, 10.0], decibels=0.2))
        datamodule = prepare(optical, SARSource([picture, other]), inputs)
        datamodule.choose_inputs()
        description = datamodule.scenes.scenes[0].sar.describe()
        assert description['gain'] == pytest.approx([0.2, 0.4], rel=0.1)
        values = ' and '.join(f'{gain:.2g}' for gain in description['gain'])
        assert f'one grey value is {values} dB' in description['assumed'][-1]

    def test_corners(self, optical: Path, trained: Inputs, tmp_path: Path) -> None:
        """Black corners of a swath are no data; black water is data."""
        grey = to_grey(make_decibels())
        grey[:80, :80] = 0
        grey[220:250, 100:140] = 0
        datamodule = prepare(optical, write(tmp_path / 'picture.tif', grey), trained)
        valid = next(iter(datamodule.predict_dataloader()))['valid'][0, 0]
        assert not valid[:80, :80].any()
        assert valid[90:].all()


class TestUnsure:
    @pytest.mark.parametrize(
        ('change', 'reason'),
        [
            (lambda image: 400 * 10 ** (image / 20), 'grows with the brightness'),
            (lambda image: 600 * 10 ** (image / 10), 'grows with the brightness'),
            (
                lambda image: to_grey(smooth(smooth(image, 4), 4), 0.1),
                'filtered or resampled',
            ),
            (lambda image: np.full((SIZE, SIZE), 90), 'no window of it has speckle'),
            (
                lambda image: np.hstack([to_grey(image), to_grey(image, 0.5)]),
                r'its windows have 0\.\d+ to 0\.\d+',
            ),
        ],
        ids=['amplitude', 'power', 'filtered', 'constant', 'mixed'],
    )
    def test_errors(
        self,
        change: Callable[[Image], Image],
        reason: str,
        optical: Path,
        trained: Inputs,
        tmp_path: Path,
    ) -> None:
        values = change(make_decibels()).round().clip(1, 255).astype(np.uint8)
        picture = write(tmp_path / 'picture.tif', values)
        datamodule = prepare(optical, picture, trained)
        match = (
            r"SAR file '.*picture\.tif' does not say how many decibels a grey value is: "
            rf'.*{reason}.*Expected .* sar\.decibels with sar\.scale'
        )
        with pytest.raises(ValueError, match=match):
            datamodule.predict_dataloader()

    @pytest.mark.parametrize('pixel', [10, 20])
    def test_resolution(
        self, pixel: int, optical: Path, trained: Inputs, tmp_path: Path
    ) -> None:
        """The speckle of pixels of 20 m is not known."""
        transform = from_origin(WEST, NORTH, pixel, pixel)
        picture = write(tmp_path / 'picture.tif', to_grey(make_decibels()), transform)
        datamodule = prepare(optical, picture, trained)
        if pixel == 10:
            datamodule.predict_dataloader()
            return
        with pytest.raises(ValueError, match='no window of it has speckle'):
            datamodule.predict_dataloader()

    def test_damaged(self, optical: Path, trained: Inputs, tmp_path: Path) -> None:
        picture = write(tmp_path / 'picture.tif', to_grey(make_decibels()))
        datamodule = prepare(optical, picture, trained)
        content = picture.read_bytes()
        picture.write_bytes(content[: len(content) // 2])
        with pytest.raises(RuntimeError, match=r'SAR file .* cannot be read'):
            datamodule.predict_dataloader()


class TestCheckContrast:
    @pytest.mark.parametrize(
        ('unit', 'columns', 'warns'),
        [(0.5, SIZE, True), (0.22, SIZE, False), (0.5, 9, False)],
    )
    def test_scale_other(
        self,
        unit: float,
        columns: int,
        warns: bool,
        optical: Path,
        trained: Inputs,
        tmp_path: Path,
        recwarn: pytest.WarningsRecorder,
    ) -> None:
        """Speckle reveals another stretch if there are enough data."""
        values = (make_decibels() / unit + 100).astype(np.float32)
        margin = (SIZE - columns) // 2
        values[:, :margin] = values[:, SIZE - margin :] = np.nan
        source = SARSource(write(tmp_path / 'sar.tif', values), scale='other')
        prepare(optical, source, trained).predict_dataloader()
        found = [str(w.message) for w in recwarn if 'by its speckle' in str(w.message)]
        assert len(found) == warns
        assert all('about 0.5' in m or 'about 0.4' in m for m in found)

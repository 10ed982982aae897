# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Files as public reports describe them, read by a scene dataset."""

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import rasterio.shutil
import torch
from pyproj import Transformer
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine, from_origin
from torch import Tensor
from torchgeo.datasets import Sentinel2

from tests.data.geotiff import GRID, NORTH, WEST, write
from tests.data.server import serve
from tests.data.stac.data import planetary_s1_rtc, planetary_s2, write_items
from torchgeo_m2cd.datasets import SARSource, SceneDataset, Source
from torchgeo_m2cd.datasets.grid_raster import GridRaster

SIZE = 60


def optical(bands: int = 4, seed: int = 0) -> npt.NDArray[np.uint16]:
    values = np.random.default_rng(seed).integers(500, 3000, (bands, SIZE, SIZE))
    return values.astype(np.uint16)


def sar(bands: int = 1, seed: int = 1) -> npt.NDArray[np.float32]:
    values = np.random.default_rng(seed).normal(-12, 3, (bands, SIZE, SIZE))
    return values.astype(np.float32)


def read(dataset: SceneDataset) -> tuple[Tensor, Tensor, Tensor]:
    """Optical image, SAR image, and where they are valid."""
    sample = dataset[dataset.pixel_slice(0, 0, *dataset.shape)]
    optical_bands, sar_bands = dataset.band_counts
    image = sample['image']
    return image[0, :optical_bands], image[1, :sar_bands], sample['valid'][0]


def equal(image: Tensor, expected: npt.NDArray[Any]) -> None:
    np.testing.assert_allclose(image.numpy(), expected, rtol=1e-6, atol=1e-4)


def shift(resolution: float = 10, columns: float = 0, rows: float = 0) -> Affine:
    return from_origin(
        WEST + columns * resolution, NORTH - rows * resolution, resolution, resolution
    )


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return write(tmp_path / 'o.tif', optical()), write(tmp_path / 's.tif', sar())


class TestZeros:
    """0 may be no data or a value."""

    @pytest.mark.parametrize('offset', [0, 0.5])
    @pytest.mark.parametrize('separate', [False, True])
    def test_dark_band(self, separate: bool, offset: float, tmp_path: Path) -> None:
        """A lake is 0 in the near infrared: not without data, if the others are not 0."""
        image = optical()
        image[3, 20:40, 20:40] = 0
        image[:, :, :10] = 0
        grid = shift(10, offset, offset)
        if separate:
            for band, values in zip(('B02', 'B03', 'B04', 'B08'), image, strict=True):
                write(tmp_path / 'o' / f'a_{band}.tif', values, grid, nodata=0)
            source = Source(tmp_path / 'o')
        else:
            source = Source(write(tmp_path / 'o.tif', image, grid, nodata=0))
        # Half a pixel off the grid, the files are warped
        reference = write(tmp_path / 's.tif', sar())
        dataset = SceneDataset(source, reference, res=10)
        found, _, valid = read(dataset)
        assert valid[22:38, 22:38].all()
        assert (found[3, 22:38, 22:38] == 0).all()
        assert (found[:3, 22:38, 22:38] > 400).all()
        assert not valid[:, :10].any()
        assert (found[:3, valid] > 400).all()

    def test_safe(self, tmp_path: Path) -> None:
        """Zeros of a granule of Sentinel-2 show the other, and both have their offset."""
        image = optical(2)
        for baseline, columns in (('N0509', slice(30, None)), ('N0301', slice(0, 30))):
            safe = f'S2A_MSIL2A_20230501T101031_{baseline}_R022_T33UWP_2023.SAFE'
            for band, values in zip(('B02', 'B03'), image, strict=True):
                stored = values + (1000 if baseline == 'N0509' else 0)
                stored[:, columns] = 0
                name = f'T33UWP_20230501T101031_{band}.tif'
                write(tmp_path / 'in' / safe / 'GRANULE' / 'IMG_DATA' / name, stored)
        s = write(tmp_path / 's.tif', sar())
        for source in (
            Source(tmp_path / 'in'),
            Source(tmp_path / 'in', ['B02', 'B03'], Sentinel2),
        ):
            dataset = SceneDataset(source, s)
            found, _, valid = read(dataset)
            assert valid.all()
            equal(found, image)
            assert dataset.optical.describe()['offset'] == [0.0, -1000.0]
            assert dataset.optical.describe()['dates'] == ['2023-05-01']
            assert dataset.optical.band_names == ['B02', 'B03']
        # Pictures of 8 bit are no reflectance
        picture = tmp_path / 'in' / safe / 'T33UWP_20230501T101031_TCI.tif'
        write(picture, np.full((3, SIZE, SIZE), 50, np.uint8))
        found, _, _ = read(SceneDataset(picture, s))
        equal(found, np.full((3, SIZE, SIZE), 50.0))

    @pytest.mark.parametrize('nodata', [None, -32768.0, math.nan])
    @pytest.mark.parametrize('resolution', [10, 20])
    def test_border_of_power(
        self, resolution: int, nodata: float | None, tmp_path: Path
    ) -> None:
        """An undeclared border of 0 is no data, and does not darken its neighbours.

        Old products of the Planetary Computer have one, beside -32768 for no data
        (PlanetaryComputer issue 307).
        """
        image = np.full((SIZE, SIZE), 0.1, np.float32)
        image[:, :20] = 0
        image[30:40, 35:45] = [0, 1e-3] * 5  # Calm water, noise removed
        image[:10, 50:] = math.nan if nodata is None else nodata
        source = SARSource(
            write(tmp_path / 's.tif', image, shift(resolution), nodata=nodata),
            scale='power',
        )
        dataset = SceneDataset(write(tmp_path / 'o.tif', optical()), source)
        _, found, valid = read(dataset)
        if resolution == 10:
            expected = np.ones((SIZE, SIZE), bool)
            expected[:, :20] = expected[:10, 50:] = False
            np.testing.assert_array_equal(valid, expected)
            equal(found[0, 30:40, 35:45], np.tile([-40.0, -30.0], (10, 5)))
            return
        assert not valid[:, :40].any()
        assert valid[:, 42:].all()
        equal(found[0, :, 42:][:20], np.full((20, SIZE - 42), -10.0))
        # Whatever the window
        for column in range(36, 46):
            part = dataset.read(*dataset.pixel_slice(0, column, 10, 5))
            torch.testing.assert_close(
                part['valid'][0], valid[:10, column : column + 5]
            )

    @pytest.mark.parametrize('scale', ['power', 'amplitude', 'db'])
    @pytest.mark.parametrize('res', [15, 20, 30, 7])
    def test_slanted_border(self, res: float, scale: Any, tmp_path: Path) -> None:
        """A slanted border of zeros is not mixed with its neighbours, on any grid."""
        values = np.full((SIZE, SIZE), -13 if scale == 'db' else 0.05, np.float32)
        rows, columns = np.mgrid[:SIZE, :SIZE]
        values[rows * 0.3 + columns < 25] = 0
        s = write(tmp_path / 's.tif', values, shift(10, 0.3, 0.4))
        o = write(tmp_path / 'o.tif', optical())
        dataset = SceneDataset(o, SARSource(s, scale=scale), res=res)
        _, radar, valid = read(dataset)
        factor = {'power': 10, 'amplitude': 20, 'db': 0}[scale]
        level = factor * math.log10(0.05) if factor else -13.0
        found = radar[0][valid]
        assert found.allclose(torch.tensor(level), atol=1e-3)
        assert valid.float().mean() > 0.6

    def test_zeros_in_decibels(self, tmp_path: Path) -> None:
        """No backscatter is exactly 0 dB over an area."""
        image = sar()
        image[0, 20:40, 20:40] = 0
        dataset = SceneDataset(
            write(tmp_path / 'o.tif', optical()), write(tmp_path / 's.tif', image)
        )
        _, _, valid = read(dataset)
        expected = np.ones((SIZE, SIZE), bool)
        expected[20:40, 20:40] = False
        np.testing.assert_array_equal(valid, expected)

    @pytest.mark.parametrize('nodata', [-9999.0, 65535.0, math.nan, 1.0])
    @pytest.mark.parametrize('offset', [0, 0.5])
    def test_zeros_beside_another_value(
        self, offset: float, nodata: float, tmp_path: Path
    ) -> None:
        """Zeros of a tile that declares something else do not cover its neighbour."""
        image = np.full((2, SIZE, SIZE), 2000, np.float32)
        first, second = image.copy(), image.copy()
        first[:, :, 30:] = 0
        second[:, :, :30] = 0
        paths = [
            write(tmp_path / f'{i}.tif', a, shift(10, offset, offset), nodata=nodata)
            for i, a in enumerate((first, second))
        ]
        s = write(tmp_path / 's.tif', sar())
        for source in (Source(paths), Source(paths, offset=-100)):
            found, _, valid = read(SceneDataset(source, s, res=10))
            assert valid.float().mean() > 0.95
            assert found[:, valid].allclose(torch.tensor(2000.0 + (source.offset or 0)))

    @pytest.mark.parametrize('offset', [0, 0.5])
    def test_dark_bands_alone(self, offset: float, tmp_path: Path) -> None:
        """A lake that is 0 in the bands that are read has data in the others."""
        image = optical()
        image[2:, 20:40, 20:40] = 0
        image[:, :, :10] = 0
        grid = shift(10, offset, offset)
        o = write(tmp_path / 'o.tif', image, grid, nodata=0)
        s = write(tmp_path / 's.tif', sar())
        for bands in ([3, 4], [4]):
            found, _, valid = read(SceneDataset(Source(o, bands), s, res=10))
            assert valid[22:38, 22:38].all()
            assert (found[:, 22:38, 22:38].abs() < 1e-30).all()
            assert (found[:, 22:38, 22:38] != 0).all()
            assert not valid[:, :10].any()

    def test_border_of_decibels(self, tmp_path: Path) -> None:
        image = sar()
        image[0, :, -7:] = 0
        dataset = SceneDataset(
            write(tmp_path / 'o.tif', optical()), write(tmp_path / 's.tif', image)
        )
        _, _, valid = read(dataset)
        assert not valid[:, -7:].any()
        assert valid[:, :-7].all()
        # The argument decides
        settled = SARSource(tmp_path / 's.tif', nodata=math.nan)
        assert read(SceneDataset(tmp_path / 'o.tif', settled))[2].all()
        # Pictures of 8 bit may be black
        picture = SARSource(tmp_path / 's.tif', scale='other')
        assert read(SceneDataset(tmp_path / 'o.tif', picture))[2].all()

    def test_border_of_a_picture(self, tmp_path: Path) -> None:
        """A border of zeros in all bands is no data and shows the image below."""
        first, second = optical(seed=2), optical(seed=3)
        first[:, :20] = 0
        first[:3, 40:50, 40:50] = 0
        paths = [write(tmp_path / 'a.tif', first), write(tmp_path / 'b.tif', second)]
        found, _, valid = read(SceneDataset(paths, write(tmp_path / 's.tif', sar())))
        assert valid.all()
        first[:, :20] = second[:, :20]
        equal(found, first)

    @pytest.mark.parametrize('level', [-0.0003, 0.0005, -0.002])
    @pytest.mark.parametrize('clipped', [False, True])
    def test_calm_water(self, clipped: bool, level: float, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        image = rng.gamma(4, 0.05 / 4, (SIZE, SIZE)).astype(np.float32)
        water = rng.normal(level, 0.001, (30, 30)).astype(np.float32)
        image[10:40, 10:40] = water.clip(0) if clipped else water
        source = SARSource(write(tmp_path / 's.tif', image), scale='power')
        _, found, valid = read(
            SceneDataset(write(tmp_path / 'o.tif', optical()), source)
        )
        assert valid.all()
        equal(found[0], 10 * np.log10(image.clip(1e-4)))


class TestRadiometry:
    def test_tags(self, tmp_path: Path) -> None:
        """Tags of scale and offset are applied, to reflectance x 10,000 and to dB."""
        image, decibels = optical(), sar()
        o = write(tmp_path / 'o.tif', image, nodata=0)
        s = write(tmp_path / 's.tif', (decibels * 100).astype(np.int16), nodata=-9999)
        with rasterio.open(o, 'r+') as src:
            src.scales, src.offsets = (2.75e-5,) * 4, (-0.2, -0.2, -0.2, 0.0)
        with rasterio.open(s, 'r+') as src:
            src.scales = (0.01,)
        found, radar, valid = read(SceneDataset(o, s))
        equal(found[:3], image[:3] * 0.275 - 2000)
        equal(found[3], image[3] * 0.275)
        assert valid.all()
        np.testing.assert_allclose(radar, decibels, atol=0.011)
        # Arguments take precedence
        found, radar, _ = read(
            SceneDataset(Source(o, gain=1, offset=-1000), SARSource(s, gain=0.1))
        )
        equal(found, image.astype(float) - 1000)
        np.testing.assert_allclose(radar, decibels * 10, atol=0.11)

    def test_zero_reflectance(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        """A value that is 0 after the offset is dark, not no data."""
        o = write(tmp_path / 'x.tif', np.full((4, SIZE, SIZE), 1000, np.uint16))
        found, _, valid = read(SceneDataset(Source(o, offset=-1000), pair[1]))
        assert valid.all()
        assert (found != 0).all()
        assert (found.abs() < 1e-30).all()

    def test_nothing_known(
        self, pair: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        path = write(tmp_path / 'T33UWP_20230501T101031_B02.tif', optical(1))
        with caplog.at_level('INFO'):
            SceneDataset(path, pair[1])
        assert 'reflectance x 10,000. If they have the offset' in caplog.text
        assert '0 in all bands is taken for no data' in caplog.text


class TestPlace:
    @pytest.mark.parametrize('turned', ['south', 'west', 'both'])
    def test_turned_rows(
        self, turned: str, pair: tuple[Path, Path], tmp_path: Path
    ) -> None:
        """Rows from south to north, columns from east to west, alone and in a mosaic."""
        image, grid = sar(), GRID
        if turned != 'west':
            image, grid = image[:, ::-1], grid @ Affine(1, 0, 0, 0, -1, SIZE)
        if turned != 'south':
            image, grid = image[..., ::-1], grid @ Affine(-1, 0, SIZE, 0, 1, 0)
        s = write(tmp_path / 't.tif', image, grid)
        other = write(tmp_path / 'u.tif', sar(seed=5), shift(10, SIZE - 2))
        o, _ = pair
        for first, second in (([o], [s, other]), ([s, other], [o])):
            dataset = SceneDataset(
                Source(first, [1]), SARSource(second, [1], scale='other')
            )
            found, radar, valid = read(dataset)
            assert valid.all()
            assert dataset.shape == (SIZE, SIZE)
            equal(radar if first == [o] else found, sar())

    @pytest.mark.parametrize('degrees', [0, 30, 90, 180])
    def test_grid_of_a_turned_file(self, degrees: float, tmp_path: Path) -> None:
        """It has the resolution of the file, which need not be square."""
        turned = GRID @ Affine.rotation(degrees)
        o = write(tmp_path / 't.tif', optical()[:, :30], turned)
        assert GridRaster('optical', Source(o)).res == pytest.approx((10, 10), rel=0.02)

    @pytest.mark.parametrize('west', [179.985, -180.015])
    @pytest.mark.parametrize('split', [False, True])
    def test_180_degrees(self, split: bool, west: float, tmp_path: Path) -> None:
        """All of a scene in Fiji, both ways round, and with either image as the grid."""
        step, rows = 1e-4, 320
        x, y = Transformer.from_crs(4326, 32760, always_xy=True).transform(180, -16.8)
        o = write(
            tmp_path / 'o.tif', optical(), from_origin(x - 300, y + 300, 10, 10),
            'EPSG:32760',
        )  # fmt: skip
        ramp = np.tile(np.arange(300, dtype=np.float32), (rows, 1)) / 10 - 30
        parts = [(west, ramp)]
        if split:
            parts = [(179.985, ramp[:, :150]), (-180.0, ramp[:, 150:])]
            parts = parts if west > 0 else parts[::-1]
        s = [
            write(tmp_path / f's{i}.tif', a, from_origin(left, -16.784, step, step), 'EPSG:4326')
            for i, (left, a) in enumerate(parts)
        ]  # fmt: skip
        _, radar, valid = read(SceneDataset(o, s))
        assert valid.shape == (SIZE, SIZE)
        assert valid.all()
        # As a ramp of longitude, by hand
        column = np.arange(SIZE) * 10 - 295 + x
        longitude, _ = Transformer.from_crs(32760, 4326, always_xy=True).transform(
            column, np.full(SIZE, y + 295)
        )
        expected = ((longitude - 179.985) % 360 / step - 0.5) / 10 - 30
        np.testing.assert_allclose(radar[0, 0], expected, atol=0.06)
        # The other way round, the grid is that of longitudes
        dataset = SceneDataset(Source(s), SARSource(o, [1], scale='other'))
        found, _, valid = read(dataset)
        assert dataset.shape[0] < 70
        assert dataset.shape[1] < 70
        assert valid.float().mean() > 0.9
        assert found[0, 30][valid[30]].diff().max() < 0.11
        # And the chosen CRS is
        for res in (None, 1e-4):
            dataset = SceneDataset(o, s, crs='EPSG:4326', res=res)
            assert max(dataset.shape) < 70
            assert read(dataset)[2].float().mean() > 0.9

    def test_margin_at_180_degrees(self, tmp_path: Path) -> None:
        """The margin of a file is at the right place on the grid."""
        image = np.full((SIZE, SIZE), 0.1, np.float32)
        image[:, :20] = 0
        image[30, 40] = 0  # Calm water
        paths = [
            write(
                tmp_path / name, values, from_origin(west, 0, 1e-4, 1e-4), 'EPSG:4326'
            )
            for name, values, west in (
                ('o.tif', optical(), 179.999),
                ('s.tif', image, -180.001),
            )
        ]
        source = SARSource(paths[1], scale='power')
        _, radar, valid = read(SceneDataset(paths[0], source))
        assert valid.shape == (SIZE, SIZE)
        expected = np.ones((SIZE, SIZE), bool)
        expected[:, :20] = False
        # A longitude is rounded, so that the file is warped
        assert not valid[:, :20].any()
        assert valid[:, 21:].all()
        assert radar[0, 30, 40] < -30

    def test_ground_control_points(
        self, pair: tuple[Path, Path], tmp_path: Path
    ) -> None:
        path = write(tmp_path / 'grd.tif', sar(), Affine.identity(), None)
        points = [
            GroundControlPoint(row, column, 15 + column / 1e4, 47.8 - row / 1e4)
            for row in (0, SIZE)
            for column in (0, SIZE)
        ]
        with rasterio.open(path, 'r+') as src:
            src.gcps = points, 'EPSG:4326'
        match = r"SAR file '.*grd\.tif' has no CRS: .*RTC.*gdalwarp -tps"
        with pytest.raises(ValueError, match=match):
            SceneDataset(pair[0], path)

    def test_complex(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        path = write(tmp_path / 'slc.tif', sar().astype(np.complex64))
        match = r"SAR file '.*slc\.tif' has complex values: expected real ones"
        with pytest.raises(ValueError, match=match):
            SceneDataset(pair[0], path)


class TestFolders:
    """Folders with several files."""

    def test_hyp3(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        name = 'S1A_IW_20230501T050000_DVP_RTC10_G_gduned_ABCD'
        vv, vh = sar(seed=3)[0], sar(seed=4)[0] - 7
        vv[:, 50:] = vh[:, 50:] = 0
        folder = tmp_path / name
        write(folder / f'{name}_VH.tif', vh, nodata=0)
        write(folder / f'{name}_VV.tif', vv, nodata=0)
        write(folder / f'{name}_dem.tif', np.full((SIZE, SIZE), 300, np.int16))
        (folder / f'{name}_README.md.txt').write_text('text')
        (folder / f'{name}_VV.png').write_bytes(b'thumbnail')
        dataset = SceneDataset(pair[0], folder)
        assert dataset.sar.band_names == ['VV', 'VH']
        assert dataset.sar.describe()['bands'] == ['VV', 'VH']
        _, radar, valid = read(dataset)
        assert not valid[:, 50:].any()
        equal(radar[..., :50], np.stack([vv, vh])[..., :50])
        for bands, expected in ((['VH'], vh), (['vh'], vh), (['VV'], vv)):
            _, radar, _ = read(SceneDataset(pair[0], SARSource(folder, bands)))
            equal(radar[0, :, :50], expected[:, :50])
        with pytest.raises(ValueError, match=r"one file per band: .*'VV', 'VH'.*\[1\]"):
            SceneDataset(pair[0], SARSource(folder, [1]))
        with pytest.raises(ValueError, match="unknown SAR band 'HH'"):
            SceneDataset(pair[0], SARSource(folder, ['HH']))
        with pytest.raises(
            ValueError, match='no names of bands, choose them by number'
        ):
            SceneDataset(pair[0], SARSource(pair[1], ['VV']))

    def test_nothing_in_common(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        for name in ('1_VV.tif', '1_VH.tif', '2_HH.tif', '2_HV.tif'):
            write(tmp_path / 'in' / name, sar())
        match = r"SAR files have no band in common: .*'VV', 'VH'.*'HH', 'HV'"
        with pytest.raises(ValueError, match=match):
            SceneDataset(pair[0], tmp_path / 'in')

    @pytest.mark.parametrize(
        'names', [('power.tif', 'dem.tif'), ('a.tif', 'incidence.tif')]
    )
    def test_other_things(
        self, names: tuple[str, str], pair: tuple[Path, Path], tmp_path: Path
    ) -> None:
        """Elevation or angles at the same place are not tiles."""
        folder = tmp_path / 'product'
        dtype = np.int16 if 'dem.tif' in names else np.float32
        write(folder / names[0], sar())
        write(
            folder / names[1], sar().astype(dtype), shift(10, -1 * ('dem.tif' in names))
        )
        match = r"SAR files '.*' are in one folder, but hold different things"
        with pytest.raises(ValueError, match=match):
            SceneDataset(pair[0], folder)
        # Unless they were named
        assert SceneDataset(pair[0], [folder / name for name in names]).shape == (
            SIZE,
            SIZE,
        )

    def test_singles(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        """Files at one place may be a series or different quantities."""
        folder = tmp_path / 'in'
        for names, is_series in (
            (('x_20230501.tif', 'y_20230513.tif'), True),
            (('x_20230501.tif', 'y_20230501.tif'), False),
            (('band1.tif', 'band2.tif'), False),
            (('pre_vv.tif', 'coh_vv.tif'), False),
        ):
            for name in names:
                write(folder / name, sar())
            if is_series:
                with pytest.warns(UserWarning, match='several days'):
                    SceneDataset(pair[0], folder)
            else:
                with pytest.raises(ValueError, match='hold different things'):
                    SceneDataset(pair[0], folder)
            shutil.rmtree(folder)
        named = [write(folder / name, sar()) for name in ('a_vv.tif', 'a_dem.tif')]
        match = r"'.*a_vv\.tif' holds the band VV, but nothing says what '.*a_dem\.tif'"
        with pytest.raises(ValueError, match=match):
            SceneDataset(pair[0], named)

    def test_side_files(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        folder = tmp_path / 'tiles'
        tile = write(folder / 'tile.tif', optical())
        with rasterio.Env(TIFF_USE_OVR=True), rasterio.open(tile, 'r+') as src:
            src.build_overviews([2, 4])
        rasterio.shutil.copy(tile, folder / 'tile.png', driver='PNG')
        write(folder / 'preview.img', optical(), crs=None)
        (folder / 'tile.tif.aux.xml').write_text('<PAMDataset />')
        assert (folder / 'tile.tif.ovr').exists()
        found, _, _ = read(SceneDataset(folder, pair[1]))
        equal(found, optical())

    def test_first_on_top(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        """The first file is on top and gives the grid, whatever the names are."""
        b = write(tmp_path / 'b.tif', sar(seed=7), shift(10, -5))
        a = write(tmp_path / 'a.tif', sar(seed=8))
        first = SceneDataset(pair[0], [b, a])
        _, radar, _ = read(first)
        equal(radar[..., :55], sar(seed=7)[..., 5:])
        equal(radar[..., 55:], sar(seed=8)[..., 55:])
        _, radar, _ = read(SceneDataset(pair[0], [a, b]))
        equal(radar, sar(seed=8))
        dataset = SceneDataset([b, a], SARSource(pair[0], [1], scale='other'))
        assert dataset.optical.files == [str(b), str(a)]
        fine = write(tmp_path / 'fine.tif', sar(), shift(5))
        assert SceneDataset([fine, a], pair[1]).res == (5, 5)

    @pytest.mark.parametrize('names', [('VH', 'VV'), ('Sigma0_VH_db', 'Sigma0_VV_db')])
    def test_descriptions(
        self, names: tuple[str, str], pair: tuple[Path, Path], tmp_path: Path
    ) -> None:
        """Tiles whose bands have another order are read by name."""
        image = sar(2)
        a = write(tmp_path / 'a.tif', image[:, :, :30])
        b = write(tmp_path / 'b.tif', image[::-1, :, 30:], shift(10, 30))
        for path, described in ((a, ('VV', 'VH')), (b, names)):
            with rasterio.open(path, 'r+') as src:
                src.descriptions = described
        dataset = SceneDataset(pair[0], [a, b])
        assert dataset.sar.band_names == ['VV', 'VH']
        _, radar, _ = read(dataset)
        equal(radar, image)
        dataset.sar.select(['VH'])
        assert dataset.band_counts == (4, 1)
        equal(read(dataset)[1], image[1:])
        # Bands chosen by number are
        _, radar, _ = read(SceneDataset(pair[0], SARSource([a, b], [2])))
        equal(radar[0, :, :30], image[1, :, :30])
        equal(radar[0, :, 30:], image[0, :, 30:])


class TestSTAC:
    """Items with the assets of the Planetary Computer."""

    def write_pair(self, folder: Path, token: str = '') -> tuple[Path, Path]:
        """Write two items whose files are beside them."""
        # Of the many bands of a product, one is coarse
        optical_item = planetary_s2(token=token)
        assets = optical_item['assets']
        for name in set(assets) - {'B01', 'B03', 'B04', 'visual'}:
            del assets[name]
        for asset in assets.values():
            asset['href'] = asset['href'].replace('https://host/', './')
        image = optical(2)
        image[:, :, :10] = 0
        name = '{}/T39QTA_20230628T074611_{}_{}m.tif'
        write(folder / name.format('.', 'B03', 10), image[0])
        write(folder / name.format('.', 'B04', 10), image[1])
        write(folder / name.format('.', 'B01', 60), image[0, ::6, ::6], shift(60))
        sar_item = planetary_s1_rtc()
        power = 10 ** (sar(2) / 10)
        power[:, -10:] = -32768
        for i, key in enumerate(('vv', 'vh')):
            sar_item['assets'][key]['href'] = f'{key}.tif{token}'
            write(folder / f'{key}.tif', power[i], nodata=-32768)
        return (
            Path(write_items(folder / 's2.json', optical_item)),
            Path(write_items(folder / 's1.json', sar_item)),
        )

    def check(self, dataset: SceneDataset) -> None:
        assert dataset.res == (10, 10)
        assert dataset.optical.band_names == ['B01', 'B03', 'B04']
        assert dataset.sar.band_names == ['VV', 'VH']
        image, radar, valid = read(dataset)
        expected = np.ones((SIZE, SIZE), bool)
        expected[:, :10] = expected[-10:] = False
        assert np.array_equal(valid[:, 15:], expected[:, 15:])
        assert not valid[:, :10].any()
        equal(image[1:, :50, 15:], optical(2)[:, :50, 15:] - 1000.0)
        equal(radar[:, :50, 15:], sar(2)[:, :50, 15:])

    def test_files(self, tmp_path: Path) -> None:
        first, second = self.write_pair(tmp_path)
        power = SARSource(second, scale='power')
        self.check(SceneDataset(first, power))
        # Beside a mosaic of other days, of which one is chosen
        tile = write(tmp_path / 'S1_20230101_VV_VH.tif', sar(2))
        source = SARSource([tile, second], scale='power', date='2023-06-29')
        self.check(SceneDataset(first, source))

    def test_url(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv('NO_PROXY', '127.0.0.1')
        self.write_pair(tmp_path, '?sig=secret')
        with serve(tmp_path) as url:
            paths = [f'{url}/{name}.json?sig=secret' for name in ('s2', 's1')]
            dataset = SceneDataset(paths[0], SARSource(paths[1], scale='power'))
            self.check(dataset)
            assert dataset.sar.files == [
                f'{url}/{n}.tif?sig=secret' for n in ('vv', 'vh')
            ]
            assert 'secret' not in str(dataset.sar.describe())
            text = (tmp_path / 's1.json').read_text().replace('vh.tif', 'no.tif')
            (tmp_path / 's1.json').write_text(text)
            match = rf"SAR file '{url}/no\.tif' cannot be read"
            with pytest.raises(RuntimeError, match=match) as error:
                SceneDataset(paths[0], SARSource(paths[1], scale='power'))
            assert 'secret' not in str(error.value)


@pytest.mark.parametrize('trim', [1, 3])
def test_trim(trim: int, pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Pixels along no data and along the edges of a file are not read."""
    image = sar()
    image[0, 20, 30] = math.nan
    s = write(tmp_path / 't.tif', image, shift(10, 10, 10))
    dataset = SceneDataset(pair[0], SARSource(s, trim=trim))
    _, radar, valid = read(dataset)
    expected = np.zeros((50, 50), bool)
    expected[trim:, trim:] = True  # The scene ends before the file does
    expected[20 - trim : 21 + trim, 30 - trim : 31 + trim] = False
    np.testing.assert_array_equal(valid, expected)
    equal(radar[0][valid], image[0, :50, :50][expected])
    overview = dataset.read(*dataset.pixel_slice(0, 0, 50, 50, 5))
    assert overview['valid'][0].float().mean() < expected.mean()
    with pytest.raises(ValueError, match='trim is -1: expected at least 0'):
        Source(trim=-1)


def test_scan(tmp_path: Path) -> None:
    """A scan reads all of each file in the units of a sample, whatever the grid."""
    power = np.full((2100, 50), 0.1, np.float32)
    power[1000:1100] = -9999
    power[:, :10] = 0
    path = write(tmp_path / 's.tif', power, nodata=-9999)
    dataset = SceneDataset(
        write(tmp_path / 'o.tif', optical()), SARSource(path, scale='power')
    )
    ((name, values, raw),) = dataset.sar.scan()
    assert name == f'SAR file {str(path)!r}'
    assert set(np.unique(values).round(4).tolist()) == {-40.0, -10.0}
    np.testing.assert_allclose(np.unique(raw), [0, 0.1])
    assert values.shape[1] == pytest.approx(1024 * (50 - 40 * 100 / 2100), rel=0.01)


def test_scan_of_two_resolutions(tmp_path: Path) -> None:
    image = optical(2)
    image[0, :10] = image[1, :10] = image[1, 30:32, 30:32] = 0
    write(tmp_path / 'o' / 'a_B02.tif', image[0], nodata=0)
    write(tmp_path / 'o' / 'a_B11.tif', image[1, ::2, ::2], shift(20), nodata=0)
    dataset = SceneDataset(tmp_path / 'o', write(tmp_path / 's.tif', sar()))
    ((_, values, _),) = dataset.optical.scan()
    expected = np.stack([image[0], image[1, ::2, ::2].repeat(2, 0).repeat(2, 1)])
    np.testing.assert_array_equal(values, expected[:, 10:].reshape(2, -1))


def test_damaged(pair: tuple[Path, Path], tmp_path: Path) -> None:
    path = write(tmp_path / 'half.tif', optical(), nodata=0)
    dataset = SceneDataset(path, pair[1])
    path.write_bytes(path.read_bytes()[:15_000])
    with pytest.raises(
        RuntimeError, match=r"optical file '.*half\.tif' cannot be read"
    ):
        list(dataset.optical.scan())


def test_describe(pair: tuple[Path, Path]) -> None:
    found: dict[str, Any] = SceneDataset(
        pair[0], SARSource(pair[1], trim=2)
    ).sar.describe()
    assert found == {
        'bands': [1], 'naming': None, 'nodata': [None], 'gain': [1.0], 'offset': [0.0],
        'date': None, 'trim': 2, 'scale': 'db', 'decibels': None,
        'files': [str(pair[1])], 'dates': [], 'assumed': ["scale is 'db'"],
    }  # fmt: skip


def test_scale_by_name(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Names of HyP3 products give the scale, and a message reports it."""
    name = 'S1A_IW_20230501T050000_DVP_RTC10_G_g{}uned_ABCD_VV.tif'
    power = write(tmp_path / name.format('p'), np.full((SIZE, SIZE), 0.1, np.float32))
    dataset = SceneDataset(pair[0], power)
    equal(read(dataset)[1], np.full((1, SIZE, SIZE), -10.0))
    described = dataset.sar.describe()
    assert (described['scale'], described['assumed']) == ('power', ["scale is 'power'"])
    # The argument comes first
    _, radar, _ = read(SceneDataset(pair[0], SARSource(power, scale='db')))
    equal(radar, np.full((1, SIZE, SIZE), 0.1))
    decibels = write(tmp_path / name.format('d'), sar())
    equal(read(SceneDataset(pair[0], decibels))[1], sar())
    match = (
        r"SAR files '.*' have, by their names, the scales \['.*'\]: .* or sar\.scale"
    )
    with pytest.raises(ValueError, match=match):
        SceneDataset(pair[0], [power, decibels])
    # Decibels by such a name are no power
    write(power, sar())
    with pytest.raises(ValueError, match=r"has the value -.*, but scale is 'power'"):
        read(SceneDataset(pair[0], power))

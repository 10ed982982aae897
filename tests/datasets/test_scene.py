# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import torch
from pyproj import Transformer
from rasterio.enums import ColorInterp
from rasterio.transform import Affine, from_origin
from rasterio.warp import calculate_default_transform, reproject
from torchgeo.datasets import DatasetNotFoundError, Sentinel1, Sentinel2
from torchgeo.datasets.splits import random_grid_cell_assignment

from tests.data.geotiff import GRID, NORTH, WEST, write
from torchgeo_m2cd.datamodules.checks import check_values
from torchgeo_m2cd.datasets import (
    MaskSource,
    SARSource,
    SceneDataset,
    SceneList,
    Source,
)


def optical(height: int = 100, width: int = 120) -> npt.NDArray[np.uint16]:
    values = np.arange(1, 3 * height * width + 1) % 9999 + 1
    return values.reshape(3, height, width).astype(np.uint16)


def read_all(dataset: SceneDataset) -> dict[str, torch.Tensor]:
    x, y, _ = dataset.bounds
    return dataset[x.start : x.stop, y.start : y.stop]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Optical scene, and a SAR scene 300 m further south-east, of 20 m pixels."""
    sar = np.linspace(-25, 0, 50 * 60, dtype=np.float32).reshape(50, 60)
    return (
        write(tmp_path / 'optical.tif', optical(), nodata=0),
        write(tmp_path / 'sar.tif', sar, from_origin(WEST + 300, NORTH - 300, 20, 20)),
    )


class TestSceneDataset:
    def test_sample(self, pair: tuple[Path, Path]) -> None:
        dataset = SceneDataset(*pair)
        assert dataset.shape == (70, 90)
        assert dataset.transform == from_origin(WEST + 300, NORTH - 300, 10, 10)
        assert dataset.crs.to_epsg() == 32633
        assert dataset.res == (10, 10)
        assert dataset.band_counts == (3, 1)

        sample = read_all(dataset)
        assert set(sample) == {'image', 'valid', 'window', 'bounds', 'transform'}
        assert sample['image'].shape == (2, 3, 70, 90)
        assert sample['image'].dtype == torch.float32
        assert sample['valid'].shape == (1, 70, 90)
        assert sample['valid'].dtype == torch.bool
        assert sample['valid'].all()
        assert sample['window'].tolist() == [0, 0]
        expected = torch.from_numpy(optical()[:, 30:, 30:].astype(np.float32))
        assert torch.equal(sample['image'][0], expected)
        assert torch.equal(sample['image'][1, 0], sample['image'][1, 2])

    def test_patches_agree(self, pair: tuple[Path, Path]) -> None:
        """Any patch equals its part of the whole scene exactly."""
        dataset = SceneDataset(*pair)
        whole = read_all(dataset)
        for row, column in ((0, 0), (1, 3), (33, 46), (38, 58)):
            x, y = WEST + 300 + 10 * column, NORTH - 300 - 10 * row
            patch = dataset[x : x + 320, y - 320 : y]
            assert patch['window'].tolist() == [row, column]
            part = np.s_[..., row : row + 32, column : column + 32]
            assert torch.equal(patch['image'], whole['image'][part])

    def test_reaches_beyond(self, pair: tuple[Path, Path]) -> None:
        dataset = SceneDataset(*pair)
        x, y = WEST + 300, NORTH - 300
        patch = dataset[x - 50 : x + 270, y - 250 : y + 70]
        assert patch['window'].tolist() == [-7, -5]
        assert not patch['valid'][0, :7].any()
        assert not patch['valid'][0, :, :5].any()
        assert patch['valid'][0, 7:, 5:].all()
        # There are optical, but no SAR data
        assert (patch['image'][..., :7, :] == 0).all()
        with pytest.raises(IndexError):
            dataset[0:320, 0:320]

    @pytest.mark.parametrize('resolution', [5.0, 12.5, 20.0, 30.0])
    @pytest.mark.parametrize('shift', [0.0, 3.3])
    def test_bilinear(self, resolution: float, shift: float, tmp_path: Path) -> None:
        """Bilinear interpolation reproduces a plane wherever pixels have neighbours."""
        grid = from_origin(
            WEST - 200 + shift, NORTH + 200 - shift, resolution, resolution
        )
        count = int(2000 // resolution)
        rows, columns = np.mgrid[:count, :count] + 0.5
        x = grid.c + columns * resolution - WEST
        y = grid.f - rows * resolution - NORTH
        plane = (x / 100 - y / 200).astype(np.float32)
        dataset = SceneDataset(
            write(tmp_path / 'optical.tif', optical()),
            write(tmp_path / 'sar.tif', plane, grid),
        )
        assert dataset.shape == (100, 120)
        sample = read_all(dataset)
        rows, columns = np.mgrid[:100, :120] + 0.5
        expected = torch.from_numpy(columns * 10 / 100 + rows * 10 / 200)
        torch.testing.assert_close(
            sample['image'][1, 0].double(), expected, atol=2e-3, rtol=0
        )

    @pytest.mark.parametrize('crs', ['EPSG:32632', 'EPSG:3035', 'EPSG:4326'])
    def test_known_place(self, crs: str, tmp_path: Path) -> None:
        """A target at a known place is found again to half a pixel."""
        lon, lat = 15.008, 47.8515
        x, y = Transformer.from_crs(4326, crs, always_xy=True).transform(lon, lat)
        step = 20.0 if crs != 'EPSG:4326' else 20 / 111_320
        rows, columns = np.mgrid[:101, :101] - 50
        blob = np.exp(-(rows**2 + columns**2) / 8).astype(np.float32)
        grid = from_origin(x - 50.5 * step, y + 50.5 * step, step, step)
        dataset = SceneDataset(
            write(tmp_path / 'optical.tif', optical(200, 200)),
            write(tmp_path / 'sar.tif', blob, grid, crs=crs),
        )
        sample = read_all(dataset)
        image = sample['image'][1, 0] * sample['valid'][0]
        weights = (image / image.sum()).double()
        rows = torch.arange(image.shape[0]) + 0.5
        columns = torch.arange(image.shape[1]) + 0.5
        found = (
            dataset.transform.c + 10 * (weights.sum(0) * columns).sum().item(),
            dataset.transform.f - 10 * (weights.sum(1) * rows).sum().item(),
        )
        expected = Transformer.from_crs(4326, 32633, always_xy=True).transform(lon, lat)
        assert math.dist(found, expected) < 5

    def test_geographic(self, tmp_path: Path) -> None:
        """Pixel sizes may have no exact binary number."""
        step = 1 / 11_132
        grid = from_origin(15.1, 47.3, step, step)
        sar = from_origin(15.1 + 7 * step, 47.3 - 11 * step, step, step)
        values = np.random.default_rng(0).normal(size=(1, 100, 120)).astype(np.float32)
        dataset = SceneDataset(
            write(tmp_path / 'optical.tif', optical(), grid, 'EPSG:4326'),
            write(tmp_path / 'sar.tif', values, sar, 'EPSG:4326'),
        )
        assert dataset.shape == (89, 113)
        sample = read_all(dataset)
        assert torch.equal(
            sample['image'][0].int(), torch.from_numpy(optical()[:, 11:, 7:]).int()
        )
        # Not resampled: it is on the same grid
        assert torch.equal(
            sample['image'][1, :1], torch.from_numpy(values[:, :89, :113])
        )

    def test_not_quite_the_grid(self, tmp_path: Path) -> None:
        """As many pixels as the optical scene, but each a little larger."""
        ramp = np.tile(np.arange(120, dtype=np.float32), (100, 1))
        dataset = SceneDataset(
            write(tmp_path / 'optical.tif', optical()),
            write(tmp_path / 'sar.tif', ramp, from_origin(WEST, NORTH, 10.08, 10)),
        )
        image = read_all(dataset)['image'][1, 0]
        assert image[50, 100].item() == pytest.approx(100.5 / 1.008 - 0.5, abs=1e-2)

    def test_turned(self, tmp_path: Path) -> None:
        """An optical scene that is not north-up gets a grid that is."""
        turned = GRID @ Affine.rotation(20)
        sar = np.full((300, 300), -10, np.float32)
        dataset = SceneDataset(
            write(tmp_path / 'optical.tif', np.full((1, 100, 100), 7.0), turned),
            write(
                tmp_path / 'sar.tif', sar, from_origin(WEST - 500, NORTH + 500, 10, 10)
            ),
        )
        assert dataset.transform.b == dataset.transform.d == 0
        sample = read_all(dataset)
        assert 0.5 < sample['valid'].float().mean() < 0.7
        assert (sample['image'][0, 0] == 7 * sample['valid'][0]).all()

    def test_nodata(self, tmp_path: Path) -> None:
        image = optical()
        image[:, :10] = 0
        image[1, 20, 20] = 0  # Dark in one band
        sar = np.full((100, 120), -9999, np.float32)
        sar[:, 5:] = -10
        sar[50, 50] = np.nan
        dataset = SceneDataset(
            write(tmp_path / 'optical.tif', image, nodata=0),
            write(tmp_path / 'sar.tif', sar, nodata=-9999),
        )
        sample = read_all(dataset)
        expected = torch.ones(100, 120, dtype=torch.bool)
        expected[:10] = expected[:, :5] = False
        expected[50, 50] = False
        assert torch.equal(sample['valid'][0], expected)
        assert (sample['image'][:, :, ~expected] == 0).all()
        assert (sample['image'][1, 0, expected] == -10).all()

    @pytest.mark.parametrize('nodata', [None, math.nan, -9999.0])
    def test_warped_nodata(self, nodata: float | None, tmp_path: Path) -> None:
        """No-data values do not bleed into their neighbours."""
        sar = np.full((60, 60), -10, np.float32)
        sar[20:25, 20:25] = math.nan if nodata is None else nodata
        dataset = SceneDataset(
            write(tmp_path / 'optical.tif', optical()),
            write(
                tmp_path / 'sar.tif',
                sar,
                from_origin(WEST, NORTH, 20, 20),
                nodata=nodata,
            ),
        )
        sample = read_all(dataset)
        assert (sample['image'][1, 0, sample['valid'][0]] == -10).all()
        assert sample['valid'].sum() == 100 * 120 - 10 * 10

    def test_bands(self, pair: tuple[Path, Path]) -> None:
        dataset = SceneDataset(Source(pair[0], [3, 1]), SARSource(pair[1], [1]))
        assert dataset.band_counts == (2, 1)
        expected = optical()[[2, 0], 30:, 30:].astype(np.float32)
        image = read_all(dataset)['image']
        assert torch.equal(image[0], torch.from_numpy(expected))
        with pytest.raises(ValueError, match=r"optical\.tif' has 3 bands: .* \[4\]"):
            SceneDataset(Source(pair[0], [4]), pair[1])

    def test_mosaic(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        """Tiles in a folder equal one file."""
        folder = tmp_path / 'tiles'
        folder.mkdir()
        image = optical()
        for i, start in enumerate((0, 60)):
            tile = image[..., start : start + 60]
            write(
                folder / f'{i}.tif', tile, from_origin(WEST + 10 * start, NORTH, 10, 10)
            )
        (folder / 'readme.txt').write_text('Not a raster')
        expected = read_all(SceneDataset(*pair))
        for tiles in (folder, [folder / '0.tif', folder / '1.tif']):
            dataset = SceneDataset(tiles, pair[1])
            assert dataset.shape == (70, 90)
            assert torch.equal(read_all(dataset)['image'], expected['image'])

    def test_hole(self, tmp_path: Path) -> None:
        """Tiles need not fill the scene that they are mosaicked to."""
        tiles = []
        for i in range(2):
            corner = from_origin(WEST + 600 * i, NORTH - 500 * i, 10, 10)
            image = optical(50, 60) + np.uint16(i)
            tiles.append(write(tmp_path / f'{i}.tif', image, corner))
        sar = write(tmp_path / 'sar.tif', np.full((100, 120), -9, np.float32))
        dataset = SceneDataset(tiles, sar, write(tmp_path / 'm.tif', np.zeros((9, 9))))
        sample = read_all(dataset)
        expected = torch.zeros(100, 120, dtype=torch.bool)
        expected[:50, :60] = expected[50:, 60:] = True
        assert torch.equal(sample['valid'][0], expected)
        x, y = dataset.pixel_slice(10, 70, 20, 30)
        hole = dataset[x, y]
        assert hole['image'].shape == (2, 3, 20, 30)
        assert not hole['valid'].any()
        assert (hole['mask'] == 255).all()
        assert check_values(dataset) > 0

    def test_mask(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        mask = np.zeros((60, 120), np.uint8)
        mask[40:50] = 1
        mask[50:] = 255
        path = write(tmp_path / 'mask.tif', mask, nodata=255)
        dataset = SceneDataset(*pair, mask=path)
        sample = read_all(dataset)
        assert sample['mask'].shape == (1, 70, 90)
        assert sample['mask'].dtype == torch.int64
        expected = torch.full((70, 90), 255)
        expected[:20] = 0
        expected[10:20] = 1
        assert torch.equal(sample['mask'][0], expected)
        # South of the mask
        x, y = WEST + 300, NORTH - 800
        patch = dataset[x : x + 100, y - 100 : y]
        assert (patch['mask'] == 255).all()
        # No label where there are no images
        patch = dataset[x - 100 : x, y + 400 : y + 500]
        assert (patch['mask'] == 255).all()

    def test_warped_mask(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        mask = np.zeros((100, 120), np.uint8)
        mask[30:60] = 1
        grid, width, height = calculate_default_transform(
            'EPSG:32633', 'EPSG:3035', 120, 100, WEST, NORTH - 1000, WEST + 1200, NORTH
        )
        warped = np.full((height, width), 255, np.uint8)
        reproject(
            mask, warped, src_transform=GRID, src_crs='EPSG:32633', dst_transform=grid,
            dst_crs='EPSG:3035', dst_nodata=255,
        )  # fmt: skip
        path = write(tmp_path / 'mask.tif', warped, grid, 'EPSG:3035', nodata=255)
        labels = read_all(SceneDataset(*pair, mask=path))['mask'][0]
        assert set(labels.unique().tolist()) <= {0, 1, 255}
        assert (labels[:30] == 1).float().mean() > 0.97
        assert (labels[30:] == 0).float().mean() > 0.93

    def test_transforms(self, pair: tuple[Path, Path]) -> None:
        new = torch.zeros(1)
        dataset = SceneDataset(*pair, transforms=lambda sample: {**sample, 'new': new})
        sample = read_all(dataset)
        assert sample['new'] is new
        assert 'window' in sample

    def test_missing(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        with pytest.raises(
            FileNotFoundError, match=r"optical file '.*no\.tif' does not"
        ):
            SceneDataset(tmp_path / 'no.tif', pair[1])
        with pytest.raises(FileNotFoundError, match=r"SAR file '.*no\.tif' does not"):
            SceneDataset(pair[0], [pair[1], tmp_path / 'no.tif'])
        empty = tmp_path / 'empty'
        empty.mkdir()
        with pytest.raises(DatasetNotFoundError):
            SceneDataset(empty, pair[1])

    def test_no_crs(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        path = write(tmp_path / 'no_crs.tif', np.zeros((9, 9), np.float32), crs=None)
        with pytest.raises(ValueError, match=r"SAR file '.*no_crs\.tif' has no CRS"):
            SceneDataset(pair[0], path)

    def test_invalid_crs(self, pair: tuple[Path, Path]) -> None:
        with pytest.raises(
            ValueError, match=r"crs is 'EPSG:none': expected one that PROJ"
        ):
            SceneDataset(*pair, crs='EPSG:none')

    @pytest.mark.parametrize('res', [0, -10, (10, 0)])
    def test_invalid_resolution(self, pair: tuple[Path, Path], res: Any) -> None:
        with pytest.raises(ValueError, match='expected more than 0'):
            SceneDataset(*pair, res=res)

    def test_part(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        """The SAR image ends in the middle of the optical one."""
        image = np.zeros((50, 30), np.float32)
        path = write(tmp_path / 'west.tif', image, from_origin(WEST, NORTH, 20, 20))
        scene = SceneDataset(pair[0], path)
        assert scene.optical_share == 0.5
        assert SceneDataset(pair[0], pair[0]).optical_share == 1

    def test_no_overlap(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        # It touches the optical scene in the west
        path = write(
            tmp_path / 'far.tif',
            np.zeros((5, 5), np.float32),
            from_origin(WEST - 100, NORTH, 20, 20),
        )
        match = (
            r"do not overlap: optical '.*optical\.tif' has the extent "
            r'\(500000.0, 5299000.0, 501200.0, 5300000.0\) and '
            r"SAR '.*far\.tif' has the extent "
            r'\(499900.0, 5299900.0, 500000.0, 5300000.0\) .* EPSG:32633'
        )
        with pytest.raises(ValueError, match=match):
            SceneDataset(pair[0], path)

    def test_another_part_of_the_world(
        self, pair: tuple[Path, Path], tmp_path: Path
    ) -> None:
        zeros = np.zeros((5, 5), np.float32)
        grid = from_origin(-70, -15, 1e-4, 1e-4)
        path = write(tmp_path / 'peru.tif', zeros, grid, 'EPSG:4326')
        with pytest.raises(ValueError, match='do not overlap'):
            SceneDataset(pair[0], path)
        # No place on Earth
        grid = from_origin(1e12, 1e12, 10, 10)
        path = write(tmp_path / 'nowhere.tif', zeros, grid, 'EPSG:3035')
        with pytest.raises(ValueError, match=r"nowhere\.tif' of EPSG:3035 cannot be"):
            SceneDataset(pair[0], path)
        # A plan of a building
        path = write(
            tmp_path / 'plan.tif', zeros, crs='LOCAL_CS["plan",UNIT["metre",1]]'
        )
        with pytest.raises(ValueError, match=r"plan\.tif' of .* cannot be warped"):
            SceneDataset(pair[0], path)

    def test_unreadable(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        text = tmp_path / 'text.asc'
        text.write_text('no raster')
        with pytest.raises(
            RuntimeError, match=r"SAR file '.*text\.asc' cannot be read"
        ):
            SceneDataset(pair[0], text)

        # Beside others in a folder, it may be there on purpose, but half a tile is not
        folder = tmp_path / 'tiles'
        folder.mkdir()
        write(folder / 'tile.tif', np.ones((50, 50), np.float32))
        text.rename(folder / text.name)
        assert SceneDataset(pair[0], folder).band_counts == (3, 1)
        (folder / 'half.tif').write_bytes((folder / 'tile.tif').read_bytes()[:100])
        with pytest.raises(
            RuntimeError, match=r"SAR file '.*half\.tif' cannot be read"
        ):
            SceneDataset(pair[0], folder)

    def test_truncated(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        path = write(tmp_path / 'half.tif', np.ones((100, 120), np.float32))
        path.write_bytes(path.read_bytes()[:24_000])
        match = r"SAR file '.*half\.tif' cannot be .*IReadBlock failed"
        with pytest.raises(RuntimeError, match=match):
            SceneDataset(pair[0], path)
        # A file that declares its no data is not read early
        with rasterio.open(path, 'r+') as src:
            src.nodata = 0
        dataset = SceneDataset(pair[0], SARSource(path, scale='other'))
        with pytest.raises(RuntimeError, match=match):
            read_all(dataset)


class TestFiles:
    """Scenes may be stored in many ways."""

    def test_pattern(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        dataset = SceneDataset(str(tmp_path / 'opt*.tif'), str(tmp_path / '**/s*.tif'))
        assert torch.equal(
            read_all(dataset)['image'], read_all(SceneDataset(*pair))['image']
        )
        with pytest.raises(
            FileNotFoundError, match=r"no SAR file matches '.*x\*\.tif'"
        ):
            SceneDataset(pair[0], str(tmp_path / 'x*.tif'))

    def test_one_file_per_band(self, tmp_path: Path) -> None:
        """Names, and resolutions, as those of Sentinel-2 and Sentinel-1."""
        image = optical()
        for band, values, step in (
            ('B02', image[0], 10), ('B03', image[1], 10), ('B11', image[2, ::2, ::2], 20),
        ):  # fmt: skip
            write(
                tmp_path / f'T33UWP_20240101T101010_{band}_{step}m.tif',
                values,
                from_origin(WEST, NORTH, step, step),
            )
        sar = np.full((100, 120), -10, np.float32)
        for i, band in enumerate(('VV', 'VH')):
            name = f'S1A_IW_20240102T101010_DVP_RTC10_G_gdufem_ABCD_{band}.tif'
            write(tmp_path / name, sar - i)
        with pytest.raises(
            FileNotFoundError, match=r"optical file '.*_10m\.tif' does not"
        ):
            # As TorchGeo has it, 20 m bands are in a folder of their own
            SceneDataset(
                Source(tmp_path, ['B03', 'B11'], Sentinel2),
                SARSource(tmp_path, ['VH', 'VV'], Sentinel1),
            )
        for path in tmp_path.glob('*m.tif'):
            path.rename(tmp_path / f'{path.stem.rpartition("_")[0]}.tif')
        dataset = SceneDataset(
            Source(tmp_path, ['B03', 'B02', 'B11'], Sentinel2),
            SARSource(tmp_path, ['VH', 'VV'], Sentinel1),
        )
        assert dataset.band_counts == (3, 2)
        assert dataset.rgb_channels == [0, 1, 2]
        optical_files, sar_files = dataset.optical.files, dataset.sar.files
        assert dataset.files == optical_files + sar_files
        bands = [path[-7:-4] for path in optical_files]
        assert bands == ['B03', 'B02', 'B11']
        assert [path[-6:-4] for path in sar_files] == ['VH', 'VV']
        assert all(Path(path).exists() for path in optical_files + sar_files)
        loaded = pickle.loads(pickle.dumps(dataset))
        for one in (dataset, loaded):
            sample = read_all(one)
            assert torch.equal(
                sample['image'][0, :2],
                torch.from_numpy(image[[1, 0]].astype(np.float32)),
            )
            assert (sample['image'][1, 0] == -11).all()
            assert (sample['image'][1, 1] == -10).all()
            # Bilinear from 20 m: at the centre of a coarse pixel's corner
            corner = image[2, ::2, ::2].astype(float)[10:12, 20:22]
            weights = np.outer((0.75, 0.25), (0.75, 0.25))
            assert sample['image'][0, 2, 21, 41].item() == pytest.approx(
                (corner * weights).sum(), rel=1e-5
            )
        with pytest.raises(ValueError, match="optical band 'B02', did you mean 'B03'"):
            SceneDataset(Source(optical_files[0], ['B02']), sar_files[0])
        with pytest.raises(ValueError, match="unknown optical band 'B3', did you mean"):
            SceneDataset(Source(tmp_path, ['B3'], Sentinel2), tmp_path)

    def test_named_bands_of_one_file(self, pair: tuple[Path, Path]) -> None:
        class Named(Sentinel2):
            filename_glob = '*'
            filename_regex = '.*'
            separate_files = False
            all_bands = ('B02', 'B03', 'B04')

        dataset = SceneDataset(Source(pair[0], ['B04', 'B02'], Named), pair[1])
        expected = optical()[[2, 0], 30:, 30:].astype(np.float32)
        assert torch.equal(read_all(dataset)['image'][0], torch.from_numpy(expected))

    @pytest.mark.parametrize(
        ('names', 'expected'),
        [
            (('B02', 'B03', 'B04'), [2, 1, 0]),
            (('blue', 'red', 'green'), [1, 2, 0]),
            ((None, None, None), [0, 1, 2]),
        ],
    )
    def test_rgb_channels(
        self,
        names: tuple[str | None, ...],
        expected: list[int],
        pair: tuple[Path, Path],
    ) -> None:
        with rasterio.open(pair[0], 'r+') as src:
            src.descriptions = names
        assert SceneDataset(*pair).rgb_channels == expected
        assert SceneDataset(Source(pair[0], [2]), pair[1]).rgb_channels == [0, 0, 0]

    @pytest.mark.parametrize(('scale', 'factor'), [('power', 10), ('amplitude', 20)])
    def test_linear(self, scale: Any, factor: float, tmp_path: Path) -> None:
        sar = np.full((50, 60), 0.1, np.float32)
        sar[:, 30:] = 0.001
        sar[0] = 0
        path = write(tmp_path / 'sar.tif', sar, from_origin(WEST, NORTH, 20, 20))
        dataset = SceneDataset(
            write(tmp_path / 'optical.tif', optical()), SARSource(path, scale=scale)
        )
        sample = read_all(dataset)
        image = sample['image'][1, 0]
        torch.testing.assert_close(image[10:, :50], torch.full((90, 50), -1.0 * factor))
        # Averages are those of linear values
        expected = factor * math.log10(0.75 * 0.1 + 0.25 * 0.001)
        assert image[50, 59].item() == pytest.approx(expected, rel=1e-5)
        assert not sample['valid'][0, 0].any()

    def test_decibels_that_were_said_to_be_linear(
        self, pair: tuple[Path, Path]
    ) -> None:
        dataset = SceneDataset(pair[0], SARSource(pair[1], scale='power'))
        match = r"SAR file '.*sar\.tif' has the value -25, but scale is 'power'"
        with pytest.raises(ValueError, match=match):
            read_all(dataset)
        with pytest.raises(ValueError, match="unknown scale 'linear'"):
            SARSource(pair[1], scale='linear')  # type: ignore[arg-type]

    @pytest.mark.parametrize('res', [None, 15, (30, 20)])
    def test_crs_and_resolution(self, res: Any, pair: tuple[Path, Path]) -> None:
        dataset = SceneDataset(*pair, crs='EPSG:3035', res=res)
        assert dataset.crs.to_epsg() == 3035
        transform = dataset.transform
        if res is not None:
            xres, yres = (res, res) if isinstance(res, int) else res
            assert (transform.a, -transform.e) == (xres, yres)
            assert transform.c % xres == transform.f % yres == 0
        else:
            assert transform.a == pytest.approx(10, rel=0.05)
        sample = read_all(dataset)
        # Where the optical image is known, by its own georeference
        height, width = dataset.shape
        row, column = height // 2, width // 2
        assert sample['valid'][0, row, column]
        x, y = transform @ (column + 0.5, row + 0.5)
        x, y = Transformer.from_crs(3035, 32633, always_xy=True).transform(x, y)
        rows, columns = np.mgrid[:100, :120]
        plane = (columns + 200 * rows).astype(np.float32)
        with rasterio.open(pair[0]) as src:
            profile = {**src.profile, 'count': 1, 'dtype': 'float32', 'nodata': None}
        plane_path = pair[0].with_name('plane.tif')
        with rasterio.open(plane_path, 'w', **profile) as dst:
            dst.write(plane[None])
        plane_dataset = SceneDataset(plane_path, pair[1], crs='EPSG:3035', res=res)
        found = read_all(plane_dataset)['image'][0, 0, row, column].item()
        expected = (x - WEST) / 10 - 0.5 + 200 * ((NORTH - y) / 10 - 0.5)
        assert found == pytest.approx(expected, abs=0.5 * 200 * 0.2)

    @pytest.mark.parametrize('step', [10, 20])
    def test_given_nodata(self, step: int, tmp_path: Path) -> None:
        sar = np.full((100, 120), -10, np.float32)
        sar[20:40, 20:40] = 0
        dataset = SceneDataset(
            write(tmp_path / 'optical.tif', optical()),
            SARSource(
                write(tmp_path / 'sar.tif', sar, from_origin(WEST, NORTH, step, step)),
                nodata=0,
            ),
        )
        sample = read_all(dataset)
        assert (sample['image'][1, 0][sample['valid'][0]] == -10).all()
        assert (~sample['valid']).sum() == {10: 400, 20: 1600}[step]

    @pytest.mark.parametrize('given', [math.nan, 9])
    @pytest.mark.parametrize('step', [10, 20])
    def test_zeros_are_data(self, step: int, given: float, tmp_path: Path) -> None:
        """With a value for no data, zeros of an optical image are data, as those of SAR."""
        image = optical() + 100
        image[:, 20:40, 20:40] = 0
        place = from_origin(WEST, NORTH, step, step)
        path = write(tmp_path / 'optical.tif', image, place, nodata=9)
        sar = write(tmp_path / 'sar.tif', np.full((100, 120), -10, np.float32))
        for source, count in ((Source(path), {10: 400, 20: 1600}[step]),
                              (Source(path, nodata=given), 0)):  # fmt: skip
            sample = read_all(SceneDataset(source, sar, res=(10, 10)))
            assert (~sample['valid']).sum() == count
            assert (sample['image'][0][:, sample['valid'][0]] > 0).all()
        assert (sample['image'][0] < 1e-30).all(dim=0).sum() > 300

    @pytest.mark.parametrize('kind', ['alpha', 'mask'])
    @pytest.mark.parametrize('step', [10, 20])
    def test_masked(
        self, kind: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Pixels may be masked by a band, or by a mask of the file."""
        # As TorchGeo's command has it
        monkeypatch.setenv('GDAL_DISABLE_READDIR_ON_OPEN', 'EMPTY_DIR')
        path = tmp_path / 'sar.tif'
        opaque = np.full((100, 120), 255, np.uint8)
        opaque[20:40, 20:40] = 0
        sar = np.full((1, 100, 120), 90, np.uint8)
        if kind == 'alpha':
            sar = np.concatenate((sar, opaque[None]))
        write(path, sar, from_origin(WEST, NORTH, step, step))
        with rasterio.open(path, 'r+') as src:
            if kind == 'alpha':
                src.colorinterp = (ColorInterp.gray, ColorInterp.alpha)
            else:
                src.write_mask(opaque)
        dataset = SceneDataset(
            write(tmp_path / 'optical.tif', optical()), SARSource(path, scale='other')
        )
        assert dataset.band_counts == (3, 1)
        sample = read_all(dataset)
        assert (sample['image'][1, 0][sample['valid'][0]] == 90).all()
        assert (~sample['valid']).sum() == {10: 400, 20: 1600}[step]


class TestLabels:
    def test_splits(self, pair: tuple[Path, Path], tmp_path: Path) -> None:
        """Each labelled pixel counts in one split, whatever patch it is read with."""
        mask = np.ones((100, 120), np.uint8)
        source = MaskSource(write(tmp_path / 'mask.tif', mask), classes={1: 1})
        dataset = SceneDataset(*pair, mask=source)
        splits = random_grid_cell_assignment(dataset, [0.5, 0.5], grid_size=4)
        counts = torch.zeros(70, 90)
        for split in splits:
            assert isinstance(split, SceneDataset)
            x, y = split.pixel_slice(0, 0, 70, 90)
            labels = split[x, y]['mask'][0]
            counts += labels == 1
            assert 0.3 < (labels == 1).float().mean() < 0.7
        assert counts.max() == 1
        assert counts.min() == 1


class TestIndex:
    def test_moved_to_pixels(self, pair: tuple[Path, Path]) -> None:
        dataset = SceneDataset(*pair)
        x, y = dataset.pixel_slice(3, 5, 32, 32)
        expected = dataset[x, y]
        moved = dataset[x.start + 4.9 : x.stop + 4.9, y.start - 4.9 : y.stop - 4.9]
        assert torch.equal(moved['image'], expected['image'])
        assert moved['window'].tolist() == [3, 5]

    @pytest.mark.parametrize('max_size', [10, 45, 1000])
    def test_overview(self, max_size: int, pair: tuple[Path, Path]) -> None:
        dataset = SceneDataset(*pair)
        sample = dataset.overview(max_size)
        assert max(sample['image'].shape[-2:]) <= max_size
        step = -(-90 // max_size)
        whole = read_all(dataset)['image'][1, 0]
        small = sample['image'][1, 0]
        assert small.shape == (70 // step, 90 // step)
        coarse = whole[: 70 // step * step, : 90 // step * step]
        mean = coarse.unfold(0, step, step).unfold(1, step, step).mean((-1, -2))
        torch.testing.assert_close(small, mean, rtol=0, atol=0.4)

    def test_list(self, pair: tuple[Path, Path]) -> None:
        dataset = SceneDataset(*pair)
        scenes = SceneList([dataset, dataset])
        assert len(scenes) == 2
        assert scenes.scenes[0].band_counts == (3, 1)
        x, y = dataset.pixel_slice(0, 8, 16, 16)
        first, second = scenes[[(0, x, y), (1, x, y)]]
        assert torch.equal(first['image'], dataset[x, y]['image'])
        assert [int(sample['scene']) for sample in (first, second)] == [0, 1]


class TestMeasure:
    """Windows around samples are measured."""

    @pytest.mark.parametrize(
        ('window', 'place', 'expected'),
        [
            # First row and column, last row and column of what is measured
            (1, (30, 40, 10, 20), (30, 40, 39, 59)),
            (10, (30, 40, 10, 20), (30, 40, 39, 59)),
            (16, (30, 40, 10, 20), (27, 40, 42, 59)),
            (50, (30, 40, 10, 20), (10, 25, 59, 74)),
            # At the edges
            (50, (0, 0, 10, 20), (0, 0, 49, 49)),
            (50, (90, 100, 10, 20), (50, 70, 99, 119)),
            # Also where the sample reaches beyond them
            (50, (-5, 110, 10, 20), (0, 70, 49, 119)),
            (110, (30, 40, 10, 20), (0, 0, 99, 109)),
            (200, (30, 40, 10, 20), (0, 0, 99, 119)),
        ],
    )
    def test_window(
        self,
        window: int,
        place: tuple[int, int, int, int],
        expected: tuple[int, int, int, int],
        tmp_path: Path,
    ) -> None:
        rows, columns = np.mgrid[1:101, 1:121].astype(np.float32)
        first = write(tmp_path / 'o.tif', np.stack([rows, columns]))
        second = write(tmp_path / 's.tif', -np.stack([rows, columns]))
        plain, dataset = SceneDataset(first, second), SceneDataset(first, second)

        def measure(
            image: torch.Tensor, valid: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            assert image.shape[:3] == (1, 2, 2)
            pixels = image[0][:, :, valid[0, 0]]
            low, high = (f(pixels, -1) for f in (torch.amin, torch.amax))
            corners = torch.cat([low, high], dim=1)[None, ..., None, None]
            return corners[:, 0], corners[:, 1]

        dataset.measure, dataset.window = measure, window
        x, y = dataset.pixel_slice(*place)
        sample = dataset[x, y]
        assert sample['reference_optical'].shape == (4, 1, 1)
        found = sample.pop('reference_optical').flatten() - 1
        assert tuple(found.tolist()) == expected
        found = -sample.pop('reference_sar').flatten() - 1
        assert tuple(found.tolist()) == (*expected[2:], *expected[:2])
        # No other pixel differs
        assert sample.keys() == plain[x, y].keys()
        for key, value in plain[x, y].items():
            assert torch.equal(sample[key], value)

    @pytest.mark.parametrize(
        ('window', 'shape', 'reads'),
        [(128, (128, 128), 2), (512, (256, 256), 2), (5000, (300, 350), 1)],
    )
    def test_large_window(
        self, window: int, shape: tuple[int, int], reads: int, tmp_path: Path
    ) -> None:
        """Single pixels of it are read, and only once if it is all of the scene."""
        rng = np.random.default_rng(0)
        size = (600, 700)
        first = write(tmp_path / 'o.tif', rng.normal(900, 99, size).astype(np.float32))
        values = rng.normal(-12, 2.0, size).astype(np.float32)
        dataset = SceneDataset(first, write(tmp_path / 's.tif', values))
        dataset.window = window
        seen = []

        def measure(
            image: torch.Tensor, valid: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            assert valid.all()
            seen.append(image[0, 1, 0].numpy())
            spread = image[:, :, 0].std(dim=(-1, -2))[..., None, None, None]
            return spread[:, 0], spread[:, 1]

        dataset.measure = measure
        for place in ((100, 100), (400, 400)):
            sample = dataset[dataset.pixel_slice(*place, 64, 64)]
            # The spread is that of pixels, not of their means
            assert sample['reference_sar'].item() == pytest.approx(2, abs=0.05)
        assert [image.shape for image in seen] == [shape] * reads
        assert all(np.isin(image, values).all() for image in seen)

    def test_scene_that_is_narrow(self, tmp_path: Path) -> None:
        values = np.arange(3 * 2000, dtype=np.float32).reshape(3, 2000) + 1
        path = write(tmp_path / 'o.tif', values)
        dataset = SceneDataset(path, write(tmp_path / 's.tif', -values))
        dataset.window = 10_000
        dataset.measure = lambda image, valid: (
            valid.float().mean(dim=(-1, -2))[..., None, None],
            image[:, 1].amin(dim=(-1, -2))[..., None, None],
        )
        sample = dataset[dataset.pixel_slice(0, 500, 3, 3)]
        assert sample['reference_optical'].item() == 1
        assert sample['reference_sar'].item() < -3900

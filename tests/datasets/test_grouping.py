# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pytest
from torchgeo.datasets import RasterDataset, Sentinel2

from tests.data.geotiff import write
from tests.data.stac.data import planetary_s1_rtc, write_items
from torchgeo_m2cd.datasets import Source
from torchgeo_m2cd.datasets.granules import Band
from torchgeo_m2cd.datasets.grouping import find_granules


class Tiles(RasterDataset):
    filename_glob = 'tile_*'
    filename_regex = r'tile_\d'


def touch(folder: Path, *names: str) -> list[str]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return list(map(str, paths))


def found(source: Source) -> list[list[tuple[str, str]]]:
    """Bands and names of files of all granules."""
    granules = find_granules(source, 'optical')
    return [[(b.name, Path(b.path).name) for b in g.bands] for g in granules]


class TestFindGranules:
    def test_tiles(self, tmp_path: Path) -> None:
        """Files without bands in their names are granules, in the order given."""
        a, b = touch(tmp_path, 'a.tif', 'b.tif')
        assert found(Source(tmp_path)) == [[('', 'a.tif')], [('', 'b.tif')]]
        assert found(Source([b, a, b])) == [[('', 'b.tif')], [('', 'a.tif')]]
        # The same band in all of them: tiles, too
        vv = touch(tmp_path / 'vv', '1_VV.tif', '2_VV.tif')
        granules = find_granules(Source(vv), 'SAR')
        assert [g.bands for g in granules] == [(Band(path, 0),) for path in vv]

    def test_hyp3(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Polarisations are bands in the usual order; other files are ignored."""
        names = [f'S1A_IW_20230501T050000_DVP_RTC10_G_gpuned_{i}' for i in ('AB', 'CD')]
        for name in names:
            touch(
                tmp_path / name,
                *(f'{name}_{x}.tif' for x in ('dem', 'VH', 'VV', 'rgb')),
            )
        with caplog.at_level('INFO'):
            assert found(Source(tmp_path)) == [
                [('VV', f'{name}_VV.tif'), ('VH', f'{name}_VH.tif')] for name in names
            ]
        assert 'passed over' in caplog.text
        assert '_dem.tif' in caplog.text
        assert {g.date for g in find_granules(Source(tmp_path), 'SAR')} == {
            '2023-05-01'
        }
        # What is named on purpose is not passed over
        files = sorted(map(str, (tmp_path / names[0]).iterdir()))
        assert [('', f'{names[0]}_dem.tif')] in found(Source(files))

    def test_more_words(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Angles and noise of a polarisation are no bands, but tiles are."""
        names = ['S1_VV.tif', 'S1_VH.tif', 'S1_VV_inc.tif', 'S1_VH_noise.tif']
        touch(tmp_path, *names)
        bands = [('VV', 'S1_VV.tif'), ('VH', 'S1_VH.tif')]
        with caplog.at_level('INFO'):
            assert found(Source(tmp_path)) == [bands]
        assert 'passed over' in caplog.text
        # By a pattern as by a folder, but not by name
        assert found(Source(str(tmp_path / '*.tif'))) == [bands]
        named = [str(tmp_path / name) for name in names[:3]]
        assert found(Source(named)) == [bands, [('VV', 'S1_VV_inc.tif')]]
        touch(tmp_path, 'east_S1_VV.tif', 'east_S1_VH.tif')
        assert len(found(Source(tmp_path))) == 2

    def test_measurements(self, tmp_path: Path) -> None:
        """Sentinel-1 numbers the files of its polarisations."""
        name = 's1a-iw-grd-{}-20230501t050000-20230501t050025-048344-05d0a6-{}.tiff'
        touch(tmp_path, name.format('vv', '001'), name.format('vh', '002'))
        ((vv, vh),) = found(Source(tmp_path))
        assert (vv[0], vh[0]) == ('VV', 'VH')

    def test_planetary_computer(self, tmp_path: Path) -> None:
        item = 'S1A_IW_GRDH_1SDV_20230501T050000_20230501T050025_048344_05D0A6_rtc'
        folder = tmp_path / item / 'measurement'
        touch(folder, 'iw-vh.rtc.tiff', 'iw-vv.rtc.tiff')
        assert found(Source(tmp_path)) == [
            [('VV', 'iw-vv.rtc.tiff'), ('VH', 'iw-vh.rtc.tiff')]
        ]
        assert find_granules(Source(tmp_path), 'SAR')[0].date == '2023-05-01'

    def test_safe(self, tmp_path: Path) -> None:
        """The finest resolution of each band is read, and no masks."""
        safe = tmp_path / 'S2A_MSIL2A_20230501T101031_N0509_R022_T33UWP_20230501T1.SAFE'
        granule = safe / 'GRANULE' / 'L2A_T33UWP'
        name = 'T33UWP_20230501T101031'
        for res in (60, 20, 10):
            bands = ['B02', 'AOT', 'TCI'] if res == 10 else ['B02', 'B8A', 'SCL', 'B12']
            touch(
                granule / 'IMG_DATA' / f'R{res}m',
                *(f'{name}_{b}_{res}m.jp2' for b in bands),
            )
        touch(granule / 'QI_DATA', 'MSK_DETFOO_B02.jp2', 'MSK_DETFOO_B09.jp2')
        assert found(Source(tmp_path)) == [
            [
                (b, f'{name}_{b}_{r}m.jp2')
                for b, r in (('B02', 10), ('B8A', 20), ('B12', 20))
            ]
        ]

    def test_earth_search(self, tmp_path: Path) -> None:
        for item in ('S2B_33UWP_20230501_0_L2A', 'S2B_33UXP_20230501_0_L2A'):
            touch(tmp_path / item, 'B04.tif', 'B03.tif', 'TCI.tif')
        bands = [('B03', 'B03.tif'), ('B04', 'B04.tif')]
        assert found(Source(tmp_path)) == [bands, bands]

    def test_naming(self, tmp_path: Path) -> None:
        for band in ('B02', 'B03'):
            name = f'T33UWP_20230501T101031_{band}.tif'
            write(tmp_path / name, np.ones((9, 9), np.uint16))
        touch(tmp_path, 'T33_other_B03.tif')
        source = Source(tmp_path, ['B03', 'B02'], Sentinel2)
        (granule,) = find_granules(source, 'optical')
        assert granule.names == ['B03', 'B02']
        assert granule.date == '2023-05-01'
        with pytest.raises(
            FileNotFoundError, match=r"optical file '.*B04\.tif' does not"
        ):
            find_granules(Source(tmp_path, ['B03', 'B04'], Sentinel2), 'optical')

    def test_naming_of_tiles(self, tmp_path: Path) -> None:
        """A dataset may know names but no bands; its folder may have brackets."""
        write(tmp_path / 'tiles [1]' / 'tile_1.tif', np.ones((9, 9), np.uint16))
        touch(tmp_path / 'tiles [1]', 'other.tif')
        (granule,) = find_granules(Source(tmp_path, naming=Tiles), 'optical')
        assert granule.bands == (Band(str(tmp_path / 'tiles [1]' / 'tile_1.tif'), 0),)

    def test_stac(self, tmp_path: Path) -> None:
        """STAC items keep the order given, also beside files."""
        item = write_items(tmp_path / 'item.json', planetary_s1_rtc())
        a, b = touch(tmp_path, 'a.tif', 'b.tif')
        granules = find_granules(Source([b, item, a]), 'SAR')
        assert [g.names for g in granules] == [[''], ['VV', 'VH'], ['']]
        assert [g.files[0][-5:] for g in granules] == ['b.tif', '.tiff', 'a.tif']

    def test_dates(self, tmp_path: Path) -> None:
        touch(tmp_path, 'x_20230501.tif', 'x_20230513T050000_a.tif', '123456789.tif')
        with pytest.warns(
            UserWarning, match=r'days, 2023-05-01, 2023-05-13: .* sar\.date'
        ):
            assert len(find_granules(Source(tmp_path), 'SAR')) == 3
        for date in ('20230513', '2023-05-13'):
            (granule,) = find_granules(Source(tmp_path, date=date), 'SAR')
            assert granule.files == [str(tmp_path / 'x_20230513T050000_a.tif')]
        match = (
            r"no SAR file has the date '2023-06-01' in its name: .*'2023-05-01', '2023"
        )
        with pytest.raises(ValueError, match=match):
            find_granules(Source(tmp_path, date='2023-06-01'), 'SAR')

    @pytest.mark.parametrize(
        ('name', 'date'),
        [
            ('S1A_IW_20241030T053012_20241031T053037_A1.tif', '2024-10-30'),
            ('x/2024-10-30/a.tif', '2024-10-30'),
            ('c_2023-01-02.tif', '2023-01-02'),
            ('c_2023_01_02.tif', '2023-01-02'),
            ('20241399_20241030.tif', '2024-10-30'),
            ('120241030.tif', ''),
        ],
    )
    def test_date(self, name: str, date: str, tmp_path: Path) -> None:
        (path,) = touch(tmp_path, name)
        assert find_granules(Source(path), 'SAR')[0].date == date

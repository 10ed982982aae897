# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import zipfile
from pathlib import Path

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pytest
import shapely

from tests.data.geotiff import NORTH, WEST, write
from tests.datasets.helpers import RASTER, burn, pixels, read, save
from torchgeo_m2cd.datasets import MaskSource


class TestArea:
    """The area that was mapped."""

    FLOOD = pixels(2, 6, 2, 12)
    AREA = pixels(0, 10, 0, 15)
    CLOUD = pixels(4, 8, 8, 10)

    @pytest.fixture
    def expected(self) -> npt.NDArray[np.int64]:
        return burn((0, 10, 0, 15, 0), (2, 6, 2, 12, 1), (4, 8, 8, 10, 255), fill=255)

    def test_layers(self, expected: npt.NDArray[np.int64], tmp_path: Path) -> None:
        """Layers of one file, as of Copernicus EMS."""
        path = save(tmp_path / 'l.gpkg', [self.AREA], layer='areaOfInterest')
        save(path, [self.FLOOD], layer='observedEvent')
        save(path, [self.CLOUD], layer='notAnalysed')
        with pytest.raises(ValueError, match=r'mask\.layer'):
            read(path)
        source = MaskSource(path, layer='observedEvent')
        np.testing.assert_array_equal(read(source), expected)

    @pytest.mark.parametrize(
        ('event', 'area', 'cloud'),
        [
            (
                'EMSR773_AOI01_DEL_PRODUCT_observedEventA_v1.shp',
                'EMSR773_AOI01_DEL_PRODUCT_areaOfInterestA_v1.shp',
                'EMSR773_AOI01_DEL_PRODUCT_notAnalysedA_v1.shp',
            ),
            (
                'EMSR517_AOI15_DEL_MONIT01_observedEventA_r1_v2.json',
                'EMSR517_AOI15_DEL_MONIT01_areaOfInterestA_r1_v2.json',
                'EMSR517_AOI15_DEL_MONIT01_notAnalysedA_r1_v1.json',
            ),
            (
                'EMSR184_03TOWN_DEL_MONIT02_v1_observed_event_a.shp',
                'EMSR184_03TOWN_DEL_MONIT02_v1_area_of_interest.shp',
                'EMSR184_03TOWN_DEL_MONIT02_v1_not_analysed_a.shp',
            ),
            (
                'EMSR773_AOI01_DEL_PRODUCT_floodDepthA_v1.json',
                'EMSR773_AOI01_DEL_PRODUCT_areaOfInterestA_v1.json',
                'EMSR773_AOI01_DEL_PRODUCT_notAnalysedA_v1.json',
            ),
        ],
    )
    def test_files(
        self,
        event: str,
        area: str,
        cloud: str,
        expected: npt.NDArray[np.int64],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Files beside each other, named as Copernicus EMS names them."""
        for name, shape in (
            (event, self.FLOOD),
            (area, self.AREA),
            (cloud, self.CLOUD),
        ):
            table = gpd.GeoDataFrame(geometry=[shape], crs=32633).to_crs(4326)
            driver = 'GeoJSON' if name.endswith('.json') else 'ESRI Shapefile'
            table.to_file(tmp_path / name, driver=driver)
        # Of another area, and of another version
        for name in (area.replace('EMSR', 'EMSR9'), area.replace('v', 'v0')):
            table.to_file(tmp_path / name, driver=driver)
        with caplog.at_level('INFO', 'lightning'):
            np.testing.assert_array_equal(read(tmp_path / event), expected)
        assert area in caplog.text
        assert cloud in caplog.text
        monkeypatch.chdir(tmp_path)
        np.testing.assert_array_equal(read(Path(event)), expected)
        with pytest.raises(
            ValueError, match='is, by its name, the area that was mapped'
        ):
            read(tmp_path / area)
        # With the argument, all other pixels are known
        everything = save(tmp_path / 'all.gpkg', [pixels(-9, 99, -9, 99)])
        labels = read(MaskSource(event, area=everything))
        np.testing.assert_array_equal(labels, burn((2, 6, 2, 12, 1)))

    def test_zip(self, expected: npt.NDArray[np.int64], tmp_path: Path) -> None:
        """A product of Copernicus EMS as it is downloaded."""
        names = ('observedEventA', 'areaOfInterestA', 'notAnalysedA')
        shapes = (self.FLOOD, self.AREA, self.CLOUD)
        product = 'EMSR773_AOI01_DEL_PRODUCT'
        for name, shape in zip(names, shapes, strict=True):
            save(tmp_path / f'{product}_{name}_v1.shp', [shape])
        path = tmp_path / f'{product}_v1.zip'
        with zipfile.ZipFile(path, 'w') as file:
            for part in tmp_path.glob('*_v1.*'):
                if part != path:
                    file.write(part, part.name)
        with pytest.raises(ValueError, match=r'observedEventA.*mask\.layer'):
            read(path)
        source = MaskSource(path, layer=f'{product}_observedEventA_v1')
        np.testing.assert_array_equal(read(source), expected)
        # And each file by its name
        for name in (f'zip://{path}!', f'zip+file://{path}!/', f'/vsizip/{path}/'):
            source = MaskSource(f'{name}{product}_observedEventA_v1.shp')
            np.testing.assert_array_equal(read(source), expected)

    def test_some(self, tmp_path: Path) -> None:
        """Only some of the files say what was mapped."""
        path = save(tmp_path / 'l.gpkg', [self.AREA], layer='areaOfInterestA')
        save(path, [self.FLOOD], layer='flood')
        other = save(tmp_path / 'o.gpkg', [self.FLOOD], layer='flood')
        with pytest.raises(
            ValueError, match=r"'.*o\.gpkg' have no area .* mask\.area,"
        ):
            read(MaskSource([path, other], layer='flood'))

    def test_bowtie(self, tmp_path: Path) -> None:
        """A polygon that crosses itself keeps both halves, whatever its CRS."""
        x, y = WEST, NORTH
        bowtie = shapely.Polygon(
            [(x, y), (x + 200, y - 200), (x + 200, y), (x, y - 200)]
        )
        labels = [
            read(save(tmp_path / f'{crs}.gpkg', [shape], crs))
            for crs, shape in (
                (32633, bowtie),
                (4326, gpd.GeoSeries([bowtie], crs=32633).to_crs(4326)[0]),
            )
        ]
        assert labels[0].sum() == pytest.approx(200, abs=20)
        assert (labels[0] != labels[1]).sum() < 30  # Of pixels that are cut in half

    def test_raster(self, tmp_path: Path) -> None:
        area = save(tmp_path / 'area.gpkg', [self.AREA])
        labels = read(MaskSource(write(tmp_path / 'm.tif', RASTER), area=area))
        expected = RASTER.astype(int)
        expected[10:] = expected[:, 15:] = 255
        np.testing.assert_array_equal(labels, expected)

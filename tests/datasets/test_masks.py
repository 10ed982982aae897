# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import json
import math
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from jsonargparse import ArgumentParser
from pyproj import CRS, Transformer
from rasterio.enums import ColorInterp, Resampling
from rasterio.transform import Affine, from_origin

from tests.data.geotiff import GRID, NORTH, WEST, write
from tests.data.server import serve
from tests.datasets.helpers import EDGE, RASTER, UTM, burn, pixels, read, save
from torchgeo_m2cd.datamodules import SceneDataModule
from torchgeo_m2cd.datasets import MaskSource
from torchgeo_m2cd.datasets.grid import Grid
from torchgeo_m2cd.datasets.masks import Mask


class TestMaskSource:
    @pytest.mark.parametrize(
        ('text', 'expected'),
        [
            ('{255: 1}', {255: 1}),
            (
                '{Flooded area: 1, Flood trace: 0}',
                {'Flooded area': 1, 'Flood trace': 0},
            ),
            ('{7: 1, "8": 0, x: 255}', {7: 1, '8': 0, 'x': 255}),
        ],
    )
    @pytest.mark.filterwarnings(r'ignore:\s*(By default only|``instantiate_classes)')
    def test_configurable(
        self, text: str, expected: dict[int | str, int], tmp_path: Path
    ) -> None:
        """Classes are given in YAML and on the command line."""
        parser = ArgumentParser(parser_mode='yaml')
        parser.add_argument('--config', action='config')
        parser.add_class_arguments(SceneDataModule, 'data')
        config = tmp_path / 'c.yaml'
        mask = f'{{paths: m.tif, classes: {text}}}'
        config.write_text(f'data: {{optical: o.tif, sar: s.tif, mask: {mask}}}')
        files = ['--data.optical', 'o.tif', '--data.sar', 's.tif']
        for arguments in (
            ['--config', str(config)],
            [*files, '--data.mask.paths', 'm.tif', '--data.mask.classes', text],
        ):
            data = parser.instantiate_classes(parser.parse_args(arguments)).data
            assert data.mask == MaskSource('m.tif', classes=expected)

    @pytest.mark.parametrize('wrong', [-1, 0.5, 'flood', True])
    def test_classes(self, wrong: Any) -> None:
        with pytest.raises(
            (TypeError, ValueError), match=r'classes\[7\] is .*: expected'
        ):
            MaskSource('m.tif', classes={7: wrong, 1: 1})

    def test_table(self) -> None:
        """Numbers are numbers, also as text, and 0 is unchanged if nothing else is."""
        assert MaskSource().table is None
        table = MaskSource(classes={'255': 1, ' a b ': 2}).table
        assert table == {0.0: 0, 255.0: 1, 'a b': 2}
        assert MaskSource(classes={1: 0, 2: 1}).table == {1.0: 0, 2.0: 1}


class TestRaster:
    @pytest.mark.parametrize(
        'dtype', ['uint8', 'int8', 'uint16', 'int16', 'int32', 'float32', 'float64']
    )
    @pytest.mark.parametrize('nodata', [None, 255, -1])
    def test_plain(self, dtype: str, nodata: float | None, tmp_path: Path) -> None:
        """0, 1 and no data, in all types that can hold it."""
        info = np.finfo if dtype.startswith('float') else np.iinfo
        if nodata is not None and not info(dtype).min <= nodata <= info(dtype).max:
            nodata = None
        values = RASTER.astype(dtype)
        if nodata is not None:
            values[:2] = nodata
        path = write(tmp_path / 'm.tif', values, nodata=nodata)
        expected = RASTER.astype(int)
        expected[:2] = 0 if nodata is None else 255
        np.testing.assert_array_equal(read(path), expected)

    def test_unknown(self, tmp_path: Path) -> None:
        """Negative values, NaN and 255 are unknown without a tag."""
        values = RASTER.astype('float32')
        values[0, :3] = -1, math.nan, 255
        expected = RASTER.astype(int)
        expected[0, :3] = 255
        np.testing.assert_array_equal(read(write(tmp_path / 'm.tif', values)), expected)

    @pytest.mark.parametrize('rest', [None, 255])
    def test_tag_0(self, rest: int | None, tmp_path: Path) -> None:
        """A tag of 0 is ignored with a warning: 0 is taken for unchanged."""
        values = RASTER.copy()
        values[0] = rest or 0
        path = write(tmp_path / 'm.tif', values, nodata=0)
        with pytest.warns(UserWarning, match=r'm\.tif.* 0 is taken for unchanged'):
            labels = read(path)
        np.testing.assert_array_equal(labels, values)
        # On another grid, too
        coarse = write(
            tmp_path / 'c.tif', values, from_origin(WEST, NORTH, 20, 20), nodata=0
        )
        with pytest.warns(UserWarning, match='0 is taken for unchanged'):
            labels = read(coarse)
        np.testing.assert_array_equal(
            labels, values.repeat(2, 0).repeat(2, 1)[:20, :20]
        )
        with pytest.raises(
            ValueError, match='0 stands for no data: expected some that'
        ):
            read(MaskSource(path, nodata=0))

    def test_tag_0_everywhere(self, tmp_path: Path) -> None:
        """A mask without flood."""
        path = write(tmp_path / 'm.tif', np.zeros_like(RASTER), nodata=0)
        with pytest.warns(UserWarning, match='0 is taken for unchanged'):
            assert (read(path) == 0).all()

    def test_tag_0_of_tiles(self, tmp_path: Path) -> None:
        """The values of all tiles decide what 0 means."""
        for i, part in enumerate((RASTER[:10], RASTER[10:])):
            corner = from_origin(WEST, NORTH - 100 * i, 10, 10)
            write(tmp_path / f'{i}.tif', part, corner, nodata=0)
        with pytest.warns(UserWarning, match='0 is taken for unchanged'):
            labels = read(tmp_path)
        np.testing.assert_array_equal(labels, RASTER)

    @pytest.mark.parametrize(
        ('values', 'nodata', 'message'),
        [
            # 1 dry, 2 flood
            ([0, 1, 2], 0, r'values 0, 1, 2, of which 0 stands for .*\{1: 0, 2: 1\}'),
            ([1, 2], None, r'values 1, 2: expected some that are 0.*\{1: 0, 2: 1\}'),
            ([1], None, r'values 1: expected some that are 0.*\{1: 1\}'),
            # Flood on the ignore index or the other way round
            ([1, 255], 255, r'of which 255 stands for no data: .*\{255: 0, 1: 1\}'),
            ([1, 255], None, 'values 1, 255: expected some that are 0'),
            ([1, -1], None, 'values -1, 1: expected some that are 0'),
            ([1, math.nan], None, 'values 1: expected some that are 0'),
            (
                [0, 255],
                None,
                r'expected 1 where changed\. Say mask\.classes=\{255: 1\}',
            ),
            ([0, 255], 255, r'Say mask\.classes=\{255: 1\} .* if 255 means changed'),
            ([0, 255], 0, r'Say mask\.classes=\{255: 1\}'),
            ([0, 1], 1, r'of which 1 stands for .*Say mask\.classes=\{1: 1\}'),
            ([255], None, r'values 255: .*like mask\.classes=\{255: 1\}'),
            ([-9999], None, 'values -9999: expected some that are 0'),
            # Probabilities, angles, images
            (
                [0, 0.3, 1],
                None,
                r'values 0\.3: expected whole numbers, or mask\.classes',
            ),
            ([0, math.inf], None, 'values inf: expected whole numbers'),
        ],
    )
    def test_ambiguous(
        self, values: list[float], nodata: float | None, message: str, tmp_path: Path
    ) -> None:
        array = np.resize(np.array(values, np.float32), (EDGE, EDGE))
        path = write(tmp_path / 'm.tif', array, nodata=nodata)
        with pytest.raises(ValueError, match=rf"mask file '.*m\.tif' has .*{message}"):
            read(path)

    @pytest.mark.parametrize(
        ('values', 'nodata', 'classes', 'expected'),
        [
            ([0, 255], None, {255: 1}, [0, 1]),
            ([0, 255], 255, {255: 1}, [0, 1]),
            ([0, 255], 0, {'255': 1, 'x': 2}, [0, 1]),
            ([0, 255], None, {255: 255}, [0, 255]),
            ([0, 255], 255, {0: 0}, [0, 255]),
            ([1, 255], 255, {1: 1, 255: 0}, [1, 0]),
            ([0, 1, 2], 0, {1: 0, 2: 1}, [255, 0, 1]),
            ([0, 1, 2], None, {0: 255, 1: 0, 2: 1}, [255, 0, 1]),
            ([0, 3, 4], None, {3: 1, 4: 1}, [0, 1, 1]),
            ([-1, 1], None, {-1: 0, 1: 1}, [0, 1]),
            ([0, 1, math.nan], None, {1: 1}, [0, 1, 255]),
            ([1], None, {1: 1}, [1]),
        ],
    )
    def test_classes(
        self,
        values: list[float],
        nodata: float | None,
        classes: dict[int | str, int],
        expected: list[int],
        tmp_path: Path,
    ) -> None:
        array = np.resize(np.array(values, np.float32), (EDGE, EDGE))
        path = write(tmp_path / 'm.tif', array, nodata=nodata)
        labels = read(MaskSource(path, classes=classes))
        np.testing.assert_array_equal(labels, np.resize(expected, (EDGE, EDGE)))

    def test_classes_lack(self, tmp_path: Path) -> None:
        path = write(
            tmp_path / 'm.tif',
            np.resize(np.array([0, 1, 2, 3, 9], np.uint8), (EDGE, EDGE)),
        )
        with pytest.raises(
            ValueError, match=r"m\.tif' has the values 0, 3, 9: expected"
        ):
            read(MaskSource(path, classes={1: 0, 2: 1}))
        # An image
        path = write(
            tmp_path / 'm.tif', np.arange(90_000, dtype='f4').reshape(300, 300)
        )
        with pytest.raises(
            ValueError, match='values 0, 3, 4, 5, 6, 7, 8, 9, 10, 11, …'
        ):
            read(MaskSource(path, classes={1: 0, 2: 1}))

    def test_nodata(self, tmp_path: Path) -> None:
        """The argument overrides all rules."""
        values = np.where(RASTER == 1, 255, 0).astype(np.uint8)
        labels = read(MaskSource(write(tmp_path / 'm.tif', values), nodata=255))
        np.testing.assert_array_equal(labels, values)

    def test_mixed_tags(self, tmp_path: Path) -> None:
        """No data of one tile show the next tile."""
        first, second = RASTER.copy(), RASTER.copy()
        first[:8] = 9
        second[8:] = 7
        paths = [
            write(tmp_path / 'b.tif', first, nodata=9),
            write(tmp_path / 'a.tif', second, nodata=7),
        ]
        np.testing.assert_array_equal(read(MaskSource(paths)), RASTER)

    def test_palette_and_bit(self, tmp_path: Path) -> None:
        """Indices count, not colours, and a bit is a class."""
        path = write(tmp_path / 'm.tif', RASTER)
        with rasterio.open(path, 'r+') as dst:
            dst.write_colormap(1, {0: (9, 9, 9, 255), 1: (255, 0, 0, 255)})
        np.testing.assert_array_equal(read(path), RASTER)
        profile = {
            'driver': 'GTiff', 'count': 1, 'height': EDGE, 'width': EDGE, 'nbits': 1,
            'crs': 'EPSG:32633', 'transform': GRID, 'dtype': 'uint8',
        }  # fmt: skip
        with rasterio.open(tmp_path / 'bit.tif', 'w', **profile) as dst:
            dst.write(RASTER, 1)
        np.testing.assert_array_equal(read(tmp_path / 'bit.tif'), RASTER)

    def test_complex(self, tmp_path: Path) -> None:
        path = write(tmp_path / 'm.tif', RASTER.astype(np.complex64))
        with pytest.raises(
            ValueError, match=r"m\.tif' has complex values: expected real"
        ):
            read(path)

    def test_rgb(self, tmp_path: Path) -> None:
        grey = np.where(RASTER == 1, 255, 0).astype(np.uint8)
        path = write(tmp_path / 'm.tif', np.stack([grey] * 3))
        with pytest.raises(ValueError, match=r'mask\.classes=\{255: 1\}'):
            read(path)
        np.testing.assert_array_equal(read(MaskSource(path, classes={255: 1})), RASTER)
        path = write(tmp_path / 'm.tif', np.stack([grey, 0 * grey, 0 * grey]))
        with pytest.raises(
            ValueError, match=r"m\.tif' has 3 bands .* mask\.bands=\[1\]"
        ):
            read(path)
        with pytest.raises(ValueError, match=r'mask\.bands is \[1, 2\]: expected one'):
            read(MaskSource(path, [1, 2]))
        labels = read(MaskSource(path, [1], classes={255: 1}))
        np.testing.assert_array_equal(labels, RASTER)

    def test_alpha(self, tmp_path: Path) -> None:
        """Transparent pixels are unknown, and their value does not count."""
        alpha = np.full_like(RASTER, 255)
        alpha[:3] = 0
        values = RASTER.copy()
        values[:3] = 77
        path = write(tmp_path / 'm.tif', np.stack([values, alpha]))
        with rasterio.open(path, 'r+') as dst:
            dst.colorinterp = ColorInterp.gray, ColorInterp.alpha
        expected = RASTER.astype(int)
        expected[:3] = 255
        np.testing.assert_array_equal(read(path), expected)

    def test_overviews(self, tmp_path: Path) -> None:
        """Pixels count, not averages in overviews."""
        values = np.zeros((1024, 1024), np.uint8)
        values[::2, ::2] = 200
        values[1023, 1022] = 1
        path = write(tmp_path / 'm.tif', values)
        with rasterio.open(path, 'r+') as dst:
            dst.build_overviews([2, 4, 8], Resampling.average)
        assert Mask(MaskSource(path), UTM).classes == {0, 1, 200}

    def test_turned(self, tmp_path: Path) -> None:
        """Nearest neighbours are used if the mask is not on the grid."""
        turned = GRID @ Affine.translation(3, -3) @ Affine.rotation(30)
        values = np.resize(np.array([0, 3], np.uint8), (40, 40))
        labels = read(write(tmp_path / 'm.tif', values, turned))
        assert set(np.unique(labels)) == {0, 3, 255}

    def test_tiles(self, tmp_path: Path) -> None:
        """255 is unknown in all tiles; a warning says so where it may be flood."""
        tiles = [
            write(tmp_path / '1.tif', RASTER),
            write(
                tmp_path / '2.tif', RASTER * 255, from_origin(WEST + 200, NORTH, 10, 10)
            ),
        ]
        with pytest.warns(
            UserWarning, match=r"'.*2\.tif' has the values 0 and 255 alone"
        ):
            labels = read(MaskSource(tiles), shape=(EDGE, 2 * EDGE))
        np.testing.assert_array_equal(labels[:, :EDGE], RASTER)
        np.testing.assert_array_equal(labels[:, EDGE:], RASTER * 255)
        source = MaskSource(tiles, classes={0: 0, 1: 1, 255: 1})
        labels = read(source, shape=(EDGE, 2 * EDGE))
        np.testing.assert_array_equal(labels[:, EDGE:], RASTER)


class TestVector:
    SHAPES = (pixels(2, 6, 2, 12), pixels(8, 18, 10, 14))

    @pytest.mark.parametrize(
        'suffix',
        [
            '.gpkg',
            '.geojson',
            '.json',
            '.shp',
            '.fgb',
            '.gml',
            '.kml',
            '.gdb',
            '.shp.zip',
        ],
    )
    def test_formats(self, suffix: str, tmp_path: Path) -> None:
        """Polygons of another CRS, in formats that GDAL reads."""
        table = gpd.GeoDataFrame(
            {'kind': [1, 2]}, geometry=list(self.SHAPES), crs='EPSG:32633'
        ).to_crs(4326)
        path = tmp_path / f'labels{suffix}'
        driver = {'.json': 'GeoJSON', '.shp.zip': 'ESRI Shapefile'}.get(suffix)
        table.to_file(path, driver=driver)
        for attribute, second in ((None, 1), ('kind', 2)):
            labels = read(MaskSource(path, attribute=attribute))
            expected = burn((2, 6, 2, 12, 1), (8, 18, 10, 14, second))
            np.testing.assert_array_equal(labels, expected)
        with pytest.raises(ValueError, match=r"unknown mask\.attribute of .* 'sort'"):
            read(MaskSource(path, attribute='sort'))

    def test_parquet(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """GDAL's wheels do not read it, geopandas does if pyarrow is there."""
        table = gpd.GeoDataFrame(geometry=[self.SHAPES[0]], crs='EPSG:32633')
        path = tmp_path / 'labels.parquet'
        path.touch()
        monkeypatch.setattr(gpd, 'read_parquet', lambda path: table)
        np.testing.assert_array_equal(read(path), burn((2, 6, 2, 12, 1)))

        def fail(path: str) -> None:
            raise ImportError("Missing optional dependency 'pyarrow'")

        monkeypatch.setattr(gpd, 'read_parquet', fail)
        with pytest.raises(RuntimeError, match=r"labels\.parquet' cannot .* 'pyarrow'"):
            read(path)

    def test_url(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A signed URL, and one that cannot be read."""
        monkeypatch.setenv('NO_PROXY', '127.0.0.1')
        save(tmp_path / 'l.geojson', [self.SHAPES[0]])
        with serve(tmp_path) as url:
            labels = read(MaskSource(f'{url}/l.geojson?token=1'))
            np.testing.assert_array_equal(labels, burn((2, 6, 2, 12, 1)))
            match = rf"^mask file '{url}/no\.geojson' cannot be read"
            with pytest.raises(RuntimeError, match=match) as error:
                read(MaskSource(f'{url}/no.geojson?token=1'))
            assert 'token' not in str(error.value)

    def test_layers(self, tmp_path: Path) -> None:
        """A file of several layers needs an argument."""
        path = save(tmp_path / 'l.gpkg', [pixels(0, 20, 0, 20)], layer='aoi')
        save(path, [self.SHAPES[0]], layer='flood', name=['x'])
        with pytest.raises(
            ValueError, match=r"l\.gpkg' has the layers 'aoi', 'flood': .* mask\.layer"
        ):
            read(path)
        labels = read(MaskSource(path, layer='flood'))
        np.testing.assert_array_equal(labels, burn((2, 6, 2, 12, 1)))
        with pytest.raises(
            ValueError, match=r"mask\.layer of .*l\.gpkg.* 'floods', did"
        ):
            read(MaskSource(path, layer='floods'))
        # The area by an argument: of the same file, or of another one
        other = save(tmp_path / 'area.shp', [pixels(0, 10, 0, 10)])
        for source, (bottom, right) in (
            (MaskSource(path, layer='flood', area_layer='aoi'), (20, 20)),
            (MaskSource(path, layer='flood', area=other), (10, 10)),
        ):
            expected = burn((2, 6, 2, 12, 1))
            expected[bottom:] = expected[:, right:] = 255
            np.testing.assert_array_equal(read(source), expected)
        with pytest.raises(
            ValueError, match=r"mask\.area file .* 'aoi', 'flood'.*_layer"
        ):
            read(MaskSource(path, layer='flood', area=path))

    def test_styles(self, tmp_path: Path) -> None:
        """The layer of QGIS's styles does not count."""
        path = save(tmp_path / 'l.gpkg', [self.SHAPES[0]])
        styles = gpd.GeoDataFrame({'styleQML': ['<qgis/>']})
        pyogrio.write_dataframe(styles, path, layer='layer_styles')
        np.testing.assert_array_equal(read(path), burn((2, 6, 2, 12, 1)))

    def test_no_layer(self, tmp_path: Path) -> None:
        path = tmp_path / 'l.gpkg'
        pyogrio.write_dataframe(gpd.GeoDataFrame({'a': [1]}), path, layer='table')
        with pytest.raises(ValueError, match=r"mask file .*l\.gpkg' has no layer with"):
            read(path)

    @pytest.mark.parametrize('missing', [None, ''])
    def test_text(self, missing: str | None, tmp_path: Path) -> None:
        kinds = ['Flooded area', 'Flood trace', missing, '7']
        shapes = [*self.SHAPES, pixels(19, 20, 0, 20), pixels(0, 1, 0, 20)]
        path = save(tmp_path / 'l.geojson', shapes, notation=kinds)
        with pytest.raises(
            ValueError,
            match=r"'notation' of mask file '.*l\.geojson'.* 'Flood trace', 'Flooded area'",
        ):
            read(MaskSource(path, attribute='notation'))
        with pytest.raises(ValueError, match=r"values 7, 'Flood trace': expected all"):
            read(MaskSource(path, attribute='notation', classes={'Flooded area': 1}))
        classes: dict[int | str, int] = {'Flooded area': 1, 'Flood trace': 0, 7: 2}
        labels = read(MaskSource(path, attribute='notation', classes=classes))
        expected = burn((2, 6, 2, 12, 1), (0, 1, 0, 20, 2), (19, 20, 0, 20, 255))
        np.testing.assert_array_equal(labels, expected)
        with pytest.raises(
            ValueError, match=r'mask\.classes is given, .* mask\.attribute'
        ):
            read(MaskSource(path, classes=classes))

    @pytest.mark.parametrize(
        ('values', 'expected'),
        [
            ([1.0, None], (1, 255)),
            ([2, -1], (2, 255)),
            ([True, False], (1, 0)),
            (['1', '0'], (1, 0)),
        ],
    )
    def test_numbers(
        self, values: list[Any], expected: tuple[int, int], tmp_path: Path
    ) -> None:
        path = save(tmp_path / 'l.gpkg', list(self.SHAPES), kind=values)
        labels = read(MaskSource(path, attribute='kind'))
        (first, second) = expected
        wanted = burn((2, 6, 2, 12, first), (8, 18, 10, 14, second))
        np.testing.assert_array_equal(labels, wanted)

    def test_no_numbers(self, tmp_path: Path) -> None:
        path = save(tmp_path / 'l.gpkg', list(self.SHAPES), kind=[0.5, 1])
        with pytest.raises(ValueError, match=r'l\.gpkg.* values 0\.5: expected whole'):
            read(MaskSource(path, attribute='kind'))
        path = save(tmp_path / 'e.gpkg', list(self.SHAPES), kind=[None, None])
        with pytest.raises(
            ValueError, match=r"e\.gpkg.* has an empty attribute 'kind'"
        ):
            read(MaskSource(path, attribute='kind'))

    def test_overlap(self, tmp_path: Path) -> None:
        """The last polygon of a file and the first of several files win."""
        big, small, over = pixels(0, 10, 0, 10), pixels(2, 5, 2, 5), pixels(4, 8, 4, 8)
        first = save(tmp_path / 'b.gpkg', [big, small], kind=[1, 2])
        second = save(tmp_path / 'a.gpkg', [over, pixels(9, 12, 9, 12)], kind=[3, 4])
        labels = read(MaskSource([first, second], attribute='kind'))
        expected = burn((9, 12, 9, 12, 4), (0, 10, 0, 10, 1), (2, 5, 2, 5, 2))
        np.testing.assert_array_equal(labels, expected)

    @pytest.mark.parametrize(
        'shape',
        [
            shapely.Point(WEST + 50, NORTH - 50),
            shapely.LineString([(WEST, NORTH), (WEST + 99, NORTH - 99)]),
            shapely.MultiPoint([(WEST, NORTH), (WEST + 99, NORTH - 99)]),
            shapely.GeometryCollection([SHAPES[1], shapely.Point(WEST, NORTH)]),
        ],
    )
    def test_other_geometries(self, shape: Any, tmp_path: Path) -> None:
        path = save(tmp_path / 'l.geojson', [self.SHAPES[0], shape])
        with pytest.raises(
            ValueError, match=r'l\.geojson.* other geometries .*\(1 (Multi)?(Poi|Line)'
        ):
            read(path)

    def test_odd_polygons(self, tmp_path: Path) -> None:
        """Collections, parts, heights, holes, self-intersections, and nothing at all."""
        first, second = self.SHAPES
        shapes = [
            shapely.GeometryCollection([first, shapely.MultiPolygon([second])]),
            shapely.force_3d(pixels(19, 20, 0, 20), 7.0),
            # A bow tie: two triangles, left and right
            shapely.Polygon(
                [
                    (WEST + x, NORTH - y)
                    for x, y in ((0, 60), (60, 180), (60, 60), (0, 180))
                ]
            ),
            shapely.difference(pixels(0, 2, 0, 20), pixels(0, 1, 3, 5)),
            shapely.Polygon(),
            None,
        ]
        path = save(tmp_path / 'l.geojson', shapes)
        expected = burn(
            (2, 6, 2, 12, 1),
            (8, 18, 10, 14, 1),
            (19, 20, 0, 20, 1),
            (0, 2, 0, 20, 1),
            (0, 1, 3, 5, 0),
        )
        labels = read(path)
        inside = np.s_[6:18, :6]
        assert 0.3 < labels[inside].mean() < 0.7
        assert labels[12, 0] == labels[12, 5] == 1
        assert labels[7, 2] == labels[16, 3] == 0
        labels[inside] = expected[inside]
        np.testing.assert_array_equal(labels, expected)

    def test_empty(self, tmp_path: Path) -> None:
        """No flood at all."""
        path = tmp_path / 'l.geojson'
        path.write_text(json.dumps({'type': 'FeatureCollection', 'features': []}))
        assert (read(path) == 0).all()
        assert (read(MaskSource(path, attribute='kind')) == 0).all()
        assert (read(save(tmp_path / 'l.gpkg', [])) == 0).all()

    @pytest.mark.filterwarnings("ignore:'crs' was not provided")
    def test_invalid(self, tmp_path: Path) -> None:
        path = save(tmp_path / 'l.shp', list(self.SHAPES), crs=None)
        with pytest.raises(
            ValueError, match=r"mask file '.*l\.shp'.* has no CRS: .*prj"
        ):
            read(path)
        (tmp_path / 'bad.gpkg').write_text('no vectors')
        with pytest.raises(
            RuntimeError, match=r"mask file '.*bad\.gpkg' cannot be read"
        ):
            read(tmp_path / 'bad.gpkg')
        raster = write(tmp_path / 'm.tif', RASTER)
        with pytest.raises(ValueError, match='mask has raster and vector files'):
            read(MaskSource([path, raster]))
        for source in (
            MaskSource(raster, layer='x'),
            MaskSource(raster, attribute='x'),
        ):
            with pytest.raises(
                ValueError, match=r"mask\.(layer|attribute) is 'x', but .*m"
            ):
                read(source)
        with pytest.raises(
            ValueError, match=r"mask folder .* 'l\.shp'.*: expected the"
        ):
            read(tmp_path)
        with pytest.raises(
            ValueError, match=r"mask\.area_layer is 'x': .* mask\.area,"
        ):
            read(MaskSource(raster, area_layer='x'))

    @pytest.mark.parametrize('crs', ['EPSG:32634', 'EPSG:3035', 'EPSG:3857'])
    def test_other_crs(self, crs: str, tmp_path: Path) -> None:
        table = gpd.GeoDataFrame(geometry=list(self.SHAPES), crs='EPSG:32633')
        table.to_crs(crs).to_file(tmp_path / 'l.gpkg')
        expected = burn((2, 6, 2, 12, 1), (8, 18, 10, 14, 1))
        np.testing.assert_array_equal(read(tmp_path / 'l.gpkg'), expected)

    @pytest.mark.filterwarnings('error')
    def test_many(self, tmp_path: Path) -> None:
        """Thousands of polygons keep their order; an empty file causes no warning."""
        rng = np.random.default_rng(0)
        corners = rng.integers(0, EDGE - 5, (3000, 2)).tolist()
        shapes = [pixels(y, y + 5, x, x + 5) for y, x in corners]
        labels = np.arange(3000) % 200
        path = save(tmp_path / 'l.gpkg', shapes, kind=labels)
        expected = burn(
            *((y, y + 5, x, x + 5, i % 200) for i, (y, x) in enumerate(corners))
        )
        empty = save(tmp_path / 'e.geojson', [])
        found = read(MaskSource([empty, path], attribute='kind'))
        np.testing.assert_array_equal(found, expected)

    def test_out_of_reach(self, tmp_path: Path) -> None:
        """A polygon that the CRS of the grid cannot represent."""
        there = gpd.GeoSeries([self.SHAPES[0]], crs=32633).to_crs(4326)[0]
        path = save(tmp_path / 'l.gpkg', [there, shapely.box(105, 0, 106, 1)], 4326)
        with pytest.warns(
            UserWarning, match='has 1 polygons with no place in EPSG:32633'
        ):
            labels = read(path)
        np.testing.assert_array_equal(labels, burn((2, 6, 2, 12, 1)))

    def test_long_edges(self, tmp_path: Path) -> None:
        """A parallel is a curve in UTM: 1 degree of it bends by 120 m."""
        to_utm = Transformer.from_crs(4326, 32633, always_xy=True)
        path = save(tmp_path / 'l.gpkg', [shapely.box(15, 46, 17, 47)], 4326)
        x, y = to_utm.transform(16, 47)
        grid = Grid(UTM.crs, from_origin(x - 100, y + 100, 10, 10))
        labels = read(path, grid)
        np.testing.assert_array_equal(labels[:8], 0)
        np.testing.assert_array_equal(labels[12:], 1)


class TestAntimeridian:
    """Polygons across 180 degrees, however they are written."""

    CRS84 = CRS.from_epsg(4326)
    WHOLE = shapely.box(179.9, 51, 180.1, 51.1)
    HOLE = shapely.box(179.97, 51.04, 180.03, 51.06)
    SHAPES = (
        [WHOLE],
        # West of it
        [shapely.box(-180.1, 51, -179.9, 51.1)],
        # In two parts
        [shapely.box(179.9, 51, 180, 51.1), shapely.box(-180, 51, -179.9, 51.1)],
        [
            shapely.MultiPolygon(
                [shapely.box(179.9, 51, 180, 51.1), shapely.box(-180, 51, -179.9, 51.1)]
            )
        ],
        # Not cut, though longitudes stay within 180
        [shapely.Polygon([(179.9, 51), (-179.9, 51), (-179.9, 51.1), (179.9, 51.1)])],
        [shapely.Polygon([(-179.9, 51), (-179.9, 51.1), (179.9, 51.1), (179.9, 51)])],
    )

    @pytest.mark.parametrize('shapes', SHAPES)
    @pytest.mark.parametrize('west', [179.8, -180.2, 539.8 - 360])
    def test_geographic(
        self, shapes: list[shapely.Polygon], west: float, tmp_path: Path
    ) -> None:
        grid = Grid(self.CRS84, from_origin(west, 51.2, 0.01, 0.01))
        labels = read(save(tmp_path / 'l.gpkg', shapes, 4326), grid, (30, 40))
        expected = np.zeros((30, 40))
        expected[10:20, 10:30] = 1
        np.testing.assert_array_equal(labels, expected)

    @pytest.mark.parametrize('shapes', SHAPES)
    @pytest.mark.parametrize('zone', [1, 60])
    def test_utm(
        self, shapes: list[shapely.Polygon], zone: int, tmp_path: Path
    ) -> None:
        crs = CRS.from_epsg(32600 + zone)
        x, y = Transformer.from_crs(4326, crs, always_xy=True).transform(180, 51.05)
        grid = Grid(crs, from_origin(x - 20_000, y + 20_000, 100, 100))
        labels = read(save(tmp_path / 'l.gpkg', shapes, 4326), grid, (400, 400))
        # Geodesic area of the polygon
        assert labels.sum() * 0.01 == pytest.approx(155.98, abs=1)
        assert labels[200, 132:268].all()
        assert labels[150:250, 200].all()
        assert not labels[:, :120].any()
        assert not labels[:, 280:].any()

    @pytest.mark.parametrize('shapes', SHAPES)
    def test_mercator(self, shapes: list[shapely.Polygon], tmp_path: Path) -> None:
        """Mercator has two ends: a polygon at one of them does not reach the other."""
        crs = CRS.from_epsg(3857)
        path = save(tmp_path / 'l.gpkg', [*shapes, shapely.box(0, 51, 0.1, 51.1)], 4326)
        to_crs = Transformer.from_crs(4326, crs, always_xy=True)
        for west, left, right in (
            (179.8, 10, 20),
            (-180, 0, 10),
            (-0.05, 5, 15),
            (90, 0, 0),
        ):
            x, y = to_crs.transform([west, west + 0.2], [51.1, 51])
            step = (x[1] - x[0]) / 20
            labels = read(
                path, Grid(crs, from_origin(x[0], y[0], step, step)), (10, 20)
            )
            np.testing.assert_array_equal(labels[:, left:right], 1)
            assert labels.sum() == 10 * (right - left)

    def test_from_utm(self, tmp_path: Path) -> None:
        """Polygons of UTM in a geographic grid, with a hole on the other side."""
        whole = self.WHOLE.difference(self.HOLE)
        table = gpd.GeoDataFrame(geometry=[whole], crs=4326).to_crs(32660)
        table.to_file(tmp_path / 'l.gpkg')
        grid = Grid(self.CRS84, from_origin(179.8, 51.2, 0.01, 0.01))
        labels = read(tmp_path / 'l.gpkg', grid, (30, 40))
        assert labels[10:20, 10:30].sum() == pytest.approx(200 - 12, abs=6)
        assert labels.sum() == labels[9:21, 9:31].sum()
        assert not labels[14:16, 18:22].any()

    @pytest.mark.parametrize('west', [-180.1, 0, 179.9])
    def test_whole_earth(self, west: float, tmp_path: Path) -> None:
        """Edges along a whole parallel or around a pole are kept."""
        path = save(tmp_path / 'l.gpkg', [shapely.box(-180, -60, 180, 60)], 4326)
        grid = Grid(self.CRS84, from_origin(west, 60.1, 0.01, 0.01))
        labels = read(path, grid)
        np.testing.assert_array_equal(labels, burn((10, 20, 0, 20, 1)))
        ring = [(x, 60 + x % 7) for x in range(-180, 171, 10)]
        path = save(tmp_path / 'pole.gpkg', [shapely.Polygon(ring)], 4326)
        assert read(path, Grid(self.CRS84, from_origin(0, 60.1, 0.01, 0.01))).any()

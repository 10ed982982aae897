# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import math
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import torch
from kornia.filters import gaussian_blur2d
from pyproj import Geod
from rasterio.transform import Affine, from_origin
from torch import Tensor

from torchgeo_m2cd.datasets import SceneDataset, SyntheticFlood
from torchgeo_m2cd.maps import plot_quicklook, write_cog, write_polygons

GRID = from_origin(500_000, 5_300_000, 10, 10)


def write(
    path: Path,
    data: npt.NDArray[Any],
    nodata: float,
    transform: Affine = GRID,
    crs: str = 'EPSG:32633',
) -> Path:
    with rasterio.open(
        path, 'w', driver='GTiff', dtype=data.dtype, count=len(data),
        height=data.shape[1], width=data.shape[2], crs=crs, transform=transform,
        nodata=nodata,
    ) as dst:  # fmt: skip
        dst.write(data)
    return path


def label(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Number the regions of pixels that share an edge, pixel by pixel."""
    regions = np.zeros(mask.shape, np.int64)
    for start in zip(*np.nonzero(mask), strict=True):
        if regions[start]:
            continue
        number = regions.max() + 1
        todo = [start]
        while todo:
            row, column = place = todo.pop()
            if (
                0 <= row < mask.shape[0]
                and 0 <= column < mask.shape[1]
                and mask[place]
                and not regions[place]
            ):
                regions[place] = number
                todo += [(row + 1, column), (row - 1, column)]
                todo += [(row, column + 1), (row, column - 1)]
    return regions


@pytest.fixture
def maps(tmp_path: Path) -> tuple[Path, Path]:
    """Probability and classes of a map of several strips, with pixels without data."""
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.normal(size=(1, 1, 600, 200)))
    smooth: Tensor = gaussian_blur2d(noise, (65, 65), (8.0, 8.0))
    probability = torch.sigmoid(60 * smooth)[0, 0].numpy().astype(np.float32)
    probability[100:120] = math.nan
    classes = np.where(np.isnan(probability), 255, probability >= 0.5).astype(np.uint8)
    return (
        write(tmp_path / 'probability.tif', probability[None], math.nan),
        write(tmp_path / 'classes.tif', classes[None], 255),
    )


class TestWritePolygons:
    def test_equals_labelling(self, maps: tuple[Path, Path], tmp_path: Path) -> None:
        """Another library finds the same connected regions in the whole array."""
        output = tmp_path / 'change.gpkg'
        count = write_polygons(*maps, output)
        table = gpd.read_file(output)
        with rasterio.open(maps[0]) as src, rasterio.open(maps[1]) as labels:
            probability, classes = src.read(1), labels.read(1)
        regions = label(classes == 1)
        assert len(table) == count == regions.max()
        assert table.crs.to_epsg() == 32633
        assert (table['class'] == 1).all()
        for region in table.itertuples():
            # Where a point of the polygon is, the same region is
            point = region.geometry.representative_point()
            column, row = ~GRID @ (point.x, point.y)
            inside = regions == regions[int(row), int(column)]
            assert region.geometry.area == inside.sum() * 100
            assert region.mean_probability == pytest.approx(
                probability[inside].mean(), rel=1e-4
            )
            # On the ellipsoid; the scale of UTM is 0.9996 here
            area, _ = Geod(ellps='WGS84').geometry_area_perimeter(
                gpd.GeoSeries([region.geometry], crs=table.crs).to_crs(4326).iloc[0]
            )
            assert region.area_m2 == pytest.approx(abs(area), rel=1e-3)

    def test_min_area(self, maps: tuple[Path, Path], tmp_path: Path) -> None:
        everything, large = tmp_path / 'all.gpkg', tmp_path / 'large.gpkg'
        write_polygons(*maps, everything)
        count = write_polygons(*maps, large, min_area=30_000)
        areas = gpd.read_file(everything)['area_m2']
        assert count == (areas >= 30_000).sum()
        assert 0 < count < len(areas)
        assert gpd.read_file(large)['area_m2'].min() >= 30_000

    def test_classes(self, tmp_path: Path) -> None:
        probability = np.zeros((3, 20, 20), np.float32)
        probability[0] = 0.8
        probability[:, :5, :5] = np.array([0.1, 0.6, 0.3])[:, None, None]
        probability[:, 10:, 10:] = np.array([0.2, 0.1, 0.7])[:, None, None]
        classes = probability.argmax(0).astype(np.uint8)
        output = tmp_path / 'change.gpkg'
        write_polygons(
            write(tmp_path / 'p.tif', probability, math.nan),
            write(tmp_path / 'c.tif', classes[None], 255),
            output,
        )
        table = gpd.read_file(output).set_index('class')
        assert sorted(table.index) == [1, 2]
        assert table.mean_probability[1] == pytest.approx(0.6)
        assert table.mean_probability[2] == pytest.approx(0.7)

    def test_no_change(self, tmp_path: Path) -> None:
        zeros = np.zeros((1, 20, 20))
        output = tmp_path / 'change.gpkg'
        count = write_polygons(
            write(tmp_path / 'p.tif', zeros.astype(np.float32), math.nan),
            write(tmp_path / 'c.tif', zeros.astype(np.uint8), 255),
            output,
        )
        assert count == 0
        assert len(gpd.read_file(output)) == 0


class TestWriteCOG:
    def test_overviews(self, maps: tuple[Path, Path], tmp_path: Path) -> None:
        for source, values in zip(maps, ('mean', 'class'), strict=True):
            output = tmp_path / f'{values}_cog.tif'
            write_cog(source, output)
            with rasterio.open(source) as src, rasterio.open(output) as cog:
                assert cog.tags(ns='IMAGE_STRUCTURE')['LAYOUT'] == 'COG'
                np.testing.assert_array_equal(cog.read(), src.read())
                assert cog.overviews(1)
                small = cog.read(1, out_shape=(300, 100))
                first = src.read(1)[:2, :2]
                if values == 'mean':
                    assert small[0, 0] == pytest.approx(first.mean())
                else:
                    assert set(np.unique(small)) <= {0, 1, 255}


class TestPlotQuicklook:
    @pytest.mark.parametrize('bands', [1, 2])
    def test_plot(self, bands: int, tmp_path: Path) -> None:
        paths = SyntheticFlood().write_scene(tmp_path, size=96, sar_crs='EPSG:32632')
        dataset = SceneDataset(paths['optical'], paths['sar'])
        probability = np.full((bands, *dataset.shape), 0.25, np.float32)
        path = write(tmp_path / 'p.tif', probability, math.nan, dataset.transform)
        figure = plot_quicklook(dataset, path, max_size=40)
        images = [np.ma.asarray(axes.images[0].get_array()) for axes in figure.axes[:3]]
        sample = dataset.overview(40)
        assert max(images[0].shape[:2]) <= 40
        assert images[0].shape[:2] == images[1].shape == images[2].shape
        # White without data
        invalid = ~sample['valid'][0].numpy()
        assert invalid.any()
        assert (images[0][invalid] == 1).all()
        assert (images[1][invalid] == 1).all()
        assert images[2].max() == (0.25 if bands == 1 else 0.75)

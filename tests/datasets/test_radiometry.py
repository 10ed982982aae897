# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely

from tests.data.geotiff import GRID, NORTH, WEST, write
from torchgeo_m2cd.datasets.radiometry import (
    Radiometry,
    find_margin,
    is_sentinel_2,
    read_safe,
)

L2A = 'S2A_MSIL2A_20230501T101031_N0509_R022_T33UWP_20230501T160000.SAFE'
L1C = L2A.replace('MSIL2A', 'MSIL1C')


@pytest.mark.parametrize(
    ('path', 'expected'),
    [
        (
            f'/data/{L2A}/GRANULE/x/IMG_DATA/R10m/T33UWP_20230501T101031_B02_10m.jp2',
            True,
        ),
        ('T33UWP_20230501T101031_B02.tif', True),
        ('/data/S2B_33UWP_20230501_0_L2A/B04.tif', True),
        ('/data/S1A_IW_20230501T050000_DVP_RTC10_G_gpuned_ABCD_VV.tif', False),
        ('/data/before.tif', False),
        ('/data/PS2_B04.tif', False),
    ],
)
def test_is_sentinel_2(path: str, expected: bool) -> None:
    assert is_sentinel_2(path) == expected


def write_metadata(safe: Path, level: str, offsets: dict[int, int]) -> None:
    """Write the elements of a product's metadata that matter, named as ESA names them."""
    boa, radio = ('BOA_', 'BOA') if level == 'L2A' else ('', 'RADIO')
    lines = [
        f'<{boa}QUANTIFICATION_VALUE unit="none">10000</{boa}QUANTIFICATION_VALUE>'
    ]
    lines += [
        f'<{radio}_ADD_OFFSET band_id="{i}">{value}</{radio}_ADD_OFFSET>'
        for i, value in offsets.items()
    ]
    safe.mkdir(parents=True)
    text = (
        '<n1:Product xmlns:n1="https://psd"><a>' + ''.join(lines) + '</a></n1:Product>'
    )
    (safe / f'MTD_MSI{level}.xml').write_text(text)


class TestReadSafe:
    @pytest.mark.parametrize('name', [L2A, L1C])
    def test_metadata(self, name: str, tmp_path: Path) -> None:
        level = name[7:10]
        write_metadata(tmp_path / name, level, {1: -1000, 8: -500})
        image = str(tmp_path / name / 'GRANULE' / 'x' / 'B02.jp2')
        assert read_safe(image, 'B02') == pytest.approx((1e-4, -0.1))
        assert read_safe(image, 'B8A') == pytest.approx((1e-4, -0.05))
        assert read_safe(image, 'B03') == Radiometry(1e-4, 0)

    def test_baseline(self, tmp_path: Path) -> None:
        """Without metadata, the name of the product says it."""
        assert read_safe(str(tmp_path / L2A / 'x.jp2'), 'B02') == Radiometry(1e-4, -0.1)
        old = L2A.replace('N0509', 'N0301')
        assert read_safe(str(tmp_path / old / 'x.jp2'), 'B02') == Radiometry(1e-4, 0)
        short = 'S2A_MSIL2A_20230501T101031.SAFE'
        assert read_safe(str(tmp_path / short / 'x.jp2'), 'B02') is None
        assert read_safe(str(tmp_path / 'x.jp2'), 'B02') is None

    def test_empty_metadata(self, tmp_path: Path) -> None:
        """Downloads of Sentinel-2 may have them (eoreader issue 34)."""
        (tmp_path / L2A).mkdir()
        (tmp_path / L2A / 'MTD_MSIL2A.xml').touch()
        assert read_safe(str(tmp_path / L2A / 'x.jp2'), 'B02') == Radiometry(1e-4, -0.1)

    @pytest.mark.parametrize('text', ['<a>', '<a></a>'])
    def test_unreadable(self, text: str, tmp_path: Path) -> None:
        path = tmp_path / L2A / 'MTD_MSIL2A.xml'
        path.parent.mkdir()
        path.write_text(text)
        with pytest.raises(ValueError, match=r"metadata file '.*xml' cannot be read"):
            read_safe(str(tmp_path / L2A / 'x.jp2'), 'B02')


class TestFindMargin:
    def margin(self, path: Path, count: int = 1) -> shapely.Geometry | None:
        with rasterio.open(path) as src:
            return find_margin(src, list(range(1, count + 1)))

    @pytest.mark.parametrize('size', [(200, 100), (100, 1500)])
    def test_corner(self, size: tuple[int, int], tmp_path: Path) -> None:
        """A triangle is found, whatever the resolution it is looked at with."""
        height, width = size
        rows, columns = np.mgrid[:height, :width]
        image = np.ones(size, np.float32)
        image[rows / height + columns / width < 0.5] = 0
        image[height // 2 :, width // 2 :][:20, :20] = 0  # A lake
        margin = self.margin(write(tmp_path / 'a.tif', image))
        assert margin is not None
        expected = shapely.Polygon(
            [GRID @ xy for xy in ((0, 0), (width / 2, 0), (0, height / 2))]
        )
        assert margin.intersection(expected).area > 0.999 * expected.area
        assert margin.area < 1.4 * expected.area
        assert not margin.intersects(
            shapely.Point(GRID @ (width // 2 + 10, height // 2 + 10))
        )

    @pytest.mark.parametrize('edge', ['top', 'bottom', 'left', 'right'])
    def test_thin(self, edge: str, tmp_path: Path) -> None:
        image = np.ones((40, 60), np.float32)
        box = {
            'top': (0, 0, 60, 2), 'bottom': (0, 38, 60, 40),
            'left': (0, 0, 2, 40), 'right': (58, 0, 60, 40),
        }[edge]  # fmt: skip
        image[box[1] : box[3], box[0] : box[2]] = 0
        margin = self.margin(write(tmp_path / 'a.tif', image))
        assert margin is not None
        west, north = GRID @ box[:2]
        east, south = GRID @ box[2:]
        found = margin.intersection(shapely.box(WEST, NORTH - 400, WEST + 600, NORTH))
        # Two pixels more than there are zeros
        line = shapely.box(west, south, east, north)
        assert found.equals(
            line.buffer(20, join_style='mitre').intersection(
                shapely.box(WEST, NORTH - 400, WEST + 600, NORTH)
            )
        )

    def test_none(self, tmp_path: Path) -> None:
        """Neither single zeros, nor zeros of one band, nor a lake are a margin."""
        image = np.ones((2, 100, 100), np.float32)
        image[:, 30:60, 30:60] = 0
        image[0, :20] = 0
        image[:, ::2, ::2] = 0
        assert self.margin(write(tmp_path / 'a.tif', image), 2) is None
        assert self.margin(tmp_path / 'a.tif', 1) is not None

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
from torchgeo.datasets import Sentinel2

from torchgeo_m2cd.datasets.bands import BANDS, agree, list_bands, name_band


@pytest.mark.parametrize(
    ('text', 'name'),
    [
        ('B4', 'B04'),
        ('B04', 'B04'),
        ('b8a', 'B8A'),
        ('B12', 'B12'),
        ('Red', 'B04'),
        ('nir', 'B08'),
        ('nir08', 'B8A'),
        ('VV', 'VV'),
        ('Sigma0_VH_db', 'VH'),
        ('iw-vv.rtc.tiff', 'VV'),
        ('S1A_IW_20230501T050000_DVP_RTC10_G_gpuned_ABCD_VH.tif', 'VH'),
        ('T33UWP_20230501T101031_B02_10m.jp2', 'B02'),
        ('S1A_IW_20230501T050000_DVP_RTC10_G_gpuned_ABCD_dem.tif', ''),
        ('sigma0VH', 'VH'),
        ('Near infrared', 'B08'),
        ('Red Edge', ''),
        ('Red Edge 1', ''),
        ('band 4', ''),
        ('VV/VH', ''),
        ('SR_B5', ''),  # Landsat's near infrared, not a red edge
        ('B14', ''),
        ('', ''),
        (None, ''),
    ],
)
def test_name_band(text: str | None, name: str) -> None:
    assert name_band(text) == name


def test_names_of_sentinel_2() -> None:
    assert {name_band(band) for band in Sentinel2.all_bands} <= set(BANDS)
    assert '' not in {name_band(band) for band in Sentinel2.all_bands}


@pytest.mark.parametrize(
    ('bands', 'others', 'right'),
    [
        (['VV', 'VH'], ['VV', 'VH'], True),
        (['VV', ''], ['', 'VH'], True),
        (['VV', 'VH'], ['', 'VV'], False),
        (['VV', 'VH'], ['VV'], False),
        ([], [], True),
    ],
)
def test_agree(bands: list[str], others: list[str], right: bool) -> None:
    assert agree(bands, others) == agree(others, bands) == right


def test_list_bands() -> None:
    assert list_bands(['VV', '', 'VH']) == '[VV, ?, VH]'

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import pytest

from torchgeo_m2cd.datasets.radiometry import (
    Radiometry,
    find_scale,
    is_sentinel_2,
    read_safe,
)

L2A = 'S2A_MSIL2A_20230501T101031_N0509_R022_T33UWP_20230501T160000.SAFE'
L1C = L2A.replace('MSIL2A', 'MSIL1C')


ZERO = '<a><BOA_QUANTIFICATION_VALUE>0</BOA_QUANTIFICATION_VALUE></a>'
# Entities of entities, 10^9 in all
BOMB = (
    '<!DOCTYPE a [<!ENTITY e0 "lol">'
    + ''.join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 10))
    + ']><a>&e9;</a>'
)


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

    def test_stack(self, tmp_path: Path) -> None:
        """Bands without names get the calibration that all bands share, if any."""
        for name, offsets, expected in (
            (L2A, {}, Radiometry(1e-4, 0)), (L1C, {1: -1000}, None),
        ):  # fmt: skip
            write_metadata(tmp_path / name, name[7:10], offsets)
            assert read_safe(str(tmp_path / name / 'stack.tif'), '') == expected

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

    @pytest.mark.parametrize('text', ['<a>', '<a></a>', ZERO, BOMB])
    def test_unreadable(self, text: str, tmp_path: Path) -> None:
        path = tmp_path / L2A / 'MTD_MSIL2A.xml'
        path.parent.mkdir()
        path.write_text(text)
        with pytest.raises(ValueError, match=r"metadata file '.*xml' cannot be read"):
            read_safe(str(tmp_path / L2A / 'x.jp2'), 'B02')


@pytest.mark.parametrize(
    ('name', 'scale'),
    [
        ('S1A_IW_20230501T050000_DVP_RTC10_G_gpuned_ABCD_VV.tif', 'power'),
        ('S1A_IW_20230501T050000_DVP_RTC10_G_gdufem_ABCD_VV.tif', 'db'),
        ('S1B_IW_20180501T050000_DVP_RTC30_G_sawncd_ABCD_VH.tif', 'amplitude'),
        ('/rtc/measurement/iw-vv.rtc.tiff', 'power'),
        ('OPERA_L2_RTC-S1_T064-135518-IW1_20231001T0_20231002T0_S1A_30_v1.0_VV.tif', 'power'),
        ('Sigma0_VV_db.img', 'db'),
        ('Sigma0_VV.img', None),
        ('after.tif', None),
        ('feedback.tif', None),
    ],
)  # fmt: skip
def test_find_scale(name: str, scale: str | None) -> None:
    assert find_scale(name) == scale

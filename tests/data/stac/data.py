# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""STAC items with the assets and properties of real catalogues."""

import json
from pathlib import Path
from typing import Any

COG = 'image/tiff; application=geotiff; profile=cloud-optimized'

# Names of Earth Search and of ESA, and resolution in metres
BANDS = {
    'coastal': ('B01', 60), 'blue': ('B02', 10), 'green': ('B03', 10),
    'red': ('B04', 10), 'rededge1': ('B05', 20), 'rededge2': ('B06', 20),
    'rededge3': ('B07', 20), 'nir': ('B08', 10), 'nir08': ('B8A', 20),
    'nir09': ('B09', 60), 'swir16': ('B11', 20), 'swir22': ('B12', 20),
}  # fmt: skip


def item(
    id: str,
    assets: dict[str, Any],
    properties: dict[str, Any] | None = None,
    datetime: str | None = '2023-06-28T07:46:11.024000Z',
    version: str = '1.0.0',
) -> dict[str, Any]:
    """Make a valid item."""
    west, south, east, north = bbox = [15.0, 47.8, 15.1, 47.9]
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        'type': 'Feature', 'stac_version': version, 'stac_extensions': [], 'id': id,
        'geometry': {'type': 'Polygon', 'coordinates': [ring]}, 'bbox': bbox,
        'properties': {'datetime': datetime, **(properties or {})}, 'assets': assets,
        'links': [],
    }  # fmt: skip


def earth_search_s2(applied: bool | None, baseline: str = '05.09') -> dict[str, Any]:
    """Collection sentinel-2-l2a of Earth Search v1."""
    assets: dict[str, Any] = {
        'thumbnail': {
            'href': 'https://host/preview.jpg', 'type': 'image/jpeg',
            'roles': ['thumbnail'],
        },
        'visual': {
            'href': 'https://host/TCI.tif', 'type': COG, 'roles': ['visual'],
            'eo:bands': [{'name': n, 'common_name': n} for n in ('red', 'green', 'blue')],
        },
        'scl': {
            'href': 'https://host/SCL.tif', 'type': COG,
            'roles': ['data', 'reflectance'],
            'raster:bands': [{'nodata': 0, 'data_type': 'uint8', 'spatial_resolution': 20}],
        },
        'granule_metadata': {
            'href': 'https://host/metadata.xml', 'type': 'application/xml',
            'roles': ['metadata'],
        },
    }  # fmt: skip
    for name, (number, gsd) in BANDS.items():
        fields = {
            'eo:bands': [{'name': name, 'common_name': name}],
            'gsd': gsd,
            'raster:bands': [
                {
                    'nodata': 0, 'data_type': 'uint16', 'spatial_resolution': gsd,
                    'scale': 0.0001, 'offset': -0.1,
                }
            ],
            'roles': ['data', 'reflectance'],
        }  # fmt: skip
        # The copies come first, to see that it does not matter
        jp2 = f's3://sentinel-s2-l2a/tiles/39/Q/TA/2023/6/28/0/{number}.jp2'
        assets[f'{name}-jp2'] = {'href': jp2, 'type': 'image/jp2', **fields}
        assets[name] = {'href': f'https://host/{number}.tif', 'type': COG, **fields}
    properties = {'platform': 'sentinel-2a', 's2:processing_baseline': baseline}
    flag = {} if applied is None else {'earthsearch:boa_offset_applied': applied}
    return item('S2A_39QTA_20230628_0_L2A', assets, {**properties, **flag})


def planetary_s2(baseline: str = '05.09', token: str = '') -> dict[str, Any]:
    """Collection sentinel-2-l2a of the Planetary Computer."""
    assets: dict[str, Any] = {
        name: {
            'href': f'https://host/{name}_10m.tif{token}',
            'type': COG,
            'roles': ['data'],
        }
        for name in ('AOT', 'SCL', 'WVP')
    }
    # The numbers of red edge bands have no common names of their own
    for name, (number, gsd) in BANDS.items():
        common = 'rededge' if number in ('B05', 'B06', 'B07', 'B8A') else name
        assets[number] = {
            'href': f'https://host/T39QTA_20230628T074611_{number}_{gsd}m.tif{token}',
            'type': COG, 'gsd': gsd, 'roles': ['data'],
            'eo:bands': [{'name': number, 'common_name': common}],
        }  # fmt: skip
    assets['visual'] = {
        'href': f'https://host/T39QTA_20230628T074611_TCI_10m.tif{token}',
        'type': COG, 'gsd': 10, 'roles': ['data'],
        'eo:bands': [{'name': n} for n in ('B04', 'B03', 'B02')],
    }  # fmt: skip
    assets['preview'] = {
        'href': 'https://host/preview',
        'type': COG,
        'roles': ['thumbnail'],
    }
    return item(
        'S2A_MSIL2A_20230628T074611_R135_T39QTA_20230628T120000', assets,
        {'platform': 'Sentinel-2A', 's2:processing_baseline': baseline},
    )  # fmt: skip


def cdse_s2() -> dict[str, Any]:
    """Collection sentinel-2-l2a of the Copernicus Data Space Ecosystem: STAC 1.1."""
    folder = 's3://eodata/Sentinel-2/MSI/L2A/S2C_MSIL2A_20250330T100051.SAFE/IMG_DATA'
    assets: dict[str, Any] = {}
    for gsd in (60, 20, 10):  # Most bands are there at several resolutions
        for name, (number, finest) in BANDS.items():
            if finest <= gsd:
                assets[f'{number}_{gsd}m'] = {
                    'href': f'{folder}/R{gsd}m/T33UWP_20250330T100051_{number}_{gsd}m.jp2',
                    'type': 'image/jp2', 'gsd': gsd, 'nodata': 0,
                    'roles': ['data', 'reflectance', f'gsd:{gsd}m'],
                    'bands': [{'name': number, 'eo:common_name': name}],
                    'raster:scale': 0.0001, 'raster:offset': -0.1,
                }  # fmt: skip
        assets[f'TCI_{gsd}m'] = {
            'href': f'{folder}/R{gsd}m/T33UWP_20250330T100051_TCI_{gsd}m.jp2',
            'type': 'image/jp2', 'gsd': gsd, 'roles': ['visual', f'gsd:{gsd}m'],
            'bands': [{'name': n} for n in ('B04', 'B03', 'B02')],
        }  # fmt: skip
    return item(
        'S2C_MSIL2A_20250330T100051_N0511_R122_T33UWP_20250330T145914', assets,
        {'platform': 'sentinel-2c', 'processing:version': '05.11'},
        '2025-03-30T10:00:51.025Z', '1.1.0',
    )  # fmt: skip


def hls(sensor: str) -> dict[str, Any]:
    """NASA's HLS in CMR-STAC: 'S30' of Sentinel-2, 'L30' of Landsat."""
    name = f'HLS.{sensor}.T33UWP.2023179T074611.v2.0'
    assets: dict[str, Any] = {
        key: {'href': f'https://data.lpdaac.earthdatacloud.nasa.gov/{name}.{key}.tif'}
        for key in ('B02', 'B03', 'B04', 'B05', 'Fmask')
    }
    assets['metadata'] = {'href': 'https://cmr.earthdata.nasa.gov/G1.xml'}
    assets['browse'] = {
        'href': 'https://data.lpdaac.earthdatacloud.nasa.gov/B04.jpg',
        'type': 'image/jpeg',
    }
    return item(name, assets)


def landsat() -> dict[str, Any]:
    """Collection landsat-c2-l2 of Earth Search and of the Planetary Computer."""
    names = {'red': 'OLI_B4', 'nir08': 'OLI_B5', 'swir16': 'OLI_B6'}
    assets = {
        key: {
            'href': f'https://host/LC08_L2SP_189027_20230628_SR_{name[4:]}.TIF',
            'type': COG, 'roles': ['data'], 'eo:bands': [{'name': name, 'common_name': key}],
            'raster:bands': [{'scale': 2.75e-05, 'offset': -0.2}],
        }
        for key, name in names.items()
    }  # fmt: skip
    return item('LC08_L2SP_189027_20230628_02_T1', assets, {'platform': 'landsat-8'})


def planetary_s1_rtc() -> dict[str, Any]:
    """Collection sentinel-1-rtc of the Planetary Computer: linear power."""
    assets: dict[str, Any] = {
        name: {
            'href': f'https://host/measurement/iw-{name}.rtc.tiff', 'type': COG,
            'roles': ['data'],
            'raster:bands': [
                {'nodata': -32768, 'data_type': 'float32', 'spatial_resolution': 10}
            ],
        }
        for name in ('vh', 'vv')
    }  # fmt: skip
    assets['rendered_preview'] = {
        'href': 'https://host/preview.png?collection=sentinel-1-rtc', 'type': 'image/png',
        'roles': ['overview'],
    }  # fmt: skip
    return item(
        'S1A_IW_GRDH_1SDV_20230629T165114_20230629T165139_049196_05EA6F_rtc', assets,
        {'platform': 'SENTINEL-1A', 'sar:polarizations': ['VV', 'VH']},
        '2023-06-29T16:51:27Z',
    )  # fmt: skip


def earth_search_s1_grd() -> dict[str, Any]:
    """Collection sentinel-1-grd of Earth Search: requester pays, no CRS."""
    folder = 's3://sentinel-s1-l1c/GRD/2023/6/29/IW/DV/S1A_IW_GRDH_1SDV_20230629T165114'
    assets: dict[str, Any] = {
        'safe-manifest': {
            'href': f'{folder}/manifest.safe', 'type': 'application/xml',
            'roles': ['metadata'],
        }
    }  # fmt: skip
    for name in ('vh', 'vv'):
        assets[f'schema-calibration-{name}'] = {
            'href': f'{folder}/annotation/calibration/calibration-iw-{name}.xml',
            'type': 'application/xml', 'roles': ['metadata'],
        }  # fmt: skip
        assets[name] = {
            'href': f'{folder}/measurement/iw-{name}.tiff', 'type': COG,
            'roles': ['data'], 'sar:polarizations': [name.upper()],
        }  # fmt: skip
    return item(
        'S1A_IW_GRDH_1SDV_20230629T165114_20230629T165139_049196_05EA6F', assets,
        {
            'start_datetime': '2023-06-29T16:51:14Z',
            'end_datetime': '2023-06-29T16:51:39Z',
        },
        None,
    )  # fmt: skip


def write_items(path: Path, *items: dict[str, Any]) -> str:
    """Write an item, or a collection of several."""
    collection = {'type': 'FeatureCollection', 'features': items}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(items[0] if len(items) == 1 else collection))
    return str(path)

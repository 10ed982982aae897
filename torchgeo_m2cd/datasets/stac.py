# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Images of STAC catalogues."""

import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pystac

from .bands import BANDS, name_band
from .granules import Band, Granule
from .paths import (
    is_remote,
    local_file,
    public_path,
    refuse_pipe,
    resolve,
    without_secrets,
)

# Assets that are no images to work with
_OTHER_ROLES = {
    *('metadata', 'thumbnail', 'overview', 'visual', 'browse', 'data-mask', 'cloud'),
    *('cloud-shadow', 'snow-ice', 'water-mask', 'saturation', 'classification'),
}
# The Planetary Computer's picture for the eye has the role of data, and names of bands
_VISUAL = re.compile(r'(?:visual|tci|true.?colou?r|rendered)(?:[_-].*)?', re.IGNORECASE)
_RASTERS = re.compile(r'tiff?\b|jp2|geotiff', re.IGNORECASE)
_OTHER_SUFFIXES = (
    '.xml',
    '.json',
    '.html',
    '.png',
    '.jpg',
    '.jpeg',
    '.txt',
    '.pdf',
    '.zip',
)

# Items of a STAC API, see https://github.com/radiantearth/stac-api-spec
_API = re.compile(r'://.*/(?:collections/[^/]+/items(?:/[^/]+)?|search)$')

# Sensors whose bands have the numbers of others of Sentinel-2
_OTHER_SENSORS = re.compile(
    r'landsat|\bl[ceto]0[4-9]|l30\b|modis|viirs|aster|worldview|pleiades|spot-|planet|'
    r'psscene|skysat|sentinel-?3'
)

# Sentinel-2: digital numbers of reflectance 1 and, since the baseline 04.00, of 0
_QUANTIFICATION, _BASELINE, _ADDED = 10_000, 4.0, 1000


class _Candidate(NamedTuple):
    """A band, and what makes it better than others of the same name."""

    resolution: float
    is_copy: bool
    band: Band


def is_stac(path: str) -> bool:
    """Whether a path names STAC items, by its end.

    Args:
        path: A path or URL.

    Returns:
        Whether it ends like JSON, or like items in an API.
    """
    path = public_path(path)
    suffix = pathlib.PurePath(path).suffix.lower()
    return suffix in ('.json', '.geojson') or (
        _API.search(path) is not None and suffix not in ('.tif', '.tiff', '.jp2')
    )


def load_items(path: str) -> list[pystac.Item]:
    """Load STAC items, which may lack what is not needed to find their files.

    Args:
        path: JSON file or URL of an item, or of a collection of items.

    Returns:
        One item or more.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it cannot be read, is a pipe, or holds no items.
    """
    what = f'STAC file {public_path(path)!r}'
    refuse_pipe(path, what)
    try:
        document = pystac.StacIO.default().read_json(path.removeprefix('/vsicurl/'))
        items = [_load_item(item) for item in document.get('features', [document])]
    except FileNotFoundError:
        raise FileNotFoundError(f'{what} does not exist') from None
    except Exception as error:  # pystac raises Exception itself
        reason = without_secrets(f'{type(error).__name__}: {error}')
        raise ValueError(
            f'{what} cannot be read: expected one or more STAC items ({reason})'
        ) from error
    if not items:
        raise ValueError(f'{what} holds no items: expected one or more')
    return items


def locate_asset(item: pystac.Item, key: str, path: str) -> str:
    """Return the path or URL of an asset.

    Args:
        item: The item.
        key: Key of the asset.
        path: Where the item was loaded from.

    Returns:
        The path. A relative one is relative to *path*, or else to where the item says that
        it is from.
    """
    href = item.assets[key].href
    here = resolve(href, path)
    if not (is_remote(here) or os.path.exists(local_file(here))):
        link = item.get_self_href()
        if link and is_remote(link):
            return resolve(href, link)
    return here


def read_items(path: str) -> list[Granule]:
    """Read which bands STAC items have, where they are, and what their values are.

    Known are the assets of Earth Search, the Planetary Computer, the Copernicus Data Space
    Ecosystem and NASA's HLS, by the extensions ``eo``, ``sar`` and ``raster``, the bands of
    STAC 1.1, or the keys of assets. Of several assets of a band, the one of the finest
    resolution is taken, and GeoTIFF rather than JPEG 2000.

    Args:
        path: JSON file or URL of an item, or of a collection of items.

    Returns:
        A granule per item, with the bands in the order of
        :data:`~torchgeo_m2cd.datasets.bands.BANDS`, those of one file by number. A single
        image of which nothing says what bands it has is one band of the number 0.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it cannot be read, or an item has no usable asset.
    """
    return [_read_item(item, path) for item in load_items(path)]


def _load_item(document: Mapping[str, Any]) -> pystac.Item:
    """Load an item."""
    properties = document.get('properties') or {}
    # pystac insists on these, and would convert what other versions of STAC say
    defaults: dict[str, Any] = {'stac_version': '1.0.0', 'geometry': None, 'links': []}
    dates = {'start_datetime': None, 'end_datetime': None}
    return pystac.Item.from_dict(
        {
            **defaults,
            **document,
            'assets': document['assets'],
            'properties': {**dates, **properties},
        },
        migrate=False,
    )


def _read_item(item: pystac.Item, path: str) -> Granule:
    """Read the bands of an item."""
    images = [key for key, asset in item.assets.items() if _is_image(key, asset)]
    best: dict[str, _Candidate] = {}
    for key in images:
        for candidate in _read_asset(item, key, path):
            name = candidate.band.name
            best[name] = min(candidate, best.get(name, candidate), key=lambda c: c[:2])
    bands = [candidate.band for candidate in best.values()]
    if not bands and len(images) == 1:
        bands = [Band(locate_asset(item, images[0], path), 0)]
    if not bands:
        raise ValueError(
            f'STAC item {item.id!r} of {public_path(path)!r} has the assets '
            f'{sorted(item.assets)}: expected images whose bands have names, such as '
            'B04, red or vv'
        )
    first: dict[str, int] = {}
    for band in bands:
        rank = BANDS.index(band.name) if band.name else 0
        first[band.path] = min(rank, first.get(band.path, rank))
    bands.sort(key=lambda band: (first[band.path], band.path, band.number))
    start = item.datetime.isoformat() if item.datetime else None
    date = start or item.properties['start_datetime'] or ''
    return Granule(tuple(bands), str(date)[:10])


def _is_image(key: str, asset: pystac.Asset) -> bool:
    """Whether an asset is an image to work with."""
    if _OTHER_ROLES & set(asset.roles or ()) or _VISUAL.fullmatch(key):
        return False
    if asset.media_type:
        return _RASTERS.search(asset.media_type) is not None
    return not public_path(asset.href).lower().endswith(_OTHER_SUFFIXES)


def _read_asset(item: pystac.Item, key: str, path: str) -> Iterator[_Candidate]:
    """Read the bands of an asset that have names."""
    asset = item.assets[key]
    fields = asset.extra_fields
    named = fields.get('bands') or fields.get('eo:bands') or []
    rasters = fields.get('raster:bands') or []
    polarizations = fields.get('sar:polarizations') or []
    count = max(len(named), len(rasters), len(polarizations), 1)
    href = locate_asset(item, key, path)
    for i in range(count):
        band = {
            **fields,
            **(rasters[i] if i < len(rasters) else {}),
            **(named[i] if i < len(named) else {}),
        }
        texts = [band.get(k) for k in ('name', 'common_name', 'eo:common_name')]
        texts += [polarizations[i]] if len(polarizations) == count else []
        texts += [key] if count == 1 else []
        name = next(filter(None, (_name_band(text, item) for text in texts)), '')
        if name:
            gain, offset = _calibrate(band, item, name)
            yield _Candidate(
                _find_resolution(band, item, f'{key} {asset.href}'),
                'jp2' in f'{asset.media_type} {asset.href}'.lower(),
                Band(href, i + 1, name, gain, offset),
            )


def _name_band(text: str | None, item: pystac.Item) -> str:
    """Find out which band a text names, which is a number only of Sentinel-2."""
    properties = item.properties
    sensor = (
        item.id,
        item.collection_id,
        *map(properties.get, ('platform', 'constellation')),
    )
    if _OTHER_SENSORS.search(' '.join(map(str, sensor)).lower()):
        text = re.sub(r'(?:(?<=_)|\b)B\d+A?\b', '', text or '', flags=re.IGNORECASE)
    return name_band(text)


def _calibrate(
    band: Mapping[str, Any], item: pystac.Item, name: str
) -> tuple[float | None, float | None]:
    """Return the physical values of one unit and of 0, None if they are not known."""
    gain, offset = (
        band.get(f'raster:{field}', band.get(field)) for field in ('scale', 'offset')
    )
    baseline, applied = (
        item.properties.get(ours, item.properties.get(theirs))
        for ours, theirs in (
            ('s2:processing_baseline', 'sentinel:processing_baseline'),
            ('earthsearch:boa_offset_applied', 'sentinel:boa_offset_applied'),
        )
    )
    is_old = baseline is not None and float(baseline) < _BASELINE
    if gain is None and offset is None and name.startswith('B'):
        # The Planetary Computer says nothing (microsoft/PlanetaryComputer#134)
        if baseline is None and not applied:
            return None, None
        gain, offset = 1 / _QUANTIFICATION, -_ADDED / _QUANTIFICATION
    # Earth Search says -0.1 of files where it is applied (Element84/earth-search#9)
    if offset is not None and (applied or is_old):
        offset = 0.0
    if gain is None and offset is None:
        return None, None
    return float(1 if gain is None else gain), float(offset or 0)


def _find_resolution(band: Mapping[str, Any], item: pystac.Item, text: str) -> float:
    """Return the size of a pixel, to compare assets of a band."""
    for field in ('raster:spatial_resolution', 'spatial_resolution', 'gsd'):
        if band.get(field):
            return float(band[field])
    if band.get('proj:transform'):
        return abs(float(band['proj:transform'][0]))
    found = re.search(r'(?<![A-Za-z0-9])R?(\d+)m(?![A-Za-z0-9])', text)
    return float(found[1] if found else item.properties.get('gsd') or 0)

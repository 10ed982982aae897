# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Physical values of a file: gain and offset."""

import functools
import pathlib
import re
from typing import Literal, NamedTuple
from xml.etree import ElementTree

import numpy as np

#: Reflectance in the products of Sentinel-2, before they had an offset. Reflectance from 0
#: to 1 of other products is multiplied by it, so that all of them are the same to a model.
REFLECTANCE = 10_000.0

#: What stands for 0 where that is data, since 0 in all optical bands is no data to a model.
TINY = float(np.finfo(np.float32).tiny)

# SAFE products, their granules, and the COGs of Earth Search and the Planetary Computer
_SENTINEL_2 = re.compile(
    r'(?<![A-Z0-9])S2[ABCD]_|(?<![A-Z0-9])T\d{2}[A-Z]{3}_\d{8}T\d{6}', re.IGNORECASE
)

# Order of the bands in the metadata of Sentinel-2
_BAND_IDS = (
    'B01', 'B02', 'B03', 'B04', 'B05', 'B06', 'B07', 'B08', 'B8A', 'B09', 'B10', 'B11', 'B12',
)  # fmt: skip


_HYP3_SCALES: dict[str, Literal['db', 'power', 'amplitude']] = {
    'p': 'power',
    'd': 'db',
    'a': 'amplitude',
}


class Radiometry(NamedTuple):
    """Physical values are *gain* times the value of the file, plus *offset*."""

    gain: float = 1.0
    offset: float = 0.0


def is_sentinel_2(path: str) -> bool:
    """Whether a file belongs to a product of Sentinel-2, where 0 is no data.

    Args:
        path: The file.

    Returns:
        Whether its name, or that of its folder, says so.
    """
    parts = re.split(r'[/\\]', path)[-6:]
    return any(_SENTINEL_2.search(part) for part in parts)


def read_safe(path: str, band: str) -> Radiometry | None:
    """Find the reflectance of 0 and of one unit in the metadata of a Sentinel-2 product.

    Since the processing baseline 04.00 of January 2022, values are 1000 higher than
    reflectance x 10,000. Source: Sentinel-2 products specification, ``RADIO_ADD_OFFSET``
    of Level-1C and ``BOA_ADD_OFFSET`` of Level-2A.

    Args:
        path: A file of a SAFE folder.
        band: Name of the band.

    Returns:
        Gain and offset to reflectance from 0 to 1, None if nothing is known.
    """
    for folder in pathlib.PurePath(path).parents:
        if folder.suffix.upper() != '.SAFE':
            continue
        for file in sorted(pathlib.Path(folder).glob('MTD_MSIL*.xml')):
            # Downloads may leave it empty
            if file.stat().st_size:
                known = _read_metadata(file)
                # A stack of bands without names, if all of them are the same
                same = known['B02'] if len(set(known.values())) == 1 else None
                return known.get(band, same)
        baseline = re.search(r'_N(\d{4})_', folder.name)
        if baseline is not None:
            offset = -1000.0 if int(baseline[1]) >= 400 else 0.0
            return Radiometry(1 / REFLECTANCE, offset / REFLECTANCE)
    return None


@functools.cache
def _read_metadata(file: pathlib.Path) -> dict[str, Radiometry]:
    """Read the radiometry of all bands from the metadata of a product."""
    try:
        tree = ElementTree.parse(file)
        level = 'BOA_' if 'L2A' in file.name else ''
        unit = 1 / float(tree.findtext(f'.//{level}QUANTIFICATION_VALUE', ''))
        offsets = {
            _BAND_IDS[int(element.attrib['band_id'])]: float(element.text or 0)
            for name in ('BOA_ADD_OFFSET', 'RADIO_ADD_OFFSET')
            for element in tree.iter(name)
        }
    except (ElementTree.ParseError, ArithmeticError, LookupError, ValueError) as error:
        raise ValueError(
            f'metadata file {str(file)!r} cannot be read: expected the quantification '
            f'value and the offsets of a Sentinel-2 product ({error})'
        ) from error
    return {band: Radiometry(unit, offsets.get(band, 0.0) * unit) for band in _BAND_IDS}


def find_scale(path: str) -> Literal['db', 'power', 'amplitude'] | None:
    """Find out what the values of a SAR product are, by its name.

    Sources: naming of RTC products by HyP3 (ASF), of OPERA RTC-S1 products, which are in
    linear power, and of sentinel-1-rtc in the Planetary Computer, which is, too.

    Args:
        path: The file.

    Returns:
        The scale, None if the name does not say it.
    """
    name = re.split(r'[/\\]', path)[-1]
    if match := re.search(r'_RTC\d\d_[A-Z]_[gs]([pda])[uw][nf][ec][dm]_', name):
        return _HYP3_SCALES[match[1]]
    if re.search(r'OPERA_L2_RTC-S1|(?<![A-Za-z0-9])iw-[vh]{2}\.rtc\.tif', name):
        return 'power'
    return (
        'db' if re.search(r'(?<![A-Za-z])db(?![A-Za-z])', name, re.IGNORECASE) else None
    )

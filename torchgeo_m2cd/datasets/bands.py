# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""One name for each band, whatever a file, a catalogue or a product calls it."""

import re
from collections.abc import Sequence

# The bands of Sentinel-2 by the names that STAC's eo extension gives them
_COLOURS = {
    'coastal': 'B01',
    'blue': 'B02',
    'green': 'B03',
    'red': 'B04',
    'rededge1': 'B05',
    'rededge2': 'B06',
    'rededge3': 'B07',
    'nir': 'B08',
    'nir08': 'B8A',
    'nir09': 'B09',
    'cirrus': 'B10',
    'swir16': 'B11',
    'swir22': 'B12',
}

_STACK = tuple(_COLOURS.values())

#: Names of the bands, in the order in which a stack of single files is read.
POLARISATIONS = ('VV', 'VH', 'HH', 'HV')
BANDS = (*POLARISATIONS, *_STACK)

#: Bands of stacks without names, in the order that producers document: Sentinel-2 L1C
#: products, and those without B10 (L2A has none), the 10 m bands of Sentinel-2, which are
#: those of Planet, and the polarisations of Sentinel-1.
STACKS: dict[str, dict[int, tuple[str, ...]]] = {
    'optical': {
        13: _STACK,
        12: tuple(band for band in _STACK if band != 'B10'),
        4: ('B02', 'B03', 'B04', 'B08'),
    },
    'SAR': {2: ('VV', 'VH')},
}

# Landsat's bands have the same numbers, but other wavelengths
_FOREIGN = {'sr', 'st', 'qa'}


def name_band(text: str | None) -> str:
    """Find out which band a text names.

    Args:
        text: Description of a band, key or common name of an asset, or name of a file:
            ``'B4'``, ``'red'``, ``'Sigma0_VV_db'``, ``'iw-vv.rtc.tiff'``, ...

    Returns:
        One of :data:`BANDS`: a polarisation, or a band of Sentinel-2, which colours stand
        for. Empty if the text names none, or more than one.
    """
    text = re.sub(r'(?<=red)[\s_-]+(?=edge)', '', (text or '').lower())
    text = re.sub(r'near[\s_-]*infra[\s_-]*red', 'nir', text)
    text = re.sub(r'(sigma|gamma|beta)0?([vh]{2})(?![a-z])', r'\1_\2', text)
    words = re.split(r'[^a-z0-9]+', text)
    found = {_name_word(word) for word in words} - {''}
    if 'rededge' in words:  # Any of three bands
        return ''
    if len(found) != 1 or _FOREIGN & set(words):
        return ''
    return found.pop()


def name_bands(argument: str, names: Sequence[str] | None, count: int) -> list[str]:
    """Give bands the names that files have, too.

    Args:
        argument: Name of the argument, for messages.
        names: Names that the user gave, if any.
        count: Number of bands.

    Returns:
        One name per band, see :func:`name_band`; other names as they are, and empty
        strings if there are none.

    Raises:
        ValueError: If there are not as many names as bands.
    """
    if names is None:
        return [''] * count
    if len(names) != count:
        raise ValueError(
            f'{argument} is {list(names)}: expected {count} names, as many as the step '
            'has bands'
        )
    return [name_band(name) or name for name in names]


def agree(bands: Sequence[str], others: Sequence[str]) -> bool:
    """Whether two lists of bands agree, as far as their names are known.

    Args:
        bands: Names of bands, empty where they are not known.
        others: Names of other bands.

    Returns:
        Whether both have the same length, and no two known names differ.
    """
    return len(bands) == len(others) and all(
        not (name and other) or name == other
        for name, other in zip(bands, others, strict=True)
    )


def list_bands(bands: Sequence[str]) -> str:
    """List bands in a message.

    Args:
        bands: Names of bands, empty where they are not known.

    Returns:
        Their names, ``'[VV, VH, ?]'``, or their number, ``'[2 without names]'``.
    """
    if not any(bands):
        return f'[{len(bands)} without names]'
    return f'[{", ".join(name or "?" for name in bands)}]'


def spell_bands(bands: Sequence[str]) -> str:
    """Spell bands out in a message to a user.

    Args:
        bands: Names of bands.

    Returns:
        Their names, and what B08 is, which the released models need.
    """
    return ', '.join(bands).replace('B08', 'B08 (near infrared)')


def _name_word(word: str) -> str:
    """Return the band that a word names, if any."""
    if word in _COLOURS:
        return _COLOURS[word]
    # B4 and B04, but not band 4 of something else
    match = re.fullmatch(r'b0?(\d)', word)
    name = f'B0{match[1]}' if match else word.upper()
    return name if name in BANDS else ''

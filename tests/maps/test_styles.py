# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from xml.etree import ElementTree as ET

import pytest

from torchgeo_m2cd.maps.styles import (
    color_classes,
    name_classes,
    style_classes,
    style_probability,
)


def parse(style: bytes) -> ET.Element:
    """Parse a style and return its renderer, where QGIS looks for it."""
    assert style.startswith(b'<!DOCTYPE qgis')
    root = ET.fromstring(style)
    assert root.tag == 'qgis'
    renderer = root.find('pipe/rasterrenderer')
    assert renderer is not None
    return renderer


def test_probability() -> None:
    renderer = parse(style_probability(2, 'probability of class 1'))
    assert renderer.get('type') == 'singlebandpseudocolor'
    assert renderer.get('band') == '2'
    items = renderer.findall('rastershader/colorrampshader/item')
    assert [float(item.get('value', '')) for item in items] == [
        i / 10 for i in range(11)
    ]
    assert 'class 1' in (items[0].get('label') or '')
    # From dark to bright
    brightness = [sum(bytes.fromhex(item.get('color', '')[1:])) for item in items]
    assert brightness == sorted(brightness)


@pytest.mark.parametrize('count', [1, 2, 3, 5])
@pytest.mark.parametrize('water', [False, True])
def test_classes(count: int, water: bool) -> None:
    labels = name_classes(count, water)
    assert set(labels) == set(range(3 if count == 1 and water else max(count, 2)))
    renderer = parse(style_classes(labels))
    assert renderer.get('type') == 'paletted'
    entries = renderer.findall('colorPalette/paletteEntry')
    assert {int(e.get('value', '')): e.get('label') for e in entries} == labels
    assert [e.get('color') for e in entries] == list(color_classes(labels).values())
    assert len({e.get('color') for e in entries}) == len(labels)
    # What is unchanged hides nothing
    assert [e.get('alpha') for e in entries] == ['0'] + ['255'] * (len(labels) - 1)

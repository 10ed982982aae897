# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""How a map is to be drawn."""

from collections.abc import Mapping
from xml.etree import ElementTree as ET

import matplotlib
from matplotlib.colors import to_hex

#: Class of pixels that were water before the event, in binary maps.
WATER_BEFORE = 2
#: Its name. It may be a river, or an earlier flood.
WATER_LABEL = 'water before'

# QGIS loads a style that has the name of the file
_HEADER = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"

_RAMP = 'cividis'
_UNCHANGED, _CHANGED, _WATER = '#f0f0f0', '#d7301f', '#2b6cb0'


def name_classes(count: int, water: bool, task: str | None = None) -> dict[int, str]:
    """Name the classes of a map.

    Args:
        count: Number of probabilities of a pixel: 1 for a binary map.
        water: Whether it is known where water was before.
        task: Kind of the task; pixels of ``'multilabel'`` have labels, and no class.

    Returns:
        Name of each class, or of each label.
    """
    if task == 'multilabel':
        return {i: f'label {i}' for i in range(max(count, 2))}
    if count > 1:
        return {0: 'unchanged', **{i: f'class {i}' for i in range(1, count)}}
    if water:
        return {0: 'dry', 1: 'flood', WATER_BEFORE: WATER_LABEL}
    return {0: 'unchanged', 1: 'changed'}


def color_classes(labels: Mapping[int, str]) -> dict[int, str]:
    """Choose the colour of each class.

    Args:
        labels: Name of each class.

    Returns:
        Colour of each class, as ``'#rrggbb'``.
    """
    if WATER_LABEL in labels.values() or len(labels) == 2:
        return dict(zip(labels, (_UNCHANGED, _CHANGED, _WATER), strict=False))
    ramp = matplotlib.colormaps['YlOrRd'].resampled(len(labels))
    return {i: _UNCHANGED if i == 0 else to_hex(ramp(i)) for i in labels}


def style_probability(band: int, label: str) -> bytes:
    """Make a QGIS style that draws probabilities with a ramp of colours.

    Args:
        band: Band to draw.
        label: What it holds.

    Returns:
        The file, XML.
    """
    limits = {'classificationMin': '0', 'classificationMax': '1'}
    root, renderer = _start('singlebandpseudocolor', band, limits)
    shader = ET.SubElement(
        ET.SubElement(renderer, 'rastershader'),
        'colorrampshader',
        colorRampType='INTERPOLATED',
        classificationMode='2',
        clip='0',
        minimumValue='0',
        maximumValue='1',
        labelPrecision='1',
    )
    ramp = matplotlib.colormaps[_RAMP]
    for step in range(11):
        text = f'{step / 10:.1f}' if step else f'0.0 ({label})'
        color = to_hex(ramp(step / 10))
        ET.SubElement(
            shader, 'item', value=f'{step / 10}', color=color, alpha='255', label=text
        )
    return _to_bytes(root)


def style_classes(labels: Mapping[int, str]) -> bytes:
    """Make a QGIS style that draws classes with their colours and names.

    Args:
        labels: Name of each class.

    Returns:
        The file, XML.
    """
    root, renderer = _start('paletted', 1, {})
    palette = ET.SubElement(renderer, 'colorPalette')
    for value, color in color_classes(labels).items():
        alpha = '0' if value == 0 else '255'
        ET.SubElement(
            palette,
            'paletteEntry',
            value=str(value),
            color=color,
            alpha=alpha,
            label=labels[value],
        )
    return _to_bytes(root)


def _start(
    kind: str, band: int, attributes: Mapping[str, str]
) -> tuple[ET.Element, ET.Element]:
    """Start the style of a raster; return the root and its renderer."""
    root = ET.Element('qgis', version='3.22.0', styleCategories='Symbology')
    pipe = ET.SubElement(root, 'pipe')
    renderer = ET.SubElement(
        pipe,
        'rasterrenderer',
        {'type': kind, 'band': str(band), 'opacity': '1', 'alphaBand': '-1'},
        nodataColor='',
        **attributes,
    )
    ET.SubElement(renderer, 'rasterTransparency')
    ET.SubElement(pipe, 'brightnesscontrast', brightness='0', contrast='0')
    ET.SubElement(pipe, 'huesaturation', saturation='0')
    ET.SubElement(pipe, 'rasterresampler', maxOversampling='2')
    ET.SubElement(root, 'blendMode').text = '0'
    return root, renderer


def _to_bytes(root: ET.Element) -> bytes:
    """Write XML, always the same for the same tree."""
    ET.indent(root, ' ')
    return (_HEADER + ET.tostring(root, encoding='unicode') + '\n').encode()

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Which area a vector mask covers: by arguments, or as Copernicus EMS says it."""

import os
import re
from collections.abc import Sequence

from lightning.pytorch.utilities import rank_zero_info
from torchgeo.datasets.utils import find_files

from .classes import UNKNOWN
from .paths import Paths, expand, name_paths
from .polygons import choose_layer, list_layers

# Path and layer of a vector file
type VectorLayer = tuple[str, str | None]

# Names of files and layers in products of Copernicus EMS rapid mapping
_EVENT = re.compile(
    'observed_?event_?a|flood_?depth_?a|(?:max|maximum)_?flood_?extent_?a'
    '|crisis_?information_?poly',
    re.IGNORECASE,
)
_AREA = re.compile('area_?of_?interest', re.IGNORECASE)
_NOT_SEEN = re.compile('not_?analy[sz]ed', re.IGNORECASE)


def choose_layers(
    argument: str, files: Sequence[str], given: str | None
) -> list[VectorLayer]:
    """Choose the layer of each vector file.

    Args:
        argument: Name of the argument, for messages.
        files: The files.
        given: Layer that the user chose, if any.

    Returns:
        Path and layer of each.

    Raises:
        ValueError: If there are several layers, or the only one is a mapped area.
    """
    layers = []
    for path in files:
        layer = choose_layer(argument, path, given)
        if argument == 'mask' and given is None and _AREA.search(layer or ''):
            raise ValueError(
                f'mask file {name_paths(path)} is, by its name, the area that was mapped: '
                'expected it as mask.area, or as mask.layer if it is what changed'
            )
        layers.append((path, layer))
    return layers


def list_areas(
    area: Paths | None, area_layer: str | None, layers: Sequence[VectorLayer]
) -> tuple[list[VectorLayer], list[VectorLayer]]:
    """List the layers of the area that was mapped, and of holes in it.

    Args:
        area: Vector files of the area, if the user gave some.
        area_layer: Their layer, or without them that of the mask itself.
        layers: Paths and layers of the mask itself, if it is polygons.

    Returns:
        Paths and layers of both, none if all was mapped.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If it takes an argument to know what is meant.
    """
    if area is not None:
        files = expand('mask.area', area)
        return choose_layers('mask.area', files, area_layer), []
    if area_layer is not None:
        paths = [path for path, _ in layers]
        if not paths:
            raise ValueError(
                f'mask.area_layer is {area_layer!r}: expected mask.area, the '
                'vector file that has this layer'
            )
        return choose_layers('mask.area', paths, area_layer), []
    areas = [_list_beside(_AREA, layer) for layer in layers]
    mapped = [layer for found in areas for layer in found]
    if not mapped:
        return [], []
    if not all(areas):
        missing = [
            path for (path, _), found in zip(layers, areas, strict=True) if not found
        ]
        raise ValueError(
            f'mask files {name_paths(missing)} have no area of interest beside them, but '
            'the others do: expected mask.area, the files of all areas that were mapped'
        )
    holes = [hole for layer in layers for hole in _list_beside(_NOT_SEEN, layer)]
    rank_zero_info(
        'the area that was mapped is taken from '
        + '; '.join(f'{name_paths(path)} layer {layer!r}' for path, layer in mapped)
        + ''.join(
            f', without {name_paths(path)} layer {layer!r}' for path, layer in holes
        )
        + f': beyond, the mask is {UNKNOWN}. mask.area says otherwise'
    )
    return mapped, holes


def _list_beside(pattern: re.Pattern[str], layer: VectorLayer) -> list[VectorLayer]:
    """List the layers of a kind in the same file, or else the file beside it."""
    path, chosen = layer
    found: list[VectorLayer] = [
        (path, name)
        for name in list_layers('mask', path)
        if pattern.search(name) and name != chosen
    ]
    if match := re.match(r'(zip|tar)(?:\+file)?://(.+)!/?(.+)', path):
        path = '/vsi{}/{}/{}'.format(*match.groups())
    folder, base = os.path.split(path)
    event = _EVENT.search(base)
    if found or event is None:
        return found
    start, end = base[: event.start()], base[event.end() :]
    beside = [
        name
        for name in map(os.path.basename, find_files(folder or '.'))
        if name.startswith(start)
        and pattern.match(name, len(start))
        and os.path.splitext(name)[1] == os.path.splitext(base)[1]
    ]
    # Of the same version, or else the last one
    files = [name for name in beside if name.endswith(end)] or beside
    return [
        (path, choose_layer('mask.area', path, None))
        for path in [os.path.join(folder, name) for name in files[-1:]]
    ]

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Which bands of a scene a model is shown."""

from collections.abc import Sequence

from lightning.pytorch.utilities import rank_zero_info

from ..datasets import SceneDataset
from ..datasets.bands import agree, list_bands
from ..datasets.grid_raster import GridRaster
from ..datasets.paths import name_paths
from ..transforms import Inputs


def match_bands(scene: SceneDataset, inputs: Inputs, check: bool = True) -> None:
    """Read the bands of a scene that a model knows, in its order.

    Bands are found by their names if model and files have them, and otherwise taken as
    they are.

    Args:
        scene: The scene.
        inputs: What the model is shown.
        check: Whether to refuse bands that the user has chosen and that have other names
            than those of the model.

    Raises:
        ValueError: If the files lack a band, or have another number of bands, and it is
            not known which of them the model needs.
    """
    images = (scene.optical, scene.sar)
    for image, names in zip(images, inputs.band_names, strict=True):
        _match(image, names, check)


def _match(image: GridRaster, names: Sequence[str], check: bool) -> None:
    """Read the bands of an image by name, or find that they fit by number."""
    found, chosen = image.band_names, image.source.bands
    if agree(found, names):
        return
    known = all(names) and all(found.count(name) == 1 for name in names)
    if known and chosen is None:
        image.select(names)
        rank_zero_info(
            f'{image.name} file {name_paths(image.paths)}: of the bands '
            f'{list_bands(found)}, {list_bands(names)} are read, as in training'
        )
        return
    if len(found) == len(names) and chosen is not None and not check:
        return
    setting = f'{image.name.lower()}.bands'
    if chosen is not None:
        read = f', chosen by {setting}={list(chosen)}'
        advice = f'leave out {setting}, to have bands found by their names'
        if len(found) == len(names):
            advice += ', or set check=False, to use those chosen'
    else:
        read = ''
        advice = (
            f'expected {setting}, the numbers of the bands to read'
            if any(found) or len(found) > len(names)
            else 'expected the bands of the training. Are optical and sar swapped?'
        )
        if all(names):
            missing = [name for name in names if name not in found]
            twice = [name for name in names if found.count(name) > 1]
            if missing and any(found):
                advice = f'{", ".join(missing)} is missing; {advice}'
                advice += ' instead, with check=False'
            elif twice:
                advice = f'{", ".join(twice)} is there more than once; {advice}'
    raise ValueError(
        f'{image.name} file {name_paths(image.paths)} has the bands '
        f'{list_bands(found)}{read}, but the inputs are for {list_bands(names)}: {advice}'
    )

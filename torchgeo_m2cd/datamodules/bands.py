# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Which bands of a scene a model is shown."""

from collections.abc import Sequence

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ..datasets import SceneDataset
from ..datasets.bands import POLARISATIONS, STACKS, agree, list_bands, spell_bands
from ..datasets.grid_raster import GridRaster
from ..datasets.paths import name_paths
from ..transforms import Inputs
from .checks import probe


def match_bands(scene: SceneDataset, inputs: Inputs, check: bool = True) -> None:
    """Read the bands of a scene that a model knows, in its order.

    Bands are found by their names if model and files have them. If only the model has
    them, and the files have more bands, these are taken for those of
    :data:`~torchgeo_m2cd.datasets.bands.STACKS`. As many bands as the model has are taken
    for its bands where they have no names, which is noted as an assumption.

    Args:
        scene: The scene.
        inputs: What the model is shown.
        check: Whether to refuse bands that the user has chosen and that have other names
            than those of the model, and values that a stack without names cannot have.

    Raises:
        ValueError: If the files lack a band, or have another number of bands, and it is
            not known which of them the model needs.
    """
    images = (scene.optical, scene.sar)
    for number, (image, names) in enumerate(
        zip(images, inputs.band_names, strict=True)
    ):
        stack = _find_stack(image, names)
        if stack:
            if check:
                _check_stack(image, stack, probe(scene)[number])
            image.name_bands(stack)
        _match(image, names, check)


def _find_stack(image: GridRaster, names: Sequence[str]) -> Sequence[str]:
    """Return the names that the bands of a stack should have, if a model asks for some."""
    found = image.band_names
    stack = STACKS[image.name].get(len(found), ())
    is_asked = len(names) != len(found) and all(names) and {*names} <= {*stack}
    is_whole = image.source.bands is None and not any(
        any(granule.names) or len(granule.bands) != len(found)
        for granule in image.granules
    )
    return stack if is_asked and is_whole else ()


def _check_stack(image: GridRaster, stack: Sequence[str], pixels: Tensor) -> None:
    """Check that bands look like those of a stack, values of shape (C, N)."""
    if pixels.shape[-1] < 2:
        return
    values = dict(zip(stack, pixels, strict=False))
    # Pictures have a stretch of each band
    is_physical = getattr(image.source, 'scale', None) != 'other'
    reason = ''
    if 'VH' in values and is_physical and values['VV'].median() < values['VH'].median():
        # Everything scatters less of the other polarisation
        reason = 'the first, which would be VV, is darker than the second'
    elif 'B8A' in values:
        near = torch.stack([values['B08'], values['B8A']])
        # Both are the near infrared
        if not torch.corrcoef(near)[0, 1] > 0.8:
            reason = 'B08 and B8A would differ'
    if reason:
        raise ValueError(
            f'{image.name} file {name_paths(image.paths)} has {len(stack)} bands without '
            f'names, which do not look like {list_bands(stack)}: {reason}. Expected '
            f'{image.name.lower()}.bands, the numbers of the bands to read'
        )


def _match(image: GridRaster, names: Sequence[str], check: bool) -> None:
    """Read the bands of an image by name, or find that they fit by number."""
    found, chosen = image.band_names, image.source.bands
    if agree(found, names):
        known = [name or other for name, other in zip(found, names, strict=True)]
        if known != found:
            image.name_bands(known)
        return
    if chosen is None and all(names) and all(found.count(name) == 1 for name in names):
        image.select(names)
        rank_zero_info(
            f'{image.name} file {name_paths(image.paths)}: of the bands '
            f'{list_bands(found)}, {list_bands(names)} are read, as in training'
        )
        return
    if len(found) == len(names) and chosen is not None and not check:
        return
    read = '' if chosen is None else f', chosen by {_setting(image)}={list(chosen)}'
    raise ValueError(
        f'{image.name} file {name_paths(image.paths)} has the bands '
        f'{list_bands(found)}{read}, but the inputs are for {list_bands(names)}: '
        f'{_advise(image, names)}'
    )


def _setting(image: GridRaster) -> str:
    """Name the argument that chooses the bands of an image."""
    return f'{image.name.lower()}.bands'


def _advise(image: GridRaster, names: Sequence[str]) -> str:
    """Say which bands are expected of an image that has others."""
    found, setting = image.band_names, _setting(image)
    missing = [name for name in names if name not in found] if any(found) else []
    if all(names) and missing and _is_of_other_image(image.name, found):
        return 'are the images swapped? The optical one, before, comes first'
    if image.source.bands is not None:
        advice = f'leave out {setting}, to have bands found by their names'
        if len(found) == len(names):
            advice += ', or set check=False, to use those chosen'
        return advice
    if not all(names):
        return (
            f'expected {setting}, the numbers of the bands to read'
            if any(found) or len(found) > len(names)
            else 'expected the bands of the training. Are optical and sar swapped?'
        )
    if (
        image.name == 'optical'
        and len(found) == 3
        and not any(found)
        and 'B08' in names
    ):
        return (
            'true colours do not tell water. Expected a file with the near infrared, and '
            'optical.bands, its number'
        )
    mapping = ', '.join(f'{name}: NUMBER' for name in names)
    reason = ''
    if missing:
        reason = f'{", ".join(missing)} is missing, and no other band stands for it: '
    elif twice := [name for name in names if found.count(name) > 1]:
        reason = f'{", ".join(twice)} is there more than once: '
    return (
        f'{reason}expected a file with {spell_bands(names)}. If it is there without '
        f'that name, say where, by {setting}={{{mapping}}}'
    )


def _is_of_other_image(name: str, bands: Sequence[str]) -> bool:
    """Whether names of bands are those of the other image of a pair."""
    polarised = {*bands} & {*POLARISATIONS}
    return polarised == {*bands} if name == 'optical' else any(bands) and not polarised

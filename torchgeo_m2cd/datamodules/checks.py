# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""What can be wrong with the values of a scene."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ..datasets import SARSource, SceneDataset
from ..datasets.grid_raster import GridRaster
from ..datasets.paths import name_paths
from ..datasets.source import SARScale

# Backscatter in dB. A floor of 1e-10 in power is -100 dB, but for rounding
_LOWEST, _HIGHEST = -100.01, 60.0

# Nothing in an image of any unit is as large. Digital numbers end at 65535
_TOO_LARGE = {'optical': 1e6, 'SAR': 1e30}

# Values that stand for no data in many products, and in images are none that others pass
_NO_DATA = (-99999.0, -32768.0, -32767.0, -9999.0)

# Values that may do so: these, and those beyond. Many pixels have them, and none is near
_MAYBE_NO_DATA = (-999.0, -99.0, -1.0, 9999.0)
_BEYOND = {'optical': (-2000.0, 20_000.0), 'SAR': (-np.inf, 20.0)}
_MANY = 0.005


def check_possible(scene: SceneDataset) -> None:
    """Check that no value of a scene is impossible, over all of its files.

    Such values stand for no data, and no tag says so. Statistics would count them, and a
    model would map them.

    Args:
        scene: The scene.

    Raises:
        RuntimeError: If a file cannot be read.
        ValueError: If a value is impossible.
    """
    for image in (scene.optical, scene.sar):
        for name, values, raw in image.scan():
            _refuse_impossible(name, image, values, raw)


def _refuse_impossible(
    name: str,
    image: GridRaster,
    values: npt.NDArray[np.float32],
    raw: npt.NDArray[np.float32] | None = None,
) -> None:
    """Refuse impossible values, shape (C, N), also as they are in the files."""
    scale = image.source.scale if isinstance(image.source, SARSource) else None
    bad = find_impossible(values, scale)
    if raw is not None:
        values = raw
        bad |= _find_sentinels(raw, bad)
    if not bad.any():
        return
    if scale == 'db' and not bad.all():
        # Bright points of linear values are no values for no data
        _refuse_linear(name, float(np.median(values[~bad])))
    found, counts = np.unique(values[bad], return_counts=True)
    found = found[np.argsort(-counts, kind='stable')]
    shares = [
        f'{_write(value)} in {(values == value).any(axis=0).mean():.2g}'
        for value in found[:3]
    ]
    more = f', and {len(found) - 3} more values' if len(found) > 3 else ''
    setting = f'{image.name.lower()}.nodata'
    raise ValueError(
        f'{name} has impossible values: {", ".join(shares)} of the pixels{more}. If '
        f'they stand for no data, set {setting} to it, such as '
        f'{setting}={_write(found[0])}; check=False takes them as they are'
    )


def _refuse_linear(name: str, median: float) -> None:
    """Refuse values of SAR that cannot be dB, by their median."""
    if median > 0:
        raise ValueError(
            f"{name} has mostly positive values (median {median:.4g}), but scale is 'db': "
            "expected negative ones, or sar.scale='power' or 'amplitude'"
        )


def find_impossible(
    values: npt.NDArray[np.float32], scale: SARScale | None = None
) -> npt.NDArray[np.bool_]:
    """Find values that no image has.

    Those of SAR are beyond -100 to 60 dB. Reflectance has no fixed range, since files
    have it in many units: values are impossible that are far from all others, or that
    usually stand for no data. Infinite values are always impossible, NaN never.

    Args:
        values: Values in the units of a sample, shape (C, N).
        scale: What the values of a SAR image are in its files, None for an optical image.

    Returns:
        Whether they are impossible, shape (C, N).
    """
    kind = 'optical' if scale is None else 'SAR'
    bad = np.abs(values) >= _TOO_LARGE[kind]
    bad |= _find_sentinels(values, bad)
    if scale == 'other':
        return bad
    # If most values are beyond, it is the scale that is wrong, see check_values
    others = _others(values, bad)
    if scale is not None and others.size and _LOWEST <= np.median(others) <= _HIGHEST:
        bad |= (values < _LOWEST) | (values > _HIGHEST)
    while (alone := _find_alone(values, bad, *_BEYOND[kind])) is not None:
        bad |= values == alone
    # Haze that was subtracted makes little reflectance negative, and little negative.
    # Nothing is a thousand times as bright as all else
    while scale is None and (others := _others(values, bad)).size:
        low, high = float(others.min()), float(others.max())
        second = float(np.max(others[others < high], initial=0))
        if 0 < high < -low / 20:
            bad |= values < -20 * high
        elif high > 1000 * second > 0:
            bad |= values == high
        else:
            break
    return bad


def _find_sentinels(
    values: npt.NDArray[np.float32], bad: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Find values that stand for no data in many products, if none is below."""
    found = bad.copy()
    for value in _NO_DATA:
        if np.min(_others(values, found), initial=np.inf) == value:
            found |= values == value
    return found


def _others(
    values: npt.NDArray[np.float32], bad: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """Return the values that are not bad, and not NaN."""
    others: npt.NDArray[np.float32] = values[~(bad | np.isnan(values))]
    return others


def _find_alone(
    values: npt.NDArray[np.float32], bad: npt.NDArray[np.bool_], low: float, high: float
) -> float | None:
    """Find the smallest or largest value if many pixels have it, and none is near.

    Args:
        values: Values, shape (C, N).
        bad: Values not to look at, shape (C, N).
        low: The smallest value is not looked at if it is above, unless it is one that
            often stands for no data.
        high: The largest value is not looked at if it is below.

    Returns:
        The value, if there is one.
    """
    others = _others(values, bad)
    if not others.size:
        return None
    for value in (others.min(), others.max()):
        if not (value < low or value > high or value in _MAYBE_NO_DATA):
            continue
        rest = others[others != value]
        share = (values == value).any(axis=0).mean()
        if share < _MANY or not rest.size:
            continue
        start, end = np.quantile(rest, (0.01, 0.99))
        if max(rest.min() - value, value - rest.max()) > end - start:
            return float(value)
    return None


def _write(value: np.float32) -> str:
    """Write a value as in YAML."""
    number = float(value)
    if number.is_integer() and abs(number) < 1e15:
        return f'{number:.0f}'
    return repr(number).replace('inf', '.inf')


def probe(scene: SceneDataset, count: int = 6, size: int = 32) -> Tensor:
    """Read a regular pattern of small windows, to see what the values are like.

    Args:
        scene: The scene.
        count: Windows along each axis.
        size: Height and width of a window in pixels.

    Returns:
        Valid pixels, shape (2, C, N).

    Raises:
        RuntimeError: If a file cannot be read.
        ValueError: If SAR values that cannot be negative are.
    """
    rows, columns = (
        np.unique(np.linspace(0, max(length - size, 0), count).astype(int)).tolist()
        for length in scene.shape
    )
    pixels = []
    for row in rows:
        for column in columns:
            sample = scene.read(*scene.pixel_slice(row, column, size, size))
            pixels.append(sample['image'][:, :, sample['valid'][0]])
    return torch.cat(pixels, dim=-1)


def check_values(
    scene: SceneDataset, fits: Callable[[Tensor], None] | None = None
) -> int:
    """Check that the values of a scene are what its sources, and a model, expect.

    Args:
        scene: The scene.
        fits: Raises a ValueError if pixels, shape (2, C, N), cannot be in the units of a
            model, see :meth:`~torchgeo_m2cd.transforms.Inputs.check`.

    Returns:
        Number of valid pixels among those that were looked at.

    Raises:
        RuntimeError: If a file cannot be read.
        ValueError: If the images look swapped, the SAR values do not fit their scale,
            values are impossible, or they cannot be in the units of the model.
    """
    pixels = probe(scene)
    if pixels.shape[-1] == 0:
        return 0
    images = [
        image[:count] for image, count in zip(pixels, scene.band_counts, strict=True)
    ]
    optical, sar = (image.median().item() for image in images)
    source = scene.sar.source
    assert isinstance(source, SARSource)
    optical_file, sar_file = (
        f'{image.name} file {name_paths(image.paths)}'
        for image in (scene.optical, scene.sar)
    )
    if optical < 0:
        raise ValueError(
            f'{optical_file} has mostly negative values (median {optical:.4g}), like SAR '
            'in dB: are optical and sar swapped?'
        )
    if source.scale != 'other' and sar > 10:
        raise ValueError(
            f'{sar_file} has a median of {sar:.4g} dB with scale={source.scale!r}: are '
            "optical and sar swapped, or the values uncalibrated (scale='other')?"
        )
    if source.scale != 'other' and sar < _LOWEST:
        raise ValueError(
            f'{sar_file} has a median of {sar:.4g} dB with scale={source.scale!r}: are '
            "the values in other units (scale='other'), or is it a value for no data "
            '(sar.nodata)?'
        )
    if source.scale == 'db':
        _refuse_linear(sar_file, sar)
    # A narrow border may be between the pixels that are looked at in all of a file
    for name, raster, image in zip(
        (optical_file, sar_file), (scene.optical, scene.sar), images, strict=True
    ):
        _refuse_impossible(name, raster, image.numpy())
    if fits is not None:
        try:
            fits(pixels)
        except ValueError as error:
            raise ValueError(
                f'the scene of {optical_file} and {sar_file} does not fit the model: '
                f'{error}'
            ) from error
    return pixels.shape[-1]


def no_data(split: str, scene: SceneDataset) -> ValueError:
    """Make the error that there is nothing to work on.

    Args:
        split: What is to be done.
        scene: The scene.

    Returns:
        The error.
    """
    return ValueError(
        f'{split} needs pixels with data in both {name_paths(scene.optical.paths)} and '
        f'{name_paths(scene.sar.paths)}, but there are none where they were looked for'
    )


def check_mask(scene: SceneDataset, num_classes: int | None) -> None:
    """Check that the mask of a scene has labels there, and only those of the task.

    Warns if nothing is changed.

    Args:
        scene: The scene.
        num_classes: Number of classes of the task, if it is known.

    Raises:
        RuntimeError: If a file cannot be read.
        ValueError: If there are no labels, or those of other classes.
    """
    assert scene.mask is not None
    name = f'mask file {name_paths(scene.mask.paths)}'
    classes = sorted(scene.mask.classes)
    if num_classes is not None and classes[-1] >= num_classes:
        raise ValueError(
            f'{name} has the classes {classes}, but the task has {num_classes}: expected '
            f'0 to {num_classes - 1}, or mask.classes, the class of each value'
        )
    labels = scene.mask.read(*scene.overview_slice(2048))
    found = set(torch.unique(labels).tolist()) - {scene.ignore_index}
    if not found:
        west, south, east, north = scene.index.total_bounds.tolist()
        raise ValueError(
            f'{name} has no label in the scene, which is west {west:g}, south {south:g}, '
            f'east {east:g}, north {north:g} in {scene.grid.crs.to_string()}: expected a '
            'mask of this place'
        )
    if found == {0}:
        rank_zero_warn(
            f'{name} has only the class 0 where it was looked at: expected 1 where '
            'changed. Is it the mask of this scene?'
        )

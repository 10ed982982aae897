# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""The check beside every map: a rule without training, and what the images look like."""

import dataclasses
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import torch
from rasterio.windows import Window
from torch import Tensor

from ..checks import CountOrZero, checked
from ..datasets import SARSource, SceneDataset
from ..models import (
    Look,
    Reliability,
    ThresholdRule,
    measure_look,
    median_look,
    rule_inputs,
)
from ..transforms import Inputs
from ..utils import GDAL_ENV

#: Height and width of a patch in pixels, and the largest number of patches.
_SIZE, _COUNT = 512, 64
#: A map and the rule disagree if they have less in common, and one of them floods more than
#: a share of the area. The rule and the masks of OMBRIA have at least 0.2 in common on each
#: of 24 runs of training chips.
_LEAST_IOU, _LEAST_SHARE = 0.2, 0.01


@checked
@dataclasses.dataclass
class Check:
    """What was found in some patches of a scene.

    Args:
        compared: Pixels in which map and rule were compared.
        mapped: Those of them that the map floods.
        by_rule: Those that the rule floods.
        both: Those that both flood.
        looks: What the patches look like.
    """

    compared: CountOrZero = 0
    mapped: CountOrZero = 0
    by_rule: CountOrZero = 0
    both: CountOrZero = 0
    looks: list[Look] = dataclasses.field(default_factory=list)

    def add(self, mapped: Tensor, by_rule: Tensor, known: Tensor) -> None:
        """Compare the classes of a patch, bool tensors of the same shape.

        Args:
            mapped: What the map floods.
            by_rule: What the rule floods.
            known: Where there are classes.
        """
        self.compared += int(known.sum())
        self.mapped += int((mapped & known).sum())
        self.by_rule += int((by_rule & known).sum())
        self.both += int((mapped & by_rule & known).sum())

    @property
    def iou(self) -> float:
        """Intersection over union of map and rule; 1 if none of them floods anything."""
        union = self.mapped + self.by_rule - self.both
        return self.both / union if union else 1.0

    def to_dict(self) -> dict[str, Any] | None:
        """Describe the comparison in plain values, None if there was none."""
        if self.compared == 0:
            return None
        return {
            'flooded_share': round(self.mapped / self.compared, 4),
            'flooded_share_by_rule': round(self.by_rule / self.compared, 4),
            'iou': round(self.iou, 3),
        }

    def warn(self, reliability: Reliability | None) -> list[str]:
        """List what a reader of the map has to know.

        Args:
            reliability: What is known of the model.

        Returns:
            Warnings.
        """
        warnings = []
        most = max(self.mapped, self.by_rule)
        if self.iou < _LEAST_IOU and most >= _LEAST_SHARE * self.compared:
            mapped, by_rule = (
                f'{100 * count / self.compared:.2g} %'
                for count in (self.mapped, self.by_rule)
            )
            warnings.append(
                f'the map floods {mapped} of the area, a simple rule (dark in SAR, not '
                f'water before) {by_rule}, and they share only {100 * self.iou:.0f} % of '
                'what either floods: look at both images before you use the map'
            )
        if reliability is not None and self.looks:
            warnings += reliability.compare(median_look(self.looks))
        return warnings


@torch.inference_mode()
@checked
def check_map(
    scene: SceneDataset,
    classes: pathlib.Path,
    inputs: Inputs,
    compare: bool,
    reliability: Reliability | None = None,
) -> Check:
    """Compare the classes of a map with those of the rule, and look at the images.

    Reads up to 64 patches of 512 x 512 pixels, evenly spread over the scene: all of a
    scene of up to 4,096 x 4,096 pixels. What was water before counts in neither.

    Args:
        scene: The scene.
        classes: GeoTIFF of the classes on its grid, 1 where flooded.
        inputs: What the model of the map is shown.
        compare: Whether to compare; if not, there is only something to look at.
        reliability: What is known of the model. Without it, there is nothing to look at.

    Returns:
        What was found, nothing if it is not known which band is the near infrared, or how
        many dB a unit of SAR is.
    """
    check = Check()
    source = scene.sar.source
    assert isinstance(source, SARSource)
    try:
        rule = ThresholdRule(inputs=rule_inputs(inputs, source.unit))
    except ValueError:
        return check
    calibrated = None if source.scale == 'other' else source.unit
    with rasterio.Env(**GDAL_ENV), rasterio.open(classes) as src:
        for window, new in _tiles(*scene.shape) if compare or reliability else ():
            place = window.row_off, window.col_off, window.height, window.width
            sample = scene.read(*scene.pixel_slice(*place))
            batch = rule.inputs.show(
                {'image': sample['image'][None], 'valid': sample['valid'][None]}
            )
            if reliability is not None:
                look = measure_look(rule.inputs, batch, calibrated)
                check.looks += [look] if look is not None else []
            if compare:
                values = torch.from_numpy(src.read(1, window=window))
                water = rule.inputs.find_water(batch)[0, 0]
                flooded = rule(batch['image'])[0, 0] > 0
                parts = (values == 1) & ~water, flooded, values != src.nodata
                check.add(*(part[new] for part in parts))
    return check


def _tiles(height: int, width: int) -> Iterator[tuple[Window, tuple[slice, slice]]]:
    """Spread patches evenly over a scene.

    Args:
        height: Height of the scene in pixels.
        width: Width of the scene in pixels.

    Yields:
        Window of a patch, and which part of it no patch before it covers.
    """
    rows, columns = (-(-length // _SIZE) for length in (height, width))
    down = min(rows, max(1, round(math.sqrt(_COUNT * rows / columns))))
    across = min(columns, max(1, _COUNT // down))
    down = min(rows, max(1, _COUNT // across))
    for top, above in _starts(height, rows, down):
        for left, before in _starts(width, columns, across):
            window = Window(left, top, min(_SIZE, width), min(_SIZE, height))
            yield window, (slice(above, None), slice(before, None))


def _starts(length: int, tiles: int, count: int) -> Iterator[tuple[int, int]]:
    """Choose some of the tiles along an axis.

    Args:
        length: Pixels of the scene.
        tiles: Number of tiles that cover it.
        count: How many of them to choose.

    Yields:
        First pixel of a tile, and how many of its pixels the tile before it covers: the
        last one ends where the scene ends.
    """
    chosen: npt.NDArray[np.int64] = np.linspace(0, tiles - 1, count).round().astype(int)
    for number in chosen.tolist() if count > 1 else [(tiles - 1) // 2]:
        first = min(number * _SIZE, max(length - _SIZE, 0))
        yield first, number * _SIZE - first

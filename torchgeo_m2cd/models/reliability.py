# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""How much the maps of a model can be trusted."""

import math
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torchgeo.datasets.utils import Sample

from ..checks import Positive, PositiveOrZero, Share, checked
from ..configurable import Configurable
from ..transforms import Inputs, estimate_decibels

#: Spread in dB that :func:`~torchgeo_m2cd.transforms.estimate_decibels` expects.
_SPREAD = 2.1
#: Height and width in pixels of the part of an image in which speckle is measured.
_MIDDLE = 256


class Look(NamedTuple):
    """What an image pair looks like, measured without a model. NaN is not known."""

    #: Median of SAR over land in dB.
    land: float
    #: Share of the pixels that the optical image shows as water, from 0 to 1.
    water: float
    #: Spread of SAR within windows of 11 x 11 pixels in dB: that of speckle.
    speckle: float


class Reliability(Configurable):
    """How much the maps of a model can be trusted, and for which inputs that holds.

    It belongs to the weights, and was measured on groups of scenes that were left out of
    their training. All values are optional.
    """

    kind: ClassVar[str] = 'reliability'

    @checked
    def __init__(
        self,
        area: Sequence[PositiveOrZero] | None = None,
        land: Sequence[float] | None = None,
        water: Sequence[Share] | None = None,
        speckle: Sequence[float] | None = None,
        calibration_error: Share | None = None,
        threshold: Share = 0.5,
    ) -> None:
        """Initialize a new Reliability instance.

        Args:
            area: Two factors. In nine of ten groups, the flooded area was between these
                multiples of the area that was mapped.
            land: Range of :attr:`Look.land` in the training data, in dB.
            water: Range of :attr:`Look.water` in the training data.
            speckle: Range of :attr:`Look.speckle` in the training data, in dB.
            calibration_error: Expected calibration error, mean over the groups.
            threshold: Probability from which on a pixel is mapped as flooded, by default.
                Where floods are hard to tell from land, the IoU is best well below 0.5.

        Raises:
            ValueError: If a range is not two numbers in ascending order, or a factor is
                negative, or *threshold* is not within [0, 1].
        """
        self.area = _to_range('area', area)
        self.land = _to_range('land', land)
        self.water = _to_range('water', water)
        self.speckle = _to_range('speckle', speckle)
        self.calibration_error = calibration_error
        self.threshold = threshold

    def compare(self, look: Look) -> list[str]:
        """Say in what images are unlike the training data.

        Args:
            look: What the images look like.

        Returns:
            A sentence for each difference, with both numbers.
        """
        ranges = (
            (
                look.land, self.land, 1,
                'land is at {:.1f} dB in SAR, in training at {:.1f} to {:.1f} dB',
            ),
            (
                look.water, self.water, 100,
                '{:.0f} % was water before, in training {:.0f} to {:.0f} %',
            ),
            (
                look.speckle, self.speckle, 1,
                'speckle spreads SAR by {:.1f} dB, in training by {:.1f} to {:.1f} dB',
            ),
        )  # fmt: skip
        return [
            'the images are unlike the training data: '
            + text.format(scale * value, *(scale * end for end in known))
            for value, known, scale, text in ranges
            if known is not None
            and not math.isnan(value)
            and not known[0] <= value <= known[1]
        ]


@checked
def measure_look(
    inputs: Inputs, batch: Sample, decibels: Positive | None
) -> Look | None:
    """Measure what an image pair looks like.

    Args:
        inputs: Inputs whose optical step finds water, see
            :func:`~torchgeo_m2cd.models.rule_inputs`.
        batch: Output of :meth:`~torchgeo_m2cd.transforms.Inputs.show` for one pair.
        decibels: Decibels per source unit of SAR, if SAR is calibrated: else the level of
            land is not known.

    Returns:
        What it looks like, by the first SAR band, or None if there are no data.
    """
    known = batch['valid'][0, 0]
    if not known.any():
        return None
    water = inputs.find_water(batch)[0, 0]
    sar = batch['source'][0, 1, 0]
    unit = decibels or inputs.sar.decibels or math.nan
    land = sar[known & ~water]
    # A part is enough, as speckle is the same everywhere
    middle = tuple(
        slice(max((size - _MIDDLE) // 2, 0), (size + _MIDDLE) // 2)
        for size in sar.shape
    )
    try:
        speckle = _SPREAD * unit / estimate_decibels(sar[middle], known[middle])
    except ValueError:  # Too small, or hardly any data
        speckle = math.nan
    return Look(
        math.nan if decibels is None else float(land.median() * decibels),
        float(water.sum() / known.sum()),
        speckle,
    )


@checked
def median_look(looks: Sequence[Look]) -> Look:
    """Take the median of each value, NaN only if it is not known of any of them.

    Args:
        looks: What several image pairs look like.

    Returns:
        What most of them look like. The share of water is the mean.
    """
    land, water, speckle = torch.tensor(looks, dtype=torch.float64).reshape(-1, 3).T
    return Look(
        float(land.nanmedian()), float(water.nanmean()), float(speckle.nanmedian())
    )


def _to_range(name: str, values: Sequence[float] | None) -> tuple[float, float] | None:
    """Check that values are a range."""
    if values is None:
        return None
    if len(values) != 2 or not values[0] <= values[1]:
        raise ValueError(
            f'{name} is {list(values)}: expected two numbers in ascending order'
        )
    return float(values[0]), float(values[1])

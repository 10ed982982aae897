# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Transforms for optical-SAR pairs."""

from .pair import (
    AlignThreshold,
    DropImage,
    OpticalDarkness,
    PairAugmentation,
    PhotometricDistortion,
    RandomGainOffset,
    RandomQuarterTurn,
    RandomRotationOrFlip,
    StandardizeImage,
    StrictRandomCrop,
    pair_normalize,
)

__all__ = (
    'AlignThreshold',
    'DropImage',
    'OpticalDarkness',
    'PairAugmentation',
    'PhotometricDistortion',
    'RandomGainOffset',
    'RandomQuarterTurn',
    'RandomRotationOrFlip',
    'StandardizeImage',
    'StrictRandomCrop',
    'pair_normalize',
)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""What a model is shown, and random changes of it in training."""

from .inputs import Inputs, KeepsInputs, Reference
from .pair import (
    DropImage,
    PairAugmentation,
    PhotometricDistortion,
    RandomGainOffset,
    RandomQuarterTurn,
    RandomRotationOrFlip,
    StrictRandomCrop,
)
from .speckle import estimate_decibels
from .steps import (
    Darkness,
    InputStep,
    LeftOut,
    Relative,
    RelativeDarkness,
    Standardize,
    StandardizeImage,
)

__all__ = (
    'Darkness',
    'DropImage',
    'InputStep',
    'Inputs',
    'KeepsInputs',
    'LeftOut',
    'PairAugmentation',
    'PhotometricDistortion',
    'RandomGainOffset',
    'RandomQuarterTurn',
    'RandomRotationOrFlip',
    'Reference',
    'Relative',
    'RelativeDarkness',
    'Standardize',
    'StandardizeImage',
    'StrictRandomCrop',
    'estimate_decibels',
)

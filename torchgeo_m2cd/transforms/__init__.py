# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""What a model is shown, and how it is augmented in training."""

from .base import InputStep, LeftOut
from .drain import RandomDrain
from .inputs import Inputs, Reference
from .keeps_inputs import KeepsInputs
from .optical import Darkness, RelativeDarkness
from .pair import (
    DropImage,
    PairAugmentation,
    PhotometricDistortion,
    RandomGainOffset,
    RandomQuarterTurn,
    RandomRotationOrFlip,
    StrictRandomCrop,
)
from .sar import Relative
from .speckle import Speckle, estimate_decibels, measure_speckle
from .standardize import Standardize, StandardizeImage

__all__ = (
    'Darkness',
    'DropImage',
    'InputStep',
    'Inputs',
    'KeepsInputs',
    'LeftOut',
    'PairAugmentation',
    'PhotometricDistortion',
    'RandomDrain',
    'RandomGainOffset',
    'RandomQuarterTurn',
    'RandomRotationOrFlip',
    'Reference',
    'Relative',
    'RelativeDarkness',
    'Speckle',
    'Standardize',
    'StandardizeImage',
    'StrictRandomCrop',
    'estimate_decibels',
    'measure_speckle',
)

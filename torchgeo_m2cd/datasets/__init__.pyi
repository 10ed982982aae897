# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from .base import OpticalSARDataset, stack_pair
from .cau_flood import CAUFlood
from .chip_folder import ChipFolder
from .masks import MaskSource
from .ombria import OMBRIA
from .scene import SceneDataset, SceneList
from .source import SARSource, Source
from .synthetic import SyntheticFlood

__all__ = (
    'OMBRIA',
    'CAUFlood',
    'ChipFolder',
    'MaskSource',
    'OpticalSARDataset',
    'SARSource',
    'SceneDataset',
    'SceneList',
    'Source',
    'SyntheticFlood',
    'stack_pair',
)

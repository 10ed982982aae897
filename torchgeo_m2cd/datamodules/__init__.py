# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Data modules for optical-SAR change detection."""

from .base import OpticalSARDataModule, PairDataModule
from .bright import BRIGHTDFC2025DataModule
from .cau_flood import CAUFloodDataModule
from .chip_folder import ChipFolderDataModule
from .ombria import OMBRIADataModule
from .scene import SceneDataModule
from .synthetic import SyntheticFloodDataModule

__all__ = (
    'BRIGHTDFC2025DataModule',
    'CAUFloodDataModule',
    'ChipFolderDataModule',
    'OMBRIADataModule',
    'OpticalSARDataModule',
    'PairDataModule',
    'SceneDataModule',
    'SyntheticFloodDataModule',
)

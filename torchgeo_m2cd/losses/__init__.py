# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Losses for change detection."""

from .ohem import OHEM, OHEMLoss
from .pixels import select_pixels

__all__ = ('OHEM', 'OHEMLoss', 'select_pixels')

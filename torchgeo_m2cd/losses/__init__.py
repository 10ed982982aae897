# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Losses for change detection."""

from .ohem import OHEMLoss

__all__ = ('OHEMLoss',)

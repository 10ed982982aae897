# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Samplers."""

from .scene import PatchRowSampler, SceneSampler, list_patch_rows

__all__ = ('PatchRowSampler', 'SceneSampler', 'list_patch_rows')

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Lightning tasks."""

from .change import ChangeDetectionTask

__all__ = ('ChangeDetectionTask',)

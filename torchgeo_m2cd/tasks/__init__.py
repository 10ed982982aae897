# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Lightning tasks, and how they are optimized."""

from .change import ChangeDetectionTask
from .optimization import Cosine, Decay, Optimization, Plateau, Polynomial, Schedule

__all__ = (
    'ChangeDetectionTask',
    'Cosine',
    'Decay',
    'Optimization',
    'Plateau',
    'Polynomial',
    'Schedule',
)

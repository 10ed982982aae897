# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Lightning tasks, and how they are optimized."""

from .change import ChangeDetectionTask
from .load import load_task
from .optimization import Cosine, Decay, Optimization, Plateau, Polynomial, Schedule
from .rule_target import RuleTarget

__all__ = (
    'ChangeDetectionTask',
    'Cosine',
    'Decay',
    'Optimization',
    'Plateau',
    'Polynomial',
    'RuleTarget',
    'Schedule',
    'load_task',
)

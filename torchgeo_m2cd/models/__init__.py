# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Models and their parts."""

from .decoder import MLPDecoder
from .encoder import MoEEncoder, MoEEncoderOutput
from .m2cd import M2CD, M2CDOutput
from .moe import CosineGate, MixtureOfExperts, MoEOutput
from .o2sp import guide_loss, simulate_sar

__all__ = (
    'M2CD',
    'CosineGate',
    'M2CDOutput',
    'MLPDecoder',
    'MixtureOfExperts',
    'MoEEncoder',
    'MoEEncoderOutput',
    'MoEOutput',
    'guide_loss',
    'simulate_sar',
)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Models and their parts."""

from .decoder import MLPDecoder, MLPHead, fuse, make_decoder
from .encoder import MoEEncoder, MoEEncoderOutput
from .export import export_onnx
from .m2cd import M2CD, M2CDOutput
from .moe import CosineGate, MixtureOfExperts, MoEOutput
from .o2sp import (
    O2SP,
    OriginalO2SP,
    PhysicalO2SP,
    guide_loss,
    simulate_sar,
    simulate_speckled_sar,
)
from .weights import load_encoder_weights, load_original

__all__ = (
    'M2CD',
    'O2SP',
    'CosineGate',
    'M2CDOutput',
    'MLPDecoder',
    'MLPHead',
    'MixtureOfExperts',
    'MoEEncoder',
    'MoEEncoderOutput',
    'MoEOutput',
    'OriginalO2SP',
    'PhysicalO2SP',
    'export_onnx',
    'fuse',
    'guide_loss',
    'load_encoder_weights',
    'load_original',
    'make_decoder',
    'simulate_sar',
    'simulate_speckled_sar',
)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Models and their parts."""

from .decoder import MLPDecoder, MLPHead
from .encoder import MoEEncoder, MoEEncoderOutput
from .export import export_onnx
from .fast import accelerate, compile_inference, keep_memory, set_fast, use_fast
from .m2cd import M2CD, M2CDOutput
from .moe import CosineGate, Experts, MixtureOfExperts, MoEOutput
from .o2sp import (
    O2SP,
    OriginalO2SP,
    PhysicalO2SP,
    guide_loss,
    simulate_sar,
    simulate_speckled_sar,
)
from .pretrained import M2CD_Weights, get_weight, m2cd
from .reliability import Look, Reliability, measure_look, median_look
from .threshold import ThresholdRule, rule_inputs
from .weights import load_encoder_weights, load_original

__all__ = (
    'M2CD',
    'O2SP',
    'CosineGate',
    'Experts',
    'Look',
    'M2CDOutput',
    'M2CD_Weights',
    'MLPDecoder',
    'MLPHead',
    'MixtureOfExperts',
    'MoEEncoder',
    'MoEEncoderOutput',
    'MoEOutput',
    'OriginalO2SP',
    'PhysicalO2SP',
    'Reliability',
    'ThresholdRule',
    'accelerate',
    'compile_inference',
    'export_onnx',
    'get_weight',
    'guide_loss',
    'keep_memory',
    'load_encoder_weights',
    'load_original',
    'm2cd',
    'measure_look',
    'median_look',
    'rule_inputs',
    'set_fast',
    'simulate_sar',
    'simulate_speckled_sar',
    'use_fast',
)

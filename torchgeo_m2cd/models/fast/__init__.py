# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""All that is only there for speed and memory.

Nothing in here changes what a model computes: :func:`accelerate` replaces plain modules
by fast ones with the same parameters and names, and :func:`compile_inference` hands a
model to PyTorch's compiler. docs/user/speed.rst says what each gives.
"""

import os
from collections.abc import Mapping

from segmentation_models_pytorch.encoders.mix_transformer import Attention, DWConv
from torch import nn

from ...checks import checked
from ..decoder import MLPDecoder, MLPHead
from ..encoder import MoEEncoder
from ..moe import MixtureOfExperts
from .compiled import compile_inference
from .decoder import FastMLPDecoder, FastMLPHead
from .encoder import FastMoEEncoder
from .experts import FastMixtureOfExperts
from .linear import FastLinear
from .memory import keep_memory
from .mix_transformer import ChannelsLastDWConv, FusedAttention
from .stand_in import StandIn

__all__ = ('accelerate', 'compile_inference', 'keep_memory', 'set_fast', 'use_fast')

#: Plain classes, and the fast ones that stand in for them.
FAST: Mapping[type[nn.Module], type[StandIn]] = {
    nn.Linear: FastLinear,
    Attention: FusedAttention,
    DWConv: ChannelsLastDWConv,
    MixtureOfExperts: FastMixtureOfExperts,
    MoEEncoder: FastMoEEncoder,
    # These two hand maps over to each other, and need each other
    MLPDecoder: FastMLPDecoder,
    MLPHead: FastMLPHead,
}

_use_fast = os.environ.get('TORCHGEO_M2CD_FAST', '1') != '0'


def use_fast() -> bool:
    """Whether a new :class:`~torchgeo_m2cd.models.M2CD` is made of fast modules."""
    return _use_fast


@checked
def set_fast(enable: bool) -> None:
    """Set whether new models are made of fast modules.

    By default they are, unless the environment variable ``TORCHGEO_M2CD_FAST`` is 0.
    Models that exist already stay what they are.

    Args:
        enable: Whether to use fast modules.
    """
    global _use_fast
    _use_fast = enable


@checked
def accelerate[Module: nn.Module](module: Module) -> Module:
    """Replace plain modules by fast ones, which compute the same.

    Names and parameters stay the same, so that checkpoints and optimizers fit. Subclasses
    of plain modules are left alone. Like
    :meth:`torch.nn.SyncBatchNorm.convert_sync_batchnorm`, this works in place.

    Args:
        module: Module, like a model or a layer.

    Returns:
        The module, or the fast one that takes its place.
    """
    for name, child in module.named_children():
        setattr(module, name, accelerate(child))
    fast = FAST.get(type(module))
    return module if fast is None else fast.take_over(module)  # type: ignore[return-value]

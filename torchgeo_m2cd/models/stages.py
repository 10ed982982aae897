# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Where the stages of an encoder are.

A stage is the run of modules between two of the features that an encoder returns.
With the stages known, anything can be placed between them, and no encoder needs
a file of our own.
"""

from collections.abc import Callable, Sequence

from segmentation_models_pytorch.encoders.mix_transformer import (
    MixVisionTransformerEncoder,
)
from torch import nn

#: Modules to apply in order; none where an encoder has no feature of that stride.
Stage = Sequence[nn.Module]


def _mix_transformer(encoder: MixVisionTransformerEncoder) -> list[Stage]:
    return [
        [],
        [encoder.patch_embed1, encoder.block1, encoder.norm1],
        [encoder.patch_embed2, encoder.block2, encoder.norm2],
        [encoder.patch_embed3, encoder.block3, encoder.norm3],
        [encoder.patch_embed4, encoder.block4, encoder.norm4],
    ]


#: Where each family of encoders has its stages.
FAMILIES: dict[type[nn.Module], Callable[..., list[Stage]]] = {
    MixVisionTransformerEncoder: _mix_transformer
}


def get_stages(encoder: nn.Module, name: str) -> list[Stage]:
    """Split an encoder into its stages.

    Args:
        encoder: Encoder of segmentation_models_pytorch.
        name: Its name, for the message.

    Returns:
        One entry per stride 2, 4, 8, 16, 32.

    Raises:
        ValueError: If the stages of this family of encoders are not known.
    """
    for family, split in FAMILIES.items():
        if isinstance(encoder, family):
            return split(encoder)
    supported = ', '.join(family.__name__ for family in FAMILIES)
    raise ValueError(
        f'encoder {name!r} ({type(encoder).__name__}) has no known stages to place '
        f'a mixture of experts between; supported are: {supported}'
    )

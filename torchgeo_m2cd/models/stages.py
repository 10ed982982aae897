# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Where the stages of an encoder are.

A stage is the run of modules between two of the features that an encoder returns.
With the stages known, anything can be placed between them, and no encoder needs
a file of our own. A new family of encoders needs one function here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from segmentation_models_pytorch.encoders import TimmUniversalEncoder
from segmentation_models_pytorch.encoders.inceptionresnetv2 import (
    InceptionResNetV2Encoder,
)
from segmentation_models_pytorch.encoders.inceptionv4 import InceptionV4Encoder
from segmentation_models_pytorch.encoders.mix_transformer import (
    MixVisionTransformerEncoder,
)
from segmentation_models_pytorch.encoders.mobilenet import MobileNetV2Encoder
from segmentation_models_pytorch.encoders.mobileone import MobileOne
from segmentation_models_pytorch.encoders.resnet import ResNetEncoder
from segmentation_models_pytorch.encoders.senet import SENetEncoder
from segmentation_models_pytorch.encoders.timm_efficientnet import (
    EfficientNetBaseEncoder,
)
from segmentation_models_pytorch.encoders.timm_sknet import SkNetEncoder
from segmentation_models_pytorch.encoders.vgg import VGGEncoder
from timm.models._features import FeatureListNet
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from torch import nn

#: Modules to apply in order; none where an encoder has no feature of that stride.
Stage = Sequence[nn.Module]


def _cut(modules: Iterable[tuple[Any, nn.Module]], ends: Iterable[Any]) -> list[Stage]:
    """Cut a chain of modules after those with the keys *ends*."""
    ends = set(ends)
    stages: list[list[nn.Module]] = [[]]
    for key, module in modules:
        stages[-1].append(module)
        if key in ends:
            stages.append([])
    # No feature comes from what is behind the last end
    return [*stages[:-1]]


def _attributes(*stages: str) -> Callable[[nn.Module], list[Stage]]:
    """Stages that are named attributes."""
    return lambda encoder: [
        [encoder.get_submodule(name) for name in stage.split()] for stage in stages
    ]


def _feature_list(encoder: Any) -> list[Stage]:
    """Chains of modules with the indices of the ends of stages."""
    return _cut(enumerate(encoder.features), encoder._out_indexes)


def _timm(encoder: Any) -> list[Stage]:
    """Timm's feature extractors that are chains of modules."""
    model = encoder.model
    if isinstance(model, FeatureListNet):
        return _cut(model.items(), model.return_layers)
    if isinstance(model, EfficientNetFeatures | MobileNetV3Features):
        stem = [model.conv_stem, model.bn1]
        if isinstance(model, MobileNetV3Features):
            stem.append(model.act1)
        chain = [*((None, m) for m in stem[:-1]), (0, stem[-1])]
        chain += [(i + 1, block) for i, block in enumerate(model.blocks)]
        return _cut(chain, model._stage_out_idx)
    return []


#: Where each family of encoders has its stages.
FAMILIES: Mapping[type[nn.Module], Callable[[nn.Module], list[Stage]]] = {
    MixVisionTransformerEncoder: _attributes(
        *(f'patch_embed{i} block{i} norm{i}' for i in range(1, 5))
    ),
    ResNetEncoder: _attributes(
        'conv1 bn1 relu', 'maxpool layer1', 'layer2', 'layer3', 'layer4'
    ),
    SkNetEncoder: _attributes(
        'conv1 bn1 act1', 'maxpool layer1', 'layer2', 'layer3', 'layer4'
    ),
    SENetEncoder: _attributes(
        'layer0', 'layer0_pool layer1', 'layer2', 'layer3', 'layer4'
    ),
    MobileOne: _attributes('stage0', 'stage1', 'stage2', 'stage3', 'stage4'),
    EfficientNetBaseEncoder: _attributes(
        'conv_stem bn1',
        'blocks.0 blocks.1',
        'blocks.2',
        'blocks.3 blocks.4',
        'blocks.5 blocks.6',
    ),
    InceptionResNetV2Encoder: _attributes(
        'conv2d_1a conv2d_2a conv2d_2b',
        'maxpool_3a conv2d_3b conv2d_4a',
        'maxpool_5a mixed_5b repeat',
        'mixed_6a repeat_1',
        'mixed_7a repeat_2 block8 conv2d_7b',
    ),
    InceptionV4Encoder: _feature_list,
    MobileNetV2Encoder: _feature_list,
    VGGEncoder: _feature_list,
    TimmUniversalEncoder: _timm,
}


def get_stages(encoder: nn.Module, name: str) -> list[Stage]:
    """Split an encoder into its stages.

    Args:
        encoder: Encoder of segmentation_models_pytorch.
        name: Its name, for the message.

    Returns:
        One stage per stride 1, 2, 4, 8, 16, 32, an empty one where the encoder has no
        feature of that stride.

    Raises:
        ValueError: If the stages of this encoder are not known.
    """
    stages: list[Stage] = []
    for family, split in FAMILIES.items():
        if isinstance(encoder, family):
            stages = split(encoder)
            break
    if not 4 <= len(stages) <= 6:
        smp = ', '.join(
            family.__name__.removesuffix('Encoder')
            for family in FAMILIES
            if family is not TimmUniversalEncoder
        )
        raise ValueError(
            f'encoder {name!r} has no known stages to place a mixture of experts '
            f"between; encoders of these families have: {smp}, and those of timm ('tu-') "
            'whose features are a chain of modules, like ResNet, RegNet, ConvNeXt, '
            'MobileNetV3, EfficientNet, PVTv2 or Swin'
        )
    return [[]] * (6 - len(stages)) + stages

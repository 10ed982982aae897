# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""The stages of an encoder.

A stage is the run of modules between two of the features that an encoder returns. Once
the stages are known, a mixture of experts can stand between them, and no encoder needs a
file of our own. To add a family of encoders, add its stages to :data:`FAMILIES`. Those of
SMP that start with ``timm-`` are left out, since SMP is going to remove them: ``tu-`` does
as well.

SMP and timm say nowhere where a stage begins and ends, but the names below are those of
their checkpoints, which they cannot change freely. ``test_stages_of_releases`` compares
each family with the encoder as it is, and fails if a release moves a stage.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence

from segmentation_models_pytorch.encoders import TimmUniversalEncoder
from segmentation_models_pytorch.encoders.densenet import DenseNetEncoder
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
from segmentation_models_pytorch.encoders.vgg import VGGEncoder
from timm.models import FeatureListNet
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from torch import nn


def _features(*ends: int) -> list[str]:
    """Stages of a numbered list of modules, given the first number of the next stage."""
    return [
        ' '.join(f'features.{i}' for i in range(start, end))
        for start, end in itertools.pairwise((0, *ends))
    ]


#: Names of the modules of each stage, by family of encoders.
FAMILIES: Mapping[type[nn.Module], Sequence[str]] = {
    MixVisionTransformerEncoder: [
        f'patch_embed{i} block{i} norm{i}' for i in range(1, 5)
    ],
    ResNetEncoder: ['conv1 bn1 relu', 'maxpool layer1', 'layer2', 'layer3', 'layer4'],
    SENetEncoder: ['layer0', 'layer0_pool layer1', 'layer2', 'layer3', 'layer4'],
    MobileOne: ['stage0', 'stage1', 'stage2', 'stage3', 'stage4'],
    InceptionResNetV2Encoder: [
        'conv2d_1a conv2d_2a conv2d_2b',
        'maxpool_3a conv2d_3b conv2d_4a',
        'maxpool_5a mixed_5b repeat',
        'mixed_6a repeat_1',
        'mixed_7a repeat_2 block8 conv2d_7b',
    ],
    InceptionV4Encoder: _features(3, 5, 9, 15, 22),
    # Features 2 to 4 leave within a transition, before it halves channels and size
    DenseNetEncoder: [
        ' '.join(f'features.{module}' for module in modules.split())
        for modules in (
            'conv0 norm0 relu0',
            'pool0 denseblock1 transition1.norm transition1.relu',
            *(
                f'transition{i}.conv transition{i}.pool denseblock{i + 1} '
                f'transition{i + 1}.norm transition{i + 1}.relu'
                for i in (1, 2)
            ),
            'transition3.conv transition3.pool denseblock4 norm5',
        )
    ],
    MobileNetV2Encoder: _features(2, 4, 7, 14, 19),
}


def get_stages(encoder: nn.Module, name: str) -> list[list[str]]:
    """Find the stages of an encoder.

    Args:
        encoder: Encoder of segmentation_models_pytorch.
        name: Its name, for the message.

    Returns:
        Names of the modules of each stage, in the order that they run in. One stage per
        stride 1, 2, 4, 8, 16, 32; the first ones are empty if the encoder has no feature
        of these strides.

    Raises:
        ValueError: If the stages of this encoder are not known.
    """
    stages = _find_stages(encoder)
    if not 4 <= len(stages) <= 6:
        families = [*FAMILIES, VGGEncoder]
        smp = ', '.join(family.__name__.removesuffix('Encoder') for family in families)
        raise ValueError(
            f'encoder {name!r} has no known stages to place a mixture of experts '
            f"between; encoders of these families have: {smp}, and those of timm ('tu-') "
            'whose features are a chain of modules, like ResNet, RegNet, ConvNeXt, '
            'MobileNetV3, EfficientNet, PVTv2 or Swin'
        )
    return [[] for _ in range(6 - len(stages))] + stages


def is_channels_last(encoder: nn.Module) -> bool:
    """Whether the stages of an encoder pass on images of shape ``(B, H, W, C)``."""
    timm_model = getattr(encoder, 'model', None)
    return getattr(timm_model, 'output_fmt', None) == 'NHWC'


def _find_stages(encoder: nn.Module) -> list[list[str]]:
    """Find the stages of an encoder; none if it is of no known family."""
    if isinstance(encoder, TimmUniversalEncoder):
        return _timm_stages(encoder.model)
    if isinstance(encoder, VGGEncoder):
        modules = list(encoder.features)
        pools = [i for i, m in enumerate(modules) if isinstance(m, nn.MaxPool2d)]
        return [stage.split() for stage in _features(*pools, len(modules))]
    for family, stages in FAMILIES.items():
        if isinstance(encoder, family):
            return [stage.split() for stage in stages]
    return []


def _timm_stages(model: nn.Module) -> list[list[str]]:
    """Find the stages of timm's feature extractors that are chains of modules."""
    if isinstance(model, FeatureListNet):
        names = list(model)
        return _cut(names, model.return_layers)
    if isinstance(model, EfficientNetFeatures | MobileNetV3Features):
        names = ['conv_stem', 'bn1']
        if isinstance(model, MobileNetV3Features):
            names.append('act1')
        # Stage 0 is the stem, stage i ends with block i - 1
        ends = [names[-1], *(f'blocks.{i}' for i in range(len(model.blocks)))]
        return _cut(
            [*names, *ends[1:]],
            [ends[info['stage']] for info in model.feature_info.get_dicts()],
        )
    return []


def _cut(names: Iterable[str], ends: Iterable[str]) -> list[list[str]]:
    """Cut a chain of modules of timm after those that are named in *ends*."""
    ends = set(ends)
    stages: list[list[str]] = [[]]
    for name in names:
        stages[-1].append(f'model.{name}')
        if name in ends:
            stages.append([])
    # Modules behind the last feature do not count
    return stages[:-1]

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Load weights of remote sensing encoders, and checkpoints of the original."""

import os
import re
from collections.abc import Mapping
from typing import Any

import torch
from segmentation_models_pytorch.encoders import TimmUniversalEncoder
from torch import Tensor, nn
from torchgeo.models import get_weight
from torchvision.models._api import WeightsEnum

from ..checkpoints import read_checkpoint
from ..checks import checked
from ..utils import check_choice
from .encoder import MoEEncoder
from .m2cd import M2CD
from .moe import Experts

StateDict = Mapping[str, Any]

#: Encoders whose original checkpoints can be loaded.
ORIGINAL_ENCODERS = tuple(f'mit_b{i}' for i in range(6))

# From the original's names of the parameters of a Mix Transformer to those of SMP, in
# order; {stage} counts from 1
_BACKBONE = (
    (r'^0\.projection\.', 'patch_embed{stage}.proj.'),
    (r'^0\.', 'patch_embed{stage}.'),
    (r'^1\.', 'block{stage}.'),
    (r'^2\.', 'norm{stage}.'),
    (r'\.attn\.attn\.out_proj\.', '.attn.proj.'),
    (r'\.attn\.attn\.in_proj_', '.attn.qkv.'),
    (r'\.ffn\.layers\.0\.', '.mlp.fc1.'),
    (r'\.ffn\.layers\.1\.', '.mlp.dwconv.dwconv.'),
    (r'\.ffn\.layers\.4\.', '.mlp.fc2.'),
)
_EXPERTS = (
    (r'^w_gate\.cosine_projector\.', 'gate.proj.'),
    (r'^w_gate\.sim_matrix$', 'gate.experts'),
    (r'^w_gate\.temperature$', 'gate.temperature'),
    (r'^w_gate$', 'gate.weight'),
    (r'^w_noise$', 'noise.weight'),
)
_HEAD = (
    (r'^conv_seg\.', 'segmentation_head.conv.'),
    (r'^convs\.(\d+)\.conv\.', r'decoder.project.\1.0.'),
    (r'^convs\.(\d+)\.bn\.', r'decoder.project.\1.1.'),
    (r'^fusion_conv\.conv\.', 'decoder.fuse.'),
    (r'^fusion_conv\.bn\.', 'segmentation_head.norm.'),
)


@checked
def load_original(
    state_dict_or_path: StateDict | str | os.PathLike[str], encoder_name: str
) -> M2CD:
    """Make a model from a checkpoint of the original implementation.

    The model computes the same function. Two classes become two channels of logits.

    Args:
        state_dict_or_path: State dict, or path of a checkpoint, which is read with
            ``weights_only=True``. A state dict may be wrapped as mmengine does.
        encoder_name: Its Mix Transformer, one of ``'mit_b0'`` to ``'mit_b5'``.

    Returns:
        The model, in evaluation mode.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no checkpoint, or holds more than weights, the
            encoder is another one, or a parameter is missing, surplus or of another
            shape.
    """
    check_choice('encoder', encoder_name, ORIGINAL_ENCODERS)
    source = _read(state_dict_or_path)
    classes = len(source.get('decode_head.conv_seg.bias', (0, 0)))
    linear_gate = 'backbone.ccs.0.w_gate' in source
    experts = {
        match[1]
        for match in (re.match(r'backbone\.ccs\.0\.experts\.(\d+)', k) for k in source)
        if match
    }
    model: M2CD = M2CD(
        encoder_name,
        classes=classes,
        experts=Experts(
            num_experts=max(len(experts), 2), gate='linear' if linear_gate else 'cosine'
        ),
    )
    load_strictly(model, _convert(source), 'the checkpoint of the original')
    model.eval()
    return model


@checked
def load_encoder_weights(
    encoder: MoEEncoder,
    weights: WeightsEnum | str,
    second: WeightsEnum | str | None = None,
) -> None:
    """Start an encoder from the pretrained weights of a sensor, or of two.

    Made for TorchGeo's ResNets, which are pretrained on Sentinel-1 and Sentinel-2.
    The experts keep their random weights.

    Args:
        encoder: Encoder whose backbone is of the same architecture.
        weights: Weight enum of TorchGeo, its name, or the path of a checkpoint of
            TorchGeo's or of a state dict.
        second: Weights whose stem the second image takes, if that image has one of its
            own.

    Raises:
        ValueError: If there are no such weights, if *second* is given but there is no
            second stem, or if a parameter is missing, surplus or of another shape.
    """
    state_dict, name = _resolve(weights)
    prefix = 'model.' if isinstance(encoder.backbone, TimmUniversalEncoder) else ''
    heads = [k for k in state_dict if k.split('.')[0] in ('fc', 'head', 'classifier')]
    state_dict = {prefix + k: v for k, v in state_dict.items() if k not in heads}
    load_strictly(encoder.backbone, state_dict, name)
    if second is None:
        return

    if encoder.second_stem is None:
        raise ValueError(
            f'weights {second} are for the second image, which has no stem of its own: '
            'in_channels must be a pair'
        )
    state_dict, name = _resolve(second)
    starts = [name.removeprefix(prefix) + '.' for name in encoder.stem_names]
    load_strictly(
        encoder.second_stem,
        {
            f'{i}.{key.removeprefix(start)}': value
            for i, start in enumerate(starts)
            for key, value in state_dict.items()
            if key.startswith(start)
        },
        name,
    )


def load_strictly(module: nn.Module, state_dict: StateDict, source: str) -> None:
    """Load a state dict, or say in few words what does not fit.

    Args:
        module: Module to load it into.
        state_dict: Parameters and buffers by name.
        source: What they are of, for the message.

    Raises:
        ValueError: If one is missing, surplus or of another shape.
    """
    own = module.state_dict()
    problems = [f'{key} is missing' for key in own.keys() - state_dict.keys()]
    problems += [f'{key} is surplus' for key in state_dict.keys() - own.keys()]
    problems += [
        f'{key} has shape {tuple(state_dict[key].shape)}, expected {tuple(own[key].shape)}'
        for key in own.keys() & state_dict.keys()
        if own[key].shape != state_dict[key].shape
    ]
    if problems:
        shown = sorted(problems)[:5]
        more = f' and {len(problems) - 5} more' if len(problems) > 5 else ''
        raise ValueError(f'{source} does not fit: {", ".join(shown)}{more}')
    # Not the override of some encoders, which changes the state dict
    nn.Module.load_state_dict(module, state_dict)


def _read(source: Any) -> StateDict:
    """Read a state dict, or unwrap one."""
    path = source if isinstance(source, str | os.PathLike) else None
    if path is not None:
        source = read_checkpoint(path, 'weights')
    while isinstance(source, Mapping) and 'state_dict' in source:
        source = source['state_dict']
    if not isinstance(source, Mapping) or not all(
        isinstance(value, Tensor) for value in source.values()
    ):
        name = 'the checkpoint' if path is None else os.fspath(path)
        raise ValueError(f'{name} holds no state dict')
    return source


def _resolve(weights: WeightsEnum | str) -> tuple[dict[str, Tensor], str]:
    """Find pretrained weights, and how to call them in messages."""
    if isinstance(weights, str) and os.path.exists(weights):
        state_dict = dict(_read(weights))
        # TorchGeo's tasks have other parameters beside those of the model
        model = {
            key.removeprefix('model.'): value
            for key, value in state_dict.items()
            if key.startswith('model.')
        }
        return model or state_dict, weights
    enum = get_weight(weights) if isinstance(weights, str) else weights
    state_dict = enum.get_state_dict(progress=True, check_hash=True, weights_only=True)
    return dict(state_dict), str(enum)


def _rename(key: str, rules: tuple[tuple[str, str], ...], stage: int = 0) -> str:
    for pattern, replacement in rules:
        key = re.sub(pattern, replacement.replace('{stage}', str(stage)), key)
    return key


def _convert(source: StateDict) -> dict[str, Tensor]:
    """Rename and reshape the parameters of the original."""
    converted: dict[str, Tensor] = {}
    experts: dict[str, dict[int, Tensor]] = {}
    for key, value in source.items():
        part, _, rest = key.partition('.')
        if match := re.match(r'layers\.(\d+)\.(.+)', rest):
            name = _rename(match[2], _BACKBONE, stage=int(match[1]) + 1)
            name = f'encoder.backbone.{name}'
            if '.qkv.' in name:
                channels = len(value) // 3
                converted[name.replace('.qkv.', '.q.')] = value[:channels]
                converted[name.replace('.qkv.', '.kv.')] = value[channels:]
                continue
            if re.search(r'\.mlp\.fc\d\.weight$', name):
                value = value.flatten(1)  # a 1x1 convolution there
        elif match := re.match(r'ccs\.(\d+)\.(.+)', rest):
            name = f'encoder.moe.{int(match[1]) + 1}.{_rename(match[2], _EXPERTS)}'
            if match[2] in ('mean', 'std'):
                continue  # constants of the standard normal distribution
            if match[2] == 'w_noise' or match[2] == 'w_gate':
                value = value.T
            if expert := re.match(
                r'experts\.(\d+)\.pointwise_conv(\d)\.(\w+)', match[2]
            ):
                stem = f'encoder.moe.{int(match[1]) + 1}'
                stacked = experts.setdefault(f'{stem}.fc{expert[2]}.{expert[3]}', {})
                stacked[int(expert[1])] = value
                continue
        elif part == 'decode_head':
            name = _rename(rest, _HEAD)
        else:
            name = key
        converted[name] = value
    for name, values in experts.items():
        if len({value.shape for value in values.values()}) > 1:
            raise ValueError(f'the experts that make {name} have different shapes')
        converted[name] = torch.stack([values[e] for e in sorted(values)])
    return converted

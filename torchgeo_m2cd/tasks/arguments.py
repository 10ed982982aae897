# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Checks of a task's arguments and batches."""

import inspect
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import timm
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torchgeo.datasets.utils import Sample
from torchvision.models._api import WeightsEnum

from ..configurable import plain
from ..models import M2CD, M2CD_Weights, ThresholdRule, get_weight
from ..models.encoder import check_encoder
from ..models.pretrained import agree_on_architecture
from ..utils import check_choice

#: Names of the models.
Model = Literal[
    'm2cd',
    'unet',
    'deeplabv3+',
    'fcn',
    'upernet',
    'segformer',
    'dpt',
    'fcsiamdiff',
    'fcsiamconc',
    'changevit',
    'btc',
    'threshold',
]

#: Kinds of labels.
Task = Literal['binary', 'multiclass', 'multilabel']

#: Supervised losses.
Loss = Literal['ce', 'bce', 'jaccard', 'focal', 'dice']

# Arguments of M2CD that the task sets itself, or that its losses do not allow
_TAKEN = (
    'encoder_name',
    'encoder_weights',
    'in_channels',
    'classes',
    'activation',
    'inputs',
)

# Keys of model_args by model; other models have none
_MODEL_ARGS: dict[str, set[str]] = {
    'm2cd': inspect.signature(M2CD).parameters.keys() - set(_TAKEN),
    'fcn': {'num_filters'},
    'threshold': inspect.signature(ThresholdRule).parameters.keys() - {'inputs'},
}


def check_arguments(arguments: Mapping[str, Any], weights: Any) -> None:
    """Check that the arguments of a task are known and fit each other.

    Args:
        arguments: Arguments of
            :class:`~torchgeo_m2cd.tasks.ChangeDetectionTask`, except *weights*.
        weights: Its *weights*.

    Raises:
        ValueError: If an argument is unknown or does not fit another one.
    """
    model, task, loss = (arguments[name] for name in ('model', 'task', 'loss'))
    _check_model(arguments)
    if model == 'threshold' and (task != 'binary' or weights):
        raise ValueError(
            f"model 'threshold' got task={task!r} and weights={weights!r}: expected "
            "task='binary', as the rule knows flood only, and weights=None"
        )
    number = {'multiclass': 'num_classes', 'multilabel': 'num_labels'}.get(task)
    if number and arguments[number] is None:
        raise ValueError(f'task={task!r} needs {number}')
    if loss == ('bce' if task == 'multiclass' else 'ce'):
        raise ValueError(f'loss={loss!r} does not fit task={task!r}')
    if arguments['ohem'] is not None and loss not in ('bce', 'ce'):
        raise ValueError(f"ohem needs loss 'bce' or 'ce', got {loss!r}")
    if arguments['rule_target'] is not None and (task, loss) != ('binary', 'bce'):
        raise ValueError(
            f"rule_target got task={task!r} and loss={loss!r}: expected task='binary' and "
            "loss='bce'"
        )
    if arguments['init_from'] is not None and weights:
        raise ValueError(
            f'weights is {weights!r}, but init_from replaces all weights: expected only '
            'one of them'
        )


def _check_model(arguments: Mapping[str, Any]) -> None:
    """Check the arguments that depend on the model."""
    model, backbone = arguments['model'], arguments['backbone']
    given = arguments['model_args'] or {}
    for key in given:
        check_choice(
            'key of model_args', key, sorted(set().union(*_MODEL_ARGS.values()))
        )
    unused = sorted(given.keys() - model_args(arguments).keys())
    if arguments['o2sp'] is not None and model != 'm2cd':
        unused.append('o2sp')
    if unused:
        # A warning only: a baseline is one changed key of a config away
        rank_zero_warn(f'{", ".join(unused)} not used: model is {model!r}')
    if model == 'btc' and largest(arguments['in_channels']) != 3:
        raise ValueError(
            f"model 'btc' needs in_channels=3, got {arguments['in_channels']}"
        )
    if model == 'changevit' and not timm.is_model(backbone):
        check_choice('backbone', backbone, timm.list_models('vit_*'))
    if model not in ('m2cd', 'fcn', 'changevit', 'btc', 'threshold'):
        check_encoder(backbone)


def find_weights(weights: Any, model: str) -> Any:
    """Find the initial weights of a task by their names.

    Args:
        weights: Argument *weights* of
            :class:`~torchgeo_m2cd.tasks.ChangeDetectionTask`.
        model: Its *model*.

    Returns:
        The same, with weight enums in place of their names, and a list for a pair.

    Raises:
        ValueError: If there are no weights of a name, and no such file, or if they are
            not for this model.
    """
    if isinstance(weights, Sequence) and not isinstance(weights, str):
        if model != 'm2cd':
            raise ValueError(
                f"weights may be a pair for model='m2cd' only, got {weights}"
            )
        pair = [find_weights(name, model) for name in weights]
        if any(isinstance(own, M2CD_Weights) for own in pair):
            raise ValueError(
                f'weights are {pair}: expected those of encoders in a pair, and those of '
                'a whole model alone'
            )
        return pair
    if isinstance(weights, str) and not os.path.exists(weights):
        weights = _get_weight(weights)
    if isinstance(weights, M2CD_Weights) and model != 'm2cd':
        raise ValueError(f"weights {weights} are of M²CD: expected model='m2cd'")
    return weights


def _get_weight(name: str) -> WeightsEnum:
    """Find weights by their name."""
    try:
        return get_weight(name)
    except ValueError as error:
        raise ValueError(
            f'weights {name!r} are neither a file nor known: expected True for ImageNet '
            "weights, the path of a checkpoint, or a name like 'M2CD_Weights.DEFAULT' or "
            "'ResNet18_Weights.SENTINEL2_RGB_MOCO'"
        ) from error


def complete(arguments: Mapping[str, Any], weights: Any) -> dict[str, Any]:
    """Complete the arguments that say how a model is built.

    Args:
        arguments: Arguments of a task; None is not given.
        weights: Output of :func:`find_weights`.

    Returns:
        *backbone*, *in_channels* and *model_args*: those that are given, and otherwise
        those of the weights of a whole model, or the defaults.

    Raises:
        ValueError: If those that are given are not those of the weights.
    """
    names = ('backbone', 'in_channels')
    given = {k: arguments[k] for k in names if arguments[k] is not None}
    args = arguments['model_args']
    if not isinstance(weights, M2CD_Weights):
        return {'backbone': 'mit_b1', 'in_channels': 3, **given, 'model_args': args}
    backbone = given.pop('backbone', None)
    own = agree_on_architecture(weights, {**given, **(args or {})})
    if backbone not in (None, own['encoder_name']):
        raise ValueError(
            f'backbone is {backbone!r}, but that of {weights} is '
            f'{own["encoder_name"]!r}: leave it out, or train without these weights'
        )
    return {
        'backbone': own['encoder_name'],
        'in_channels': own['in_channels'],
        'model_args': {k: v for k, v in own.items() if k in _MODEL_ARGS['m2cd']},
    }


def model_args(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the *model_args* of a task that are those of its model.

    Args:
        arguments: Arguments of the task.

    Returns:
        Arguments by name.
    """
    known = _MODEL_ARGS.get(arguments['model'], ())
    given = arguments['model_args'] or {}
    return {name: value for name, value in given.items() if name in known}


def check_channels(
    channels: tuple[int, int], in_channels: int | Sequence[int], model: str
) -> None:
    """Check that a model was made for the channels of its inputs.

    Args:
        channels: Channels of the optical and of the SAR image.
        in_channels: Bands per image, or those of each.
        model: Name of the model.

    Raises:
        ValueError: If it was made for others.
    """
    expected: list[int | list[int]] = [max(channels)]
    if model == 'm2cd':
        expected.append(list(channels))
    if plain(in_channels) not in expected:
        optical, sar = channels
        raise ValueError(
            f'in_channels is {in_channels}, but the inputs have {optical} optical and '
            f'{sar} SAR channels: expected {" or ".join(map(str, expected))}'
        )


def check_batch(batch: Sample, in_channels: int | Sequence[int], shown: bool) -> None:
    """Check that the image pairs of a batch are what the model was made for.

    Args:
        batch: Batch with ``image``, shape ``(B, 2, C, H, W)``.
        in_channels: Bands per image, or those of each.
        shown: Whether the images must have been shown by
            :class:`~torchgeo_m2cd.transforms.Inputs`.

    Raises:
        ValueError: If they were not, or have another number of channels.
    """
    if shown and 'source' not in batch:
        raise ValueError(
            'the batch has no `source`, so its images are in source units: expected '
            'inputs.show(batch) of the task, or torchgeo_m2cd.predict.predict_pair'
        )
    channels = batch['image'].shape[-3]
    if channels != largest(in_channels):
        raise ValueError(
            f'in_channels is {in_channels}, but images have {channels} channels: '
            'expected as many, or as the image with more bands'
        )


def check_labels(mask: Tensor, num_classes: int, ignore_index: int | None) -> None:
    """Check that masks have only the classes that the model was made for.

    Args:
        mask: Masks of any shape.
        num_classes: Number of classes, 2 for binary masks.
        ignore_index: Value of pixels that do not count.

    Raises:
        ValueError: If they have others.
    """
    found = [label for label in torch.unique(mask).tolist() if label != ignore_index]
    if found and not 0 <= found[0] <= found[-1] < num_classes:
        raise ValueError(
            f'masks have the labels {found}: expected 0 to {num_classes - 1}'
            + (
                ''
                if ignore_index is None
                else f', or {ignore_index} for pixels to ignore'
            )
        )


def check_training(task: LightningModule) -> None:
    """Check that a task can be trained, with the optimizer that it was made with.

    Args:
        task: The task.

    Raises:
        ValueError: If its model has no weights to train, or ``optimizer`` was given on
            the command line or in a config.
    """
    if task.hparams['model'] == 'threshold':
        raise ValueError(
            "model is 'threshold', a rule without weights to train: expected validate, "
            'test or predict, without a checkpoint'
        )
    # LightningCLI puts a method of its own on the object
    if 'configure_optimizers' in vars(task):
        raise ValueError(
            'optimizer and lr_scheduler would replace model.lr and model.optimization: '
            'expected only the latter'
        )


def warn_of_random(task: LightningModule) -> None:
    """Warn if a frozen encoder keeps random weights.

    Args:
        task: The task to train.
    """
    if task.hparams['freeze_backbone'] and task.is_random:
        rank_zero_warn(
            'freeze_backbone is True, but the encoder has random weights and keeps them: '
            'expected weights, such as True for ImageNet, or init_from'
        )


def largest(in_channels: int | Sequence[int]) -> int:
    """Return the number of channels of a sample: that of the image with more bands.

    Args:
        in_channels: Bands of both images, or of each.

    Returns:
        The larger number.
    """
    return in_channels if isinstance(in_channels, int) else max(in_channels)

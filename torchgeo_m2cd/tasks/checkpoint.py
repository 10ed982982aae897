# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Whether a checkpoint fits a task."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torchgeo.tasks import BaseTask

from ..configurable import plain

#: Start of the names of a model's parameters: the criterion may have weights, too.
MODEL_PREFIX = 'model.'

#: Arguments of the task that change what its model computes.
ARCHITECTURE = (
    'model',
    'backbone',
    'in_channels',
    'num_classes',
    'num_labels',
    'model_args',
)


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read the checkpoint of another run, with the weights of its model only.

    Args:
        path: Path of the checkpoint.

    Returns:
        The checkpoint.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no checkpoint of Lightning.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f'init_from {path!r} is not a file: expected the checkpoint of a run'
        )
    checkpoint: dict[str, Any] = torch.load(path, map_location='cpu', weights_only=True)
    if 'state_dict' not in checkpoint:
        raise ValueError(
            f'init_from {path!r} has no state_dict: expected a checkpoint of Lightning'
        )
    weights = checkpoint['state_dict'].items()
    kept = {key: value for key, value in weights if key.startswith(MODEL_PREFIX)}
    return {**checkpoint, 'state_dict': kept}


def check_fits(task: BaseTask, checkpoint: Mapping[str, Any], prefix: str = '') -> None:
    """Check that a checkpoint has the parameters of a task.

    Warns if it has, but was saved with other arguments of the model, such as the number
    of experts that a token goes to.

    Args:
        task: The task.
        checkpoint: The checkpoint.
        prefix: Start of the names of the parameters to compare.

    Raises:
        ValueError: If the checkpoint is of another architecture.
    """
    own = {
        key: value.shape
        for key, value in task.state_dict().items()
        if key.startswith(prefix)
    }
    other = {key: value.shape for key, value in checkpoint['state_dict'].items()}
    saved = checkpoint.get('hyper_parameters', {})
    differences = [
        f'{name} is {task.hparams[name]!r}, in the checkpoint {saved[name]!r}'
        for name in ARCHITECTURE
        if name in saved
        # An empty model_args is none
        and (plain(task.hparams[name]) or None) != (plain(saved[name]) or None)
    ]
    if own == other:
        if differences:
            rank_zero_warn(f'the checkpoint fits, but {"; ".join(differences)}')
        return
    keys = sorted(k for k in own.keys() | other.keys() if own.get(k) != other.get(k))
    raise ValueError(
        'the checkpoint is of another architecture: '
        + '; '.join([*differences, f'{len(keys)} parameters differ: {keys[0]}, …'])
    )

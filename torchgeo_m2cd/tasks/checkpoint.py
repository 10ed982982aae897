# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Checkpoints of tasks, and whether they fit."""

import inspect
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torchgeo.tasks import BaseTask

from ..checkpoints import read_checkpoint
from ..configurable import plain
from ..utils import check_choice
from .finite import check_weights

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

_VERSION = 'pytorch-lightning_version'

#: Keys that Lightning adds to the arguments of a task.
LIGHTNING_KEYS = ('_class_path', '_instantiator')

# Arguments of which a checkpoint has no need, and Lightning's keys
_START = ('weights', 'init_from', *LIGHTNING_KEYS)


def rebuild[Task: BaseTask](path: str, argument: str, task: type[Task]) -> Task:
    """Make a task like the one that a checkpoint is of, with its weights.

    Args:
        path: Path of the checkpoint.
        argument: What it was given as, for messages.
        task: Class of the task. The checkpoint names one, too, but must not import it.

    Returns:
        The task.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read.
        ValueError: If it is no checkpoint of such a task.
    """
    checkpoint = read_task(path, argument, task)
    known = inspect.signature(task).parameters
    # A subclass with **kwargs passes arguments on, and Python refuses unknown ones
    passes_on = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for key in () if passes_on else checkpoint['hyper_parameters']:
        try:
            check_choice(f'argument of {task.__name__}', key, known)
        except ValueError as error:
            raise ValueError(f'{argument} {path!r} has an {error}') from error
    try:
        made = task(**checkpoint['hyper_parameters'])
        made.on_load_checkpoint(checkpoint)
        made.load_state_dict(checkpoint['state_dict'])
    except Exception as error:  # Arguments of other types may raise anything
        raise ValueError(
            f'{argument} {path!r} is not the checkpoint of a {task.__name__}: {error}'
        ) from error
    return made


def read_task(path: str, argument: str, task: type[BaseTask]) -> dict[str, Any]:
    """Read the checkpoint of a task.

    Args:
        path: Path of the checkpoint.
        argument: What it was given as, for messages.
        task: Class of the task.

    Returns:
        The checkpoint. Arguments that would read other files are left out.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read.
        ValueError: If it is no checkpoint of such a task.
    """
    checkpoint = read_checkpoint(path, argument)
    try:
        _check_content(checkpoint, task)
    except ValueError as error:
        raise ValueError(f'{argument} {path!r} {error}') from error
    arguments = checkpoint['hyper_parameters']
    kept = {key: value for key, value in arguments.items() if key not in _START}
    return {**checkpoint, 'hyper_parameters': kept}


def _check_content(checkpoint: Any, task: type[BaseTask]) -> None:
    """Check that a checkpoint has the parts of a task's."""
    parts = checkpoint if isinstance(checkpoint, Mapping) else {}
    kinds = {'state_dict': Mapping, 'hyper_parameters': Mapping, _VERSION: str}
    missing = [k for k, kind in kinds.items() if not isinstance(parts.get(k), kind)]
    if missing:
        raise ValueError(
            f'has no {" and no ".join(missing)}: expected a checkpoint of {task.__name__}'
        )
    if not all(
        isinstance(value, Tensor) for value in checkpoint['state_dict'].values()
    ):
        raise ValueError('has other values than tensors in state_dict')


def model_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights of the model of a checkpoint.

    Args:
        checkpoint: The checkpoint.

    Returns:
        Weights by name, without those of losses and metrics.
    """
    saved = checkpoint['state_dict'].items()
    return {key: value for key, value in saved if key.startswith(MODEL_PREFIX)}


def check_fits(task: BaseTask, checkpoint: Mapping[str, Any], prefix: str = '') -> None:
    """Check that a checkpoint has the parameters of a task.

    Warns if it has, but was saved with other arguments of the model, such as the number
    of experts that a token goes to.

    Args:
        task: The task.
        checkpoint: The checkpoint.
        prefix: Start of the names of the parameters to compare.

    Raises:
        ValueError: If the checkpoint is of another architecture, or has NaN or infinite
            values.
    """
    own, other = (
        {key: value.shape for key, value in weights.items() if key.startswith(prefix)}
        for weights in (task.state_dict(), checkpoint['state_dict'])
    )
    saved = checkpoint.get('hyper_parameters', {})
    differences = [
        f'{name} is {task.hparams[name]!r}, in the checkpoint {saved[name]!r}'
        for name in ARCHITECTURE
        if name in saved
        # An empty model_args is none
        and (plain(task.hparams[name]) or None) != (plain(saved[name]) or None)
    ]
    if own == other:
        check_weights(checkpoint['state_dict'])
        if differences:
            rank_zero_warn(f'the checkpoint fits, but {"; ".join(differences)}')
        return
    keys = sorted(k for k in own.keys() | other.keys() if own.get(k) != other.get(k))
    raise ValueError(
        'the checkpoint is of another architecture: '
        + '; '.join([*differences, f'{len(keys)} parameters differ: {keys[0]}, …'])
    )

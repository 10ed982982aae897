# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Tasks that are ready to predict."""

import os

from torchgeo.datasets.utils import Path

from ..checks import checked
from ..models import M2CD, M2CD_Weights, get_weight
from .arguments import model_args
from .change import ChangeDetectionTask
from .checkpoint import rebuild


@checked
def load_task(weights: M2CD_Weights | Path) -> ChangeDetectionTask:
    """Make a task that can predict.

    Args:
        weights: Released weights or their name, the path of a checkpoint of a
            :class:`~torchgeo_m2cd.tasks.ChangeDetectionTask`, the folder of
            :meth:`M2CD.save_pretrained <torchgeo_m2cd.models.M2CD.save_pretrained>`, or
            ``'threshold'`` for the rule, which has no weights.

    Returns:
        The task, which knows what its model is shown unless a checkpoint does not say so.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        OSError: If released weights cannot be fetched from the hub.
        ValueError: If there are no weights of this name, or the file is no such
            checkpoint.
    """
    if weights == 'threshold':
        return ChangeDetectionTask(model='threshold')
    if not isinstance(weights, M2CD_Weights):
        name = os.path.expanduser(weights)
        if os.path.exists(name):
            return _read(name)
        if name in M2CD_Weights.__members__:
            name = f'{M2CD_Weights.__name__}.{name}'
        if not name.startswith(f'{M2CD_Weights.__name__}.'):
            raise FileNotFoundError(
                f'weights {name!r} do not exist: expected the path of a checkpoint, the '
                "folder of a saved model, a name such as 'M2CD_Weights.DEFAULT', or "
                "'threshold'"
            )
        weights = get_weight(name)
    return ChangeDetectionTask(weights=weights)


def _read(path: str) -> ChangeDetectionTask:
    """Read a checkpoint, or the folder of a saved model."""
    if not os.path.isdir(path):
        return rebuild(path, 'weights', ChangeDetectionTask)
    try:
        return _wrap(M2CD.from_pretrained(path, local_files_only=True))
    except (PermissionError, ValueError):
        raise
    except Exception as error:  # A folder of another kind may raise anything
        raise ValueError(
            f'weights {path!r} is not the folder of a model that save_pretrained has '
            f'written: {error}'
        ) from error


def _wrap(model: M2CD) -> ChangeDetectionTask:
    """Make the task of a model."""
    config, classes = model.config, model.config['classes']
    if config['activation'] is not None:
        raise ValueError(
            f'the model has the activation {config["activation"]!r}: expected None, as '
            'tasks take logits'
        )
    task = ChangeDetectionTask(
        backbone=config['encoder_name'],
        in_channels=config['in_channels'],
        model_args=model_args({'model': 'm2cd', 'model_args': config}),
        task='binary' if classes == 1 else 'multiclass',
        num_classes=None if classes == 1 else classes,
        loss='bce' if classes == 1 else 'ce',
    )
    task.model = model
    if model.inputs is not None:
        task.take_inputs(model.inputs)
    return task

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Metrics of change detection."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import (
    Accuracy,
    F1Score,
    JaccardIndex,
    Precision,
    Recall,
)
from torchmetrics.wrappers import ClasswiseWrapper

_METRICS: Mapping[str, Any] = {
    'IoU': JaccardIndex,
    'F1': F1Score,
    'Precision': Precision,
    'Recall': Recall,
}


def make_metrics(
    task: str,
    num_classes: int | None = None,
    num_labels: int | None = None,
    labels: Sequence[str] | None = None,
    ignore_index: int | None = None,
    threshold: float = 0.5,
) -> MetricCollection:
    r"""Make the metrics of a task.

    With the pixels of a class that are true positives :math:`TP`, false positives
    :math:`FP` and false negatives :math:`FN`:

    * ``IoU``: :math:`\frac{TP}{TP + FP + FN}`
    * ``F1``: :math:`\frac{2 TP}{2 TP + FP + FN}`
    * ``Precision``: :math:`\frac{TP}{TP + FP}`
    * ``Recall``: :math:`\frac{TP}{TP + FN}`
    * ``Accuracy``: share of all pixels (and labels) that are right

    The first four are those of the class *change* in a binary task. Otherwise they are
    the means over the classes or labels, and each class or label also has its own, for
    example ``IoU_flood``.

    Args:
        task: ``'binary'``, ``'multiclass'`` or ``'multilabel'``.
        num_classes: Number of classes (only for ``'multiclass'``).
        num_labels: Number of labels (only for ``'multilabel'``).
        labels: Names of the classes or labels (defaults to their indices).
        ignore_index: Value of pixels that do not count.
        threshold: Probability from which on a pixel has a class or label (not for
            ``'multiclass'``).

    Returns:
        The metrics.
    """
    kwargs: dict[str, Any] = {
        'task': task,
        'num_classes': num_classes,
        'num_labels': num_labels,
        'ignore_index': ignore_index,
        'threshold': threshold,
    }
    metrics: dict[str, Metric | MetricCollection] = {
        'Accuracy': Accuracy(average='micro', **kwargs)
    }
    for name, metric in _METRICS.items():
        metrics[name] = metric(average='macro', **kwargs)
        if task != 'binary':
            metrics[f'{name} of each'] = ClasswiseWrapper(
                metric(average='none', **kwargs),
                labels=None if labels is None else list(labels),
                prefix=f'{name}_',
            )
    return MetricCollection(metrics)


def to_probabilities(logits: Tensor, task: str) -> Tensor:
    """Turn logits into probabilities, in single precision.

    Args:
        logits: Logits, shape ``(B, C, ...)``.
        task: ``'binary'``, ``'multiclass'`` or ``'multilabel'``.

    Returns:
        Probabilities, float32 of the same shape.
    """
    logits = logits.float()
    return logits.softmax(dim=1) if task == 'multiclass' else logits.sigmoid()

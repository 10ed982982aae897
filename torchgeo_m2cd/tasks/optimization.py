# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Optimizer and learning rate schedules."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from lightning.pytorch.utilities.types import (
    LRSchedulerConfigType,
    OptimizerLRScheduler,
)
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torchgeo.tasks import BaseTask

from ..checks import CountOrZero, PositiveOrZero, checked
from ..configurable import Configurable

# First learning rate of a warm-up, as a share of the full one
_WARMUP_START = 1e-6


class Schedule(Configurable, ABC):
    """How the learning rate changes in training."""

    kind: ClassVar[str] = 'schedule'

    @abstractmethod
    def configure(self, optimizer: Optimizer, task: BaseTask) -> LRSchedulerConfigType:
        """Make the scheduler of Lightning.

        Args:
            optimizer: Optimizer with the full learning rates.
            task: Task with the trainer that will fit it.

        Returns:
            Scheduler, and how Lightning steps it.

        Raises:
            ValueError: If the schedule does not fit the length of the training.
        """


class Plateau(Schedule):
    """Divide the learning rate by 10 when the validation loss stops falling.

    This is :class:`~torch.optim.lr_scheduler.ReduceLROnPlateau`, as in TorchGeo.
    """

    @checked
    def __init__(self, patience: CountOrZero = 10) -> None:
        """Initialize a new Plateau instance.

        Args:
            patience: Epochs without a lower validation loss before the learning rate is
                reduced, at least 0.

        Raises:
            ValueError: If *patience* is negative.
        """
        self.patience = patience

    def configure(self, optimizer: Optimizer, task: BaseTask) -> LRSchedulerConfigType:
        """Make the scheduler, see :meth:`Schedule.configure`."""
        scheduler = ReduceLROnPlateau(optimizer, patience=self.patience)
        return LRSchedulerConfigType(scheduler=scheduler, monitor=task.monitor)


class Decay(Schedule):
    """Base class of schedules that end at zero when the training ends.

    The learning rate depends on the time and on the length of the training, and on
    nothing else. The length is that of the trainer. A run that is resumed with more
    epochs goes on with the rates of the longer schedule.
    """

    @checked
    def __init__(
        self, interval: Literal['epoch', 'step'], warmup_steps: CountOrZero
    ) -> None:
        """Initialize a new Decay instance.

        Args:
            interval: Whether time is counted in epochs or in steps of the optimizer.
            warmup_steps: Steps in which the learning rate first rises linearly, from a
                millionth of the full one (only for ``interval='step'``).

        Raises:
            ValueError: If *interval* is unknown or *warmup_steps* does not fit it.
        """
        if warmup_steps and interval == 'epoch':
            raise ValueError(f"warmup_steps needs interval='step', got {interval!r}")
        self.interval = interval
        self.warmup_steps = warmup_steps

    @abstractmethod
    def decay(self, progress: float) -> float:
        """Compute the learning rate after the warm-up, as a share of the full one.

        Args:
            progress: From 0, the end of the warm-up, to 1, the end of the training.

        Returns:
            From 1 to 0.
        """

    def factor(self, time: int, total: int) -> float:
        """Compute the learning rate, as a share of the full one.

        Args:
            time: Steps or epochs that are done.
            total: All steps or epochs of the training, more than the warm-up.

        Returns:
            From 0 to 1.
        """
        warmup = self.warmup_steps
        if time < warmup:
            return _WARMUP_START + (1 - _WARMUP_START) * time / warmup
        return self.decay(min((time - warmup) / (total - warmup), 1))

    def configure(self, optimizer: Optimizer, task: BaseTask) -> LRSchedulerConfigType:
        """Make the scheduler, see :meth:`Schedule.configure`."""
        total = self._length(task)
        scheduler = _Lambda(optimizer, lambda time: self.factor(time, total))
        return LRSchedulerConfigType(scheduler=scheduler, interval=self.interval)

    def _length(self, task: BaseTask) -> int:
        """Return the length of the training in steps or epochs."""
        name = type(self).__name__
        if self.interval == 'epoch':
            epochs = task.trainer.max_epochs
            if epochs is None or epochs < 1:
                raise ValueError(
                    f"{name} with interval='epoch' needs the number of epochs: expected "
                    'max_epochs of the trainer'
                )
            return epochs
        steps = task.trainer.estimated_stepping_batches
        if not 0 < steps < math.inf:
            raise ValueError(
                f'{name} needs the end of the training: expected max_steps or '
                'max_epochs of the trainer'
            )
        if self.warmup_steps >= steps:
            raise ValueError(
                f'warmup_steps is {self.warmup_steps}: expected from 0 to less than the '
                f'{steps} steps of the training'
            )
        return int(steps)


class Polynomial(Decay):
    """Linear decay to zero, step by step: a polynomial of degree 1.

    .. math:: 1 - t
    """

    @checked
    def __init__(self, warmup_steps: CountOrZero = 0) -> None:
        """Initialize a new Polynomial instance.

        Args:
            warmup_steps: Steps in which the learning rate first rises linearly.

        Raises:
            ValueError: If *warmup_steps* is negative.
        """
        super().__init__('step', warmup_steps)

    def decay(self, progress: float) -> float:
        """Compute the share of the learning rate, see :meth:`Decay.decay`."""
        return 1 - progress


class Cosine(Decay):
    r"""Half a period of a cosine, from the full learning rate to zero.

    .. math:: \frac{1 + \cos(\pi t)}{2}

    With epochs, this is :class:`~torch.optim.lr_scheduler.CosineAnnealingLR` with
    ``T_max`` equal to the number of epochs.

    If you use this in your research, please cite the following paper:

    * https://arxiv.org/abs/1608.03983
    """

    @checked
    def __init__(
        self,
        interval: Literal['epoch', 'step'] = 'epoch',
        warmup_steps: CountOrZero = 0,
    ) -> None:
        """Initialize a new Cosine instance.

        Args:
            interval: Whether the learning rate changes every ``'epoch'`` or every
                ``'step'``.
            warmup_steps: Steps in which the learning rate first rises linearly (only for
                ``interval='step'``).

        Raises:
            ValueError: If *interval* is unknown or *warmup_steps* does not fit it.
        """
        super().__init__(interval, warmup_steps)

    def decay(self, progress: float) -> float:
        """Compute the share of the learning rate, see :meth:`Decay.decay`."""
        return (1 + math.cos(math.pi * progress)) / 2


class Optimization(Configurable):
    """AdamW and the schedule of its learning rate.

    The defaults are those of TorchGeo. For another optimizer, subclass this, and
    override :meth:`make_optimizer`.
    """

    kind: ClassVar[str] = 'optimization'

    @checked
    def __init__(
        self,
        schedule: Schedule | Mapping[str, Any] | None = None,
        weight_decay: PositiveOrZero | None = None,
        head_lr_factor: PositiveOrZero = 1.0,
    ) -> None:
        """Initialize a new Optimization instance.

        Args:
            schedule: How the learning rate changes (defaults to :class:`Plateau`).
            weight_decay: Weight decay of all parameters except norms and biases. None is
                AdamW's default, for all parameters.
            head_lr_factor: Learning rate of everything except the encoder, as a multiple
                of the task's *lr*.

        Raises:
            ValueError: If *weight_decay* or *head_lr_factor* is negative.
        """
        self.schedule = (
            Plateau() if schedule is None else Schedule.of('schedule', schedule)
        )
        self.weight_decay = weight_decay
        self.head_lr_factor = head_lr_factor

    def make_optimizer(self, groups: list[dict[str, Any]], lr: float) -> Optimizer:
        """Make the optimizer.

        Args:
            groups: Groups of parameters, as an optimizer takes them.
            lr: Learning rate of groups that have none of their own.

        Returns:
            The optimizer.
        """
        return AdamW(groups, lr=lr)

    def configure(self, task: BaseTask, lr: float) -> OptimizerLRScheduler:
        """Make optimizer and scheduler.

        Args:
            task: Task to train.
            lr: Learning rate of the encoder.

        Returns:
            What Lightning expects of ``configure_optimizers``.

        Raises:
            ValueError: If the schedule does not fit the length of the training, or
                *head_lr_factor* is set and the model has no encoder.
        """
        optimizer = self.make_optimizer(self._group(task, lr), lr)
        return {
            'optimizer': optimizer,
            'lr_scheduler': self.schedule.configure(optimizer, task),
        }

    def _group(self, task: BaseTask, lr: float) -> list[dict[str, Any]]:
        """Group the parameters by weight decay and learning rate."""
        groups: list[dict[str, Any]] = [{'params': list(task.parameters())}]
        if self.weight_decay is not None:
            groups = param_groups_weight_decay(task, self.weight_decay)
        if self.head_lr_factor == 1:
            return groups
        if not hasattr(task.model, 'encoder'):
            raise ValueError(
                f'head_lr_factor is {self.head_lr_factor}: expected 1, '
                f'{type(task.model).__name__} has no encoder'
            )
        encoder = set(task.model.encoder.parameters())
        split = [
            {
                **group,
                'params': [p for p in group['params'] if (p in encoder) == in_encoder],
                'lr': lr * (1 if in_encoder else self.head_lr_factor),
            }
            for group in groups
            for in_encoder in (True, False)
        ]
        # A frozen encoder leaves empty groups
        return [group for group in split if group['params']]


class _Lambda(LambdaLR):
    """A schedule whose length may change when a run is resumed."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the time, and set the learning rates that it now stands for."""
        super().load_state_dict(state_dict)
        # The optimizer was restored with the rates of the old length
        for group, rate, factor in zip(
            self.optimizer.param_groups, self.base_lrs, self.lr_lambdas, strict=True
        ):
            group['lr'] = rate * factor(self.last_epoch)

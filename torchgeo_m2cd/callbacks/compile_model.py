# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Predict with a compiled model."""

from typing import cast

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from ..models import compile_inference


def is_compiled(trainer: Trainer) -> bool:
    """Whether a trainer predicts with a compiled model."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return any(isinstance(callback, CompileModel) for callback in callbacks)


class CompileModel(Callback):
    """Compiles the model of a task before it predicts.

    See :func:`~torchgeo_m2cd.models.compile_inference`. It pays where much is predicted,
    for example the map of a country.
    """

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the task predict with a compiled model.

        Args:
            trainer: The trainer. Its data module, if any, says how large batches are.
            pl_module: A task with a ``model``.
        """
        datamodule = getattr(trainer, 'datamodule', None)
        batch_size = getattr(datamodule, 'batch_size', None) or 1
        # As Lightning does it with a whole task
        forward = compile_inference(cast(nn.Module, pl_module.model), batch_size)
        pl_module.forward = forward  # type: ignore[method-assign]

    def teardown(
        self, trainer: Trainer, pl_module: LightningModule, stage: str
    ) -> None:
        """Give the task its own model back.

        Args:
            trainer: The trainer.
            pl_module: The task.
            stage: Either 'fit', 'validate', 'test', or 'predict'.
        """
        vars(pl_module).pop('forward', None)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give the task its own model back.

        Args:
            trainer: The trainer.
            pl_module: The task.
            exception: What went wrong.
        """
        self.teardown(trainer, pl_module, 'predict')

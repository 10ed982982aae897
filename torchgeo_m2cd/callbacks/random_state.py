# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Resumed trainings see the batches that they would have seen."""

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class RandomState(Callback):
    """Saves the state of the random generators in checkpoints, and restores it.

    A training that goes on from a checkpoint of the end of an epoch then shuffles and
    augments as if it had not been interrupted. Within an epoch it does not: Lightning
    begins the order of the batches anew. With several processes, the generators are not
    restored, since a checkpoint holds those of one.
    """

    def __init__(self) -> None:
        """Initialize a new RandomState instance."""
        self._loaded: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Describe the generators of Python, NumPy and PyTorch in plain values.

        Returns:
            State by library.
        """
        kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
        return {
            'python': random.getstate(),
            'numpy': [kind, keys.tolist(), *rest],
            'torch': torch.get_rng_state(),
            # Asking for the state would start CUDA
            'cuda': torch.cuda.get_rng_state_all()
            if torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
            else [],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a state until the training begins.

        Args:
            state_dict: Output of :meth:`state_dict`.
        """
        self._loaded = state_dict

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the generators, before the first batches are drawn.

        Args:
            trainer: The trainer.
            pl_module: The task.
        """
        state, self._loaded = self._loaded, None
        if state is None or trainer.world_size > 1:
            return
        random.setstate(state['python'])
        kind, keys, *rest = state['numpy']
        np.random.set_state((kind, np.array(keys, np.uint32), *rest))  # noqa: NPY002
        torch.set_rng_state(state['torch'].cpu())
        devices = range(min(len(state['cuda']), torch.cuda.device_count()))
        for device in devices:
            torch.cuda.set_rng_state(state['cuda'][device].cpu(), device)

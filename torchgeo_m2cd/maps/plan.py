# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""What a change map is made of."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import torch
from lightning.pytorch import LightningModule, Trainer

from .. import __version__
from ..checks import Count, checked
from ..configurable import plain
from ..datasets.paths import public_path, stamp
from ..models import M2CD_Weights
from ..samplers import SceneSampler
from ..tasks.checkpoint import ARCHITECTURE
from ..transforms import Inputs

# Weights alone do not say it all: two values of `top_k` have the same
_ARGUMENTS = (*ARCHITECTURE, 'task')


@checked
@dataclasses.dataclass(frozen=True)
class MapPlan:
    """All that the probabilities of a map depend on, in plain values.

    Rows of patches of the same plan are the same, whichever run or process made them.

    Args:
        version: Version of this package.
        arguments: Arguments of the task that its architecture and the meaning of its
            outputs depend on.
        model: Names of the model, and the SHA-256 of its weights, see the
            tags of a map.
        inputs: What the model is shown, see
            :meth:`~torchgeo_m2cd.transforms.Inputs.to_dict`.
        precision: Precision of the trainer.
        compiled: Whether the model is compiled, which rounds otherwise.
        files: Path of each file, a URL without token, and size and time of modification
            of local ones.
        sources: How the files of both images are read, and which bands of them.
        shape: Height and width of the scene in pixels.
        transform: Transform from columns and rows to coordinates.
        crs: CRS of the coordinates.
        size: Height and width of a patch in pixels.
        stride: Distance between patches in pixels.
        batch_size: Patches in a batch.
        water: Whether patches also hold where water was before, as their inputs tell.
    """

    version: str
    arguments: Mapping[str, Any]
    model: Mapping[str, str]
    inputs: Mapping[str, Any]
    precision: str
    compiled: bool
    files: list[list[Any]]
    sources: list[Mapping[str, Any]]
    shape: list[Count]
    transform: list[float]
    crs: str
    size: list[Count]
    stride: list[Count]
    batch_size: Count
    water: bool

    def to_json(self, **more: Any) -> str:
        """Write the plan as text, always the same for the same plan.

        Args:
            **more: Further values to write.

        Returns:
            JSON.
        """
        return json.dumps({**dataclasses.asdict(self), **more}, sort_keys=True)

    def write(self, file: BinaryIO) -> None:
        """Write the plan to a file.

        Args:
            file: The open file.
        """
        file.write(self.to_json().encode())

    def digest(self, **more: Any) -> str:
        """Compute the SHA-256 of the plan.

        Args:
            **more: Further values that count.

        Returns:
            64 hexadecimal digits.
        """
        return hashlib.sha256(self.to_json(**more).encode()).hexdigest()


@checked
def plan_maps(
    trainer: Trainer,
    inputs: Inputs,
    samplers: Sequence[SceneSampler],
    batch_size: Count,
    compiled: bool,
) -> list[MapPlan]:
    """Plan the map of each scene.

    Args:
        trainer: Trainer with the task that predicts.
        inputs: What the model is shown.
        samplers: The scenes and their patches.
        batch_size: Patches in a batch.
        compiled: Whether the model is compiled.

    Returns:
        A plan per scene.
    """
    task = trainer.lightning_module
    model = _describe_model(task)
    arguments = {
        name: plain(task.hparams[name]) for name in _ARGUMENTS if name in task.hparams
    }
    scenes = [sampler.dataset for sampler in samplers]
    return [
        MapPlan(
            version=__version__,
            arguments=arguments,
            model=model,
            inputs=inputs.to_dict(),
            precision=str(trainer.precision),
            compiled=compiled,
            files=[[public_path(file), *stamp(file)] for file in scene.files],
            sources=[image.describe() for image in (scene.optical, scene.sar)],
            shape=list(scene.shape),
            transform=list(scene.transform)[:6],
            crs=scene.crs.to_string(),
            size=list(sampler.size),
            stride=list(sampler.stride),
            batch_size=batch_size,
            water=inputs.optical.finds_water,
        )
        for scene, sampler in zip(scenes, samplers, strict=True)
    ]


def _describe_model(task: LightningModule) -> dict[str, str]:
    """Say which model it is, down to its weights.

    Args:
        task: Task with the model.

    Returns:
        ``MODEL`` and ``WEIGHTS_SHA256``, as in the tags of a map.
    """
    hparams: dict[str, Any] = dict(task.hparams)
    words = [type(task).__name__, hparams.get('model'), hparams.get('backbone')]
    released = getattr(task, 'weights', None)
    if isinstance(released, M2CD_Weights):
        words.append(released)
    weights = hashlib.sha256()
    for value in task.state_dict().values():
        weights.update(value.cpu().reshape(-1).view(torch.uint8).numpy())
    return {
        'MODEL': ', '.join(str(word) for word in words if word),
        'WEIGHTS_SHA256': weights.hexdigest(),
    }

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Change maps in one call."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Trainer
from torchgeo.datasets.utils import Path

from .callbacks import SceneWriter
from .datamodules import SceneDataModule
from .tasks import ChangeDetectionTask


def predict_scene(
    checkpoint: Path,
    optical: Path | Sequence[Path] | None,
    sar: Path | Sequence[Path] | None,
    output: Path,
    mask: Path | None = None,
    polygons: Path | None = None,
    quicklook: Path | None = None,
    threshold: float = 0.5,
    min_area: float = 0.0,
    overwrite: bool = False,
    data_args: Mapping[str, Any] | None = None,
    trainer_args: Mapping[str, Any] | None = None,
) -> None:
    """Map the change of a scene, or of a list of scenes.

    The same as ``torchgeo predict`` with
    :class:`~torchgeo_m2cd.datamodules.SceneDataModule` and
    :class:`~torchgeo_m2cd.callbacks.SceneWriter`.

    Args:
        checkpoint: Checkpoint of a :class:`~torchgeo_m2cd.tasks.ChangeDetectionTask`.
        optical: Pre-event optical scene: one or more files, folders or patterns. None
            if *data_args* has ``scenes``.
        sar: Post-event SAR scene, likewise.
        output: GeoTIFF to write the probabilities to.
        mask: GeoTIFF to write the predicted classes to, if any.
        polygons: GeoPackage to write the outlines of what has changed to, if any.
        quicklook: PNG to draw images and probabilities to, if any.
        threshold: Probability from which on a pixel of a binary task is changed.
        min_area: Smallest area of a polygon in m².
        overwrite: Whether to replace existing files.
        data_args: Further arguments of the data module: ``{'batch_size': 4}``.
        trainer_args: Arguments of the trainer: ``{'precision': 'bf16-mixed'}``.

    Raises:
        FileExistsError: If a file exists and *overwrite* is False.
        FileNotFoundError: If the checkpoint or an image does not exist.
        RuntimeError: If a file cannot be read.
        ValueError: If an argument is unknown, or the images are not what is expected.
    """
    writer = SceneWriter(
        output, mask, polygons, quicklook, threshold, min_area, overwrite
    )
    datamodule = SceneDataModule(optical, sar, **(data_args or {}))
    task = ChangeDetectionTask.load_from_checkpoint(
        os.fspath(checkpoint), map_location='cpu', weights_only=True
    )
    trainer = Trainer(
        **{
            'logger': False,
            'enable_checkpointing': False,
            'use_distributed_sampler': False,
            **(trainer_args or {}),
            'callbacks': [*(trainer_args or {}).get('callbacks', []), writer],
        }
    )
    trainer.predict(
        task, datamodule=datamodule, ckpt_path=os.fspath(checkpoint), weights_only=True
    )

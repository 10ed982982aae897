# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Predict change maps of scenes, in one call."""

import os
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypedDict, Unpack, cast

from ..checks import PositiveOrZero, Share, checked
from ..datasets import SARSource, Source
from ..datasets.paths import Paths
from ..maps import Districts
from ..utils import Path


class MapOptions(TypedDict, total=False):
    """Further arguments of :class:`~torchgeo_m2cd.callbacks.SceneWriter`.

    Args:
        classes: GeoTIFF of the classes to write.
        polygons: Vector file of the outlines to write: ``.gpkg``, ``.geojson``, ``.shp``.
        quicklook: Picture of images and map to draw.
        stac: STAC item of the map to write.
        districts: Polygons to sum up areas in: their ``path`` and name ``attribute``.
        threshold: Least probability of a change (default: that of the weights, or 0.5).
        min_area: Smallest area in m² (default: 0).
        overwrite: Whether to replace existing files (default: false).
    """

    classes: Path | None
    polygons: Path | None
    quicklook: Path | None
    stac: Path | None
    districts: Districts | None
    threshold: Share | None
    min_area: PositiveOrZero
    overwrite: bool


@checked
def predict_scene(
    optical: Source | Paths | None = None,
    sar: SARSource | Paths | None = None,
    output: Path = 'change.tif',
    weights: Enum | Path = 'M2CD_Weights.DEFAULT',
    data_args: Mapping[str, Any] | None = None,
    trainer_args: Mapping[str, Any] | None = None,
    scenes: Path | None = None,
    compile: bool = False,
    **options: Unpack[MapOptions],
) -> dict[str, Any] | list[dict[str, Any]]:
    """Map the change of a scene, or of several scenes.

    Does what ``torchgeo predict`` does with
    :class:`~torchgeo_m2cd.datamodules.SceneDataModule` and
    :class:`~torchgeo_m2cd.callbacks.SceneWriter`.

    Args:
        optical: Pre-event optical image: its paths, or a
            :class:`~torchgeo_m2cd.datasets.Source`.
        sar: Post-event SAR image: its paths, or a
            :class:`~torchgeo_m2cd.datasets.SARSource`.
        output: GeoTIFF of the probabilities to write, beside a summary and a style for
            QGIS; or a folder, with a slash at its end, for ``{name}_change.tif``.
        weights: Released weights or their name (one of
            :class:`~torchgeo_m2cd.models.M2CD_Weights`), the checkpoint of a
            :class:`~torchgeo_m2cd.tasks.ChangeDetectionTask`, the folder of a model of
            ``save_pretrained``, or ``'threshold'``, a rule without weights.
        data_args: Further arguments of the data module, such as ``{'batch_size': 4}``.
        trainer_args: Arguments of the trainer, such as ``{'precision': 'bf16-mixed'}``.
        scenes: List of scenes to map instead of two images: a CSV file with the columns
            ``optical``, ``sar`` and, optionally, ``name``.
        compile: Whether to compile the model, for areas as large as a country.
        **options: Further arguments of :class:`~torchgeo_m2cd.callbacks.SceneWriter`: the
            files ``classes``, ``polygons``, ``quicklook`` and ``stac``, ``districts``,
            ``threshold``, ``min_area`` and ``overwrite``.

    Example:
        >>> from torchgeo_m2cd.datasets import SyntheticFlood
        >>> from torchgeo_m2cd.predict import predict_scene
        >>> files = SyntheticFlood().write_scene('scene', size=256)
        >>> summary = predict_scene(
        ...     files['optical'],
        ...     files['sar'],
        ...     'change.tif',
        ...     classes='classes.tif',
        ...     trainer_args={'enable_progress_bar': False},
        ... )
        <BLANKLINE>
        change.tif
          flooded ...
        >>> round(summary['mapped_km2'], 2)
        5.02

    Returns:
        The summary of the map, which is also in the JSON file beside it; with *scenes*,
        a list with the summary of each. ``flooded_km2`` leaves out what was water before
        the event, if the inputs of the model tell (``water_before_km2``, else None), and
        ``flooded_km2_with_water_before`` does not.

    Raises:
        FileExistsError: If a file exists and *overwrite* is False.
        FileNotFoundError: If the weights or an image do not exist.
        OSError: If the weights cannot be fetched from the hub.
        RuntimeError: If a file cannot be read.
        ValueError: If an argument is unknown, the weights are no such file, a file has a
            suffix that cannot be written, or the images do not fit the model.
    """
    # Not at the top: the command line reads the arguments above for its help, which must
    # not wait for PyTorch
    from lightning.pytorch import Trainer

    from ..callbacks import CompileModel, SceneWriter
    from ..datamodules import SceneDataModule
    from ..models import M2CD_Weights
    from ..tasks import load_task

    writer = SceneWriter(output, **options)
    datamodule = SceneDataModule(optical, sar, scenes=scenes, **(data_args or {}))
    # Before anything is read, let alone replaced
    path = None if isinstance(weights, Enum) else weights
    writer.check(datamodule, path)
    task = load_task(cast(M2CD_Weights | Path, weights))  # It checks the enumeration
    if path not in (None, 'threshold') and not isinstance(task.weights, M2CD_Weights):
        writer.checkpoint = os.path.expanduser(path)
    callbacks = [*(trainer_args or {}).get('callbacks', []), writer]
    if compile:
        callbacks.append(CompileModel())
    trainer = Trainer(
        **{
            'logger': False,
            'enable_checkpointing': False,
            'use_distributed_sampler': False,
            **(trainer_args or {}),
            'callbacks': callbacks,
        }
    )
    trainer.predict(task, datamodule=datamodule)
    return writer.summaries[0] if scenes is None else writer.summaries

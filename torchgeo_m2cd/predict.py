# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Predict change maps of scenes, or probabilities of pairs in memory, in one call."""

import math
import os
from collections.abc import Mapping
from typing import Any, TypedDict, Unpack

import numpy.typing as npt
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from segmentation_models_pytorch.base.modules import Activation
from torch import Tensor, nn
from torchgeo.datasets.utils import Path

from .callbacks import SceneWriter
from .checks import PositiveOrZero, Share, checked
from .datamodules import SceneDataModule
from .datasets import SARSource, Source, stack_pair
from .datasets.paths import Paths
from .maps import Districts
from .models import M2CD, M2CD_Weights
from .tasks import ChangeDetectionTask, load_task


class MapOptions(TypedDict, total=False):
    """Further arguments of :class:`~torchgeo_m2cd.callbacks.SceneWriter`.

    Args:
        classes: GeoTIFF of the classes to write.
        polygons: Vector file of the outlines to write: ``.gpkg``, ``.geojson``, ``.shp``.
        quicklook: Picture of images and map to draw.
        stac: STAC item of the map to write.
        districts: Polygons to sum up areas in: their ``path`` and name ``attribute``.
        threshold: Probability from which on a pixel has changed (default: that of the
            weights, or 0.5).
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
    optical: Source | Paths | None,
    sar: SARSource | Paths | None,
    output: Path = 'change.tif',
    weights: M2CD_Weights | Path = M2CD_Weights.DEFAULT,
    data_args: Mapping[str, Any] | None = None,
    trainer_args: Mapping[str, Any] | None = None,
    **options: Unpack[MapOptions],
) -> dict[str, Any] | list[dict[str, Any]]:
    """Map the change of a scene, or of several scenes.

    Does what ``torchgeo predict`` does with
    :class:`~torchgeo_m2cd.datamodules.SceneDataModule` and
    :class:`~torchgeo_m2cd.callbacks.SceneWriter`.

    Args:
        optical: Pre-event optical image: its paths, or a
            :class:`~torchgeo_m2cd.datasets.Source`. None if *data_args* has ``scenes``.
        sar: Post-event SAR image: its paths, or a
            :class:`~torchgeo_m2cd.datasets.SARSource`.
        output: GeoTIFF to write the probabilities to. A summary and a style for QGIS are
            written beside it.
        weights: Released weights or their name, the checkpoint of a
            :class:`~torchgeo_m2cd.tasks.ChangeDetectionTask`, the folder of a model of
            ``save_pretrained``, or ``'threshold'``, a rule without weights.
        data_args: Further arguments of the data module, such as ``{'batch_size': 4}``.
        trainer_args: Arguments of the trainer, such as ``{'precision': 'bf16-mixed'}``.
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
        The summary of the map, which is also in the JSON file beside it; with ``scenes``,
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
    writer = SceneWriter(output, **options)
    datamodule = SceneDataModule(optical, sar, **(data_args or {}))
    # Before anything is read, let alone replaced
    writer.check(datamodule, None if isinstance(weights, M2CD_Weights) else weights)
    task = load_task(weights)
    if not isinstance(task.weights, M2CD_Weights) and weights != 'threshold':
        writer.checkpoint = os.path.expanduser(weights)
    trainer = Trainer(
        **{
            'logger': False,
            'enable_checkpointing': False,
            'use_distributed_sampler': False,
            **(trainer_args or {}),
            'callbacks': [*(trainer_args or {}).get('callbacks', []), writer],
        }
    )
    trainer.predict(task, datamodule=datamodule)
    summaries = writer.summaries
    one = (data_args or {}).get('scenes') is None
    return summaries[0] if one else summaries


@checked
@torch.inference_mode()
def predict_pair[Array: (Tensor, npt.NDArray[Any])](
    model: ChangeDetectionTask | M2CD,
    optical: Array,
    sar: Array,
    valid: Array | None = None,
) -> Array:
    """Predict the change of an image pair in memory.

    Takes images in source units: the model knows how to turn them into its inputs.

    Args:
        model: A trained task, from
            ``ChangeDetectionTask.load_from_checkpoint('best.ckpt')`` for example, or a
            model, from ``M2CD.from_pretrained`` for example.
        optical: Pre-event optical image, shape (C, H, W), (H, W, C) or (H, W), with the
            bands in the order of ``model.inputs.bands``.
        sar: Post-event SAR image, shape (C, H, W), (H, W, C) or (H, W). The number of
            bands may differ from that of *optical*.
        valid: Pixels with data, shape (H, W) (defaults to where all values are finite).

    Example:
        >>> import torch
        >>> from torchgeo_m2cd.predict import predict_pair
        >>> from torchgeo_m2cd.tasks import load_task
        >>> task = load_task('M2CD_Weights.DEFAULT')
        >>> task.inputs.band_names
        (['B08'], ['VV'])
        >>> predict_pair(
        ...     task, torch.rand(1, 64, 64) * 3000, torch.rand(1, 64, 64) - 20
        ... ).shape
        torch.Size([64, 64])

    Returns:
        Probability of change, float32, shape (H, W), or of each class or label, shape
        (classes, H, W), in the memory of the CPU. NaN where an image has no data. The
        classes of a model that is no task exclude each other.

    Raises:
        ValueError: If the model has no inputs, or an image does not have the expected
            shape and number of bands.
    """
    inputs = model.inputs
    if inputs is None:
        raise ValueError(
            f'{type(model).__name__} has no inputs, that is, it does not know units and '
            'statistics: expected a model of a checkpoint of this version, or '
            'model.inputs = Inputs(...) with the values of its training'
        )
    arrays = (optical, sar)
    pair = [
        _channels_first(name, torch.as_tensor(array).cpu(), bands)
        for name, array, bands in zip(
            ('optical', 'sar'), arrays, inputs.band_counts, strict=True
        )
    ]
    image = stack_pair(*pair)[None]
    known = image.isfinite().all(dim=2).all(dim=1, keepdim=True)
    if valid is not None:
        given = torch.as_tensor(valid).cpu().bool()
        if given.shape != known.shape[2:]:
            raise ValueError(
                f'valid has shape {tuple(given.shape)}: expected {tuple(known.shape[2:])}'
            )
        known &= given
    image = torch.where(known.unsqueeze(1), image, 0)
    known = inputs.valid(image, known)
    reference = inputs.measure(image, known)
    # Pad to a multiple of 32, the stride of encoders
    height, width = image.shape[-2:]
    edges = (0, -width % 32, 0, -height % 32)
    device = next(model.parameters()).device
    shown = F.pad(inputs(image, known, reference), edges).to(device)
    training = model.training
    model.eval()
    try:
        probability = (
            model.predict_step({'image': shown, 'source': shown}, 0)
            if isinstance(model, ChangeDetectionTask)
            else _activate(model(shown), model)
        )
    finally:
        model.train(training)
    result = probability[0, :, :height, :width].float().cpu()
    result = torch.where(known[0], result, math.nan)
    result = result[0] if len(result) == 1 else result
    return result if isinstance(optical, Tensor) else result.numpy()


def _channels_first(name: str, image: Tensor, bands: int) -> Tensor:
    """Convert an image to float32 of shape (C, H, W)."""
    shape = tuple(image.shape)
    if image.ndim == 2:
        image = image[None]
    is_first, is_last = (
        image.ndim == 3 and image.shape[axis] == bands for axis in (0, -1)
    )
    if is_first == is_last:
        raise ValueError(
            f'{name} has shape {shape}: expected {bands} bands, as in training, '
            f'({bands}, H, W) or (H, W, {bands})'
        )
    return (image if is_first else image.permute(2, 0, 1)).float()


def _activate(output: Tensor, model: M2CD) -> Tensor:
    """Turn logits into probabilities, unless the model has an activation."""
    for module in model.segmentation_head.modules():
        if isinstance(module, Activation) and not isinstance(
            module.activation, nn.Identity
        ):
            return output
    return output.sigmoid() if output.shape[1] == 1 else output.softmax(dim=1)

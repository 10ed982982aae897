# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Predict the change of image pairs in memory."""

import math
from typing import Any

import numpy.typing as npt
import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base.modules import Activation
from torch import Tensor, nn

from ..checks import checked
from ..datasets import stack_pair
from ..datasets.radiometry import TINY
from ..models import M2CD
from ..tasks import ChangeDetectionTask


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
        valid: Pixels with data, shape (H, W). By default, pixels where all optical bands
            are 0 have none. NaN and infinite values never are data.

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
    if valid is not None:  # Zeros are data where it says so
        pair[0] = torch.where((pair[0] == 0).all(dim=0), TINY, pair[0])
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

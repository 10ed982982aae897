# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""NaN and infinite values end a training or a prediction where they first appear."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchgeo.datasets.utils import Sample


def check_finite(
    model: nn.Module,
    batch: Sample,
    batch_idx: int,
    output: Tensor,
    loss: Tensor | None = None,
) -> None:
    """Check that inputs, output and loss of a step are finite.

    This waits for the GPU once a step.

    Args:
        model: The model.
        batch: Batch with ``image``, shape ``(B, 2, C, H, W)``. ``source`` is optional, and
            so are ``index``, ``scene`` and ``window``, which say where a sample is.
        batch_idx: Index of the batch.
        output: Output of the model, shape ``(B, ...)``.
        loss: Loss of the batch, a scalar.

    Raises:
        ValueError: If a value is NaN or infinite. The message names the first sample, or
            the parameter of the model.
    """
    image = batch['image']
    values = [image, output] if loss is None else [image, output, loss]
    if torch.stack([value.isfinite().all() for value in values]).all():
        return
    name = f'the loss of batch {batch_idx} is not finite'
    sizes = image.detach().abs().flatten(1).amax(dim=1)
    i = int(output.detach().abs().flatten(1).amax(dim=1).argmax())
    for kind, value in (('input', image), ('output', output)):
        wrong = ~value.isfinite().flatten(1).all(dim=1)
        if wrong.any():
            # A sample may spoil all of its batch: the likeliest has the largest input
            i = int(sizes.masked_fill(~wrong, -1).argmax())
            name = f'the {kind} of the model is not finite in batch {batch_idx}'
            break
        # Training has changed buffers already
        check_weights(dict(model.named_parameters()))
    raise ValueError(
        f'{name}: {_name_sample(batch, i)} has {_describe(batch, output, i)}'
    )


def check_weights(state_dict: Mapping[str, Any]) -> None:
    """Check that parameters and buffers of a model are finite.

    Args:
        state_dict: Parameters and buffers by name.

    Raises:
        ValueError: If a value is NaN or infinite. The message names the first one.
    """
    for name, value in state_dict.items():
        if isinstance(value, Tensor) and not value.isfinite().all():
            raise ValueError(
                f'{name} of the model has NaN or infinite values: expected an earlier '
                'checkpoint, and no extreme inputs, or a smaller learning rate'
            )


def _name_sample(batch: Sample, i: int) -> str:
    """Say which sample of a batch it is, counted from 0."""
    name = f'sample {i}'
    if 'window' in batch:
        row, column = batch['window'][i].tolist()
        name += f' (row {row}, column {column}'
        name += f' of scene {int(batch["scene"][i])})' if 'scene' in batch else ')'
    elif 'index' in batch:
        name += f' (files[{int(batch["index"][i])}] of its dataset)'
    return name


def _describe(batch: Sample, output: Tensor, i: int) -> str:
    """Say what values the images of a sample have, and what the model makes of them."""
    optical, sar = batch.get('source', batch['image'])[i]
    images = {'optical': optical, 'SAR': sar, 'output': output[i].detach()}
    return ', '.join(
        f'{name} from {float(values.amin()):g} to {float(values.amax()):g}'
        for name, values in images.items()
    )

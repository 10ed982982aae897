# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""What is special about training M2CD."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torchgeo.datasets.utils import Sample

from ..models import M2CD, O2SP, M2CD_Weights, load_encoder_weights, m2cd
from ..transforms import Inputs
from .arguments import model_args


def make_m2cd(arguments: Mapping[str, Any], weights: Any) -> M2CD:
    """Make the model of a task.

    Args:
        arguments: Arguments of
            :class:`~torchgeo_m2cd.tasks.ChangeDetectionTask`, except *weights*.
        weights: Its *weights*, as :func:`~.arguments.find_weights` returns them.

    Returns:
        The model.
    """
    backbone = arguments['backbone']
    pretrained = True if backbone.startswith('tu-') else 'imagenet'
    whole = weights if isinstance(weights, M2CD_Weights) else None
    model = m2cd(
        whole,
        encoder_name=backbone,
        encoder_weights=pretrained if weights is True else None,
        in_channels=arguments['in_channels'],
        classes=arguments['num_classes'] or arguments['num_labels'] or 1,
        **model_args(arguments),
    )
    if weights and weights is not True and not whole:
        pair = weights if isinstance(weights, list) else [weights]
        load_encoder_weights(model.encoder, *pair)
    if arguments['freeze_backbone']:
        trained = model.encoder if whole else model.encoder.backbone
        trained.requires_grad_(False)
    if arguments['freeze_decoder']:
        model.decoder.requires_grad_(False)
    return model


def train_m2cd(
    model: M2CD, batch: Sample, o2sp: O2SP | None, inputs: Inputs | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run the model on a training batch.

    Args:
        model: The model.
        batch: Batch with ``image``, and ``source`` if *o2sp* takes source units.
        o2sp: The optical-to-SAR path, or None for none.
        inputs: What the model is shown, if it is known.

    Returns:
        Logits, shape ``(B, classes, H, W)``, and the weighted auxiliary losses by name.

    Raises:
        ValueError: If *o2sp* takes source units, and *inputs* is None.
    """
    balance_weight = 0.0 if model.experts is None else model.experts.balance_weight
    if o2sp is None:
        output, guide_weight = model.forward_train(batch['image']), 0.0
    else:
        sar = _simulate_sar(model, batch, o2sp, inputs)
        output = model.forward_train(batch['image'], sar, o2sp.guide_loss)
        guide_weight = o2sp.weight
    return output.logits, {
        'balance': balance_weight * output.balance_loss,
        'guide': guide_weight * output.guide_loss,
    }


def _simulate_sar(
    model: M2CD, batch: Sample, o2sp: O2SP, inputs: Inputs | None
) -> Tensor:
    """Make the image of the optical-to-SAR path."""
    index = model.optical_index
    bands, sar_bands = (model.in_channels[i] for i in (index, 1 - index))
    image = batch['image']
    if o2sp.source_units:
        if inputs is None:
            raise ValueError(
                f'{type(o2sp).__name__} needs images in source units: expected a data '
                'module of torchgeo_m2cd'
            )
        image, bands = batch['source'], inputs.band_counts[index]
    sar = o2sp.simulate(image[:, index, :bands], sar_bands)
    # No data are 0, as in both real images
    return sar * batch['valid'] if 'valid' in batch else sar

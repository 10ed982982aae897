# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""M2CD."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from textwrap import shorten
from typing import Any, Literal, NamedTuple, Self

import torch
from huggingface_hub import ModelCard, ModelCardData
from safetensors import SafetensorError
from segmentation_models_pytorch.base import SegmentationModel
from segmentation_models_pytorch.base.hub_mixin import supports_config_loading
from torch import Tensor

from ..checks import Channels, Count, checked
from ..transforms import Inputs
from .decoder import Decoder, Fusion, fuse, make_decoder
from .encoder import MoEEncoder
from .fast import accelerate, use_fast
from .moe import Experts
from .o2sp import guide_loss

_MODEL_CARD = """---
{{ card_data }}
---
# {{ model_name }}

M²CD, optical-SAR change detection ([paper]({{ paper_url }})), of torchgeo-m2cd.

```python
from torchgeo_m2cd.models import M2CD

model = M2CD.from_pretrained('<this repository, or a folder>').eval()
{% if inputs %}
# Source units in, probabilities out: NumPy arrays or tensors, (C, H, W) or (H, W, C)
from torchgeo_m2cd.predict import predict_pair

probability = predict_pair(model, optical, sar)
{% endif %}```

Arguments of the model{% if inputs %}, with what it is shown as `inputs`{% endif %}:

```json
{{ arguments }}
```
{% if metrics %}
Metrics:

```json
{{ metrics }}
```
{% endif %}{% if dataset %}
Trained on: {{ dataset }}
{% endif %}"""


class M2CDOutput(NamedTuple):
    """What :meth:`M2CD.forward_train` returns."""

    #: Change logits, shape ``(B, classes, H, W)``.
    logits: Tensor

    #: Balance loss of all MoE layers and paths, a scalar, unweighted.
    balance_loss: Tensor

    #: Guide loss of the optical-to-SAR path, a scalar, unweighted; zero without it.
    guide_loss: Tensor

    #: Gates of each MoE layer, by stage, shape ``(P, B * H * W, num_experts)``, with
    #: the paths in the order first image, second image, simulated SAR.
    gates: dict[int, Tensor]


class M2CD(SegmentationModel):  # type: ignore[misc]
    """M²CD: optical-SAR change detection with experts and self-distillation.

    One hierarchical encoder with a :class:`MixtureOfExperts` after each stage serves
    both the pre-event optical and the post-event SAR image. The features of both are
    fused, stage by stage, and a decoder turns them into change logits.

    In training, a third path may run through the same encoder, the optical-to-SAR path
    (O2SP): a SAR image that is simulated from the optical one. It is a bridge: a guide
    loss draws the features of both real images to its features. See
    :meth:`forward_train`.

    If you use this model in your research, please cite the following paper:

    * https://doi.org/10.1109/LGRS.2025.3590959

    Example:
        Four optical and two SAR bands, with experts after the last two stages:

        >>> import torch
        >>> from torchgeo_m2cd.models import M2CD, Experts
        >>> model = M2CD('mit_b0', in_channels=(4, 2), experts=Experts(stages=(3, 4)))
        >>> model(torch.rand(2, 2, 4, 64, 64)).shape
        torch.Size([2, 1, 64, 64])
    """

    @supports_config_loading  # type: ignore[untyped-decorator]
    @checked
    def __init__(
        self,
        encoder_name: str = 'mit_b1',
        encoder_weights: str | bool | None = None,
        in_channels: Channels = 3,
        classes: Count = 1,
        optical_index: Literal[0, 1] = 0,
        experts: Experts | Mapping[str, Any] | None = Experts(),  # noqa: B008
        fusion: Fusion = 'concat',
        decoder: Decoder = 'mlp',
        activation: str | Callable[[Tensor], Tensor] | None = None,
        encoder_args: Mapping[str, Any] | None = None,
        decoder_args: Mapping[str, Any] | None = None,
        inputs: Inputs | Mapping[str, Any] | None = None,
    ) -> None:
        """Initialize a new M2CD model.

        Args:
            encoder_name: Name of an encoder of segmentation_models_pytorch, also
                of timm, as ``'tu-...'``.
            encoder_weights: ``'imagenet'``, or another name of pretrained weights of
                the encoder (True for those of ``'tu-'``), or None for random ones.
            in_channels: Bands of both images, which then share all weights. Or a pair,
                the bands of the first and of the second image: each then has a stem
                of its own, and shares all else.
            classes: Number of classes, that is of channels of the logits.
            optical_index: Which image is the optical one. The simulated SAR image
                takes the stem of the other.
            experts: The mixtures of experts, or their values as a mapping. None for a
                model without experts.
            fusion: How to fuse the features of both images: ``'concat'``,
                :math:`[f_1, f_2]` (the original), ``'diff'``, :math:`f_2 - f_1`,
                ``'abs_diff'``, :math:`|f_2 - f_1|`, or ``'sum'``, :math:`f_1 + f_2`.
            decoder: ``'mlp'`` (the original's, :class:`MLPDecoder`), or ``'unet'``,
                ``'upernet'``, ``'segformer'`` or ``'fpn'`` of
                segmentation_models_pytorch.
            activation: Activation of the output, as in segmentation_models_pytorch:
                ``'sigmoid'``, ``'softmax2d'``, ``'tanh'``, ``'identity'``, a
                callable or None.
            encoder_args: Further arguments of the encoder (only for ``'tu-'``).
            decoder_args: Further arguments of the decoder.
            inputs: What the model is shown of an image pair, or its description in plain
                values. ``save_pretrained`` and
                :func:`~torchgeo_m2cd.predict.predict_pair` use it; :meth:`forward` takes
                standardised images.

        Raises:
            ValueError: If an argument is unknown or out of range.
        """
        super().__init__()
        self.fusion = fusion
        self.optical_index = optical_index
        #: The mixtures of experts, or None for a model without experts.
        self.experts: Experts | None = (
            Experts.from_dict(experts) if isinstance(experts, Mapping) else experts
        )
        self.encoder = MoEEncoder(
            encoder_name, encoder_weights, in_channels, self.experts, encoder_args
        )
        #: Bands of the first and of the second image.
        self.in_channels: tuple[int, int] = (
            (in_channels, in_channels)
            if isinstance(in_channels, int)
            else (in_channels[0], in_channels[-1])
        )
        factor = 2 if fusion == 'concat' else 1
        self.decoder, self.segmentation_head = make_decoder(
            decoder,
            [factor * c for c in self.encoder.out_channels],
            classes,
            activation,
            decoder_args,
        )
        self.classification_head = None
        #: What the model is shown of an image pair, if it is known.
        self.inputs: Inputs | None = (
            Inputs.from_dict(inputs) if isinstance(inputs, Mapping) else inputs
        )
        self.name = f'm2cd-{encoder_name}'
        self.initialize()
        if use_fast():
            accelerate(self)

    def forward(self, image: Tensor) -> Tensor:
        """Detect changes.

        Args:
            image: Standardised images, shape ``(B, 2, C, H, W)``. C is at least the
                larger of their band counts; of each, the first bands are read. H and
                W must be divisible by the encoder's output stride.

        Returns:
            Change logits, shape ``(B, classes, H, W)``.

        Raises:
            RuntimeError: If H or W is not divisible by the output stride.
            ValueError: If the image has another shape.
        """
        output = self.encoder(*self._split(image))
        return self._decode(output.features)

    def forward_train(
        self,
        image: Tensor,
        simulated_sar: Tensor | None = None,
        guide: Callable[[Sequence[Tensor]], Tensor] = guide_loss,
    ) -> M2CDOutput:
        """Detect changes, and compute the auxiliary losses of training.

        Args:
            image: See :meth:`forward`.
            simulated_sar: Image of the optical-to-SAR path, of the shape of the SAR
                image, for example from :func:`simulate_sar`. The path does not run
                without it.
            guide: Guide loss of the features of the three paths, one tensor
                ``(3, B, C, H, W)`` per stage.

        Returns:
            Logits, auxiliary losses and gates.

        Raises:
            RuntimeError: If H or W is not divisible by the output stride.
            ValueError: If the image has another shape.
        """
        images = self._split(image)
        second = [False, True]
        if simulated_sar is not None:
            images = (*images, simulated_sar)
            second.append(self.optical_index == 0)
        output = self.encoder(*images, second=second)
        logits = self._decode(output.features)
        loss = logits.new_zeros(())
        if simulated_sar is not None:
            loss = guide(output.features[2:])
        return M2CDOutput(logits, output.balance_loss, loss, output.gates)

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> str | None:
        """Save the model to a folder, with what it is shown.

        Args:
            save_directory: Folder to write to.
            *args: Arguments of SMP's ``save_pretrained``.
            **kwargs: Its keyword arguments: ``metrics``, ``dataset``, ``push_to_hub``.

        Returns:
            Address of the commit, if it was pushed to the hub.
        """
        for name in ('experts', 'inputs'):
            value = getattr(self, name)
            self.config[name] = None if value is None else value.to_dict()
        # All weights are saved: those of the encoder need not be downloaded again
        self.config['encoder_weights'] = None
        address: str | None = super().save_pretrained(save_directory, *args, **kwargs)
        return address

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> Self:
        """Load a model from a folder, or from the hub.

        Args:
            pretrained_model_name_or_path: Folder that :meth:`save_pretrained` has written,
                or repository.
            **kwargs: Arguments of SMP's ``from_pretrained``, except ``strict``: weights
                always have to fit.

        Returns:
            The model, in evaluation mode.

        Raises:
            ValueError: If the weights are not those of the model that ``config.json``
                describes.
        """
        name = pretrained_model_name_or_path
        try:
            model: Self = super().from_pretrained(name, **{**kwargs, 'strict': True})
        except (RuntimeError, SafetensorError) as error:
            reason = shorten(str(error), 200, placeholder='…')
            raise ValueError(
                f'{name} does not hold the weights of the model that its config.json '
                f'describes: {reason}'
            ) from error
        return model

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Describe the model for the hub.

        Args:
            *args: Arguments of SMP's method, which are ignored.
            **kwargs: ``metrics``, values by name, and ``dataset``, its name.

        Returns:
            Model card with code that loads and runs the model.
        """
        metrics = kwargs.get('metrics')
        arguments = {k: v for k, v in self.config.items() if not k.startswith('_')}
        card: ModelCard = ModelCard.from_template(
            ModelCardData(
                library_name='torchgeo-m2cd', license='mit', tags=['change-detection']
            ),
            template_str=_MODEL_CARD,
            paper_url='https://doi.org/10.1109/LGRS.2025.3590959',
            model_name=type(self).__name__,
            arguments=json.dumps(arguments, indent=2),
            inputs=self.inputs is not None,
            metrics=json.dumps(metrics, indent=2) if metrics else '',
            dataset=kwargs.get('dataset') or '',
        )
        return card

    def _split(self, image: Tensor) -> tuple[Tensor, ...]:
        """Check the input, and split it into the two images."""
        if not torch.compiler.is_compiling():
            if image.ndim != 5 or image.shape[1] != 2:
                raise ValueError(
                    'expected image of shape (B, 2, C, H, W), optical and SAR, '
                    f'got {tuple(image.shape)}'
                )
            if image.shape[2] < max(self.in_channels):
                raise ValueError(
                    f'the model has in_channels={max(self.in_channels)}, the images '
                    f'have {image.shape[2]}'
                )
            self.check_input_shape(image)
        first, second = self.in_channels
        return image[:, 0, :first], image[:, 1, :second]

    def _decode(self, features: Sequence[Tensor]) -> Tensor:
        """Fuse the features of both images per stage, and decode them."""
        fused = [fuse(first, second, self.fusion) for first, second, *_ in features]
        logits: Tensor = self.segmentation_head(self.decoder(fused))
        return logits

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""M2CD."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from segmentation_models_pytorch.base import SegmentationModel
from segmentation_models_pytorch.base.hub_mixin import supports_config_loading
from segmentation_models_pytorch.base.modules import Activation
from torch import Tensor, nn

from .decoder import MLPDecoder
from .encoder import MoEEncoder
from .o2sp import guide_loss, simulate_sar


class M2CDOutput(NamedTuple):
    """What :meth:`M2CD.forward_train` gives."""

    #: Change logits, shape ``(B, classes, H, W)``.
    logits: Tensor

    #: Balance loss of all MoE layers and paths, a scalar, unweighted.
    balance_loss: Tensor

    #: Guide loss of the optical-to-SAR path, a scalar, unweighted; zero without it.
    guide_loss: Tensor

    #: Gates of each MoE layer, by stage, shape ``(P, B * H * W, num_experts)``, with
    #: the paths in the order optical, SAR, simulated SAR.
    gates: dict[int, Tensor]


class M2CD(SegmentationModel):  # type: ignore[misc]
    """M²CD: optical-SAR change detection with experts and self-distillation.

    A hierarchical encoder with a :class:`MixtureOfExperts` after each stage serves
    the pre-event optical and the post-event SAR image alike. Per stage, the features
    of both are concatenated, and a decoder turns them into change logits.

    In training, a third path, the optical-to-SAR path (O2SP), may run through the
    same encoder: the optical image with speckle, a bridge whose features those of both
    real images are drawn to. See :meth:`forward_train`.

    If you use this model in your research, please cite the following paper:

    * https://doi.org/10.1109/LGRS.2025.3590959
    """

    @supports_config_loading  # type: ignore[untyped-decorator]
    def __init__(
        self,
        encoder_name: str = 'mit_b1',
        encoder_weights: str | None = None,
        in_channels: int = 3,
        classes: int = 1,
        moe_stages: Sequence[int] = (1, 2, 3, 4),
        num_experts: int = 4,
        top_k: int = 2,
        expansion: float = 4.0,
        gate: Literal['cosine', 'linear'] = 'cosine',
        noisy_gate: bool = True,
        decoder_channels: int = 256,
        activation: str | Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Initialize a new M2CD model.

        Args:
            encoder_name: Name of an encoder of segmentation_models_pytorch.
            encoder_weights: ``'imagenet'``, or another name of pretrained weights of
                the encoder, or None for random ones.
            in_channels: Channels of each of the two images.
            classes: Number of classes, that is of channels of the logits.
            moe_stages: Stages of the encoder, of 1, 2, 3, 4 (strides 4, 8, 16, 32),
                that a mixture of experts follows. An empty list switches it off.
            num_experts: Number of experts of each mixture, at least 1.
            top_k: Experts that each token goes to, from 1 to *num_experts*.
            expansion: Hidden channels of an expert, as a multiple of its input's.
            gate: Gate of the experts, ``'cosine'`` or ``'linear'``.
            noisy_gate: Whether to add noise to the gate in training.
            decoder_channels: Channels inside the decoder.
            activation: Activation of the output, as in segmentation_models_pytorch:
                ``'sigmoid'``, ``'softmax2d'``, ``'tanh'``, ``'identity'``, a
                callable or None.

        Raises:
            ValueError: If an argument is unknown or out of range.
        """
        super().__init__()
        self.in_channels = in_channels
        self.encoder = MoEEncoder(
            encoder_name,
            weights=encoder_weights,
            in_channels=in_channels,
            moe_stages=moe_stages,
            num_experts=num_experts,
            top_k=top_k,
            expansion=expansion,
            gate=gate,
            noisy=noisy_gate,
        )
        self.decoder = MLPDecoder(
            [2 * c for c in self.encoder.out_channels], channels=decoder_channels
        )
        # SMP's head resizes with aligned corners, the original's doesn't
        self.segmentation_head = nn.Sequential(
            nn.Conv2d(decoder_channels, classes, kernel_size=1),
            nn.Upsample(scale_factor=2, mode='bilinear', align_corners=False),
            Activation(activation),
        )
        self.classification_head = None
        self.name = f'm2cd-{encoder_name}'
        self.initialize()

    def forward(self, image: Tensor) -> Tensor:
        """Detect changes.

        Args:
            image: Standardised images, shape ``(B, 2, C, H, W)`` with optical first,
                SAR second, and C at least *in_channels*, of which the first are read.
                H and W must be divisible by the encoder's output stride.

        Returns:
            Change logits, shape ``(B, classes, H, W)``.

        Raises:
            ValueError: If the image has another shape.
        """
        optical, sar = self._split(image)
        return self._decode(self.encoder(optical, sar).features)

    def forward_train(
        self, image: Tensor, o2sp: bool = True, simulated_sar: Tensor | None = None
    ) -> M2CDOutput:
        """Detect changes, and compute the auxiliary losses of training.

        Args:
            image: See :meth:`forward`.
            o2sp: Whether to run the optical-to-SAR path.
            simulated_sar: Its image, shape ``(B, in_channels, H, W)``, instead of a
                fresh draw of :func:`simulate_sar`.

        Returns:
            Logits, auxiliary losses and gates.

        Raises:
            ValueError: If the image has another shape.
        """
        images = self._split(image)
        if o2sp:
            optical = images[0]
            if simulated_sar is None:
                simulated_sar = simulate_sar(optical)
            images = (*images, simulated_sar)
        output = self.encoder(*images)
        logits = self._decode(output.features)
        guide = guide_loss(output.features[2:]) if o2sp else logits.new_zeros(())
        return M2CDOutput(logits, output.balance_loss, guide, output.gates)

    def _split(self, image: Tensor) -> tuple[Tensor, ...]:
        """Check the input, and split it into optical and SAR."""
        if not torch.compiler.is_compiling():
            if image.ndim != 5 or image.shape[1] != 2:
                raise ValueError(
                    'expected image of shape (B, 2, C, H, W), optical and SAR, '
                    f'got {tuple(image.shape)}'
                )
            if image.shape[2] < self.in_channels:
                raise ValueError(
                    f'the model reads in_channels={self.in_channels} channels per '
                    f'image, the images have {image.shape[2]}'
                )
            self.check_input_shape(image)
        return image[:, :, : self.in_channels].unbind(dim=1)

    def _decode(self, features: Sequence[Tensor]) -> Tensor:
        """Fuse the features of optical and SAR per stage, and decode them."""
        fused = [torch.cat((f[0], f[1]), dim=1) for f in features]
        logits: Tensor = self.segmentation_head(self.decoder(fused))
        return logits

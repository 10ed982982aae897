# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Encoder with a Mixture of Experts after each stage."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import segmentation_models_pytorch as smp
import torch
from einops import rearrange
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from ..utils import check_choice
from .moe import MixtureOfExperts
from .stages import get_stages


class MoEEncoderOutput(NamedTuple):
    """What a :class:`MoEEncoder` gives."""

    #: One tensor per stride 1, 2, 4, 8, 16, 32, of shape ``(P, B, C, H, W)``: P paths
    #: (images) and C channels, zero where the encoder has no feature of that stride.
    features: list[Tensor]

    #: Balance loss, a scalar: unweighted, summed over the layers and the paths.
    balance_loss: Tensor

    #: Gates of each MoE layer, by stage, of shape ``(P, B * H * W, E)``.
    gates: dict[int, Tensor]


class MoEEncoder(nn.Module):
    """Encoder with a Mixture of Experts after each stage.

    Any encoder of segmentation_models_pytorch whose stages are known is used as it
    is. One set of weights serves all paths (optical, SAR, simulated SAR), which run
    through it together. The output of a :class:`MixtureOfExperts` *replaces* the
    output of its stage: it goes to the decoder and feeds the next stage.
    """

    def __init__(
        self,
        name: str,
        weights: str | None = None,
        in_channels: int = 3,
        moe_stages: Sequence[int] = (1, 2, 3, 4),
        **moe_kwargs: Any,
    ) -> None:
        """Initialize a new MoEEncoder.

        Args:
            name: Name of an encoder of segmentation_models_pytorch.
            weights: Name of its pretrained weights, or None for random ones.
            in_channels: Number of channels of an image.
            moe_stages: Stages that a mixture of experts follows; stage *i* is the one
                of stride :math:`2^{i + 1}`. None of them gives the plain encoder.
            **moe_kwargs: Arguments of :class:`MixtureOfExperts`.

        Raises:
            ValueError: If the encoder is unknown, or has no known stages, or
                *moe_stages* names one that it doesn't have.
        """
        super().__init__()
        if not name.startswith('tu-'):
            check_choice('encoder', name, smp.encoders.encoders)
        self.backbone = get_encoder(name, in_channels=in_channels, weights=weights)
        self.stages = get_stages(self.backbone, name)
        self.out_channels: list[int] = list(self.backbone.out_channels)
        self.output_stride: int = self.backbone.output_stride

        available = [i for i, stage in enumerate(self.stages) if i and stage]
        unknown = sorted(set(moe_stages) - set(available))
        if unknown:
            raise ValueError(
                f'moe_stages {unknown} do not exist in encoder {name!r}, '
                f'expected some of {available}'
            )
        self.moe = nn.ModuleDict(
            {
                str(i): MixtureOfExperts(self.out_channels[i + 1], **moe_kwargs)
                for i in sorted(set(moe_stages))
            }
        )

        # SMP's Mix Transformers mix 1e-5 and 1e-6, the original has one value
        for module in self.backbone.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-6

    def forward(self, *images: Tensor) -> MoEEncoderOutput:
        """Encode one or more images per sample.

        Args:
            images: One tensor per path, each of shape ``(B, in_channels, H, W)``.

        Returns:
            Features, balance loss and gates.
        """
        paths = len(images)
        x = torch.cat(images)
        features = [x]
        gates: dict[int, Tensor] = {}
        balance_loss = x.new_zeros(())
        for i, stage in enumerate(self.stages):
            if not stage:
                # As SMP does where an encoder has no feature of a stride
                b, _, h, w = features[-1].shape
                features.append(x.new_empty(b, 0, h // 2, w // 2))
                continue
            for module in stage:
                x = module(x)
            if str(i) in self.moe:
                b, _, h, w = x.shape
                tokens = rearrange(x, '(p b) c h w -> p (b h w) c', p=paths)
                output = self.moe[str(i)](tokens)
                x = rearrange(
                    output.tokens, 'p (b h w) c -> (p b) c h w', b=b // paths, h=h, w=w
                )
                balance_loss = balance_loss + output.balance_loss
                gates[i] = output.gates
            features.append(x)
        features = [rearrange(f, '(p b) c h w -> p b c h w', p=paths) for f in features]
        return MoEEncoderOutput(features, balance_loss, gates)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Encoder with a Mixture of Experts after each stage."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import timm
import torch
from einops import rearrange
from segmentation_models_pytorch.encoders import encoders, get_encoder
from segmentation_models_pytorch.encoders.mix_transformer import Attention, DWConv, Mlp
from torch import Tensor, nn

from ..utils import check_choice
from .linear import Linear
from .mix_transformer import ChannelsLastDWConv, FusedAttention, RecomputedMlp
from .moe import MixtureOfExperts
from .stages import get_stages

#: Layers, and those of the same function that take their place.
_FASTER: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: Linear,
    Attention: FusedAttention,
    DWConv: ChannelsLastDWConv,
    Mlp: RecomputedMlp,
}


def check_encoder(name: str) -> None:
    """Check that there is an encoder in segmentation_models_pytorch, or in timm.

    Args:
        name: Its name, which starts with ``'tu-'`` if it is of timm.

    Raises:
        ValueError: If it is unknown; the message suggests the nearest one.
    """
    if not name.startswith('tu-'):
        check_choice('encoder', name, encoders)
    # Beside its models, timm takes 'hf-hub:...' and the like
    elif ':' not in name and not timm.is_model(name.removeprefix('tu-')):
        check_choice('encoder', name, [f'tu-{model}' for model in timm.list_models()])


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

    Batch norm is the one kind of layer that paths running together see. In training,
    it takes its statistics from both real images together, as in evaluation, and keeps
    apart what a third path, which evaluation doesn't have, would do to them: that path
    runs by itself, with its own statistics, of which none are kept. (The original takes
    the statistics of each path by itself in training and their mixture in evaluation.)

    If the images have different bands, each has a stem of its own: the first module
    of the encoder with parameters, which is its first convolution or patch embedding.
    """

    #: Values of the images that a CPU puts through a stage at once in evaluation.
    #: What a stage makes of more would be fresh memory from the system each time.
    block_size = 2**19

    def __init__(
        self,
        name: str,
        weights: str | bool | None = None,
        in_channels: int | Sequence[int] = 3,
        moe_stages: Sequence[int] = (1, 2, 3, 4),
        encoder_args: Mapping[str, Any] | None = None,
        **moe_args: Any,
    ) -> None:
        """Initialize a new MoEEncoder.

        Args:
            name: Name of an encoder of segmentation_models_pytorch.
            weights: Name of its pretrained weights, or None for random ones.
            in_channels: Number of channels of an image, or of the first and of
                the second image.
            moe_stages: Stages that a mixture of experts follows; stage *i* is the one
                of stride :math:`2^{i + 1}`. None of them gives the plain encoder.
            encoder_args: Further arguments of the encoder (only for ``'tu-'``).
            **moe_args: Arguments of :class:`MixtureOfExperts`.

        Raises:
            ValueError: If the encoder is unknown, or has no known stages, or
                *moe_stages* names one that it doesn't have.
        """
        super().__init__()
        check_encoder(name)
        if encoder_args and not name.startswith('tu-'):
            raise ValueError(
                f"encoder_args are those of timm ('tu-'), but encoder is {name!r}"
            )
        if 'depth' in (encoder_args or {}):
            raise ValueError('encoder_args may not hold depth: all stages are needed')
        channels = (
            [in_channels]
            if isinstance(in_channels, int)
            else [int(c) for c in in_channels]
        )
        if len(channels) > 2 or min(channels, default=0) < 1:
            raise ValueError(
                f'in_channels must be one or two positive numbers, got {in_channels}'
            )
        # SMP takes any value but None for True in timm's encoders
        weights = weights or None
        self.backbone, *others = (
            get_encoder(name, in_channels=c, weights=weights, **(encoder_args or {}))
            for c in channels
        )
        self.stages = get_stages(self.backbone, name)
        self.first_stage = next(i for i, stage in enumerate(self.stages) if stage)
        first = self.stages[self.first_stage]
        #: Number of modules of the stem: up to the first that has parameters.
        self.stem_length = 1 + next(i for i, m in enumerate(first) if [*m.parameters()])
        self.second_stem: nn.Module | None = None
        if others:
            stem = get_stages(others[0], name)[self.first_stage][: self.stem_length]
            self.second_stem = nn.Sequential(*stem)
        if weights is None:
            _init_biases([*first[: self.stem_length], self.second_stem])

        out_channels = list(self.backbone.out_channels)
        self.out_channels: list[int] = [
            c if stage else 0
            for c, stage in zip(out_channels, self.stages, strict=True)
        ]
        self.output_stride: int = self.backbone.output_stride
        self.channels_last: bool = getattr(self.backbone, '_is_channel_last', False)

        unknown = sorted(set(moe_stages) - {1, 2, 3, 4})
        if unknown:
            raise ValueError(
                f'moe_stages {unknown} do not exist, expected some of [1, 2, 3, 4]'
            )
        self.moe = nn.ModuleDict(
            {
                str(i): MixtureOfExperts(self.out_channels[i + 1], **moe_args)
                for i in sorted(set(moe_stages))
            }
        )

        for module in self.modules():
            faster = _FASTER.get(type(module))
            if faster is not None:
                module.__class__ = faster
        if name.startswith('mit_'):
            # The original has one value everywhere, SMP 1e-5 in some places
            for module in self.backbone.modules():
                if isinstance(module, nn.LayerNorm):
                    module.eps = 1e-6

    def forward(
        self, *images: Tensor, second: Sequence[bool] | None = None
    ) -> MoEEncoderOutput:
        """Encode one or more images per sample.

        Args:
            images: One tensor per path, each of shape ``(B, channels, H, W)``.
            second: For each path, whether it takes the stem of the second image.
                By default all but the first do.

        Returns:
            Features, balance loss and gates.
        """
        if second is None:
            second = [i > 0 for i in range(len(images))]
        batch_norms = [
            m
            for m in self.modules()
            if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats
        ]
        if len(images) < 3 or not self.training or not batch_norms:
            return self._encode(images, second)
        pair = self._encode(images[:2], second[:2])
        try:
            for norm in batch_norms:
                norm.track_running_stats = False
            others = self._encode(images[2:], second[2:])
        finally:
            for norm in batch_norms:
                norm.track_running_stats = True
        return MoEEncoderOutput(
            [
                torch.cat(feature)
                for feature in zip(pair.features, others.features, strict=True)
            ],
            pair.balance_loss + others.balance_loss,
            {
                stage: torch.cat((gates, others.gates[stage]))
                for stage, gates in pair.gates.items()
            },
        )

    def _encode(
        self, images: Sequence[Tensor], second: Sequence[bool]
    ) -> MoEEncoderOutput:
        """Encode images together."""
        paths = len(images)
        batch, _, height, width = images[0].shape
        x = images[0]
        features: list[Tensor] = []
        gates: dict[int, Tensor] = {}
        balance_loss = x.new_zeros(
            (), dtype=torch.promote_types(x.dtype, torch.float32)
        )
        layout = 'h w c' if self.channels_last else 'c h w'
        for i, stage in enumerate(self.stages):
            if not stage:
                # As SMP does where an encoder has no feature of a stride
                empty = x.new_empty(paths, batch, 0, height // 2**i, width // 2**i)
                features.append(empty)
                continue
            if i == self.first_stage:
                x = self._stem(images, second)
                stage = stage[self.stem_length :]
            x = self._run(stage, x)
            if str(i - 1) in self.moe:
                sizes = dict(zip(layout.split(), x.shape[1:], strict=True))
                tokens = rearrange(x, f'(p b) {layout} -> p (b h w) c', p=paths)
                output = self.moe[str(i - 1)](tokens)
                x = rearrange(
                    output.tokens, f'p (b h w) c -> (p b) {layout}', b=batch, **sizes
                )
                balance_loss = balance_loss + output.balance_loss
                gates[i - 1] = output.gates
            features.append(rearrange(x, f'(p b) {layout} -> p b c h w', p=paths))
        return MoEEncoderOutput(features, balance_loss, gates)

    def _run(self, stage: Sequence[nn.Module], x: Tensor) -> Tensor:
        """Run a stage, on a CPU in evaluation on a few images at a time."""
        if self.training or x.device.type != 'cpu' or torch.compiler.is_compiling():
            return _chain(stage, x)
        images = max(self.block_size // x[0].numel(), 1)
        parts = [_chain(stage, part) for part in torch.split(x, images)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _stem(self, images: Sequence[Tensor], second: Sequence[bool]) -> Tensor:
        """Run the stem, or each image through its own."""
        stem = self.stages[self.first_stage][: self.stem_length]
        # Tokens of transformers lie like this anyway, and convolutions are faster
        images = [x.contiguous(memory_format=torch.channels_last) for x in images]
        if self.second_stem is None:
            return _chain(stem, torch.cat(images))
        return torch.cat(
            [
                self.second_stem(image) if is_second else _chain(stem, image)
                for image, is_second in zip(images, second, strict=True)
            ]
        )


def _init_biases(modules: Iterable[nn.Module | None]) -> None:
    """Make the biases of a stem random, as those of PyTorch's own convolutions are.

    Mix Transformers and others begin with zeros. Tokens of an image that is zero, without
    data or of a modality that is left out, are then zero, too, and the gradients of each
    layer norm behind a thousand times as large, up to infinity.
    """
    for module in modules:
        for conv in module.modules() if module is not None else ():
            if isinstance(conv, nn.Conv2d) and conv.bias is not None:
                bound = conv.weight[0].numel() ** -0.5
                nn.init.uniform_(conv.bias, -bound, bound)


def _chain(modules: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Apply modules one after the other."""
    for module in modules:
        x = module(x)
    return x

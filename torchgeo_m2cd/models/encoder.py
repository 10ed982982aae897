# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Encoder with a Mixture of Experts after each stage."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import timm
import torch
from einops import rearrange
from segmentation_models_pytorch.encoders import encoders, get_encoder
from timm.models import adapt_input_conv
from torch import Tensor, nn

from ..checks import Channels, checked
from ..utils import check_choice
from .moe import Experts, MixtureOfExperts
from .stages import get_stages, is_channels_last

#: Applies a module to an image.
Call = Callable[[nn.Module, Tensor], Tensor]


def check_encoder(name: str) -> None:
    """Check that segmentation_models_pytorch, or timm, has an encoder.

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
    """What a :class:`MoEEncoder` returns."""

    #: One tensor per stride 1, 2, 4, 8, 16, 32, of shape ``(P, B, C, H, W)``: P paths
    #: (images) and C channels, zero if the encoder has no feature of that stride.
    features: list[Tensor]

    #: Balance loss, a scalar: unweighted, summed over the layers and the paths.
    balance_loss: Tensor

    #: Gates of each MoE layer, by stage, of shape ``(P, B * H * W, E)``.
    gates: dict[int, Tensor]


class MoEEncoder(nn.Module):
    """Encoder with a Mixture of Experts after each stage.

    The encoder is one of segmentation_models_pytorch, as it is. One set of weights
    serves all paths (optical, SAR, simulated SAR), which run through it together as one
    batch. The output of a :class:`MixtureOfExperts` *replaces* the output of its stage:
    it goes to the decoder and to the next stage.

    Only batch norm notices that the paths run together. In training, its statistics are
    those of both real images together, as in evaluation. A third path does not exist in
    evaluation, so it runs alone, and does not change the running statistics. (The
    original takes the statistics of each path alone in training, and evaluates with
    their mixture.)

    If the images have different bands, each has a stem of its own: the first module
    of the encoder with parameters, which is its first convolution or patch embedding.
    """

    @checked
    def __init__(
        self,
        name: str,
        weights: str | bool | None = None,
        in_channels: Channels = 3,
        experts: Experts | None = Experts(),  # noqa: B008 - it is immutable
        encoder_args: Mapping[str, Any] | None = None,
    ) -> None:
        """Initialize a new MoEEncoder.

        Args:
            name: Name of an encoder of segmentation_models_pytorch.
            weights: Name of its pretrained weights, or None for random ones.
            in_channels: Number of channels of an image, or of the first and of
                the second image.
            experts: The experts, and the stages that they follow. None for the plain
                encoder.
            encoder_args: Further arguments of the encoder (only for ``'tu-'``).

        Raises:
            ValueError: If the encoder is unknown or its stages are, or another argument
                is out of range.
        """
        super().__init__()
        check_encoder(name)
        if encoder_args and not name.startswith('tu-'):
            raise ValueError(
                f"encoder_args are those of timm ('tu-'), but encoder is {name!r}"
            )
        if 'depth' in (encoder_args or {}):
            raise ValueError('encoder_args may not hold depth: all stages are needed')
        channels = [in_channels] if isinstance(in_channels, int) else [*in_channels]
        # SMP takes any value but None for True in timm's encoders
        weights = weights or None
        self.backbone = get_encoder(
            name,
            # Two stems are both made from the one of RGB images
            in_channels=channels[0] if len(channels) == 1 else 3,
            weights=weights,
            **(encoder_args or {}),
        )
        stages = get_stages(self.backbone, name)
        #: First stage with a feature, counted from stride 1.
        self.first_stage = next(i for i, stage in enumerate(stages) if stage)
        modules = [self.backbone.get_submodule(n) for n in stages[self.first_stage]]
        length = 1 + next(i for i, m in enumerate(modules) if [*m.parameters()])
        stem, rest = modules[:length], stages[self.first_stage][length:]
        #: Names of the modules of the first image's stem, within the backbone.
        self.stem_names = stages[self.first_stage][:length]
        self._stage_names = [rest, *stages[self.first_stage + 1 :]]
        self.second_stem: nn.Sequential | None = None
        if len(channels) == 2:
            self.second_stem = nn.Sequential(*copy.deepcopy(stem))
            _adapt_stem(nn.ModuleList(stem), channels[0], weights is not None)
            _adapt_stem(self.second_stem, channels[1], weights is not None)
        if weights is None:
            for module in (*stem, self.second_stem):
                _init_biases(module)

        self.out_channels: list[int] = [
            c if i >= self.first_stage else 0
            for i, c in enumerate(self.backbone.out_channels)
        ]
        self.output_stride: int = self.backbone.output_stride
        self.channels_last = is_channels_last(self.backbone)
        self.moe = nn.ModuleDict()
        if experts is not None:
            for stage in experts.stages:
                self.moe[str(stage)] = MixtureOfExperts(
                    self.out_channels[stage + 1],
                    experts.num_experts,
                    experts.top_k,
                    experts.expansion,
                    experts.gate,
                    experts.noisy,
                )
        if name.startswith('mit_'):
            # The original has one value everywhere, SMP 1e-5 in some places
            for module in self.backbone.modules():
                if isinstance(module, nn.LayerNorm):
                    module.eps = 1e-6

    @property
    def stem(self) -> list[nn.Module]:
        """Modules of the first image's stem."""
        return [self.backbone.get_submodule(name) for name in self.stem_names]

    @property
    def stages(self) -> list[list[nn.Module]]:
        """Modules of each stage that has a feature, without the stem."""
        return [
            [self.backbone.get_submodule(name) for name in names]
            for names in self._stage_names
        ]

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
        has_statistics = any(
            n.endswith('.running_mean') for n, _ in self.named_buffers()
        )
        if len(images) < 3 or not self.training or not has_statistics:
            return self._encode(images, second, _call)
        pair = self._encode(images[:2], second[:2], _call)
        third = self._encode(images[2:], second[2:], _call_without_trace)
        return MoEEncoderOutput(
            [torch.cat(f) for f in zip(pair.features, third.features, strict=True)],
            pair.balance_loss + third.balance_loss,
            {
                stage: torch.cat((g, third.gates[stage]))
                for stage, g in pair.gates.items()
            },
        )

    def _encode(
        self, images: Sequence[Tensor], second: Sequence[bool], call: Call
    ) -> MoEEncoderOutput:
        """Encode images together, as one batch."""
        paths = len(images)
        batch, _, height, width = images[0].shape
        # As in SMP, strides without a feature have one without channels
        features = [
            images[0].new_empty(paths, batch, 0, height // 2**i, width // 2**i)
            for i in range(self.first_stage)
        ]
        gates: dict[int, Tensor] = {}
        dtype = torch.promote_types(images[0].dtype, torch.float32)
        balance_loss = images[0].new_zeros((), dtype=dtype)
        layout = 'h w c' if self.channels_last else 'c h w'
        x = self._run_stem(images, second, call)
        for i, stage in enumerate(self.stages, start=self.first_stage - 1):
            x = self._run_stage(stage, x, call)
            if str(i) in self.moe:
                sizes = dict(zip(layout.split(), x.shape[1:], strict=True))
                tokens = rearrange(x, f'(p b) {layout} -> p (b h w) c', p=paths)
                output = self.moe[str(i)](tokens)
                x = rearrange(
                    output.tokens, f'p (b h w) c -> (p b) {layout}', b=batch, **sizes
                )
                balance_loss = balance_loss + output.balance_loss
                gates[i] = output.gates
            features.append(rearrange(x, f'(p b) {layout} -> p b c h w', p=paths))
        return MoEEncoderOutput(features, balance_loss, gates)

    def _run_stem(
        self, images: Sequence[Tensor], second: Sequence[bool], call: Call
    ) -> Tensor:
        """Run the stem, or each image through its own."""
        if self.second_stem is None:
            return _chain(self.stem, torch.cat([*images]), call)
        outputs = [
            _chain([*self.second_stem] if is_second else self.stem, image, call)
            for image, is_second in zip(images, second, strict=True)
        ]
        return torch.cat(outputs)

    def _run_stage(self, stage: Sequence[nn.Module], x: Tensor, call: Call) -> Tensor:
        """Run a stage."""
        return _chain(stage, x, call)


def _chain(modules: Sequence[nn.Module], x: Tensor, call: Call) -> Tensor:
    """Apply modules one after the other."""
    for module in modules:
        x = call(module, x)
    return x


def _call(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a module."""
    y: Tensor = module(x)
    return y


def _call_without_trace(module: nn.Module, x: Tensor) -> Tensor:
    """Apply a module, and drop the changes to its buffers."""
    copies = {name: buffer.clone() for name, buffer in module.named_buffers()}
    y: Tensor = torch.func.functional_call(module, copies, (x,))
    return y


def _adapt_stem(stem: nn.Module, channels: int, pretrained: bool) -> None:
    """Give a stem of RGB images another number of channels.

    As in SMP, pretrained weights are repeated (or summed up for one channel) and scaled,
    and random ones are drawn again.

    Args:
        stem: The stem, whose convolutions of the image are changed in place.
        channels: Number of channels.
        pretrained: Whether its weights are worth to be kept.
    """
    convs = [module for module in stem.modules() if isinstance(module, nn.Conv2d)]
    # More than 3 if blocks of pixels are channels, those of a pixel together (TResNet)
    in_channels = convs[0].in_channels
    # Several convolutions may read the image (MobileOne)
    for conv in (conv for conv in convs if conv.in_channels == in_channels):
        pixels, size = in_channels // 3, conv.kernel_size
        weight = adapt_input_conv(channels, conv.weight.detach().reshape(-1, 3, *size))
        conv.in_channels = pixels * channels
        conv.weight = nn.Parameter(weight.reshape(-1, conv.in_channels, *size).clone())
        if not pretrained:
            conv.reset_parameters()


def _init_biases(module: nn.Module | None) -> None:
    """Make the biases of a stem random, as those of PyTorch's own convolutions are.

    Mix Transformers and others begin with zeros. The tokens of an image that is all zero
    (without data, or of a modality that is left out) are then zero, too, and layer norm
    makes gradients a thousand times as large at each layer, up to infinity.
    """
    for conv in module.modules() if module is not None else ():
        if isinstance(conv, nn.Conv2d) and conv.bias is not None:
            bound = conv.weight[0].numel() ** -0.5
            nn.init.uniform_(conv.bias, -bound, bound)

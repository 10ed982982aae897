# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""The original's arithmetic: the yardstick of ``benchmarks.speed``.

The same function as :class:`~torchgeo_m2cd.models.M2CD`, as the original computes it:

* one path after the other through the encoder, the simulated SAR at inference too
* the experts in a loop, over tokens that are sorted, split on the host, and put together
* the decoder resizes all features to half the size of the image, and then fuses them

tests/benchmarks/test_original.py shows that it is the same function.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from torchgeo_m2cd.models import (
    M2CD,
    M2CDOutput,
    MLPDecoder,
    MLPHead,
    guide_loss,
    simulate_sar,
)
from torchgeo_m2cd.models.moe import ExpertLinear, MixtureOfExperts
from torchgeo_m2cd.models.stages import get_stages


class OriginalMixtureOfExperts(nn.Module):
    """Experts in a loop. The gate is ours: its arithmetic is the same."""

    def __init__(self, moe: MixtureOfExperts) -> None:
        """Initialize a new OriginalMixtureOfExperts.

        Args:
            moe: Layer whose weights to copy.
        """
        super().__init__()
        self.router = copy.deepcopy(moe)
        for module in self.router.modules():
            if isinstance(module, nn.Linear):
                module.__class__ = nn.Linear
        # The gate asks them for the data type only
        self.router.fc1 = self.router.fc2 = ExpertLinear(1, 1, 1).requires_grad_(False)
        self.experts = nn.ModuleList(
            nn.Sequential(_linear(w1, b1), nn.GELU(), _linear(w2, b2))
            for w1, b1, w2, b2 in zip(
                moe.fc1.weight, moe.fc1.bias, moe.fc2.weight, moe.fc2.bias, strict=True
            )
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Send each token through its experts.

        Args:
            x: Tokens, shape ``(N, C)``.

        Returns:
            The mixed tokens and the balance loss.
        """
        gates, balance_loss = self.router.route(x)
        expert, token = gates.T.nonzero().unbind(dim=1)
        sizes = (gates > 0).sum(dim=0).tolist()
        outputs = [
            mlp(tokens)
            for mlp, tokens in zip(
                self.experts, torch.split(x[token], sizes), strict=True
            )
        ]
        y = torch.cat(outputs)
        y = y * gates[token, expert, None].to(y.dtype)
        return y.new_zeros(x.shape).index_add(0, token, y), balance_loss


class Original(nn.Module):
    """M²CD with the MLP decoder, as the original computes it."""

    def __init__(self, model: M2CD, encoder_name: str) -> None:
        """Initialize a new Original.

        Args:
            model: Model whose weights to copy: with the MLP decoder, concatenation, and
                as many bands in both images.
            encoder_name: Name of its encoder.
        """
        super().__init__()
        encoder = copy.deepcopy(model.encoder)
        self.backbone = get_encoder(
            encoder_name, in_channels=model.in_channels[0], weights=None
        )
        for ours, module in zip(
            encoder.backbone.modules(), self.backbone.modules(), strict=True
        ):
            if isinstance(module, nn.LayerNorm):
                module.eps = ours.eps
        self.backbone.load_state_dict(encoder.backbone.state_dict())
        self.stages = get_stages(self.backbone, encoder_name)
        self.layout = 'b h w c' if encoder.channels_last else 'b c h w'
        self.moe = nn.ModuleDict(
            {
                name: OriginalMixtureOfExperts(moe)
                for name, moe in encoder.moe.items()
                if isinstance(moe, MixtureOfExperts)
            }
        )
        decoder, head = copy.deepcopy((model.decoder, model.segmentation_head))
        assert isinstance(decoder, MLPDecoder)
        assert isinstance(head, MLPHead)
        self.decoder, self.head = decoder, head

    def forward(self, image: Tensor) -> Tensor:
        """Detect changes.

        Args:
            image: Standardised images, shape ``(B, 2, C, H, W)``.

        Returns:
            Logits, shape ``(B, classes, H, W)``.
        """
        return self.forward_train(image, simulate_sar(image[:, 0])).logits

    def forward_train(self, image: Tensor, simulated_sar: Tensor) -> M2CDOutput:
        """Detect changes, and compute the auxiliary losses.

        Args:
            image: Standardised images, shape ``(B, 2, C, H, W)``.
            simulated_sar: Image of the optical-to-SAR path, shape ``(B, C, H, W)``.

        Returns:
            Logits, auxiliary losses and no gates.
        """
        paths, losses = zip(
            *map(self._encode, (image[:, 0], image[:, 1], simulated_sar)), strict=True
        )
        fused = [torch.cat(pair, dim=1) for pair in zip(*paths[:2], strict=True)]
        guide = image.new_zeros(())
        if self.training:
            guide = guide_loss([torch.stack(f) for f in zip(*paths, strict=True)])
        logits = self._decode(fused, image.shape[-2:])
        return M2CDOutput(logits, torch.stack(losses).sum(), guide, {})

    def _encode(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Encode one image."""
        features = []
        losses = x.new_zeros(())
        for i, stage in enumerate(self.stages):
            for module in stage:
                x = module(x)
            if stage and i >= 2:
                tokens = rearrange(x, f'{self.layout} -> (b h w) c')
                sizes = dict(zip(self.layout.split(), x.shape, strict=True))
                tokens, loss = self.moe[str(i - 1)](tokens)
                del sizes['c']
                x = rearrange(tokens, f'(b h w) c -> {self.layout}', **sizes)
                losses = losses + loss
                features.append(rearrange(x, f'{self.layout} -> b c h w'))
        return features, losses

    def _decode(self, features: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Resize, then fuse."""
        resized = [
            F.interpolate(
                project(x), size=(size[0] // 2, size[1] // 2), mode='bilinear'
            )
            for x, project in zip(features, self.decoder.project, strict=True)
        ]
        x = self.head.norm(self.decoder.fuse(torch.cat(resized, dim=1)))
        logits = self.head.conv(F.relu_(x))
        return F.interpolate(logits, scale_factor=2, mode='bilinear')


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """Make a linear layer of given weights."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({'weight': weight, 'bias': bias})
    return layer

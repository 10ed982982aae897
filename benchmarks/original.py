# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""The original's arithmetic, the baseline of ``benchmarks.speed``.

It starts from the plain :class:`~torchgeo_m2cd.models.M2CD`, which resizes all features before it
fuses them, and computes two more things as the original does:

* It encodes one branch after the other, and simulated SAR at inference, too.
* It runs the experts in a loop: it sorts the tokens by expert, splits them, which
  synchronises the GPU, and puts the results together.

tests/benchmarks/test_original.py shows that it computes the same function.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchgeo_m2cd.models import (
    M2CD,
    M2CDOutput,
    MixtureOfExperts,
    MLPHead,
    guide_loss,
    set_fast,
    simulate_sar,
    use_fast,
)
from torchgeo_m2cd.models.decoder import fuse
from torchgeo_m2cd.models.fast.stand_in import StandIn


class Original(nn.Module):
    """M²CD with the MLP decoder, computed as in the original."""

    def __init__(self, model: M2CD, encoder_name: str) -> None:
        """Initialize a new Original.

        Args:
            model: Model to copy the weights of. It has the MLP decoder, concatenation, and
                the same number of bands in both images.
            encoder_name: Name of the model's encoder.
        """
        super().__init__()
        head = model.segmentation_head
        assert isinstance(head, MLPHead)
        fast = use_fast()
        set_fast(False)
        try:
            plain = M2CD(
                encoder_name,
                in_channels=model.in_channels[0],
                classes=head.conv.out_channels,
                experts=model.experts,
            )
        finally:
            set_fast(fast)
        plain.load_state_dict(model.state_dict())
        self.encoder = plain.encoder
        self.decoder = plain.decoder
        self.segmentation_head = plain.segmentation_head
        for name, moe in self.encoder.moe.items():
            self.encoder.moe[name] = OriginalMixtureOfExperts.take_over(moe)

    def forward(self, image: Tensor) -> Tensor:
        """Detect changes.

        Args:
            image: Standardised images, shape ``(B, 2, C, H, W)``.

        Returns:
            Logits, shape ``(B, classes, H, W)``.
        """
        return self.forward_train(image, simulate_sar(image[:, 0])).logits

    def forward_train(self, image: Tensor, simulated_sar: Tensor) -> M2CDOutput:
        """Detect changes and compute the auxiliary losses.

        Args:
            image: Standardised images, shape ``(B, 2, C, H, W)``.
            simulated_sar: Simulated SAR image, shape ``(B, C, H, W)``.

        Returns:
            Logits, auxiliary losses and no gates.
        """
        images = (image[:, 0], image[:, 1], simulated_sar)
        branches = [self.encoder(x) for x in images]
        features = list(zip(*(branch.features for branch in branches), strict=True))
        fused = [fuse(optical[0], sar[0], 'concat') for optical, sar, _ in features]
        logits = self.segmentation_head(self.decoder(fused))
        guide = image.new_zeros(())
        if self.training:
            guide = guide_loss([torch.cat(f) for f in features[2:]])
        balance = torch.stack([branch.balance_loss for branch in branches]).sum()
        return M2CDOutput(logits, balance, guide, {})


class OriginalMixtureOfExperts(StandIn, MixtureOfExperts):
    """A loop over the experts, each with its own tokens. The gate is the same."""

    def mix(self, x: Tensor, gates: Tensor) -> Tensor:
        """Compute the weighted sum of the experts.

        Args:
            x: Tokens, shape ``(N, C)``.
            gates: Weight of each expert for each token, shape ``(N, E)``.

        Returns:
            Tokens, shape ``(N, C)``.
        """
        expert, token = gates.T.nonzero().unbind(dim=1)
        sizes = (gates > 0).sum(dim=0).tolist()
        experts = zip(
            torch.split(x[token], sizes),
            self.fc1.weight,
            self.fc1.bias,
            self.fc2.weight,
            self.fc2.bias,
            strict=True,
        )
        y = torch.cat(
            [
                F.linear(F.gelu(F.linear(tokens, w1, b1)), w2, b2)
                for tokens, w1, b1, w2, b2 in experts
            ]
        )
        y = y * gates[token, expert, None].to(y.dtype)
        return y.new_zeros(x.shape).index_add(0, token, y)

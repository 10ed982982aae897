# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Attention of Mix Transformers."""

import torch.nn.functional as F
from einops import rearrange
from segmentation_models_pytorch.encoders.mix_transformer import Attention
from torch import Tensor


class FusedAttention(Attention):  # type: ignore[misc]
    """Efficient self-attention of SegFormer, fused.

    The same as that of segmentation_models_pytorch, which keeps the weights of all pairs
    of tokens: they grow with the square of the number of pixels.
    """

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """Apply the layer.

        Args:
            x: Tokens, shape ``(B, height * width, C)``.
            height: Rows of the image.
            width: Columns of the image.

        Returns:
            Tokens of the same shape.
        """
        q = rearrange(self.q(x), 'b n (h c) -> b h n c', h=self.num_heads)
        if self.sr_ratio > 1:
            x = self.sr(rearrange(x, 'b (h w) c -> b c h w', h=height, w=width))
            x = self.norm(rearrange(x, 'b c h w -> b (h w) c'))
        k, v = rearrange(self.kv(x), 'b n (t h c) -> t b h n c', t=2, h=self.num_heads)
        dropout = self.attn_drop.p if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, None, dropout, scale=self.scale)
        x = self.proj_drop(self.proj(rearrange(x, 'b h n c -> b n (h c)')))
        return x

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""The encoder, in small pieces and with a faster layout in memory."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..encoder import Call, MoEEncoder, MoEEncoderOutput
from .stand_in import StandIn


class FastMoEEncoder(StandIn, MoEEncoder):
    """:class:`MoEEncoder` that takes a few images at a time on a CPU in evaluation.

    What a stage makes of more images would be fresh memory from the system each time.
    """

    #: Values of the images that a CPU puts through a stage at once in evaluation.
    block_size = 2**19

    def _encode(
        self, images: Sequence[Tensor], second: Sequence[bool], call: Call
    ) -> MoEEncoderOutput:
        """Encode images together, as one batch."""
        # The tokens of transformers have this layout anyway, convolutions are faster in it.
        # contiguous() would return an image of one band as it is, and PyTorch, which reads
        # the layout from strides, would take it for the other one.
        images = [x.clone(memory_format=torch.channels_last) for x in images]
        output = super()._encode(images, second, call)
        if torch.compiler.is_compiling() or len(images[0]) > 1:
            return output
        # The same for the stride that view() gives to the dimension of a single pair
        features = [x.squeeze(1).unsqueeze(0).transpose(0, 1) for x in output.features]
        return output._replace(features=features)

    def _run_stage(self, stage: Sequence[nn.Module], x: Tensor, call: Call) -> Tensor:
        """Run a stage."""
        run = super()._run_stage
        if self.training or x.device.type != 'cpu' or torch.compiler.is_compiling():
            return run(stage, x, call)
        images = max(self.block_size // x[0].numel(), 1)
        parts = [run(stage, part, call) for part in torch.split(x, images)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

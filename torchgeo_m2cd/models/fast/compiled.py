# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Models that PyTorch's compiler made for inference."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...checks import Count, checked


@checked
def compile_inference(
    model: nn.Module, batch_size: Count = 1
) -> Callable[[Tensor], Tensor]:
    """Compile a model for inference on many images of the same size.

    On a CPU, the compiler takes the weights for constants: it folds batch norm into
    convolutions, fuses activations into them, and packs weights once. Weights that change
    later do not count. On a GPU, kernels run as one CUDA graph, and an output is
    overwritten by the next one.

    The first call compiles, which takes 10 s to half a minute and, on a CPU, a C++
    compiler. Each further height, width or precision is compiled anew. Numbers of images
    are not: smaller batches are filled up with zeros.

    Args:
        model: Model in evaluation mode, which handles each image on its own.
        batch_size: Images in a batch. Larger batches are compiled anew.

    Example:
        >>> import torch
        >>> from torchgeo_m2cd.models import M2CD_Weights, compile_inference, m2cd
        >>> model = m2cd(M2CD_Weights.DEFAULT).eval()
        >>> infer = compile_inference(model, batch_size=4)
        >>> logits = infer(torch.rand(3, 2, 3, 256, 256))  # doctest: +SKIP

    Returns:
        Function from images of shape (B, ...) to the outputs of the model, without
        gradients. It raises a RuntimeError if PyTorch cannot compile the model, and a
        ValueError if the model is in training mode, where images depend on each other.
    """
    on_cpu = all(x.device.type == 'cpu' for x in model.parameters())
    # Sizes that the compiler leaves open cost bfloat16 a third on a CPU
    run = torch.compile(
        model, dynamic=False, mode='default' if on_cpu else 'reduce-overhead'
    )

    @torch.no_grad()  # Else the weights would be no constants
    def infer(image: Tensor) -> Tensor:
        """Run the model on images of shape (B, ...)."""
        if model.training:
            raise ValueError(
                f'{type(model).__name__} is in training mode: expected model.eval() first'
            )
        missing = max(batch_size - len(image), 0)
        filled = F.pad(image, (0, 0) * (image.ndim - 1) + (0, missing))
        try:
            # As an option of torch.compile, it would not reach the tracer
            with torch._inductor.config.patch(freezing=on_cpu):
                outputs: Tensor = run(filled)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            reason = str(error).partition('\n')[0]
            raise RuntimeError(
                f'PyTorch cannot compile {type(model).__name__} ({reason}): expected a '
                'C++ compiler such as g++, or one that the environment variable CXX names'
            ) from error
        return outputs[: len(image)]

    return infer

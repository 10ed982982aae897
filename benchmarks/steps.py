# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Ablation of the optimisations: the time of the model with one of them undone.

python -m benchmarks.steps

Times the inference of a batch of two pairs. Variants take turns; their logits differ by less than
1e-4.
"""

import argparse
import contextlib
import itertools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.encoders.mix_transformer import Attention, DWConv
from torch import Tensor, nn

from benchmarks.original import Original
from benchmarks.tables import RESULTS, write_csv
from benchmarks.timing import timed
from torchgeo_m2cd.models import (
    M2CD,
    MixtureOfExperts,
    MoEEncoder,
    MoEEncoderOutput,
    keep_memory,
)
from torchgeo_m2cd.models.fast import experts
from torchgeo_m2cd.models.fast.decoder import FastMLPHead
from torchgeo_m2cd.models.fast.encoder import FastMoEEncoder
from torchgeo_m2cd.models.fast.experts import FastMixtureOfExperts
from torchgeo_m2cd.models.fast.linear import FastLinear
from torchgeo_m2cd.models.fast.mix_transformer import ChannelsLastDWConv, FusedAttention


def _one_branch_at_a_time(
    encoder: FastMoEEncoder, *images: Tensor, second: Sequence[bool] = (False, True)
) -> MoEEncoderOutput:
    forward = MoEEncoder.forward
    branches = [
        forward(encoder, x, second=[s]) for x, s in zip(images, second, strict=True)
    ]
    features = zip(*(branch.features for branch in branches), strict=True)
    return branches[0]._replace(features=[torch.cat(f) for f in features])


#: Patches that undo a step: object, attribute, value.
STEPS: dict[str, list[tuple[Any, str, Any]]] = {
    'all steps': [],
    'linear layers as matrix products (MKL)': [
        (FastLinear, 'forward', nn.Linear.forward),
        (experts, 'linear', F.linear),
    ],
    'head on all channels': [(FastMLPHead, 'block_size', 2**40)],
    'encoder on the whole batch': [(FastMoEEncoder, 'block_size', 2**40)],
    'one path at a time': [(FastMoEEncoder, 'forward', _one_branch_at_a_time)],
    'depthwise convolution of segmentation_models_pytorch': [
        (ChannelsLastDWConv, 'forward', DWConv.forward)
    ],
    'attention of segmentation_models_pytorch': [
        (FusedAttention, 'forward', Attention.forward)
    ],
    'images not channels_last': [(FastMoEEncoder, '_encode', MoEEncoder._encode)],
    'experts dense': [(FastMixtureOfExperts, 'mix', MixtureOfExperts.mix)],
    'experts grouped': [
        (FastMixtureOfExperts, '_mix_sparse', FastMixtureOfExperts._mix_grouped)
    ],
}


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line interface."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--output', type=Path, default=RESULTS / 'steps.csv', help='CSV file to write'
    )
    parser.add_argument('--encoder', default='mit_b1')
    parser.add_argument('--repeats', type=int, default=11)
    args = parser.parse_args(argv)

    keep_memory()  # As the task does
    torch.manual_seed(0)
    model = M2CD(args.encoder).eval()
    original = Original(model, args.encoder).eval()
    pairs = [torch.randn(2, 2, 3, 256, 256) for _ in range(24)]
    images = itertools.cycle(pairs)
    times: dict[str, list[float]] = {'the original': [], **{n: [] for n in STEPS}}
    with torch.inference_mode():
        expected = original(pairs[0])
        for _ in range(args.repeats + 1):
            times['the original'].append(timed(lambda: original(next(images)), 'cpu'))
            for name, patches in STEPS.items():
                with contextlib.ExitStack() as stack:
                    for patched in patches:
                        stack.enter_context(patch.object(*patched))
                    torch.testing.assert_close(
                        model(pairs[0]), expected, rtol=0, atol=1e-4
                    )
                    times[name].append(timed(lambda: model(next(images)), 'cpu'))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    rows = [
        {
            'undone': name,
            'ms': f'{1e3 * seconds:.0f}',
            'all steps = 1': f'{seconds / medians["all steps"]:.2f}',
        }
        for name, seconds in medians.items()
    ]
    write_csv(args.output, rows)
    for row in rows:
        print(*row.values(), sep='\t')


if __name__ == '__main__':
    main()

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Parameters and multiply-accumulates of M²CD by encoder, with and without experts.

python -m benchmarks.encoders
"""

import argparse
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.tables import RESULTS, write_csv
from torchgeo_m2cd.models import M2CD, Experts

#: Encoders, and their names in the paper.
ENCODERS = {
    'mit_b0': 'MiT-b0',
    'mit_b1': 'MiT-b1*',
    'mit_b2': '',
    'mit_b3': '',
    'mit_b4': '',
    'mit_b5': '',
    'resnet18': '',
    'tu-resnet18d': 'ResNet-18',
    'resnet34': '',
    'resnet50': '',
    'tu-mobilenetv3_small_100': 'small',
    'tu-mobilenetv3_large_100': 'large',
    'tu-convnext_tiny': 'ConvNeXt-T',
    'tu-convnext_small': 'ConvNeXt-S',
    'tu-convnext_base': 'ConvNeXt-B',
}


@torch.inference_mode()
def measure(encoder: str, experts: Experts | None) -> dict[str, str]:
    """Count parameters and multiply-accumulates of a model.

    Args:
        encoder: Name of the encoder.
        experts: Its experts, if any.

    Returns:
        Parameters and parameters that one token uses, both in millions, and GMAC for one
        pair of 256 x 256 pixels in evaluation mode.
    """
    model = M2CD(encoder, experts=experts).eval()
    total = sum(p.numel() for p in model.parameters())
    idle = sum(
        p.numel() * (moe.num_experts - moe.top_k) // moe.num_experts
        for moe in model.encoder.moe.values()
        for layer in (moe.fc1, moe.fc2)
        for p in layer.parameters()
    )
    # Experts are sparse: each computes only its own tokens
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 2, 3, 256, 256))
    return {
        'Mparams': f'{total / 1e6:.1f}',
        'active': f'{(total - idle) / 1e6:.1f}',
        'GMAC': f'{counter.get_total_flops() / 2e9:.2f}',
    }


def main() -> None:
    """Command-line interface."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--output',
        type=Path,
        default=RESULTS / 'encoders.csv',
        help='CSV file to write',
    )
    args = parser.parse_args()
    rows = []
    for encoder, paper in ENCODERS.items():
        row = {'encoder': encoder, 'paper': paper}
        for name, experts in {'none': None, 'MoE': Experts()}.items():
            values = measure(encoder, experts)
            if name == 'none':
                del values['active']  # Equal to Mparams
            row |= {f'{name}: {key}': value for key, value in values.items()}
        rows.append(row)
        print(*row.values(), sep='\t', flush=True)
    write_csv(args.output, rows)


if __name__ == '__main__':
    main()

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Tables of the datasets, the released weights and the encoders of M²CD.

python -m benchmarks.catalogue
python -m benchmarks.catalogue encoders --encoders resnet18 mit_b0
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from segmentation_models_pytorch.encoders import encoders, get_encoder
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torchgeo.datasets import BRIGHTDFC2025

from benchmarks.tables import RESULTS, write_csv
from torchgeo_m2cd.datamodules import BRIGHTDFC2025DataModule
from torchgeo_m2cd.datasets import OMBRIA, CAUFlood, SyntheticFlood
from torchgeo_m2cd.models import M2CD, Experts, M2CD_Weights
from torchgeo_m2cd.models.stages import get_stages

#: What the datasets have no attributes for. Number of chips and licence of BRIGHT are
#: those of TorchGeo's table of datasets.
DATASETS: dict[type[Any], dict[str, str]] = {
    OMBRIA: {
        'Optical, before': f'Sentinel-2: {", ".join(OMBRIA.all_bands)}',
        'SAR, after': f'Sentinel-1: {", ".join(OMBRIA.all_sar_bands)}',
        'Chips': f'{sum(OMBRIA.counts.values()):,}',
        'Pixels': '256 x 256, 10 m',
        'Licence': 'not stated',
        'Source': 'downloaded on request',
    },
    CAUFlood: {
        'Optical, before': f'Sentinel-2: {", ".join(CAUFlood.all_bands)}',
        'SAR, after': f'Sentinel-1: {", ".join(CAUFlood.all_sar_bands)}',
        'Chips': '',
        'Pixels': '256 x 256, 10 m',
        'Licence': 'not stated',
        'Source': 'share link, needs a browser',
    },
    BRIGHTDFC2025: {
        'Optical, before': f'aerial, Maxar: {", ".join(BRIGHTDFC2025DataModule.means)}',
        'SAR, after': 'Capella, Umbra: 1 band',
        'Chips': '3,239',
        'Pixels': '1,024 x 1,024, 0.3 to 1 m',
        'Licence': 'CC-BY-4.0 and CC-BY-NC-4.0',
        'Source': 'downloaded on request',
    },
    SyntheticFlood: {
        'Optical, before': f'simulated: {", ".join(SyntheticFlood.all_bands)}',
        'SAR, after': f'simulated: {", ".join(SyntheticFlood.all_sar_bands)}',
        'Chips': 'any number',
        'Pixels': 'any size, 10 m',
        'Licence': 'MIT',
        'Source': 'generated on the fly',
    },
}

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
    'densenet121': '',
    'tu-mobilenetv3_small_100': 'small',
    'tu-mobilenetv3_large_100': 'large',
    'tu-convnext_tiny': 'ConvNeXt-T',
    'tu-convnext_small': 'ConvNeXt-S',
    'tu-convnext_base': 'ConvNeXt-B',
}

#: An encoder of each of many families of timm.
TIMM = (
    'coat_tiny', 'convnext_atto', 'convnextv2_atto', 'davit_tiny', 'densenet121', 'dla34',
    'edgenext_xx_small', 'efficientformer_l1', 'efficientnet_b0', 'efficientvit_b0',
    'fastvit_t8', 'focalnet_tiny_srf', 'gcvit_xxtiny', 'ghostnet_100', 'hiera_tiny_224',
    'hrnet_w18_small', 'inception_v3', 'levit_128s', 'mambaout_femto', 'maxvit_tiny_tf_224',
    'mobilenetv3_small_050', 'mobilenetv4_conv_small', 'nextvit_small', 'poolformer_s12',
    'pvt_v2_b0', 'regnetx_002', 'repvgg_a0', 'res2net50_14w_8s', 'resnest14d', 'resnet18',
    'seresnext26d_32x4d', 'swin_tiny_patch4_window7_224', 'swinv2_tiny_window8_256',
    'tiny_vit_5m_224', 'twins_pcpvt_small', 'vit_tiny_patch16_224', 'xception41',
)  # fmt: skip


def list_datasets() -> list[dict[str, str]]:
    """List the datasets.

    Returns:
        A row per dataset, with the role that links to its documentation.
    """
    return [
        {
            'Dataset': f':class:`~{_package(dataset)}.{dataset.__name__}`',
            **facts,
            'Classes': ', '.join(dataset.classes),
        }
        for dataset, facts in DATASETS.items()
    ]


def list_weights() -> list[dict[str, str]]:
    """List the released weights.

    Returns:
        A row per weights, with the IoU of each split that was tested.
    """
    rows = []
    for weights in dict.fromkeys(M2CD_Weights.__members__.values()):
        meta = weights.meta
        optical, sar = weights.transforms().band_names
        model = M2CD(**meta['model'])
        count = sum(parameter.numel() for parameter in model.parameters())
        rows.append(
            {
                'Weights': f'``{weights}``',
                'Encoder': f'``{meta["model"]["encoder_name"]}``',
                'Mparams': f'{count / 1e6:.1f}',
                'MB': f'{meta["bytes"] / 1e6:.1f}',
                'Bands': ', '.join([*optical, *sar]),
                **{
                    split: f'{figure["IoU"]:.3f}'
                    for split, figure in meta['figures'].items()
                },
            }
        )
    return rows


def list_families() -> list[dict[str, str]]:
    """List which encoders M2CD takes: all of SMP, and one per family of timm.

    Returns:
        A row of those it takes and one of those it refuses, of each library.
    """
    # SMP is going to remove those of timm- in favour of tu-
    smp = {
        name: encoder['encoder']
        for name, encoder in encoders.items()
        if not name.startswith('timm-')
    }
    # One of each family tells of all
    first = {family: name for name, family in reversed(smp.items())}
    families = {family: _is_taken(name) for family, name in first.items()}
    with torch.device('meta'):
        timm = {f'tu-{name}': _is_taken(f'tu-{name}') for name in TIMM}
    rows = []
    for library, takes in (
        ('SMP', {n: families[f] for n, f in smp.items()}),
        ('timm', timm),
    ):
        for verdict, taken in (('takes', True), ('refuses', False)):
            chosen = [f'``{name}``' for name in takes if takes[name] == taken]
            rows.append(
                {'Library': library, 'M²CD': verdict, 'Encoders': ', '.join(chosen)}
            )
    return rows


def _is_taken(name: str) -> bool:
    """Whether M2CD takes an encoder."""
    try:
        get_stages(get_encoder(name, weights=None), name)
    except ValueError:  # SMP itself refuses some of timm
        return False
    return True


def list_encoders(
    known: Sequence[dict[str, str]] = (), names: Sequence[str] = ()
) -> list[dict[str, str]]:
    """List encoders, measured with and without experts; all take minutes.

    Args:
        known: Rows of a table that was made before.
        names: Encoders to measure (defaults to all); the rows of others are kept.

    Returns:
        A row per encoder.
    """
    rows = {row['encoder']: row for row in known if row['encoder'] in ENCODERS}
    for encoder in names or ENCODERS:
        rows[encoder] = measure_encoder(encoder)
        print(*rows[encoder].values(), sep='\t', flush=True)
    return [rows[encoder] for encoder in ENCODERS if encoder in rows]


def measure_encoder(encoder: str) -> dict[str, str]:
    """Count parameters and multiply-accumulates of models with an encoder.

    Args:
        encoder: Name of the encoder.

    Returns:
        For a model without and with experts, parameters and parameters that one token
        uses, both in millions, and GMAC for one pair of 256 x 256 pixels in evaluation
        mode.
    """
    plain, moe = _measure(encoder, None), _measure(encoder, Experts())
    del plain['active']  # Equal to Mparams
    return {
        'encoder': encoder,
        'paper': ENCODERS[encoder],
        **{f'none: {key}': value for key, value in plain.items()},
        **{f'MoE: {key}': value for key, value in moe.items()},
    }


@torch.inference_mode()
def _measure(encoder: str, experts: Experts | None) -> dict[str, str]:
    """Count parameters and multiply-accumulates of a model."""
    model = M2CD(encoder, experts=experts).eval()
    total = sum(p.numel() for p in model.parameters())
    idle = sum(
        p.numel() * (moe.num_experts - moe.top_k) // moe.num_experts
        for moe in model.encoder.moe.values()
        for layer in (moe.fc1, moe.fc2)
        for p in layer.parameters()
    )
    # Experts are sparse: each computes only its own tokens. Of attention, the counter
    # knows the matrix products, but not the fused kernel of CPUs
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 2, 3, 256, 256))
    return {
        'Mparams': f'{total / 1e6:.1f}',
        'active': f'{(total - idle) / 1e6:.1f}',
        'GMAC': f'{counter.get_total_flops() / 2e9:.2f}',
    }


def _package(dataset: type[Any]) -> str:
    """Return the package that documents a dataset."""
    return dataset.__module__.rpartition('.')[0]


def main(argv: list[str] | None = None) -> None:
    """Command-line interface.

    Args:
        argv: Arguments (defaults to those of the process).
    """
    tables = {
        'datasets': list_datasets,
        'weights': list_weights,
        'families': list_families,
    }
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'tables',
        nargs='*',
        default=[*tables, 'encoders'],
        help=f'some of {", ".join(tables)}, encoders',
    )
    parser.add_argument(
        '--encoders',
        nargs='+',
        choices=ENCODERS,
        default=[],
        help='encoders to measure; the rows of others are kept (default: all)',
        metavar='NAME',
    )
    parser.add_argument(
        '--folder', type=Path, default=RESULTS, help='folder to write the tables to'
    )
    args = parser.parse_args(argv)
    for name in args.tables:
        path = args.folder / f'{name}.csv'
        if name == 'encoders':
            known = []
            if args.encoders and path.exists():
                with path.open(encoding='utf-8', newline='') as file:
                    known = list(csv.DictReader(file))
            rows = list_encoders(known, args.encoders)
        else:
            rows = tables[name]()
        write_csv(path, rows)


if __name__ == '__main__':
    main()

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Search the splits of OMBRIA for near-duplicates.

python -m benchmarks.leakage --root data/ombria

Correlates standardised thumbnails of each chip with those of all chips of the other splits, in
all eight orientations. Does not find neighbours that share an edge: see the OMBRIA class.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from benchmarks.tables import RESULTS, write_csv
from torchgeo_m2cd.datasets import OMBRIA


def thumbnails(dataset: OMBRIA, size: int = 32) -> Tensor:
    """Make standardised thumbnails of chips.

    Args:
        dataset: The chips.
        size: Height and width of a thumbnail.

    Returns:
        Grey values, shape (2, N, size, size), optical first. Each thumbnail has norm 1.
    """
    images = torch.stack([dataset[i]['image'].mean(1) for i in range(len(dataset))])
    small = adaptive_avg_pool2d(images, size)
    small = small - small.mean((-2, -1), keepdim=True)
    small = small / (small.norm(dim=(-2, -1), keepdim=True) + 1e-6)
    result: Tensor = rearrange(small, 'n t h w -> t n h w')
    return result


def correlate(first: Tensor, second: Tensor) -> Tensor:
    """Correlate chips, each pair in its best orientation.

    Args:
        first: Thumbnails of shape (N, H, W).
        second: Thumbnails of shape (M, H, W).

    Returns:
        Correlations of shape (N, M).
    """
    flat = first.flatten(1)
    turned = [
        (image.flip(-1) if flip else image).rot90(turns, (-2, -1)).flatten(1)
        for image, flip, turns in itertools.product([second], (False, True), range(4))
    ]
    return torch.stack([flat @ other.T for other in turned]).amax(0)


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line interface."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--output', type=Path, default=RESULTS / 'leakage.csv', help='CSV file to write'
    )
    parser.add_argument('--root', type=Path, required=True, help='folder of OMBRIA')
    parser.add_argument(
        '--splits', nargs='+', default=['train', 'val', 'test', 'albania', 'timor']
    )
    parser.add_argument('--threshold', type=float, default=0.95)
    args = parser.parse_args(argv)

    datasets = {split: OMBRIA(args.root, split) for split in args.splits}
    images = {split: thumbnails(dataset) for split, dataset in datasets.items()}
    rows = []
    for first, second in itertools.combinations(args.splits, 2):
        row: dict[str, str | int] = {'split': first, 'other': second}
        # All open water looks alike in one image; duplicates look alike in both
        both = torch.stack(
            [
                correlate(*pair)
                for pair in zip(images[first], images[second], strict=True)
            ]
        ).amin(0)
        i, j = divmod(int(both.argmax()), both.shape[1])
        row['most alike'] = ' and '.join(
            Path(datasets[split].files[k].mask).stem
            for split, k in ((first, i), (second, j))
        )
        row['correlation'] = f'{both.max():.3f}'
        row[f'pairs above {args.threshold}'] = int((both > args.threshold).sum())
        rows.append(row)
        print(*row.values(), sep='\t')
    write_csv(args.output, rows)


if __name__ == '__main__':
    main()

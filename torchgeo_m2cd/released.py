# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""The files of released weights: parameters, and a description in JSON beside them.

Read by :class:`~torchgeo_m2cd.models.M2CD_Weights`, and by the command line, which lists
the weights without importing PyTorch.
"""

import json
import textwrap
from importlib import resources
from typing import Any

#: Where the files are; ``benchmarks.release`` writes them.
FOLDER = resources.files(__package__) / 'models' / 'released'

#: Name of the weights that are used unless others are chosen.
DEFAULT = 'OMBRIA_V1'

# Columns of a terminal that tables fit
_COLUMNS = 100


def describe_weights(name: str) -> dict[str, Any]:
    """Read the description of weights.

    Args:
        name: Name of the weights.

    Returns:
        The description, see :class:`~torchgeo_m2cd.models.M2CD_Weights`.
    """
    file = FOLDER / f'{name.lower()}.json'
    description: dict[str, Any] = json.loads(file.read_text(encoding='utf-8'))
    return description


def format_weights() -> str:
    """Write the released weights as a table.

    Returns:
        Lines of at most 100 columns.
    """
    table = [['weights', 'MB', 'shown', 'split', 'IoU', 'interval']]
    notes = []
    files = [file.name for file in FOLDER.iterdir() if file.name.endswith('.json')]
    for name in sorted(file.removesuffix('.json').upper() for file in files):
        meta = describe_weights(name)
        shown = ' '.join(meta['inputs']['bands'] + meta['inputs']['sar_bands'])
        first = [f'M2CD_Weights.{name}', f'{meta["bytes"] / 1e6:.1f}', shown]
        for split, figure in meta['figures'].items():
            interval = '{:.2f} to {:.2f}'.format(*figure['interval'])
            table.append([*first, split, f'{figure["IoU"]:.2f}', interval])
            first = [''] * len(first)
        default = ', the default' if name == DEFAULT else ''
        notes.append(
            f'M2CD_Weights.{name}{default}: {meta["data"]}. Licence: {meta["licence"]}.'
        )
    notes.append('threshold: a rule, without weights.')
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ['  '.join(map(str.ljust, row, widths)).rstrip() for row in table]
    for note in notes:
        lines += ['', *textwrap.wrap(note, _COLUMNS, subsequent_indent='  ')]
    return '\n'.join(lines)

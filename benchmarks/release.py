# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Make the file of released weights, and its description, from checkpoints.

python -m benchmarks.release ombria_v1 output/release/all/m2cd/0/fit/checkpoints/best.ckpt
    --counts output/release/counts.csv --calibration output/release/calibration.json
    --data '…' --licence '…'

Writes NAME.safetensors and NAME.json, which ``torchgeo_m2cd.models.M2CD_Weights`` reads.
Several checkpoints of one architecture are averaged. The calibration becomes part of the last
convolution, see ``calibration.py``, which also says how far the maps can be trusted. Figures are
those of ``compare.py``.
"""

import argparse
import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
import torch

from benchmarks.calibration import Calibration, fold
from benchmarks.scores import summarize
from torchgeo_m2cd.configurable import plain
from torchgeo_m2cd.models import M2CD
from torchgeo_m2cd.released import FOLDER
from torchgeo_m2cd.tasks import ChangeDetectionTask

# Arguments of the model that say nothing of its architecture
_NOT_SAVED = ('encoder_weights', 'activation', 'inputs')


def read_model(paths: Sequence[Path]) -> M2CD:
    """Read the model of a checkpoint, or the average of several.

    Args:
        paths: Checkpoints of :class:`~torchgeo_m2cd.tasks.ChangeDetectionTask`.

    Returns:
        The model with its inputs, in evaluation mode.

    Raises:
        ValueError: If one is not an M²CD with inputs, or if their inputs differ.
    """
    models: list[M2CD] = []
    for path in paths:
        task = ChangeDetectionTask.load_from_checkpoint(
            path, map_location='cpu', weights_only=True, _instantiator=None
        )
        if not isinstance(task.model, M2CD) or task.model.inputs is None:
            raise ValueError(f'{path} is not the checkpoint of an M²CD with inputs')
        models.append(task.model.eval())
    inputs = [model.inputs.to_dict() for model in models if model.inputs is not None]
    if any(other != inputs[0] for other in inputs):
        raise ValueError('the checkpoints have different inputs')
    states = [model.state_dict() for model in models]
    models[0].load_state_dict(
        {
            name: torch.stack([state[name] for state in states]).mean(dim=0)
            if value.is_floating_point()
            else value
            for name, value in states[0].items()
        }
    )
    return models[0]


def read_figures(path: Path, dataset: str) -> dict[str, dict[str, Any]]:
    """Read the IoU of each split.

    Args:
        path: Counts of ``compare.py``.
        dataset: Name of the dataset in its matrix.

    Returns:
        ``IoU``, mean over the seeds, ``interval`` and ``seeds`` by split.
    """
    table = pd.read_csv(path).query('dataset == @dataset and model != "Rule"')
    scores = summarize(table, ())
    return {
        row.split: {
            'IoU': round(row.IoU, 4),
            'interval': [round(row.low, 4), round(row.high, 4)],
            'seeds': int(row.seeds),
        }
        for row in scores.itertuples()
    }


def write_table(path: Path, counts: Path, events: Sequence[str]) -> None:
    """Write the IoU of all models, one row per split.

    Args:
        path: CSV file to write.
        counts: Counts of ``compare.py``.
        events: Splits whose mean is a row, too.
    """
    scores = summarize(pd.read_csv(counts), events)
    scores['IoU'] = [
        f'{r.IoU:.3f} [{r.low:.2f}, {r.high:.2f}]' for r in scores.itertuples()
    ]
    wide = scores.pivot(index='split', columns='model', values='IoU')
    seeds = scores[scores['model'] != 'Rule'].groupby('split')['seeds'].max()
    order = list(dict.fromkeys(scores['split']))
    wide.assign(seeds=seeds).loc[order].reset_index().to_csv(path, index=False)


def write(model: M2CD, folder: Path, name: str, meta: Mapping[str, Any]) -> Path:
    """Write weights and their description.

    Args:
        model: The model, with inputs.
        folder: Folder to write to.
        name: Name of the files, without suffix.
        meta: What else the description says, among it the ``url``.

    Returns:
        The file with the weights. Those of convolutions and layers are in half precision;
        vectors, such as the statistics of batch norm, take no space, and stay as they are.
    """
    assert model.inputs is not None
    content = safetensors.torch.save(
        {
            name: (value.half() if value.ndim > 1 else value).contiguous()
            for name, value in model.state_dict().items()
        }
    )
    description = {
        **meta,
        'model': {k: plain(v) for k, v in model.config.items() if k not in _NOT_SAVED},
        # Files of the field are in dB
        'inputs': model.inputs.in_decibels().to_dict(),
        'sha256': hashlib.sha256(content).hexdigest(),
        'bytes': len(content),
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f'{name}.safetensors'
    file.write_bytes(content)
    text = json.dumps(description, indent=2, ensure_ascii=False)
    (folder / f'{name}.json').write_text(f'{text}\n', encoding='utf-8')
    return file


def _commit() -> str:
    """Return the commit of the repository."""
    command = ['git', 'rev-parse', 'HEAD']
    return subprocess.run(
        command, capture_output=True, text=True, check=True
    ).stdout.strip()


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line interface."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('name', help='name of the files, without suffix')
    parser.add_argument('checkpoints', type=Path, nargs='+')
    parser.add_argument('--counts', type=Path, required=True, help='of compare.py')
    parser.add_argument(
        '--dataset', default='all', help='dataset of the counts, default: %(default)s'
    )
    parser.add_argument(
        '--calibration', type=Path, required=True, help='of calibration.py'
    )
    parser.add_argument('--data', required=True, help='what the model was trained with')
    parser.add_argument('--licence', required=True, help='licence of the data')
    parser.add_argument(
        '--url', help='address at the hub (defaults to the file in the package)'
    )
    parser.add_argument('--folder', type=Path, default=FOLDER)
    parser.add_argument('--table', type=Path, help='CSV file of the figures to write')
    parser.add_argument('--events', nargs='*', default=['albania', 'timor'])
    args = parser.parse_args(argv)

    calibration = json.loads(args.calibration.read_text())
    model = read_model(args.checkpoints)
    values = Calibration(calibration['temperature'], calibration['offset'])
    fold(model.segmentation_head, values)
    meta = {
        'url': args.url or f'{args.name}.safetensors',
        'data': args.data,
        'licence': args.licence,
        'figures': read_figures(args.counts, args.dataset),
        'reliability': calibration['reliability'],
        'commit': _commit(),
        'command': shlex.join(
            ['python', '-m', 'benchmarks.release', *(argv or sys.argv[1:])]
        ),
    }
    if args.table is not None:
        write_table(args.table, args.counts, args.events)
    file = write(model, args.folder, args.name, meta)
    print(f'{file}: {file.stat().st_size:,} bytes')


if __name__ == '__main__':
    main()

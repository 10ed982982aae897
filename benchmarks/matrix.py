# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""The cells of a matrix: models x seeds x datasets, from a YAML file."""

import dataclasses
import itertools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from benchmarks.baselines import THRESHOLDS
from torchgeo_m2cd.configs import config_path
from torchgeo_m2cd.utils import check_choice

#: Further tests of a trained model: with the optical images of other chips, or with
#: probabilities averaged over the eight orientations of a chip.
VARIANTS = ('optical swapped', 'orientations averaged')


@dataclasses.dataclass(frozen=True)
class Cell:
    """A model, trained on a dataset with a seed."""

    folder: str
    dataset: str
    model: str
    seed: int
    config: str
    arguments: dict[str, Any]
    splits: list[str]
    threshold: str | None = None
    variants: list[str] = dataclasses.field(default_factory=list)
    #: Folder of the cell whose best checkpoint this one starts from.
    after: str | None = None

    @property
    def path(self) -> Path:
        """Folder of the cell."""
        return Path(self.folder)


def read_matrix(path: Path, output: Path) -> list[Cell]:
    """List the cells of a matrix.

    Args:
        path: YAML file, see ``compare.yaml``.
        output: Folder of the results.

    Returns:
        Cells, ordered by seed.

    Raises:
        FileNotFoundError: If there is no such config.
        ValueError: If the file has an unknown key or threshold, two models have the same
            folder name, a model starts from one that is not in the file, or the config
            does not save the best checkpoint as ``best.ckpt``.
    """
    matrix = yaml.safe_load(path.read_bytes())
    _check_keys(path, matrix, {'config', 'arguments', 'datasets', 'models', 'seeds'})
    cells = []
    # A row may have its own seeds
    seeds = set(matrix['seeds']).union(
        *((what or {}).get('seeds', ()) for what in matrix['models'].values())
    )
    for seed, (dataset, where), (model, what) in itertools.product(
        sorted(seeds), matrix['datasets'].items(), matrix['models'].items()
    ):
        _check_keys(path, where, {'arguments', 'splits'})
        keys = {'arguments', 'threshold', 'variants', 'seeds', 'after'}
        _check_keys(path, what or {}, keys)
        _check_keys(
            path, dict.fromkeys((what or {}).get('variants', [])), set(VARIANTS)
        )
        options = dict(what or {})
        if seed not in options.pop('seeds', matrix['seeds']):
            continue
        arguments = {
            **matrix.get('arguments', {}),
            **where.get('arguments', {}),
            **options.pop('arguments', {}),
        }
        if 'threshold' in options:
            check_choice('threshold', options['threshold'], THRESHOLDS)
        if 'after' in options:
            check_choice('after', options['after'], matrix['models'])
            before = output / slug(dataset) / slug(options['after']) / str(seed)
            options['after'] = str(before)
        folder = output / slug(dataset) / slug(model) / str(seed)
        cells.append(
            Cell(
                str(folder), dataset, model, seed, matrix['config'], arguments,
                where['splits'], **options,
            )
        )  # fmt: skip
    if len({cell.folder for cell in cells}) < len(cells):
        raise ValueError(f'{path} has models whose names differ in punctuation only')
    for cell in cells:
        if cell.threshold is None:
            _check_saves_best(cell)
            break  # All have the same config
    return cells


def _check_saves_best(cell: Cell) -> None:
    """Check that the training of a cell will leave a checkpoint to test."""
    config = find_config(cell)
    trainer = yaml.safe_load(config.read_bytes()).get('trainer', {})
    names = [
        str(callback.get('init_args', {}).get('filename'))
        for callback in trainer.get('callbacks', [])
    ]
    if not any(name.startswith('best') for name in names):
        raise ValueError(
            f'{config} does not save the best checkpoint: expected a ModelCheckpoint with '
            'filename: best'
        )


def _check_keys(path: Path, given: Mapping[str, Any], known: set[str]) -> None:
    """Check that a mapping has no unknown keys."""
    unknown = set(given) - known
    if unknown:
        raise ValueError(
            f'{path} has the unknown key {min(unknown)!r}: expected some of '
            f'{sorted(known)}'
        )


def slug(name: str) -> str:
    """Turn a name into a folder or file name."""
    return re.sub(r'\W+', '-', name.lower().replace('²', '2')).strip('-')


def fit_arguments(cell: Cell) -> list[str]:
    """Return the arguments of ``torchgeo fit`` for a cell."""
    # A fixed folder, so that an interrupted run finds its best checkpoint
    logger = {
        'trainer.logger': 'lightning.pytorch.loggers.TensorBoardLogger',
        'trainer.logger.save_dir': cell.folder,
        'trainer.logger.name': '',
        'trainer.logger.version': 'fit',
    }
    last = cell.path / 'fit' / 'checkpoints' / 'last.ckpt'
    arguments = {
        'seed_everything': cell.seed,
        **logger,
        **cell.arguments,
        **({'ckpt_path': str(last)} if last.exists() else {}),
    }
    if cell.after is not None:
        arguments['model.init_from'] = str(best_checkpoint(Path(cell.after)))
    return [
        f'--config={find_config(cell)}',
        *(
            f'--{k}={v if isinstance(v, str) else json.dumps(v)}'.replace(
                '{folder}', cell.folder
            )
            for k, v in arguments.items()
        ),
    ]


def find_config(cell: Cell) -> Path:
    """Return the path of a cell's config: a file, or a config of the package."""
    is_file = cell.config.endswith('.yaml')
    return Path(cell.config) if is_file else config_path(cell.config)


def best_checkpoint(folder: Path) -> Path:
    """Find the best checkpoint in the folder of a cell."""
    found = sorted((folder / 'fit' / 'checkpoints').glob('best*.ckpt'))
    if len(found) != 1:
        raise FileNotFoundError(f'{folder} has {len(found)} best checkpoints')
    return found[0]

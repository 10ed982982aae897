# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Train and test models on the same terms: models x seeds x datasets.

python benchmarks/compare.py benchmarks/compare.yaml output/compare --jobs 2

Each cell of the matrix is trained by ``torchgeo fit`` in a folder of its own, and tested on
every split; see ``compare.yaml`` for how a row is added. When it is killed, run the same
command again: cells that are finished are left out, and one that was cut off goes on from its
last epoch. OUTPUT/counts.csv has the pixels of every chip that each model got right and wrong;
the predictions themselves are in the folders. ``report.py`` makes tables and plots of them.
"""

import argparse
import concurrent.futures
import dataclasses
import datetime
import importlib
import importlib.metadata
import itertools
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import yaml
from kornia.filters import gaussian_blur2d, otsu_threshold
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.cli import instantiate_class
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchgeo.datasets.utils import unbind_samples

from torchgeo_m2cd.configs import config_path
from torchgeo_m2cd.tasks import ChangeDetectionTask
from torchgeo_m2cd.utils import check_choice, write_beside

#: Outcomes of the pixels of a chip that are not to be ignored.
COUNTS = ('tp', 'fp', 'fn', 'tn')

#: Other ways to test a trained model: with optical images of other chips, and with the
#: mean over the eight orientations of a chip.
VARIANTS = ('optical swapped', 'orientations averaged')

#: Values that a written probability is a part of.
LEVELS = 255


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
        Cells, the first seed of all models first.

    Raises:
        ValueError: If the file has an unknown key, a model is like another one by name, or
            is to come after one that isn't there.
    """
    matrix = yaml.safe_load(path.read_text())
    _check_keys(path, matrix, {'config', 'arguments', 'datasets', 'models', 'seeds'})
    cells = []
    # A row may have seeds of its own
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
        if 'after' in options:
            check_choice('after', options['after'], matrix['models'])
            before = output / _slug(dataset) / _slug(options['after']) / str(seed)
            options['after'] = str(before)
        folder = output / _slug(dataset) / _slug(model) / str(seed)
        cells.append(
            Cell(
                str(folder), dataset, model, seed, matrix['config'], arguments,
                where['splits'], **options,
            )
        )  # fmt: skip
    if len({cell.folder for cell in cells}) < len(cells):
        raise ValueError(f'{path} has models whose names differ in punctuation only')
    return cells


def _check_keys(path: Path, given: Mapping[str, Any], known: set[str]) -> None:
    """Check that a mapping has no unknown key."""
    unknown = set(given) - known
    if unknown:
        raise ValueError(
            f'{path} has the unknown key {min(unknown)!r}: expected some of '
            f'{sorted(known)}'
        )


def _slug(name: str) -> str:
    """Make a file name of a name."""
    return re.sub(r'\W+', '-', name.lower().replace('²', '2')).strip('-')


def run_cell(cell: Cell, threads: int) -> str:
    """Train and test a cell, or what is left to do of it.

    Args:
        cell: The cell.
        threads: Threads to use.

    Returns:
        What was done.

    Raises:
        RuntimeError: If training or testing fails.
        ValueError: If the folder has a cell of other arguments.
    """
    cell.path.mkdir(parents=True, exist_ok=True)
    plan, made = cell.path / 'cell.json', json.dumps(dataclasses.asdict(cell), indent=1)
    if plan.exists() and json.loads(plan.read_text()) != json.loads(made):
        raise ValueError(f'{cell.folder} is of another matrix: remove it first')
    write_beside(plan, lambda file: file.write(made.encode()))
    if (cell.path / 'counts.csv').exists():
        return 'was finished'
    env = {**os.environ, 'OMP_NUM_THREADS': str(threads)}
    if cell.threshold is None and not (cell.path / 'fitted').exists():
        command = [sys.executable, '-m', 'torchgeo', 'fit', *fit_arguments(cell)]
        with (cell.path / 'starts').open('a') as file:
            file.write(f'{datetime.datetime.now(datetime.UTC).isoformat()}\n')
        _run(command, cell.path / 'fit.log', env)
        (cell.path / 'fitted').touch()
    _run(
        [sys.executable, __file__, '--evaluate', cell.folder],
        cell.path / 'test.log',
        env,
    )
    return 'done'


def fit_arguments(cell: Cell) -> list[str]:
    """Return the arguments of ``torchgeo fit`` for a cell."""
    # One folder, also after an interruption: the best model so far is in it
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
    """Return the path of the config of a cell: a file, or one that has a name."""
    is_file = cell.config.endswith('.yaml')
    return Path(cell.config) if is_file else config_path(cell.config)


def _run(command: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
    """Run a command, and raise its last words if it fails."""
    with log.open('a') as file:
        result = subprocess.run(command, check=False, env=env, stdout=file, stderr=file)
    if result.returncode:
        words = log.read_text().strip().splitlines()[-3:]
        raise RuntimeError(f'{log}: exit code {result.returncode}: {" ".join(words)}')


def best_checkpoint(folder: Path) -> Path:
    """Return the best checkpoint in the folder of a cell."""
    found = sorted((folder / 'fit' / 'checkpoints').glob('best*.ckpt'))
    if len(found) != 1:
        raise FileNotFoundError(f'{folder} has {len(found)} best checkpoints')
    return found[0]


class SwappedOptical(Dataset[dict[str, Tensor]]):
    """A dataset whose optical images are those of other chips."""

    def __init__(self, dataset: Any) -> None:
        """Initialize a new SwappedOptical instance."""
        self.dataset = dataset

    def __len__(self) -> int:
        """Return the number of chips."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Retrieve a chip: its neighbours may look alike, one half on does not."""
        sample: dict[str, Tensor] = self.dataset[index]
        other = self.dataset[(index + len(self) // 2) % len(self)]['image'][0]
        return {**sample, 'image': torch.stack([other, sample['image'][1]])}


def evaluate(cell: Cell) -> None:
    """Test a trained cell on all splits.

    Args:
        cell: The cell.
    """
    seed_everything(cell.seed, verbose=False)
    predictions = cell.path / 'predictions'
    predictions.mkdir(exist_ok=True)
    task, config = load_run(cell)
    rows, scores = [], {}
    for split in cell.splits:
        datamodule = make_datamodule(config, test_split=split)
        if task is not None:
            trainer = Trainer(
                logger=False, enable_progress_bar=False, enable_model_summary=False
            )
            scores[split] = trainer.test(task, datamodule=datamodule, verbose=False)[0]
        datamodule.setup('test')
        chips = [Path(file.mask).stem for file in datamodule.test_dataset.files]
        for variant in ('', *cell.variants):
            model = f'{cell.model}, {variant}' if variant else cell.model
            written, truth = predict(task, cell.threshold, datamodule, variant)
            np.savez_compressed(
                predictions / f'{"-".join(filter(None, (split, _slug(variant))))}.npz',
                probability=written, mask=truth, chips=chips,
            )  # fmt: skip
            rows += [
                {
                    'dataset': cell.dataset,
                    'split': split,
                    'model': model,
                    'seed': cell.seed,
                    'chip': chip,
                    **count(*pair),
                    **provenance(cell),
                }
                for chip, *pair in zip(chips, written, truth, strict=True)
            ]
    (cell.path / 'scores.json').write_text(json.dumps(scores, indent=1))
    text = pd.DataFrame(rows).to_csv(index=False)
    write_beside(cell.path / 'counts.csv', lambda file: file.write(text.encode()))


def load_run(cell: Cell) -> tuple[ChangeDetectionTask | None, dict[str, Any]]:
    """Load the best checkpoint of a cell, and the configuration that it was made with."""
    if cell.threshold is not None:
        # No model, but the data of one
        config: dict[str, Any] = yaml.safe_load(find_config(cell).read_text())
        for key, value in cell.arguments.items():
            if key.startswith('data.'):
                config['data']['init_args'][key.removeprefix('data.')] = value
        return None, config
    config = yaml.safe_load((cell.path / 'fit' / 'config.yaml').read_text())
    module, _, name = config['model']['class_path'].rpartition('.')
    task_class: type[ChangeDetectionTask] = getattr(
        importlib.import_module(module), name
    )
    task = task_class.load_from_checkpoint(
        best_checkpoint(cell.path), map_location='cpu', weights_only=True
    )
    return task.eval(), config


def make_datamodule(config: Mapping[str, Any], **changes: Any) -> Any:
    """Make the data module of a configuration."""
    data = config['data']
    arguments = {**data['init_args'], 'num_workers': 0, **changes}
    return _instantiate({**data, 'init_args': arguments})


def _instantiate(value: Any) -> Any:
    """Make the objects of a configuration, those within others first."""
    if isinstance(value, list):
        return [_instantiate(item) for item in value]
    if not isinstance(value, dict):
        return value
    made = {key: _instantiate(item) for key, item in value.items()}
    if 'class_path' not in made:
        return made
    return instantiate_class((), {'init_args': {}, **made})


@torch.inference_mode()
def predict(
    task: ChangeDetectionTask | None,
    threshold: str | None,
    datamodule: Any,
    variant: str = '',
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Predict the test split of a data module.

    Returns:
        Probabilities in parts of 255, and masks, both of shape (N, H, W).
    """
    limit: Any = None
    darkness = -1
    if threshold in ('global', 'change'):
        datamodule.setup('fit')
    if threshold == 'global':
        limit = best_threshold(datamodule.train_dataset)
    if threshold == 'change':
        darkness = best_darkness(datamodule.train_dataset)
    written, truth = [], []
    dataset = datamodule.test_dataset
    if variant == 'optical swapped':
        dataset = SwappedOptical(dataset)
    loader = DataLoader(dataset, datamodule.batch_size, collate_fn=default_collate)
    for batch in loader:
        truth.append(batch['mask'][:, 0])
        if task is None:
            if threshold == 'smooth-oracle':
                # Speckle is what most errors of a threshold look like
                smooth = gaussian_blur2d(batch['image'][:, 1], (9, 9), (2.0, 2.0))
                batch['image'][:, 1] = smooth.round()
            sar = batch['image'][:, 1, :1]
            if threshold in ('otsu', 'change'):
                limit = otsu_threshold(sar)[1].reshape(-1, 1, 1, 1)
            elif threshold in ('oracle', 'smooth-oracle'):
                limits = [best_threshold([sample]) for sample in unbind_samples(batch)]
                limit = torch.tensor(limits).reshape(-1, 1, 1, 1)
            flood = sar <= limit
            if threshold == 'change':
                optical = batch['image'][:, 0].mean(1, keepdim=True).floor()
                flood &= optical > darkness
            probability = flood.float()
        else:
            batch = datamodule.aug(batch)
            probability = task.predict_step(batch, 0)
            if variant == 'orientations averaged':
                probability = average_orientations(task, batch)
        written.append((probability[:, -1] * LEVELS).round())
    return tuple(torch.cat(v).to(torch.uint8).numpy() for v in (written, truth))  # type: ignore[return-value]


def average_orientations(task: ChangeDetectionTask, batch: dict[str, Tensor]) -> Tensor:
    """Predict a batch in all eight orientations, and average."""
    total = torch.zeros(())
    for turns, flip in itertools.product(range(4), (False, True)):
        image = batch['image'].rot90(turns, (-2, -1))
        image = image.flip(-1) if flip else image
        probability = task.predict_step({'image': image, 'source': image}, 0)
        probability = probability.flip(-1) if flip else probability
        total = total + probability.rot90(-turns, (-2, -1))
    return total / 8


def best_threshold(samples: Iterable[dict[str, Tensor]]) -> int:
    """Find the SAR value up to which calling all flood gives the best IoU on samples."""
    counts = torch.zeros(2, 256)  # by class and value
    for sample in samples:
        values, mask = sample['image'][1, 0].long(), sample['mask'][0]
        for label in (0, 1):
            counts[label] += torch.bincount(values[mask == label], minlength=256)
    false_alarms, hits = counts.cumsum(1)
    iou = hits / (counts[1].sum() + false_alarms)
    # Without any flood, the best is to find none
    return int(iou.argmax()) if counts[1].any() else -1


def best_darkness(samples: Iterable[dict[str, Tensor]]) -> int:
    """Find the optical value up to which dark pixels are better not called flood.

    Of pixels that are dark in SAR by Otsu's threshold of their chip. Counts IoU, and the
    mean over the optical bands.
    """
    counts = torch.zeros(2, 256)  # by class and optical value
    missed = 0
    for sample in samples:
        optical, sar, mask = (
            sample['image'][0].mean(0),
            sample['image'][1, :1],
            sample['mask'][0],
        )
        dark = sar[0] <= otsu_threshold(sar[None])[1]
        for label in (0, 1):
            values = optical[dark & (mask == label)].long()
            counts[label] += torch.bincount(values, minlength=256)
        missed += int((~dark & (mask == 1)).sum())
    # Brighter than each value
    false_alarms, hits = counts.sum(1, keepdim=True) - counts.cumsum(1)
    positives = counts[1].sum() + missed
    return int((hits / (positives + false_alarms)).argmax())


def count(
    probability: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8], level: int = 128
) -> dict[str, int]:
    """Count the outcomes of a chip.

    Args:
        probability: Probability in parts of 255, shape (H, W).
        mask: 0, 1, or 255 for pixels to ignore.
        level: Part of 255 from which on a pixel is changed.

    Returns:
        Pixels by outcome.
    """
    flood = probability >= level
    return {
        'tp': int((flood & (mask == 1)).sum()),
        'fp': int((flood & (mask == 0)).sum()),
        'fn': int((~flood & (mask == 1)).sum()),
        'tn': int((~flood & (mask == 0)).sum()),
    }


def provenance(cell: Cell) -> dict[str, str | int]:
    """Say what a result was made with.

    A run that was cut off and goes on sees other random batches than one that was not:
    ``starts`` says how often it began.
    """
    starts = cell.path / 'starts'
    commit = subprocess.run(
        ['git', 'describe', '--always', '--dirty'],
        check=False,
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    ).stdout.strip()
    names = ('torch', 'torchgeo', 'torchgeo-m2cd')
    versions = [f'{name} {importlib.metadata.version(name)}' for name in names]
    return {
        'commit': commit,
        'versions': ', '.join([*versions, f'Python {platform.python_version()}']),
        'starts': len(starts.read_text().splitlines()) if starts.exists() else 0,
    }


def read_counts(cell: Cell) -> pd.DataFrame:
    """Read the counts of a finished cell."""
    # A commit like 7e20829 is no number
    return pd.read_csv(cell.path / 'counts.csv', dtype={'commit': str})


def collect(cells: Sequence[Cell], output: Path) -> None:
    """Put the counts of all finished cells into one table."""
    tables = [
        read_counts(cell) for cell in cells if (cell.path / 'counts.csv').exists()
    ]
    if tables:
        text = pd.concat(tables).to_csv(index=False)
        write_beside(output / 'counts.csv', lambda file: file.write(text.encode()))


def run_all(cells: Sequence[Cell], jobs: int) -> Iterator[tuple[Cell, str | Exception]]:
    """Run cells, several at a time, and those that start from others last.

    Yields:
        Each cell, and what was done or went wrong.
    """
    threads = max(len(os.sched_getaffinity(0)) // jobs, 1)
    first = [cell for cell in cells if cell.after is None]
    second = [cell for cell in cells if cell.after is not None]
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for part in (first, second):
            futures = {pool.submit(run_cell, cell, threads): cell for cell in part}
            for future in concurrent.futures.as_completed(futures):
                error = future.exception()
                if error is not None and not isinstance(error, Exception):
                    raise error
                yield futures[future], error or future.result()


def main(argv: Sequence[str] | None = None) -> int:
    """Command-line interface."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('matrix', type=Path, nargs='?', help='YAML file')
    parser.add_argument('output', type=Path, nargs='?', help='folder to write to')
    parser.add_argument('--jobs', type=int, default=1, help='cells at a time')
    parser.add_argument('--models', nargs='+', help='only these rows')
    parser.add_argument('--evaluate', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.evaluate:
        evaluate(Cell(**json.loads((args.evaluate / 'cell.json').read_text())))
        return 0
    if args.output is None:
        parser.error('the following arguments are required: matrix, output')
    every = read_matrix(args.matrix, args.output)
    for model in args.models or ():
        check_choice('model', model, {cell.model: None for cell in every})
    cells = [cell for cell in every if not args.models or cell.model in args.models]
    failed = 0
    for number, (cell, result) in enumerate(run_all(cells, args.jobs), 1):
        failed += isinstance(result, Exception)
        place = f'{cell.dataset}, {cell.model}, seed {cell.seed}'
        print(f'[{number}/{len(cells)}] {place}: {result}', flush=True)
        collect(every, args.output)
    return min(failed, 1)


if __name__ == '__main__':
    sys.exit(main())

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Test a cell of a matrix, a trained model or a threshold, on all of its splits.

python -m benchmarks.evaluate output/compare/ombria/u-net-resnet-18/0

Writes the predictions and counts.csv to the folder of the cell. ``compare.py`` runs it for each
cell in a separate process.
"""

import argparse
import importlib
import importlib.metadata
import itertools
import json
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from torchgeo.datamodules import BaseDataModule

from benchmarks.baselines import make_baseline
from benchmarks.matrix import Cell, best_checkpoint, find_config, slug
from torchgeo_m2cd.tasks import ChangeDetectionTask
from torchgeo_m2cd.utils import write_beside

#: Outcomes of the labelled pixels of a chip: true and false positives and negatives.
COUNTS = ('tp', 'fp', 'fn', 'tn')
#: Probabilities are stored as integers from 0 to this value.
LEVELS = 255


class SwappedOptical(Dataset[dict[str, Tensor]]):
    """A dataset in which each chip has the optical image of another chip."""

    def __init__(self, dataset: Any) -> None:
        """Initialize a new SwappedOptical instance."""
        self.dataset = dataset

    def __len__(self) -> int:
        """Return the number of chips."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return a chip with the optical image of the chip half a dataset away."""
        sample: dict[str, Tensor] = self.dataset[index]
        # Neighbours look alike
        other = self.dataset[(index + len(self) // 2) % len(self)]['image'][0]
        return {**sample, 'image': torch.stack([other, sample['image'][1]])}


def evaluate(cell: Cell) -> None:
    """Test a cell on all of its splits.

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
            predict_batch = make_model(cell, task, datamodule, variant)
            written, truth = predict(predict_batch, datamodule, variant)
            np.savez_compressed(
                predictions / f'{"-".join(filter(None, (split, slug(variant))))}.npz',
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
    """Load the best checkpoint of a cell and the configuration of its run."""
    if cell.threshold is not None:
        # A threshold has no run: use the data of the config
        config: dict[str, Any] = yaml.safe_load(find_config(cell).read_bytes())
        for key, value in cell.arguments.items():
            if key.startswith('data.'):
                config['data']['init_args'][key.removeprefix('data.')] = value
        if cell.threshold != 'rule':
            return None, config
        return ChangeDetectionTask('threshold').eval(), config
    config = yaml.safe_load((cell.path / 'fit' / 'config.yaml').read_bytes())
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
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(BaseDataModule, 'data')
    made = parser.parse_object({'data': {**data, 'init_args': arguments}})
    return parser.instantiate(made)['data']


@torch.inference_mode()
def predict(
    model: Callable[[dict[str, Tensor]], Tensor], datamodule: Any, variant: str = ''
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Predict the test split of a data module.

    Args:
        model: Function that maps a batch in source units to probabilities or classes, shape
            (B, C, H, W). The last channel is the flood.
        datamodule: Data module, set up for tests.
        variant: One of :data:`~benchmarks.matrix.VARIANTS`, or empty.

    Returns:
        Probabilities from 0 to 255, and masks, both of shape (N, H, W).
    """
    dataset = datamodule.test_dataset
    if variant == 'optical swapped':
        dataset = SwappedOptical(dataset)
    loader = DataLoader(dataset, datamodule.batch_size, collate_fn=default_collate)
    written, truth = [], []
    for batch in loader:
        truth.append(batch['mask'][:, 0])
        written.append((model(batch)[:, -1].float() * LEVELS).round())
    probability, mask = (
        torch.cat(values).to(torch.uint8).numpy() for values in (written, truth)
    )
    return probability, mask


def make_model(
    cell: Cell, task: ChangeDetectionTask | None, datamodule: Any, variant: str
) -> Callable[[dict[str, Tensor]], Tensor]:
    """Make the function that predicts a batch in source units."""
    if task is None:
        assert cell.threshold is not None
        return make_baseline(cell.threshold, datamodule)
    averaged = variant == 'orientations averaged'

    def model(batch: dict[str, Tensor]) -> Tensor:
        batch = datamodule.aug(batch)
        if averaged:
            return average_orientations(task, batch)
        probability: Tensor = task.predict_step(batch, 0)
        return probability

    return model


def average_orientations(task: ChangeDetectionTask, batch: dict[str, Tensor]) -> Tensor:
    """Average the probabilities over the eight orientations of a batch."""
    total = torch.zeros(())
    for turns, flip in itertools.product(range(4), (False, True)):
        image = batch['image'].rot90(turns, (-2, -1))
        image = image.flip(-1) if flip else image
        probability = task.predict_step({'image': image, 'source': image}, 0)
        probability = probability.flip(-1) if flip else probability
        total = total + probability.rot90(-turns, (-2, -1))
    return total / 8


def count(
    probability: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8], level: int = 128
) -> dict[str, int]:
    """Count the outcomes of a chip.

    Args:
        probability: Probabilities from 0 to 255, shape (H, W).
        mask: 0, 1, or 255 for pixels to ignore, shape (H, W).
        level: Smallest probability that counts as flood, from 0 to 255.

    Returns:
        Numbers of pixels by outcome.
    """
    flood = probability >= level
    return {
        'tp': int((flood & (mask == 1)).sum()),
        'fp': int((flood & (mask == 0)).sum()),
        'fn': int((~flood & (mask == 1)).sum()),
        'tn': int((~flood & (mask == 0)).sum()),
    }


def provenance(cell: Cell) -> dict[str, str | int]:
    """Record the commit, the versions and the number of starts of a run.

    ``starts`` matters because a resumed run draws other random batches than one that was
    not interrupted.
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
    # pandas would read the commit 7e20829 as a number
    return pd.read_csv(cell.path / 'counts.csv', dtype={'commit': str})


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line interface."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('folder', type=Path, help='folder of the cell')
    args = parser.parse_args(argv)
    evaluate(Cell(**json.loads((args.folder / 'cell.json').read_text())))


if __name__ == '__main__':
    main()

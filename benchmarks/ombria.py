# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Compare trained models on OMBRIA: a table, the curves, and a page of predictions.

Each model is the folder that ``torchgeo fit`` wrote, with its configuration, its best
checkpoint and its curves:

    torchgeo fit --config "$(python -m torchgeo_m2cd.configs ombria)" \
      --data.root data/ombria --trainer.default_root_dir output/m2cd
    torchgeo fit --config "$(python -m torchgeo_m2cd.configs ombria)" \
      --data.root data/ombria --trainer.default_root_dir output/unet \
      --model.model unet --model.backbone resnet18
    python benchmarks/ombria.py --root data/ombria --output output/comparison \
      'M²CD, MiT-b0=output/m2cd' 'U-Net, ResNet-18=output/unet'
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
import yaml
from lightning.pytorch import Trainer, seed_everything
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torchgeo.datasets.utils import quantile_normalization

from torchgeo_m2cd.datamodules import OMBRIADataModule
from torchgeo_m2cd.datasets import OMBRIA
from torchgeo_m2cd.tasks import ChangeDetectionTask

METRICS = {
    'IoU': 'test_AverageJaccardIndex',
    'F1': 'test_AverageF1Score',
    'Precision': 'test_AveragePrecision',
    'Recall': 'test_AverageRecall',
}

#: True negative, hit, miss, false alarm, in colours of Okabe and Ito
OUTCOMES = {
    'no flood': 'black',
    'hit': 'white',
    'miss': '#D55E00',
    'false alarm': '#56B4E9',
}


class Run(NamedTuple):
    """A trained model."""

    name: str
    folder: Path  # of the last version that was trained
    task: ChangeDetectionTask
    data: dict[str, Any]  # arguments of its data module


def load_run(argument: str, root: Path) -> Run:
    """Load the last run in a folder that ``torchgeo fit`` wrote.

    Args:
        argument: ``NAME=FOLDER``.
        root: Root directory of OMBRIA.

    Returns:
        The run, with its best checkpoint.

    Raises:
        FileNotFoundError: If there is no run in the folder.
    """
    name, _, folder = argument.partition('=')
    versions = sorted(
        Path(folder).glob('lightning_logs/version_*/checkpoints/best.ckpt'),
        key=lambda path: path.stat().st_mtime,
    )
    if not versions:
        raise FileNotFoundError(
            f'no lightning_logs/*/checkpoints/best.ckpt in {folder}'
        )
    version = versions[-1].parents[1]
    config = yaml.safe_load((version / 'config.yaml').read_text())
    data = config['data']['init_args'] | {'root': root, 'num_workers': 0}
    task = ChangeDetectionTask.load_from_checkpoint(
        versions[-1], map_location='cpu', weights_only=True
    )
    return Run(name, version, task, data)


def best_threshold(dataset: OMBRIA) -> tuple[int, float]:
    """Find the SAR value below which calling everything flood gives the best IoU.

    Args:
        dataset: Split to choose it on.

    Returns:
        The threshold, and its IoU on the split.
    """
    counts = torch.zeros(2, 256)  # by class and value
    for sample in dataset:  # type: ignore[attr-defined]
        values, mask = sample['image'][1, 0].long(), sample['mask'][0]
        for label in (0, 1):
            counts[label] += torch.bincount(values[mask == label], minlength=256)
    false_alarms, hits = counts.cumsum(1)
    iou = hits / (counts[1].sum() + false_alarms)
    return int(iou.argmax()) + 1, float(iou.max())


def scores_of_threshold(dataset: OMBRIA, threshold: int) -> dict[str, float]:
    """Score a global SAR threshold.

    Args:
        dataset: Split to score it on.
        threshold: Value below which a pixel is flood.

    Returns:
        Score by the name of the metric.
    """
    hits = misses = false_alarms = 0
    for sample in dataset:  # type: ignore[attr-defined]
        prediction, truth = sample['image'][1, 0] < threshold, sample['mask'][0] == 1
        hits += int((prediction & truth).sum())
        misses += int((~prediction & truth).sum())
        false_alarms += int((prediction & ~truth).sum())
    return {
        'IoU': hits / (hits + misses + false_alarms),
        'F1': 2 * hits / (2 * hits + misses + false_alarms),
        'Precision': hits / (hits + false_alarms),
        'Recall': hits / (hits + misses),
    }


def scores_of_run(run: Run, split: str) -> dict[str, float]:
    """Score a trained model.

    Args:
        run: The model.
        split: Split to score it on.

    Returns:
        Score by the name of the metric.
    """
    trainer = Trainer(
        logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    datamodule = OMBRIADataModule(**(run.data | {'test_split': split}))
    (results,) = trainer.test(run.task, datamodule=datamodule, verbose=False)
    return {name: results[key] for name, key in METRICS.items()}


def plot_curves(runs: Sequence[Run], path: Path) -> None:
    """Draw loss and IoU over the epochs.

    Args:
        runs: The models.
        path: PNG to write.
    """
    figure, axes = plt.subplots(
        2,
        len(runs),
        figsize=(4 * len(runs), 5),
        sharex=True,
        sharey='row',
        squeeze=False,
    )
    for column, run in zip(axes.T, runs, strict=True):
        events = EventAccumulator(str(run.folder))
        events.Reload()
        for ax, metric in zip(column, ('loss', 'AverageJaccardIndex'), strict=True):
            for stage in ('train', 'val'):
                scalars = events.Scalars(f'{stage}_{metric}')
                values = torch.tensor([scalar.value for scalar in scalars])
                steps = torch.tensor([float(scalar.step) for scalar in scalars])
                ax.plot(
                    steps, values, label={'train': 'training'}.get(stage, 'validation')
                )
            ax.grid(alpha=0.3)
        column[0].set_title(run.name)
        column[1].set_xlabel('iteration')
    axes[0, 0].set_ylabel('loss')
    axes[1, 0].set_ylabel('IoU of the flood')
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


@torch.inference_mode()
def plot_predictions(runs: Sequence[Run], splits: Sequence[str], path: Path) -> None:
    """Draw predictions of all models on the same chips.

    Args:
        runs: The models.
        splits: Splits; of each, three chips spread evenly over it are shown.
        path: PNG to write.
    """
    columns = ['Sentinel-2, before', 'Sentinel-1, after', *(run.name for run in runs)]
    rows = 3 * len(splits)
    figure, axes = plt.subplots(
        rows, len(columns), figsize=(2 * len(columns), 2 * rows + 0.6)
    )
    row = 0
    for split in splits:
        datasets = []
        for run in runs:
            datamodule = OMBRIADataModule(**(run.data | {'test_split': split}))
            datamodule.setup('test')
            datasets.append((run, datamodule, datamodule.test_dataset))
        dataset: Any = datasets[0][2]
        for k in range(3):
            index = (2 * k + 1) * len(dataset) // 6
            sample = dataset[index]
            optical, sar = sample['image']
            axes[row, 0].imshow(quantile_normalization(optical).permute(1, 2, 0))
            axes[row, 1].imshow(sar[0], cmap='gray')
            axes[row, 0].set_ylabel(f'{split} {index}')
            truth = sample['mask'][0] == 1
            for ax, (run, datamodule, _) in zip(axes[row, 2:], datasets, strict=True):
                batch = {name: value[None] for name, value in sample.items()}
                probability = run.task.eval().predict_step(datamodule.aug(batch), 0)
                ax.imshow(
                    outcomes(probability[0, 0] >= 0.5, truth),
                    cmap=ListedColormap(list(OUTCOMES.values())),
                    vmin=0,
                    vmax=3,
                    interpolation='none',
                )
            row += 1
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    for ax, title in zip(axes[0], columns, strict=True):
        ax.set_title(title, fontsize=9)
    figure.legend(
        handles=[
            Patch(facecolor=color, edgecolor='black', label=name)
            for name, color in OUTCOMES.items()
        ],
        loc='lower center',
        ncols=4,
    )
    figure.tight_layout(rect=(0, 0.3 / rows, 1, 1))
    figure.savefig(path, dpi=80)
    plt.close(figure)


def outcomes(prediction: Tensor, truth: Tensor) -> Tensor:
    """Number the outcomes of pixels as in OUTCOMES."""
    return (prediction & truth) + 2 * (~prediction & truth) + 3 * (prediction & ~truth)


def main() -> None:
    """Command-line interface."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('runs', nargs='+', metavar='NAME=FOLDER')
    parser.add_argument('--root', type=Path, required=True, help='of OMBRIA')
    parser.add_argument('--output', type=Path, required=True, help='folder to write to')
    parser.add_argument('--splits', nargs='+', default=['test', 'albania', 'timor'])
    args = parser.parse_args()
    seed_everything(0)
    args.output.mkdir(parents=True, exist_ok=True)

    runs = [load_run(argument, args.root) for argument in args.runs]
    threshold, _ = best_threshold(OMBRIA(args.root, 'train'))
    rows = []
    for split in args.splits:
        scores = {
            f'SAR below {threshold}': scores_of_threshold(
                OMBRIA(args.root, split), threshold
            )
        }
        scores |= {run.name: scores_of_run(run, split) for run in runs}
        rows += [
            {'split': split, 'model': name} | {k: f'{v:.3f}' for k, v in values.items()}
            for name, values in scores.items()
        ]
        for row in rows[-len(scores) :]:
            print(*row.values(), sep='\t', flush=True)
    with (args.output / 'ombria.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, rows[0], lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
    plot_curves(runs, args.output / 'ombria-curves.png')
    plot_predictions(runs, args.splits, args.output / 'ombria-predictions.png')


if __name__ == '__main__':
    main()

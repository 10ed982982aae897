# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""From nothing to a change map: train, test and map a scene, all on synthetic data.

Prints the ``torchgeo`` commands that it runs.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torchmetrics.functional.classification import binary_jaccard_index

from .configs import config_path
from .datasets import SceneDataset, SyntheticFlood
from .task_cli import TaskCLI


def run(*args: str) -> TaskCLI:
    """Run a ``torchgeo`` command.

    Args:
        args: The arguments of the command.

    Returns:
        The command-line interface; its ``trainer`` has the results.
    """
    print(f'\n$ torchgeo {shlex.join(args)}', flush=True)
    return TaskCLI(args)


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line interface.

    Args:
        argv: Arguments (defaults to those of the process).
    """
    parser = argparse.ArgumentParser(
        prog='python -m torchgeo_m2cd.demo',
        description='Train and test on synthetic floods, then map a synthetic scene.',
    )
    parser.add_argument(
        '--output', type=Path, default=Path('output/demo'), help='default: %(default)s'
    )
    parser.add_argument(
        '--size',
        type=int,
        default=512,
        help='pixels of the scene, default: %(default)s',
    )
    args, overrides = parser.parse_known_args(argv)
    output: Path = args.output

    config = str(config_path('synthetic'))
    fit = run(
        *('fit', '--config', config),
        *('--trainer.default_root_dir', str(output)),
        *overrides,
    )
    callback = fit.trainer.checkpoint_callback
    assert isinstance(callback, ModelCheckpoint)
    checkpoint = callback.best_model_path
    test = run(
        *('test', '--config', config, '--ckpt_path', checkpoint),
        *('--trainer.default_root_dir', str(output)),
        *overrides,
    )
    iou = float(test.trainer.callback_metrics['test_IoU'])

    dataset = SyntheticFlood(split='test', length=1)
    # The resolution of training: resampling SAR would smooth its speckle
    scene = dataset.write_scene(
        output / 'scene', size=args.size, index=2, sar_resolution=10, overwrite=True
    )
    change, classes = output / 'change.tif', output / 'classes.tif'
    run(
        *('predict', '--config', str(config_path('scene')), '--ckpt_path', checkpoint),
        *('--data.optical', str(scene['optical']), '--data.sar', str(scene['sar'])),
        # Small patches for a small scene
        *('--data.patch_size', '256', '--data.stride', '128'),
        *('--trainer.default_root_dir', str(output / 'scene')),
        *('--trainer.callbacks.output', str(change)),
        *('--trainer.callbacks.classes', str(classes)),
        *('--trainer.callbacks.overwrite', 'true'),
    )

    # Read the whole scene twice: with the true mask, and with the predicted classes as mask
    paths = (scene['optical'], scene['sar'])
    truth, predicted = (
        pair[pair.bounds]
        for pair in (
            SceneDataset(*paths, mask=scene['mask']),
            SceneDataset(*paths, mask=classes),
        )
    )
    # Known water before the flood is a class of its own
    prediction = (predicted['mask'] == 1).long()
    scene_iou = float(
        binary_jaccard_index(
            prediction, truth['mask'], ignore_index=dataset.ignore_index
        )
    )
    figure = dataset.plot(
        {'image': truth['image'], 'mask': truth['mask'], 'prediction': prediction},
        suptitle=f'Synthetic flood, not seen in training: IoU {scene_iou:.2f}',
    )
    figure.savefig(output / 'demo.png', dpi=150)

    print(f"""
IoU of the flood: {iou:.2f} on unseen chips, {scene_iou:.2f} on the mapped scene
Scene:            {scene['optical']}, {scene['sar']}
Change map:       {change} (probabilities), {classes} (classes 0 and 1)
Figure:           {output / 'demo.png'}
Checkpoint:       {checkpoint}
Curves:           tensorboard --logdir {output}""")


if __name__ == '__main__':
    torch.set_float32_matmul_precision('high')
    main()

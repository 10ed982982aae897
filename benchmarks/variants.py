# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""What the study tries, and what has not earned a place in the package.

A row of ``study.yaml`` takes this task in place of that of the package, with
``model: benchmarks.variants.VariantTask`` and, for example, ``model.variant: residual``, or
this data module, with ``data: benchmarks.variants.FloodShareDataModule``.
"""

import math
from typing import Any, Literal, cast, get_args

import torch
from kornia.enhance import adjust_gamma
from torch import Tensor, nn
from torch.utils.data import DataLoader, WeightedRandomSampler
from torchgeo.datasets.utils import Sample

from torchgeo_m2cd.datamodules import OMBRIADataModule
from torchgeo_m2cd.datasets import OMBRIA
from torchgeo_m2cd.models import CosineGate, MixtureOfExperts, MoEOutput
from torchgeo_m2cd.tasks import ChangeDetectionTask
from torchgeo_m2cd.utils import check_choice

#: Of the model (the first five), and of SAR in training (the last three).
Variant = Literal[
    'residual',
    'sharp-gate',
    'same-experts',
    'group-norm',
    'batch-statistics',
    'gamma',
    'speckle',
    'histogram-matching',
]


class VariantTask(ChangeDetectionTask):
    """Change detection with one thing changed."""

    def __init__(self, variant: Variant = 'residual', **kwargs: Any) -> None:
        """Initialize a new VariantTask.

        Args:
            variant: What is changed:

                * ``'residual'``: a mixture of experts adds to its input
                * ``'sharp-gate'``: gates begin with a temperature five times as high
                * ``'same-experts'``: all experts of a mixture begin alike
                * ``'group-norm'``: group norm (8 groups) in place of batch norm
                * ``'batch-statistics'``: batch norm takes its statistics from the batch,
                  in tests, too
                * ``'gamma'``: random gamma of SAR, from 2/3 to 3/2
                * ``'speckle'``: random noise on SAR
                * ``'histogram-matching'``: SAR gets the histogram of another chip, half
                  of the times
            **kwargs: Arguments of
                :class:`~torchgeo_m2cd.tasks.ChangeDetectionTask`.
        """
        check_choice('variant', variant, get_args(Variant))
        super().__init__(**kwargs)

    def configure_models(self) -> None:
        """Initialize the model."""
        super().configure_models()
        for module in list(self.model.modules()):
            match self.hparams['variant'], module:
                case 'residual', MixtureOfExperts():
                    module.register_forward_hook(_add_input)
                case 'sharp-gate', CosineGate():
                    nn.init.constant_(module.temperature, math.log(10))
                case 'same-experts', MixtureOfExperts():
                    for layer in (module.fc1, module.fc2):
                        for parameter in layer.parameters():
                            parameter.data[:] = parameter.data[:1].clone()
                case 'batch-statistics', nn.BatchNorm2d():
                    module.track_running_stats = False
                    module.running_mean = module.running_var = None
        if self.hparams['variant'] == 'group-norm':
            _replace_batch_norms(self.model)

    def _shared_step(self, batch: Sample, batch_idx: int, stage: str) -> Tensor:
        """Compute the loss and the metrics of a stage."""
        if stage == 'train':
            optical, sar = batch['image'].unbind(dim=1)
            sar = change_sar(sar, self.hparams['variant'])
            batch = {**batch, 'image': torch.stack([optical, sar], dim=1)}
        return super()._shared_step(batch, batch_idx, stage)


class FloodShareDataModule(OMBRIADataModule):
    """OMBRIA, with another share of floods in training."""

    def __init__(self, flood_share: float, **kwargs: Any) -> None:
        """Initialize a new FloodShareDataModule instance.

        Args:
            flood_share: Mean share of the pixels of a chip that are flooded, over the
                chips that are drawn.
            **kwargs: Arguments of
                :class:`~torchgeo_m2cd.datamodules.OMBRIADataModule`.
        """
        super().__init__(**kwargs)
        self.flood_share = flood_share

    def train_dataloader(self) -> DataLoader[Sample]:
        """Draw as many chips as there are, with replacement."""
        dataset = cast(OMBRIA, self.train_dataset)
        masks = [dataset[i]['mask'] for i in range(len(dataset))]
        shares = torch.stack([(mask == 1).float().mean() for mask in masks])
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=WeightedRandomSampler(
                share_weights(shares, self.flood_share).tolist(), len(shares)
            ),
            num_workers=self.num_workers,
            drop_last=True,
            collate_fn=self.collate_fn,
        )


def share_weights(shares: Tensor, mean: float) -> Tensor:
    """Weight chips so that their mean share of floods is a given one.

    Those with less than the mean get one weight, those with more another one.

    Args:
        shares: Share of floods of each chip.
        mean: Mean to reach.

    Returns:
        Weights, in the sum 1.

    Raises:
        ValueError: If all chips have less, or all have more.
    """
    less = shares < mean
    if less.all() or not less.any():
        raise ValueError(
            f'flood_share is {mean}: expected one from {float(shares.min()):.2f} to '
            f'{float(shares.max()):.2f}, those of the chips'
        )
    low, high = shares[less].mean(), shares[~less].mean()
    part = (high - mean) / (high - low)
    return torch.where(less, part / less.sum(), (1 - part) / (~less).sum())


def change_sar(sar: Tensor, variant: str) -> Tensor:
    """Change standardised SAR images at random.

    Args:
        sar: Images of shape (B, C, H, W).
        variant: See :class:`VariantTask`.

    Returns:
        Changed images; those given if *variant* is of the model.
    """
    draw = torch.rand(len(sar), 1, 1, 1, device=sar.device)
    match variant:
        case 'gamma':
            # Of values from 0 to 1, which standardised ones are well within
            gamma = 1.5 ** (2 * draw.flatten() - 1)
            return adjust_gamma((sar + 5) / 10, gamma) * 10 - 5
        case 'speckle':
            return sar + 0.5 * draw * torch.randn_like(sar)
        case 'histogram-matching':
            values = sar.flatten(2)
            ranks = values.argsort(dim=-1).argsort(dim=-1)
            other = values.roll(1, dims=0).sort(dim=-1).values
            matched = other.gather(-1, ranks).reshape(sar.shape)
            return torch.where(draw < 0.5, matched, sar)
    return sar


def _add_input(
    module: nn.Module, args: tuple[Tensor, ...], output: MoEOutput
) -> MoEOutput:
    """Add the input of a mixture of experts to its output."""
    return output._replace(tokens=output.tokens + args[0])


def _replace_batch_norms(module: nn.Module) -> None:
    """Replace all batch norms within a module by group norms."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(8, child.num_features))
        else:
            _replace_batch_norms(child)

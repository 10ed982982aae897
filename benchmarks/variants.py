# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Variants that the study tests and that did not make it into the package.

A row of ``study.yaml`` uses this task with ``model: benchmarks.variants.VariantTask`` and, for
example, ``model.variant: residual``, or this data module with
``data: benchmarks.variants.FloodShareDataModule``.
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

#: Six change the model, the last three change SAR images in training.
Variant = Literal[
    'residual',
    'residual-modality',
    'sharp-gate',
    'same-experts',
    'group-norm',
    'batch-statistics',
    'gamma',
    'speckle',
    'histogram-matching',
]


class VariantTask(ChangeDetectionTask):
    """Change detection with one variant of the model or of SAR images."""

    def __init__(self, variant: Variant = 'residual', **kwargs: Any) -> None:
        """Initialize a new VariantTask.

        Args:
            variant: What to change:

                * ``'residual'``: mixtures of experts add to their input
                * ``'residual-modality'``: they do, and their gates know which image a token
                  is of
                * ``'sharp-gate'``: the initial temperature of gates is five times as high
                * ``'same-experts'``: all experts of a mixture have the same initial weights
                * ``'group-norm'``: group norm (8 groups) in place of batch norm
                * ``'batch-statistics'``: batch norm uses the statistics of the batch in
                  tests, too
                * ``'gamma'``: random gamma of SAR, from 2/3 to 3/2
                * ``'speckle'``: random noise on SAR
                * ``'histogram-matching'``: with probability 1/2, a SAR image gets the
                  histogram of another chip
            **kwargs: Arguments of
                :class:`~torchgeo_m2cd.tasks.ChangeDetectionTask`.
        """
        check_choice('variant', variant, get_args(Variant))
        # For the command line; Lightning passes it on to classes with **kwargs
        kwargs.pop('_class_path', None)
        super().__init__(**kwargs)

    def configure_models(self) -> None:
        """Initialize the model."""
        super().configure_models()
        for module in list(self.model.modules()):
            match self.hparams['variant'], module:
                case 'residual', MixtureOfExperts():
                    module.register_forward_hook(_add_input)
                case 'residual-modality', MixtureOfExperts():
                    module.register_forward_hook(_add_input)
                    gate = ModalityGate(module.gate, module.num_experts)
                    module.add_module('gate', gate)
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


class ModalityGate(nn.Module):
    """A gate with a learned preference of each modality for each expert."""

    def __init__(self, gate: nn.Module, num_experts: int) -> None:
        """Initialize a new ModalityGate.

        Args:
            gate: The gate to add to.
            num_experts: Number of experts E.
        """
        super().__init__()
        self.gate = gate
        self.preference = nn.Parameter(torch.zeros(2, 1, num_experts))

    def forward(self, x: Tensor) -> Tensor:
        """Score the experts for each token.

        Args:
            x: Tokens of the optical, the SAR and the simulated SAR image, shape (3, N, C),
                of the first two, (2, N, C), or of the last, (1, N, C).

        Returns:
            Logits, shape (P, N, E).
        """
        logits: Tensor = self.gate(x)
        is_sar = [[1], [0, 1], [0, 1, 1]][len(x) - 1]
        return logits + self.preference[is_sar]


class FloodShareDataModule(OMBRIADataModule):
    """OMBRIA with a given flooded share in training."""

    def __init__(self, flood_share: float, **kwargs: Any) -> None:
        """Initialize a new FloodShareDataModule instance.

        Args:
            flood_share: Mean flooded share of the drawn chips, from 0 to 1.
            **kwargs: Arguments of
                :class:`~torchgeo_m2cd.datamodules.OMBRIADataModule`.
        """
        super().__init__(**kwargs)
        self.flood_share = flood_share

    def train_dataloader(self) -> DataLoader[Sample]:
        """Draw chips with replacement, as many per epoch as there are."""
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
    """Weight chips to reach a given mean of their flooded shares.

    Chips below the mean get one weight, all others get another.

    Args:
        shares: Flooded share of each chip, shape (N,).
        mean: Mean to reach.

    Returns:
        Weights, shape (N,); their sum is 1.

    Raises:
        ValueError: If no chip is below *mean*, or all are.
    """
    less = shares < mean
    if less.all() or not less.any():
        raise ValueError(
            f'flood_share is {mean}: expected a value within the shares of the chips, '
            f'from {float(shares.min()):.2f} to {float(shares.max()):.2f}'
        )
    low, high = shares[less].mean(), shares[~less].mean()
    part = (high - mean) / (high - low)
    return torch.where(less, part / less.sum(), (1 - part) / (~less).sum())


def change_sar(sar: Tensor, variant: str) -> Tensor:
    """Change standardised SAR images at random.

    Args:
        sar: Images, shape (B, C, H, W).
        variant: See :class:`VariantTask`.

    Returns:
        Changed images, or *sar* if *variant* changes the model.
    """
    draw = torch.rand(len(sar), 1, 1, 1, device=sar.device)
    match variant:
        case 'gamma':
            # Gamma needs values from 0 to 1: standardised values are well within -5 to 5
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

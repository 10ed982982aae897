# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Routing statistics: the share of each expert in the tokens of each branch."""

import csv
import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from matplotlib.figure import Figure
from torch import Tensor
from torchgeo.datasets.utils import Sample

from ..checks import checked
from ..models.encoder import MoEEncoder, MoEEncoderOutput
from ..utils import write_beside

#: Shares of the experts, shape ``(E,)``, by stage and branch.
Shares = Mapping[int, Mapping[str, Tensor]]

# Simulated SAR exists in training only, where noise on the gates blurs the shares
_LABELS = {'optical': 'optical', 'sar': 'SAR', 'simulated': 'simulated\n(training)'}


@checked
def mutual_information(shares: Tensor) -> Tensor:
    r"""Compute the mutual information of modality and expert.

    .. math::

       I(M; E) = \sum_{m, e} p(m, e) \log_2 \frac{p(m, e)}{p(m) \, p(e)},
       \quad p(m, e) = \frac{\text{shares}_{m, e}}{M}

    All modalities have the same weight, whatever their numbers of tokens.

    Args:
        shares: Share of each expert in the tokens of each modality, shape
            ``(..., M, E)``. The shares of a modality sum to one.

    Returns:
        Bits, shape ``(...)``: 0 if all modalities use the experts alike,
        :math:`\log_2 M` if no two modalities share an expert.
    """
    # H(E) - H(E | M)
    marginal = torch.special.entr(shares.mean(dim=-2)).sum(dim=-1)
    conditional = torch.special.entr(shares).sum(dim=-1).mean(dim=-1)
    nats: Tensor = marginal - conditional
    return nats.clamp(min=0) / math.log(2)


def _specialisation(branches: Mapping[str, Tensor]) -> float:
    """Compute the mutual information of modality and expert, without simulated SAR."""
    real = torch.stack((branches['optical'], branches['sar']))
    return mutual_information(real).item()


def _quantities(shares: Shares) -> Iterator[tuple[int, str, int | str, str, float]]:
    """Yield stage, branch, expert, quantity and value."""
    for stage, branches in shares.items():
        for branch, values in branches.items():
            for expert, share in enumerate(values.tolist()):
                yield stage, branch, expert, 'share', share
        yield stage, '', '', 'mutual_information', _specialisation(branches)


@checked
def plot_routing(shares: Shares) -> Figure:
    """Draw the share of each expert in the tokens of each branch, stage by stage.

    Args:
        shares: Shares of the experts, shape ``(E,)``, by stage and branch:
            ``'optical'``, ``'sar'`` and optionally ``'simulated'``.

    Returns:
        Figure with one panel per stage and one bar per branch, stacked by expert.
    """
    # At least as wide as the title
    figure = Figure(figsize=(max(1 + 2 * len(shares), 6), 3.4), layout='constrained')
    axes = figure.subplots(1, len(shares), sharey=True, squeeze=False)[0]
    for ax, (stage, branches) in zip(axes, shares.items(), strict=True):
        table = torch.stack(list(branches.values())).cpu()  # (branches, E)
        # Colour-blind readers can tell these apart, also in greyscale
        colors = mpl.colormaps['viridis'](np.linspace(0.1, 1, table.shape[1]))
        bottom = torch.zeros(len(table))
        for expert, (share, color) in enumerate(zip(table.T, colors, strict=True)):
            bars = ax.bar(
                range(len(table)), share, bottom=bottom, color=color, edgecolor='white'
            )
            ax.bar_label(
                bars,
                # Thin bars have no room for a label
                [f'{expert}: {s:.0%}' if s >= 0.06 else '' for s in share.tolist()],
                label_type='center',
                color='white' if color[:3].mean() < 0.45 else 'black',
                fontsize=8,
            )
            bottom += share
        ax.set_xticks(range(len(table)), [_LABELS[branch] for branch in branches])
        ax.set_title(
            f'stage {stage}\n{_specialisation(branches):.3f} bit', fontsize='medium'
        )
    axes[0].set(ylabel='share of expert', ylim=(0, 1))
    figure.suptitle(
        'Experts by branch, and mutual information of expert and optical or SAR',
        fontsize='medium',
    )
    return figure


class RoutingLogger(Callback):
    """Log which experts of M²CD the tokens of each branch go to.

    The share of an expert is the mean of its gate over all tokens. Each validation logs

    * ``routing/stage{s}/{branch}/expert{e}``: the share of each expert. The branches
      ``optical`` and ``sar`` are measured on the validation samples; ``simulated``,
      which only training has, on the training samples since the last validation.
    * ``routing/stage{s}/mutual_information``: 0 to 1 bit, on the validation samples. It
      says whether experts specialise by modality, see :func:`mutual_information`.
    * ``routing``: a figure of both, if the logger takes figures, such as TensorBoard.

    Does nothing for other models, or for M²CD without experts.
    """

    @checked
    def __init__(self, output: Path | str | None = None) -> None:
        """Initialize a new RoutingLogger.

        Args:
            output: CSV file for the values of both splits during training, if any. It
                has the columns ``epoch``, ``step``, ``split`` (train or val),
                ``stage``, ``path`` (the branch), ``expert``, ``quantity`` and
                ``value``. The quantity is ``share``, or ``mutual_information`` with
                ``path`` and ``expert`` empty. A new training replaces the file, a
                resumed one appends to it.
        """
        super().__init__()
        self.output = None if output is None else Path(output)
        self._rows: list[dict[str, Any]] = []
        # Sum of the gates over tokens, shape (branches, E), by split and stage
        self._mass: dict[str, dict[int, Tensor]] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset, and keep the rows of the file up to the step of the checkpoint.

        Args:
            trainer: The trainer.
            pl_module: The task.
        """
        self._rows, self._mass = [], {}
        if self.output is not None and trainer.global_step and self.output.exists():
            with self.output.open(newline='') as file:
                self._rows = [
                    row
                    for row in csv.DictReader(file)
                    if int(row['step']) <= trainer.global_step
                ]

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Sample,
        batch_idx: int,
    ) -> None:
        """Record the gates of a training batch.

        Args:
            trainer: The trainer.
            pl_module: The task.
            batch: The batch.
            batch_idx: Index of the batch.
        """
        self._record(pl_module, 'train')

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Sample,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Record the gates of a validation batch.

        Args:
            trainer: The trainer.
            pl_module: The task.
            batch: The batch.
            batch_idx: Index of the batch.
            dataloader_idx: Index of the data loader.
        """
        if not trainer.sanity_checking:
            self._record(pl_module, 'val')

    def on_validation_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> None:
        """Log the shares since the last validation.

        Args:
            trainer: The trainer.
            pl_module: The task.
        """
        shares = {
            split: {
                stage: self._shares(trainer, pl_module, mass)
                for stage, mass in masses.items()
            }
            for split, masses in self._mass.items()
        }
        self._mass = {}
        if not shares.get('val') or not trainer.is_global_zero:
            return

        # Gates are noisy in training: its shares are shown for simulated SAR only
        shown = {
            stage: {**shares.get('train', {}).get(stage, {}), **branches}
            for stage, branches in shares['val'].items()
        }
        scalars = {
            f'routing/stage{stage}/{branch}/expert{expert}'
            if quantity == 'share'
            else f'routing/stage{stage}/{quantity}': value
            for stage, branch, expert, quantity, value in _quantities(shown)
        }
        # `pl_module.log` would print every value after `validate`
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=trainer.global_step)
            experiment: Any = getattr(logger, 'experiment', None)
            if hasattr(experiment, 'add_figure'):
                figure = plot_routing(shown)
                experiment.add_figure('routing', figure, trainer.global_step)
        if self.output is not None and trainer.state.fn == TrainerFn.FITTING:
            self._rows += [
                {
                    'epoch': trainer.current_epoch,
                    'step': trainer.global_step,
                    'split': split,
                    'stage': stage,
                    'path': branch,
                    'expert': expert,
                    'quantity': quantity,
                    'value': f'{value:.6f}',
                }
                for split, stages in shares.items()
                for stage, branch, expert, quantity, value in _quantities(stages)
            ]
            self._write(self.output)

    def _record(self, pl_module: LightningModule, split: str) -> None:
        """Add up the gates of the encoder's next forward pass.

        Later passes of the same batch do not count: callbacks may run the model, too.
        """
        encoder = getattr(getattr(pl_module, 'model', None), 'encoder', None)
        if not isinstance(encoder, MoEEncoder):
            return
        masses = self._mass.setdefault(split, {})

        def add(_module: Any, _args: Any, output: MoEEncoderOutput) -> None:
            handle.remove()
            for stage, gates in output.gates.items():
                # Stays on the GPU: reading it here would synchronise
                mass = gates.detach().sum(dim=1)
                masses[stage] = masses[stage] + mass if stage in masses else mass

        handle = encoder.register_forward_hook(add)

    def _shares(
        self, trainer: Trainer, pl_module: LightningModule, mass: Tensor
    ) -> dict[str, Tensor]:
        """Turn sums of gates, shape (branches, E), into shares over all processes."""
        mass = trainer.strategy.reduce(mass, reduce_op='sum').cpu().double()
        shares = mass / mass.sum(dim=1, keepdim=True)
        optical = getattr(pl_module.model, 'optical_index', 0)
        order = (optical, 1 - optical, 2)
        return {
            branch: shares[i]
            for branch, i in zip(('optical', 'sar', 'simulated'), order, strict=True)
            if i < len(shares)
        }

    def _write(self, output: Path) -> None:
        """Write all rows to the CSV file."""
        text = io.StringIO(newline='')
        writer = csv.DictWriter(text, list(self._rows[0]), lineterminator='\n')
        writer.writeheader()
        writer.writerows(self._rows)
        output.parent.mkdir(parents=True, exist_ok=True)
        write_beside(output, lambda file: file.write(text.getvalue().encode()))

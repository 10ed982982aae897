# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""What the routing does: shares of the experts in the tokens of each modality."""

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

from ..models.encoder import MoEEncoder, MoEEncoderOutput
from ..utils import write_beside

#: Shares of the experts, shape ``(E,)``, by stage and path.
Shares = Mapping[int, Mapping[str, Tensor]]

# Noise on the gates blurs the shares of training, and only there this path is
_LABELS = {'optical': 'optical', 'sar': 'SAR', 'simulated': 'simulated\n(training)'}


def mutual_information(shares: Tensor) -> Tensor:
    r"""Compute how much the expert of a token tells about its modality.

    .. math::

       I(M; E) = \sum_{m, e} p(m, e) \log_2 \frac{p(m, e)}{p(m) \, p(e)},
       \quad p(m, e) = \frac{\text{shares}_{m, e}}{M}

    All modalities have the same weight, however many tokens they have.

    Args:
        shares: Share of each expert in the tokens of each modality, shape
            ``(..., M, E)``; sums to one over the experts.

    Returns:
        Bits, shape ``(...)``: from 0, where all modalities use the experts alike, to
        :math:`\log_2 M`, where no two of them share an expert.
    """
    # The entropy of E, less that of E where M is known
    marginal = torch.special.entr(shares.mean(dim=-2)).sum(dim=-1)
    conditional = torch.special.entr(shares).sum(dim=-1).mean(dim=-1)
    nats: Tensor = marginal - conditional
    return nats.clamp(min=0) / math.log(2)


def _specialisation(paths: Mapping[str, Tensor]) -> float:
    """Compute the mutual information of real modality and expert of a stage."""
    return mutual_information(torch.stack((paths['optical'], paths['sar']))).item()


def _quantities(shares: Shares) -> Iterator[tuple[int, str, int | str, str, float]]:
    """Iterate over stage, path, expert, quantity and value."""
    for stage, paths in shares.items():
        for path, values in paths.items():
            for expert, share in enumerate(values.tolist()):
                yield stage, path, expert, 'share', share
        yield stage, '', '', 'mutual_information', _specialisation(paths)


def plot_routing(shares: Shares) -> Figure:
    """Draw the share of each expert in the tokens of each path, stage by stage.

    Args:
        shares: Shares of the experts, shape ``(E,)``, by stage and path: ``'optical'``,
            ``'sar'`` and, if there is one, ``'simulated'``.

    Returns:
        Figure with a panel per stage, and in it a bar per path, stacked of experts.
    """
    # Wide enough for its title
    figure = Figure(figsize=(max(1 + 2 * len(shares), 6), 3.4), layout='constrained')
    axes = figure.subplots(1, len(shares), sharey=True, squeeze=False)[0]
    for ax, (stage, paths) in zip(axes, shares.items(), strict=True):
        table = torch.stack(list(paths.values())).cpu()  # (paths, E)
        # Can be told apart by the colour-blind, and in print
        colors = mpl.colormaps['viridis'](np.linspace(0.1, 1, table.shape[1]))
        bottom = torch.zeros(len(table))
        for expert, (share, color) in enumerate(zip(table.T, colors, strict=True)):
            bars = ax.bar(
                range(len(paths)), share, bottom=bottom, color=color, edgecolor='white'
            )
            ax.bar_label(
                bars,
                # Where there is room
                [f'{expert}: {s:.0%}' if s >= 0.06 else '' for s in share.tolist()],
                label_type='center',
                color='white' if color[:3].mean() < 0.45 else 'black',
                fontsize=8,
            )
            bottom += share
        ax.set_xticks(range(len(paths)), [_LABELS[path] for path in paths])
        ax.set_title(
            f'stage {stage}\n{_specialisation(paths):.3f} bit', fontsize='medium'
        )
    axes[0].set(ylabel='share of expert', ylim=(0, 1))
    figure.suptitle(
        'Experts by path, and mutual information of expert and optical or SAR',
        fontsize='medium',
    )
    return figure


class RoutingLogger(Callback):
    """Log which experts of M²CD the tokens of each path go to.

    The share of an expert is the mean of its gate over all tokens. Each validation logs

    * ``routing/stage{s}/{path}/expert{e}``, the shares, of the validation samples for
      the paths ``optical`` and ``sar``, and of the training samples since the last
      validation for ``simulated``, a path that only training has
    * ``routing/stage{s}/mutual_information``, whether experts specialise by modality,
      see :func:`mutual_information`, from the validation samples: 0 to 1 bit
    * ``routing``, a figure of both, if the logger has figures, like TensorBoard

    Does nothing for models other than M²CD, and for M²CD without experts.
    """

    def __init__(self, output: Path | None = None) -> None:
        """Initialize a new RoutingLogger.

        Args:
            output: CSV file to write all of it to in training, if any: a row per
                ``epoch``, ``step``, ``split`` (train or val), ``stage``, ``path`` and
                ``expert``, whose ``quantity`` is ``share``, and a row per split and
                stage without path and expert whose is ``mutual_information``. Training
                that starts anew replaces it; training that goes on adds to it.
        """
        super().__init__()
        self.output = None if output is None else Path(output)
        self._rows: list[dict[str, Any]] = []
        # Sum of the gates over tokens, shape (P, E), by split and stage
        self._mass: dict[str, dict[int, Tensor]] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read what was written before the checkpoint that training goes on from.

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
        """Watch the gates of a training batch.

        Args:
            trainer: The trainer.
            pl_module: The task.
            batch: The batch.
            batch_idx: Index of the batch.
        """
        self._watch(pl_module, 'train')

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Sample,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Watch the gates of a validation batch.

        Args:
            trainer: The trainer.
            pl_module: The task.
            batch: The batch.
            batch_idx: Index of the batch.
            dataloader_idx: Index of the data loader.
        """
        if not trainer.sanity_checking:
            self._watch(pl_module, 'val')

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

        # Noise on the gates makes training another thing: only what has to is from there
        shown = {
            stage: {**shares.get('train', {}).get(stage, {}), **paths}
            for stage, paths in shares['val'].items()
        }
        scalars = {
            f'routing/stage{stage}/{path}/expert{expert}'
            if quantity == 'share'
            else f'routing/stage{stage}/{quantity}': value
            for stage, path, expert, quantity, value in _quantities(shown)
        }
        # Not by the task's log, which would print them all after `validate`
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
                    'path': path,
                    'expert': expert,
                    'quantity': quantity,
                    'value': f'{value:.6f}',
                }
                for split, stages in shares.items()
                for stage, path, expert, quantity, value in _quantities(stages)
            ]
            self._write(self.output)

    def _watch(self, pl_module: LightningModule, split: str) -> None:
        """Add up the gates of the encoder's next forward pass.

        Of no other: callbacks may run the model, too.
        """
        encoder = getattr(getattr(pl_module, 'model', None), 'encoder', None)
        if not isinstance(encoder, MoEEncoder):
            return
        masses = self._mass.setdefault(split, {})

        def add(_module: Any, _args: Any, output: MoEEncoderOutput) -> None:
            handle.remove()
            for stage, gates in output.gates.items():
                # Stays on the device: to read it would be to wait for it
                mass = gates.detach().sum(dim=1)
                masses[stage] = masses[stage] + mass if stage in masses else mass

        handle = encoder.register_forward_hook(add)

    def _shares(
        self, trainer: Trainer, pl_module: LightningModule, mass: Tensor
    ) -> dict[str, Tensor]:
        """Turn sums of gates, shape (P, E), of all processes into shares by path."""
        mass = trainer.strategy.reduce(mass, reduce_op='sum').cpu().double()
        shares = mass / mass.sum(dim=1, keepdim=True)
        optical = getattr(pl_module.model, 'optical_index', 0)
        order = (optical, 1 - optical, 2)
        return {
            path: shares[i]
            for path, i in zip(('optical', 'sar', 'simulated'), order, strict=True)
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

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Figures of validation samples."""

from typing import Any

import matplotlib.pyplot as plt
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torchgeo.datamodules import BaseDataModule
from torchgeo.datasets import RGBBandsMissingError, unbind_samples
from torchgeo.datasets.utils import Sample

from ..checks import Count, checked


class FigureLogger(Callback):
    """Log figures of the first validation samples with their predictions.

    The figures show images in source units where the batch has them (``source``, which
    the data modules of torchgeo_m2cd add), and the inputs of the model otherwise.

    Needs a logger that takes figures, such as TensorBoard, and a TorchGeo data module
    whose dataset can plot. Does nothing without them.
    """

    @checked
    def __init__(self, num_samples: Count = 4) -> None:
        """Initialize a new FigureLogger.

        Args:
            num_samples: Number of figures per validation, limited by the batch size.
        """
        super().__init__()
        self.num_samples = num_samples

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Sample,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Log the figures of the first batch.

        Args:
            trainer: The trainer.
            pl_module: A task whose ``predict_step`` returns probabilities.
            outputs: Output of the validation step.
            batch: The batch.
            batch_idx: Index of the batch.
            dataloader_idx: Index of the data loader.
        """
        datamodule = getattr(trainer, 'datamodule', None)
        experiment: Any = getattr(trainer.logger, 'experiment', None)
        if (
            batch_idx > 0
            or trainer.sanity_checking
            or not hasattr(experiment, 'add_figure')
            or not isinstance(datamodule, BaseDataModule)
        ):
            return

        batch = {key: value[: self.num_samples] for key, value in batch.items()}
        probabilities: Tensor = pl_module.predict_step(batch, batch_idx)
        batch['prediction'] = (
            probabilities.argmax(dim=1, keepdim=True)
            if probabilities.shape[1] > 1
            else (probabilities >= 0.5).long()
        )
        batch['image'] = batch.get('source', batch['image'])
        samples = unbind_samples({key: value.cpu() for key, value in batch.items()})
        for i, sample in enumerate(samples):
            try:
                figure = datamodule.plot(sample)
            except RGBBandsMissingError:
                return
            if figure is not None:
                experiment.add_figure(
                    f'val/{i}', figure, global_step=trainer.global_step
                )
                plt.close(figure)

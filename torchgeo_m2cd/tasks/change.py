# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Change detection task."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from annotated_types import Ge
from einops import rearrange
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torchgeo.datasets.utils import Sample
from torchgeo.tasks import ChangeDetection
from torchvision.models._api import WeightsEnum

from ..checks import Channels, Count, Positive, PositiveOrZero, check_hints
from ..configurable import plain
from ..losses import OHEM, OHEMLoss, select_pixels
from ..models import M2CD, O2SP, M2CD_Weights, Reliability, ThresholdRule
from ..models.fast import keep_memory, use_fast
from ..transforms import Inputs, KeepsInputs
from .arguments import (
    Loss,
    Model,
    Task,
    check_arguments,
    check_batch,
    check_channels,
    check_labels,
    check_training,
    complete,
    find_weights,
    largest,
    model_args,
    warn_of_random,
)
from .checkpoint import MODEL_PREFIX, check_fits, model_weights, read_task
from .finite import check_finite, check_weights
from .m2cd import make_m2cd, train_m2cd
from .metrics import make_metrics, to_probabilities
from .optimization import Optimization
from .rule_target import RuleTarget

#: Models that take image pairs, ``(B, 2, C, H, W)``; the others take both images
#: stacked along the channels, ``(B, 2 * C, H, W)``.
PAIR_MODELS = ('m2cd', 'fcsiamdiff', 'fcsiamconc', 'changevit', 'threshold')

# Arguments that are objects, or their descriptions in a checkpoint
_OBJECTS = ('o2sp', 'ohem', 'rule_target', 'optimization')


class ChangeDetectionTask(KeepsInputs, ChangeDetection):
    r"""Change detection between an optical and a SAR image.

    This is TorchGeo's :class:`~torchgeo.tasks.ChangeDetection` with
    :class:`~torchgeo_m2cd.models.M2CD` as one more model. All models are trained,
    validated and tested in the same way on the same samples. The training loss is

    .. math::

       \mathcal{L} = \mathcal{L}_\text{supervised}
       + \lambda_\text{balance} \mathcal{L}_\text{balance}
       + \lambda_\text{guide} \mathcal{L}_\text{guide}

    where only M²CD has the last two. Each term is logged by its name. Validation and
    test losses are the supervised loss alone, and can be compared between models.
    Pixels with the value *ignore_index* count neither in the losses nor in the metrics.
    """

    def __init__(
        self,
        model: Model = 'm2cd',
        backbone: str | None = None,
        # The command line takes the first type that fits: bool before str
        weights: bool | WeightsEnum | str | Sequence[WeightsEnum | str] | None = None,
        in_channels: Channels | None = None,
        model_args: dict[str, Any] | None = None,
        task: Task = 'binary',
        num_classes: Annotated[int, Ge(2)] | None = None,
        num_labels: Count | None = None,
        labels: list[str] | None = None,
        loss: Loss = 'bce',
        class_weights: Tensor | Sequence[PositiveOrZero] | None = None,
        pos_weight: Tensor | Sequence[PositiveOrZero] | PositiveOrZero | None = None,
        ignore_index: int | None = 255,
        ohem: OHEM | None = None,
        rule_target: RuleTarget | None = None,
        lr: Positive = 1e-3,
        optimization: Optimization | None = None,
        freeze_backbone: bool = False,
        freeze_decoder: bool = False,
        o2sp: O2SP | None = None,
        init_from: str | None = None,
    ) -> None:
        """Initialize a new ChangeDetectionTask.

        *ohem*, *rule_target*, *optimization* and *o2sp* may also be the descriptions that
        a checkpoint holds: ``class_path`` and ``init_args``.

        Args:
            model: Name of the model: ``'m2cd'``, one of TorchGeo's, or ``'threshold'``,
                which is no network but :class:`~torchgeo_m2cd.models.ThresholdRule`, and
                needs neither training nor a checkpoint.
            backbone: Name of the encoder (defaults to that of the weights, or
                ``'mit_b1'``).
            weights: Initial weights of the encoder: a weight enum or its string
                representation, True for ImageNet weights, False or None for random
                weights, or the path of a checkpoint. M²CD also takes a pair: the second
                weights then initialise the stem of the second image. An
                :class:`~torchgeo_m2cd.models.M2CD_Weights` gives M²CD the whole model,
                its architecture, and its inputs.
            in_channels: Bands per image, or a pair with the bands of each (defaults to
                those of the weights, or 3). With a pair, M²CD has a stem for each image;
                other models read the larger number.
            model_args: Further arguments of the model: those of
                :class:`~torchgeo_m2cd.models.M2CD`, ``{'num_filters': 3}`` of ``'fcn'``,
                or ``sigma`` and ``margin`` of ``'threshold'``. Those of another model are
                not used, with a warning.
            task: ``'binary'``, ``'multiclass'`` or ``'multilabel'``.
            num_classes: Number of classes (only for ``task='multiclass'``).
            num_labels: Number of labels (only for ``task='multilabel'``).
            labels: Names of the classes or labels.
            loss: Supervised loss.
            class_weights: Weight of each class in the ``'ce'`` loss.
            pos_weight: Weight of positive pixels in the ``'bce'`` loss, one for all or
                one per label.
            ignore_index: Value of mask pixels that do not count, or None.
            ohem: Train on hard pixels only, with the ``'bce'`` or the ``'ce'`` loss. None
                for all pixels.
            rule_target: Blend masks with what a rule sees, with the ``'bce'`` loss of a
                binary task. None for masks as they are.
            lr: Learning rate.
            optimization: Weight decay, learning rate of the head, and schedule. None is
                TorchGeo's: ``Optimization()``.
            freeze_backbone: Freeze the encoder. The experts of M²CD, and the stem of the
                second image, are still trained, unless the weights are of the whole model:
                no pretrained encoder has them.
            freeze_decoder: Freeze the decoder.
            o2sp: Optical-to-SAR path of M²CD in training, or None for none.
            init_from: Path of the checkpoint of another run, whose model gives all
                initial weights, in place of *weights*.

        Raises:
            FileNotFoundError: If *init_from* does not exist.
            ValueError: If an argument is unknown or does not fit another one.
        """
        self.o2sp = None if o2sp is None else O2SP.of('o2sp', o2sp)
        #: How much the maps can be trusted, if the model is a released one.
        self.reliability: Reliability | None = None
        self.ohem = None if ohem is None else OHEM.of('ohem', ohem)
        self.rule_target = (
            None if rule_target is None else RuleTarget.of('rule_target', rule_target)
        )
        self.optimization = Optimization.of(
            'optimization', Optimization() if optimization is None else optimization
        )
        # TorchGeo's own default would replace an attribute that is set before
        super().__init__(weights=weights)
        # Objects become their descriptions: a checkpoint holds plain values only
        self.save_hyperparameters(
            {
                'model_args': plain(self.hparams['model_args']),
                **{name: plain(getattr(self, name)) for name in _OBJECTS},
            }
        )
        self.inputs = None
        if isinstance(self.model, ThresholdRule):
            self.take_inputs(self.model.inputs)
        if isinstance(self.weights, M2CD_Weights):
            self.take_inputs(self.weights.transforms())
        #: Whether no part of the model was trained before.
        self.is_random = not self.weights
        if init_from is not None:
            checkpoint = read_task(init_from, 'init_from', type(self))
            self._read_checkpoint(checkpoint, MODEL_PREFIX)
            self.load_state_dict(model_weights(checkpoint), strict=False)

    @property
    def threshold(self) -> float:
        """Probability from which on a pixel has changed: that of the weights, or 0.5."""
        return 0.5 if self.reliability is None else self.reliability.threshold

    def configure_models(self) -> None:
        """Initialize the model."""
        # A decorator would hide the arguments of subclasses from save_hyperparameters
        given = {k: v for k, v in self.hparams.items() if k not in _OBJECTS}
        check_hints(ChangeDetectionTask.__init__, given | {'weights': self.weights})
        self.weights = find_weights(self.weights, self.hparams['model'])
        self.hparams.update(complete(self.hparams, self.weights))
        check_arguments(self.hparams, self.weights)
        if isinstance(self.weights, M2CD_Weights):
            self.reliability = Reliability.from_dict(self.weights.meta['reliability'])
        # TorchGeo's arguments that this task has elsewhere
        for name in ('patience', 'num_filters'):
            self.hparams.pop(name, None)
        if self.hparams['model'] == 'm2cd':
            self.model = make_m2cd(self.hparams, self.weights)
            return
        if self.hparams['model'] == 'threshold':
            self.model = ThresholdRule(**model_args(self.hparams))
            self.hparams['backbone'] = None
            return
        # Samples have as many channels as the image with more bands
        self.hparams['in_channels'] = largest(self.hparams['in_channels'])
        self.hparams['num_filters'] = model_args(self.hparams).get('num_filters', 3)
        super().configure_models()
        del self.hparams['num_filters']

    def configure_losses(self) -> None:
        """Initialize the criterion."""
        pos_weight = self.hparams['pos_weight']
        if pos_weight is not None:
            # One per row of (1, labels, number of pixels)
            pos_weight = torch.as_tensor(pos_weight, dtype=torch.float32)
            self.hparams['pos_weight'] = pos_weight.reshape(-1, 1)
        super().configure_losses()
        if self.ohem is not None:
            criterion: Any = self.criterion
            self.criterion = OHEMLoss(criterion, self.ohem)

    def configure_metrics(self) -> None:
        """Initialize the metrics: IoU, F1, precision, recall and accuracy."""
        names = ('task', 'num_classes', 'num_labels', 'labels', 'ignore_index')
        given = {name: self.hparams[name] for name in names}
        metrics = make_metrics(**given, threshold=self.threshold)
        for stage in ('train', 'val', 'test'):
            setattr(self, f'{stage}_metrics', metrics.clone(prefix=f'{stage}_'))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Initialize optimizer and learning rate scheduler.

        Returns:
            Those of the *optimization*.

        Raises:
            ValueError: If the schedule does not fit the length of the training.
        """
        warn_of_random(self)  # Checkpoints are read by now
        return self.optimization.configure(self, self.hparams['lr'])

    def setup(self, stage: str) -> None:
        """Keep the memory of tensors, and check that the model can be trained.

        Args:
            stage: ``'fit'``, ``'validate'``, ``'test'`` or ``'predict'``.
        """
        if use_fast():
            keep_memory()
        if stage == 'fit':
            check_training(self)
            # Training makes others of them
            self.weights = self.reliability = None
            self.configure_metrics()

    def take_inputs(self, inputs: Inputs) -> None:
        """Keep what the model is shown, as the data module decided.

        Args:
            inputs: The inputs.

        Raises:
            ValueError: If the model was made for other channels, or cannot work with the
                inputs.
        """
        if isinstance(self.model, ThresholdRule):
            # It takes any number of bands, and says what else it needs
            self.model.take_inputs(inputs)
            self.hparams['in_channels'] = max(inputs.channels)
        check_channels(
            inputs.channels, self.hparams['in_channels'], self.hparams['model']
        )
        super().take_inputs(inputs)
        if isinstance(self.model, M2CD):
            self.model.inputs = inputs

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save how to make a task like this one, and what its model is shown.

        The ``torchgeo`` command takes class and arguments from the checkpoint. Initial
        weights are left out, so that nothing is downloaded again.

        Args:
            checkpoint: The checkpoint.

        Raises:
            ValueError: If a weight is NaN or infinite.
        """
        check_weights(checkpoint['state_dict'])
        arguments = checkpoint['hyper_parameters']
        path = f'{type(self).__module__}.{type(self).__qualname__}'
        arguments.setdefault('_class_path', path)
        arguments['weights'] = arguments['init_from'] = None
        # It would import whatever class a checkpoint names
        arguments.pop('_instantiator', None)
        if self.inputs is not None:
            checkpoint['inputs'] = self.inputs.to_dict()

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Check that a checkpoint fits the model, and read what the model is shown.

        Args:
            checkpoint: The checkpoint.

        Raises:
            ValueError: If it is of another architecture, or its inputs are unknown.
        """
        self._read_checkpoint(checkpoint)

    def _read_checkpoint(self, checkpoint: Mapping[str, Any], prefix: str = '') -> None:
        """Read what its model is shown, if it says so, and check that weights fit."""
        if 'inputs' in checkpoint:
            self.take_inputs(Inputs.from_dict(checkpoint['inputs']))
        check_fits(self, checkpoint, prefix)
        self.is_random = False

    def _shared_step(self, batch: Sample, batch_idx: int, stage: str) -> Tensor:
        """Compute the loss and the metrics of a stage: train, val or test."""
        check_batch(batch, self.hparams['in_channels'], self.inputs is not None)
        image, mask = batch['image'], batch['mask']
        multiclass = self.hparams['task'] == 'multiclass'
        if batch_idx == 0:
            # Once per epoch, because it synchronises the GPU
            classes = self.hparams['num_classes'] if multiclass else 2
            check_labels(mask, classes, self.hparams['ignore_index'])
        losses: dict[str, Tensor] = {}
        if stage == 'train' and self.hparams['model'] == 'm2cd':
            logits, losses = train_m2cd(self.model, batch, self.o2sp, self.inputs)
        else:
            logits = self._logits(image)
        target = mask
        if stage == 'train' and self.rule_target is not None:
            ignored = self.hparams['ignore_index']
            target = self.rule_target.blend(image, mask, self.inputs, ignored)
        loss = self._supervised_loss(logits, target)
        if losses:
            losses['supervised'] = loss
            loss = torch.stack(list(losses.values())).sum()
        check_finite(self.model, batch, batch_idx, logits, loss)
        self.log(f'{stage}_loss', loss, batch_size=len(image), prog_bar=stage != 'test')
        for name, value in losses.items():
            self.log(f'{stage}_{name}_loss', value, batch_size=len(image))
        getattr(self, f'{stage}_metrics').update(
            to_probabilities(logits.detach(), self.hparams['task']),
            mask.squeeze(1) if multiclass else mask,
        )
        return loss

    def _logits(self, image: Tensor) -> Tensor:
        """Run the model on image pairs of shape (B, 2, C, H, W)."""
        if self.hparams['model'] not in PAIR_MODELS:
            image = rearrange(image, 'b t c h w -> b (t c) h w')
        logits: Tensor = self(image)
        return logits

    def _supervised_loss(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Apply the criterion to the pixels that count."""
        logits, mask = select_pixels(logits, mask, self.hparams['ignore_index'])
        if mask.numel() == 0:
            return logits.sum()  # Zero, with gradients of zero
        if self.hparams['task'] == 'multiclass':
            mask = mask.squeeze(1)
        if self.hparams['loss'] == 'bce':
            mask = mask.to(logits.dtype)
        loss: Tensor = self.criterion(logits, mask)
        return loss

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics, with the IoU in the progress bar."""
        for name, value in self.val_metrics.compute().items():
            self.log(name, value, prog_bar=name == 'val_IoU')
        self.val_metrics.reset()

    def predict_step(
        self, batch: Sample, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor:
        """Compute the probabilities of the classes.

        Args:
            batch: Output of the data loader.
            batch_idx: Index of the batch.
            dataloader_idx: Index of the data loader.

        Returns:
            Probability of change, shape ``(B, 1, H, W)``, or of each class or label,
            shape ``(B, classes, H, W)``. Zero in images without any ``valid`` pixel.
        """
        image = batch['image']
        check_batch(batch, self.hparams['in_channels'], self.inputs is not None)
        # The model need not run on patches without data
        seen = torch.ones(len(image), dtype=torch.bool, device=image.device)
        if 'valid' in batch:
            seen = batch['valid'].flatten(1).any(dim=1)
            seen[0] |= ~seen.any()
        predicted = to_probabilities(self._logits(image[seen]), self.hparams['task'])
        probabilities = predicted.new_zeros(len(image), *predicted.shape[1:])
        probabilities[seen] = predicted
        check_finite(self.model, batch, batch_idx, probabilities)
        return probabilities

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Change detection task."""

import inspect
import math
import os
from collections.abc import Sequence
from typing import Any, Literal, get_args

import timm
import torch
from einops import rearrange
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.optim import param_groups_weight_decay  # type: ignore[attr-defined]
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import (
    LinearLR,
    LRScheduler,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
)
from torchgeo.datasets.utils import Sample
from torchgeo.models import get_weight
from torchgeo.tasks import ChangeDetection
from torchvision.models._api import WeightsEnum

from ..losses import OHEMLoss
from ..models import (
    M2CD,
    guide_loss,
    load_encoder_weights,
    simulate_sar,
    simulate_speckled_sar,
)
from ..models.encoder import check_encoder
from ..models.o2sp import Distance
from ..transforms import Inputs, KeepsInputs
from ..utils import check_choice

#: Names of the models.
Model = Literal[
    'm2cd',
    'unet',
    'deeplabv3+',
    'fcn',
    'upernet',
    'segformer',
    'dpt',
    'fcsiamdiff',
    'fcsiamconc',
    'changevit',
    'btc',
]

#: Models that take image pairs, ``(B, 2, C, H, W)``; the others take both images
#: stacked along the channels, ``(B, 2 * C, H, W)``.
PAIR_MODELS = ('m2cd', 'fcsiamdiff', 'fcsiamconc', 'changevit')

# Arguments of M2CD that the task has itself, or that its losses could not stand
_NOT_MODEL_ARGS = (
    'encoder_name',
    'encoder_weights',
    'in_channels',
    'classes',
    'activation',
    'inputs',
)


class ChangeDetectionTask(KeepsInputs, ChangeDetection):
    r"""Change detection between an optical and a SAR image.

    TorchGeo's :class:`~torchgeo.tasks.ChangeDetection`, and beside its models
    :class:`~torchgeo_m2cd.models.M2CD`. All models are trained, validated and tested
    in the same way on the same samples.

    The training loss is

    .. math::

       \mathcal{L} = \mathcal{L}_\text{supervised}
       + \lambda_\text{balance} \mathcal{L}_\text{balance}
       + \lambda_\text{guide} \mathcal{L}_\text{guide}

    where the last two are those of M²CD. Each term is logged by its name. Validation
    and test losses are the supervised loss alone, and can be compared between models.

    Pixels that are marked *ignore_index* count neither in the losses nor in the
    metrics, whatever the loss.
    """

    def __init__(
        self,
        model: Model = 'm2cd',
        backbone: str = 'mit_b1',
        # On the command line, the first type that fits is taken: bool before str
        weights: bool | WeightsEnum | str | Sequence[WeightsEnum | str] | None = None,
        in_channels: int | Sequence[int] = 3,
        task: Literal['binary', 'multiclass', 'multilabel'] = 'binary',
        num_classes: int | None = None,
        num_labels: int | None = None,
        labels: list[str] | None = None,
        num_filters: int = 3,
        pos_weight: Tensor | Sequence[float] | float | None = None,
        loss: Literal['ce', 'bce', 'jaccard', 'focal', 'dice'] = 'bce',
        class_weights: Tensor | Sequence[float] | None = None,
        ignore_index: int | None = 255,
        lr: float = 1e-3,
        patience: int = 10,
        freeze_backbone: bool = False,
        freeze_decoder: bool = False,
        model_args: dict[str, Any] | None = None,
        o2sp: Literal['original', 'physical', 'none'] = 'original',
        balance_weight: float = 0.01,
        guide_weight: float = 1e-4,
        guide_distance: Distance = 'l1',
        guide_detach: bool = False,
        guide_stage_weights: Sequence[float] | None = None,
        schedule: Literal['plateau', 'poly'] = 'plateau',
        warmup_steps: int = 0,
        weight_decay: float | None = None,
        head_lr_factor: float = 1.0,
        ohem_threshold: float | None = None,
        ohem_min_kept: int = 100_000,
        init_from: str | None = None,
    ) -> None:
        """Initialize a new ChangeDetectionTask.

        Args:
            model: Name of the model: ``'m2cd'``, or one of TorchGeo's.
            backbone: Name of the encoder.
            weights: Initial weights of the encoder: a weight enum or its string
                representation, True for ImageNet weights, False or None for random
                weights, or the path to a checkpoint. M²CD also takes a pair: the stem
                of the second image is then that of the second weights.
            in_channels: Bands per image. A pair gives the bands of each: M²CD then has
                a stem for each, and the other models read the larger number.
            task: One of ``'binary'``, ``'multiclass'`` and ``'multilabel'``.
            num_classes: Number of classes (only for ``task='multiclass'``).
            num_labels: Number of labels (only for ``task='multilabel'``).
            labels: List of class names.
            num_filters: Number of filters. Only applicable when ``model='fcn'``.
            pos_weight: Weight of positive pixels, one for all or one per label, used with
                the ``'bce'`` loss.
            loss: Supervised loss.
            class_weights: Weight of each class, used with the ``'ce'`` loss.
            ignore_index: Value of mask pixels that don't count, or None.
            lr: Learning rate.
            patience: Epochs without a better validation loss, after which the
                learning rate falls.
            freeze_backbone: Freeze the encoder. The experts of M²CD are trained all
                the same: they are not part of any pretrained encoder.
            freeze_decoder: Freeze the decoder.
            model_args: Further arguments of :class:`~torchgeo_m2cd.models.M2CD`, for
                example ``{'experts': None}``, which switches its experts off. Other
                models don't use them, and warn.
            o2sp: How to simulate SAR for the optical-to-SAR path of M²CD in training:
                ``'original'`` (:func:`~torchgeo_m2cd.models.simulate_sar`),
                ``'physical'`` (:func:`~torchgeo_m2cd.models.simulate_speckled_sar`,
                of the image in source units), or ``'none'`` for no such path.
            balance_weight: Weight of the balance loss of M²CD.
            guide_weight: Weight of the guide loss of M²CD.
            guide_distance: Distance of the guide loss, see
                :func:`~torchgeo_m2cd.models.guide_loss`.
            guide_detach: Whether the simulated SAR gets no gradient from it.
            guide_stage_weights: Its weight per stage (defaults to 1).
            schedule: How the learning rate falls: ``'plateau'`` (by *patience*), or
                ``'poly'``, in each step, linearly to zero at the end of training.
            warmup_steps: Steps in which the learning rate first rises, linearly from
                a millionth of *lr* (only for ``schedule='poly'``).
            weight_decay: Weight decay of all parameters but norms and biases. None is
                that of TorchGeo: AdamW's default, of all parameters.
            head_lr_factor: Learning rate of all but the encoder, as a multiple of *lr*.
            ohem_threshold: Train on hard pixels alone, see
                :class:`~torchgeo_m2cd.losses.OHEMLoss`, for the ``'bce'`` and the
                ``'ce'`` loss. None for all pixels.
            ohem_min_kept: Pixels of a batch that are kept at least.
            init_from: Path to the checkpoint of another run, to start from all weights
                of its model, in place of *weights*.

        Raises:
            FileNotFoundError: If *init_from* does not exist.
            ValueError: If an argument is unknown, or doesn't fit another one.
        """
        check_choice('model', model, get_args(Model))
        check_choice('task', task, ('binary', 'multiclass', 'multilabel'))
        check_choice('loss', loss, ('ce', 'bce', 'jaccard', 'focal', 'dice'))
        check_choice('o2sp', o2sp, ('original', 'physical', 'none'))
        check_choice('guide_distance', guide_distance, get_args(Distance))
        check_choice('schedule', schedule, ('plateau', 'poly'))
        known = inspect.signature(M2CD).parameters.keys() - set(_NOT_MODEL_ARGS)
        for key in model_args or {}:
            check_choice('key of model_args', key, sorted(known))
        if model_args and model != 'm2cd':
            # No error: a baseline is to be one changed key of a config away
            rank_zero_warn(
                f"model_args are those of 'm2cd', and not used: model is {model!r}"
            )
        if model == 'btc' and _max(in_channels) != 3:
            raise ValueError(f"model 'btc' needs in_channels=3, got {in_channels}")
        if model == 'changevit' and not timm.is_model(backbone):
            check_choice('backbone', backbone, timm.list_models('vit_*'))
        if model not in ('m2cd', 'fcn', 'changevit', 'btc'):
            check_encoder(backbone)
        _check_weights(weights, pair=model == 'm2cd')
        number = {'multiclass': 'num_classes', 'multilabel': 'num_labels'}.get(task)
        if number and (num_classes if task == 'multiclass' else num_labels) is None:
            raise ValueError(f'task={task!r} needs {number}')
        if loss == ('bce' if task == 'multiclass' else 'ce'):
            raise ValueError(f'loss={loss!r} does not fit task={task!r}')
        if ohem_threshold is not None and loss not in ('bce', 'ce'):
            raise ValueError(f"ohem_threshold needs loss 'bce' or 'ce', got {loss!r}")
        if warmup_steps and schedule != 'poly':
            raise ValueError(f"warmup_steps needs schedule='poly', got {schedule!r}")
        if head_lr_factor != 1 and model == 'fcn':
            raise ValueError(
                "head_lr_factor needs an encoder, but model 'fcn' has none"
            )
        if init_from is not None and weights:
            raise ValueError(
                f'weights is {weights!r}, but init_from replaces all weights: expected '
                'only one of them'
            )
        # TorchGeo's own default would replace an attribute that is set before
        super().__init__(weights=weights)
        self.inputs = None
        if init_from is not None:
            self._init_from(init_from)

    def configure_models(self) -> None:
        """Initialize the model."""
        in_channels = self.hparams['in_channels']
        if self.hparams['model'] != 'm2cd':
            # Samples have as many channels as the image with more bands
            self.hparams['in_channels'] = _max(in_channels)
            super().configure_models()
            return

        backbone = self.hparams['backbone']
        pretrained = True if backbone.startswith('tu-') else 'imagenet'
        self.model = M2CD(
            encoder_name=backbone,
            encoder_weights=pretrained if self.weights is True else None,
            in_channels=in_channels,
            classes=self.hparams['num_classes'] or self.hparams['num_labels'] or 1,
            **(self.hparams['model_args'] or {}),
        )
        if self.weights and self.weights is not True:
            weights = self.weights
            if isinstance(weights, str | WeightsEnum):
                weights = [weights]
            load_encoder_weights(self.model.encoder, *weights)
        if self.hparams['freeze_backbone']:
            self.model.encoder.backbone.requires_grad_(False)
        if self.hparams['freeze_decoder']:
            self.model.decoder.requires_grad_(False)

    def configure_losses(self) -> None:
        """Initialize the criterion."""
        pos_weight = self.hparams['pos_weight']
        if pos_weight is not None:
            # One per row of (1, labels, number of pixels)
            self.hparams['pos_weight'] = torch.as_tensor(
                pos_weight, dtype=torch.float32
            ).reshape(-1, 1)
        super().configure_losses()
        threshold = self.hparams['ohem_threshold']
        if threshold is not None:
            kept = self.hparams['ohem_min_kept']
            self.criterion = OHEMLoss(self.criterion, threshold, kept)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Initialize optimizer and learning rate scheduler.

        Returns:
            AdamW, and the scheduler of the *schedule*.

        Raises:
            ValueError: If ``schedule='poly'`` does not fit the length of the training.
        """
        optimizer = AdamW(self._parameter_groups(), lr=self.hparams['lr'])
        if self.hparams['schedule'] == 'plateau':
            plateau = ReduceLROnPlateau(optimizer, patience=self.hparams['patience'])
            return {
                'optimizer': optimizer,
                'lr_scheduler': {'scheduler': plateau, 'monitor': self.monitor},
            }
        steps = self.trainer.estimated_stepping_batches
        warmup = self.hparams['warmup_steps']
        if not 0 < steps < math.inf:
            raise ValueError(
                "schedule='poly' needs the end of the training: expected max_steps or "
                'max_epochs of the trainer'
            )
        if not 0 <= warmup < steps:
            raise ValueError(
                f'warmup_steps is {warmup}: expected from 0 to less than the {steps} '
                'steps of the training'
            )
        scheduler: LRScheduler = PolynomialLR(optimizer, int(steps) - warmup, power=1)
        if warmup:
            rise = LinearLR(optimizer, 1e-6, total_iters=warmup)
            scheduler = SequentialLR(optimizer, [rise, scheduler], [warmup])
        return {
            'optimizer': optimizer,
            'lr_scheduler': {'scheduler': scheduler, 'interval': 'step'},
        }

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Group the parameters by weight decay and learning rate."""
        weight_decay, factor = (
            self.hparams[name] for name in ('weight_decay', 'head_lr_factor')
        )
        groups: list[dict[str, Any]] = [{'params': list(self.parameters())}]
        if weight_decay is not None:
            groups = param_groups_weight_decay(self, weight_decay)
        if factor == 1:
            return groups
        encoder = set(self.model.encoder.parameters())
        split = [
            {
                **group,
                'params': [p for p in group['params'] if (p in encoder) == in_encoder],
                'lr': self.hparams['lr'] * (1 if in_encoder else factor),
            }
            for group in groups
            for in_encoder in (True, False)
        ]
        # Of a frozen encoder, nothing is left
        return [group for group in split if group['params']]

    def _init_from(self, path: str) -> None:
        """Take all weights of the model from a checkpoint."""
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f'init_from {path!r} is not a file: expected the checkpoint of a run'
            )
        checkpoint = torch.load(path, map_location='cpu', weights_only=True)
        if 'state_dict' not in checkpoint:
            raise ValueError(
                f'init_from {path!r} has no state_dict: expected a checkpoint of '
                'Lightning'
            )
        self._load_inputs(checkpoint)
        # The criterion may be another one, with other weights of classes
        prefix = 'model.'
        checkpoint['state_dict'] = {
            key: value
            for key, value in checkpoint['state_dict'].items()
            if key.startswith(prefix)
        }
        self._check_fits(checkpoint, prefix)
        self.load_state_dict(checkpoint['state_dict'], strict=False)

    def take_inputs(self, inputs: Inputs) -> None:
        """Keep what the model is shown, as the data module decided.

        Args:
            inputs: The inputs.

        Raises:
            ValueError: If the model was made for other channels.
        """
        optical, sar = inputs.channels
        in_channels = self.hparams['in_channels']
        expected: list[int | list[int]] = [max(optical, sar)]
        if self.hparams['model'] == 'm2cd':
            expected.append([optical, sar])
        if _plain(in_channels) not in expected:
            raise ValueError(
                f'in_channels is {in_channels}, but the inputs have {optical} optical '
                f'and {sar} SAR channels: expected {" or ".join(map(str, expected))}'
            )
        self._set_inputs(inputs)

    def _set_inputs(self, inputs: Inputs) -> None:
        """Keep what the model is shown, also in the model if it has a place for it."""
        super().take_inputs(inputs)
        if isinstance(self.model, M2CD):
            self.model.inputs = inputs

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say how the ``torchgeo`` command is to make a task like this one.

        It takes class and arguments from a checkpoint, which may be made without it.
        Initial weights are not needed any more, and need not be downloaded again.
        ``inputs`` says what the model is shown.

        Args:
            checkpoint: The checkpoint.
        """
        arguments = checkpoint['hyper_parameters']
        path = f'{type(self).__module__}.{type(self).__qualname__}'
        arguments.setdefault('_class_path', path)
        arguments['weights'] = arguments['init_from'] = None
        if self.inputs is not None:
            checkpoint['inputs'] = self.inputs.to_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a checkpoint fits the model, and read what the model is shown.

        Warns if it fits, but was saved with other arguments of the model, like *top_k*.

        Args:
            checkpoint: The checkpoint.

        Raises:
            ValueError: If it is of another architecture, or its inputs are not known.
        """
        self._check_fits(checkpoint)
        self._load_inputs(checkpoint)

    def _load_inputs(self, checkpoint: dict[str, Any]) -> None:
        """Read what the model of a checkpoint is shown, if it says so."""
        if 'inputs' in checkpoint:
            self._set_inputs(Inputs.from_dict(checkpoint['inputs']))

    def _check_fits(self, checkpoint: dict[str, Any], prefix: str = '') -> None:
        """Check that a checkpoint has the parameters whose names start with a prefix."""
        own = {
            key: value.shape
            for key, value in self.state_dict().items()
            if key.startswith(prefix)
        }
        other = {key: value.shape for key, value in checkpoint['state_dict'].items()}
        saved = checkpoint.get('hyper_parameters', {})
        arguments = (
            'model',
            'backbone',
            'in_channels',
            'num_classes',
            'num_labels',
            'model_args',
        )
        differences = [
            f'{name} is {self.hparams[name]!r}, in the checkpoint {saved[name]!r}'
            for name in arguments
            if name in saved and _plain(self.hparams[name]) != _plain(saved[name])
        ]
        if own == other:
            if differences:
                rank_zero_warn(f'the checkpoint fits, but {"; ".join(differences)}')
            return
        keys = sorted(
            k for k in own.keys() | other.keys() if own.get(k) != other.get(k)
        )
        raise ValueError(
            'the checkpoint is of another architecture: '
            + '; '.join([*differences, f'{len(keys)} parameters differ: {keys[0]}, …'])
        )

    def _simulate_sar(self, batch: Sample) -> Tensor | None:
        """Make the image of the optical-to-SAR path."""
        index = self.model.optical_index
        channels, sar_channels = (self.model.in_channels[i] for i in (index, 1 - index))
        match self.hparams['o2sp']:
            case 'original':
                return simulate_sar(batch['image'][:, index, :channels], sar_channels)
            case 'physical':
                if self.inputs is None:
                    raise ValueError(
                        "o2sp='physical' needs images in source units: expected a data "
                        'module of torchgeo_m2cd'
                    )
                bands = self.inputs.band_counts[index]
                source = batch['source'][:, index, :bands]
                return simulate_speckled_sar(source, sar_channels)
        return None

    def _guide_loss(self, features: Sequence[Tensor]) -> Tensor:
        return guide_loss(
            features,
            self.hparams['guide_distance'],
            self.hparams['guide_detach'],
            self.hparams['guide_stage_weights'],
        )

    def _check_image(self, batch: Sample) -> None:
        """Check that image pairs are what the model was made for."""
        image = batch['image']
        in_channels = self.hparams['in_channels']
        if self.inputs is not None and 'source' not in batch:
            raise ValueError(
                'the batch has no `source`, so its images are in source units: expected '
                'inputs.show(batch) of the task, or torchgeo_m2cd.predict.predict_pair'
            )
        if image.shape[-3] != _max(in_channels):
            raise ValueError(
                f'in_channels is {in_channels}, but images have {image.shape[-3]} '
                'channels: expected as many, or as the image with more bands'
            )

    def _check_labels(self, mask: Tensor) -> None:
        """Check that masks have the classes that the model was made for."""
        ignored = self.hparams['ignore_index']
        multiclass = self.hparams['task'] == 'multiclass'
        classes = self.hparams['num_classes'] if multiclass else 2
        labels = [label for label in torch.unique(mask).tolist() if label != ignored]
        if labels and not 0 <= labels[0] <= labels[-1] < classes:
            raise ValueError(
                f'masks have the labels {labels}: expected 0 to {classes - 1}'
                + ('' if ignored is None else f', or {ignored} for pixels to ignore')
            )

    def _logits(self, image: Tensor) -> Tensor:
        """Run the model on image pairs of shape (B, 2, C, H, W)."""
        if self.hparams['model'] not in PAIR_MODELS:
            image = rearrange(image, 'b t c h w -> b (t c) h w')
        logits: Tensor = self(image)
        return logits

    def _probabilities(self, logits: Tensor) -> Tensor:
        """Turn logits into probabilities, in single precision."""
        logits = logits.float()
        if self.hparams['task'] == 'multiclass':
            return logits.softmax(dim=1)
        return logits.sigmoid()

    def _supervised_loss(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Apply the criterion to the pixels that count.

        Args:
            logits: Logits, shape (B, classes, H, W).
            mask: Mask, shape (B, 1, H, W), or (B, num_labels, H, W).
        """
        # Not all criteria know of an ignore value, but all of them take any set of
        # pixels: (1, classes, number of pixels)
        logits = rearrange(logits, 'b c h w -> 1 c (b h w)')
        mask = rearrange(mask, 'b c h w -> 1 c (b h w)')
        if self.hparams['ignore_index'] is not None:
            valid = (mask != self.hparams['ignore_index']).all(dim=1).squeeze(0)
            logits, mask = logits[..., valid], mask[..., valid]
            if mask.numel() == 0:
                return logits.sum()
        if self.hparams['task'] == 'multiclass':
            mask = mask.squeeze(1)
        if self.hparams['loss'] == 'bce':
            mask = mask.to(logits.dtype)
        loss: Tensor = self.criterion(logits, mask)
        return loss

    def _shared_step(self, batch: Sample, batch_idx: int, stage: str) -> Tensor:
        """Compute the loss and the metrics of a stage.

        Args:
            batch: Output of the data loader.
            batch_idx: Index of the batch.
            stage: ``'train'``, ``'val'`` or ``'test'``.

        Returns:
            The loss.
        """
        image, mask = batch['image'], batch['mask']
        self._check_image(batch)
        if batch_idx == 0:
            # Once per epoch: a GPU has to wait for it
            self._check_labels(mask)
        losses: dict[str, Tensor] = {}
        if stage == 'train' and self.hparams['model'] == 'm2cd':
            output = self.model.forward_train(
                image, self._simulate_sar(batch), self._guide_loss
            )
            logits = output.logits
            losses['balance'] = self.hparams['balance_weight'] * output.balance_loss
            losses['guide'] = self.hparams['guide_weight'] * output.guide_loss
        else:
            logits = self._logits(image)

        loss = self._supervised_loss(logits, mask)
        if losses:
            losses['supervised'] = loss
            loss = torch.stack(list(losses.values())).sum()
        self.log(f'{stage}_loss', loss, batch_size=len(image), prog_bar=stage != 'test')
        for name, value in losses.items():
            self.log(f'{stage}_{name}_loss', value, batch_size=len(image))

        if self.hparams['task'] == 'multiclass':
            mask = mask.squeeze(1)
        metrics = getattr(self, f'{stage}_metrics')
        metrics.update(self._probabilities(logits.detach()), mask)
        return loss

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics, intersection over union in the progress bar."""
        for name, value in self.val_metrics.compute().items():
            self.log(name, value, prog_bar=name == 'val_AverageJaccardIndex')
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
        self._check_image(batch)
        # Patches of a scene without data are not worth the time
        seen = torch.ones(len(image), dtype=torch.bool, device=image.device)
        if 'valid' in batch:
            seen = batch['valid'].flatten(1).any(dim=1)
            seen[0] |= ~seen.any()
        predicted = self._probabilities(self._logits(image[seen]))
        probabilities = predicted.new_zeros(len(image), *predicted.shape[1:])
        probabilities[seen] = predicted
        return probabilities


def _max(in_channels: int | Sequence[int]) -> int:
    """Return the number of channels of a sample: that of the image with more."""
    return in_channels if isinstance(in_channels, int) else max(in_channels)


def _plain(value: Any) -> Any:
    """Make an argument comparable with one that was read from a file."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()} or None
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _check_weights(weights: Any, pair: bool) -> None:
    """Check that initial weights exist.

    Args:
        weights: See :class:`ChangeDetectionTask`.
        pair: Whether they may be a pair.

    Raises:
        ValueError: If they do not, or are a pair that may not be.
    """
    if not isinstance(weights, Sequence) or isinstance(weights, str):
        weights = [weights]
    elif not pair:
        raise ValueError(f"weights may be a pair for model='m2cd' only, got {weights}")
    for name in weights:
        if isinstance(name, str) and not os.path.exists(name):
            try:
                get_weight(name)
            except ValueError as error:
                raise ValueError(
                    f'weights {name!r} are neither a file nor of TorchGeo: expected '
                    'True for those of ImageNet, the path of a checkpoint, or a name '
                    "like 'ResNet18_Weights.SENTINEL2_RGB_MOCO'"
                ) from error

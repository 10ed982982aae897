# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import inspect
import math
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor
from torch.utils.data import DataLoader
from torchgeo.models import ResNet18_Weights, ResNet50_Weights
from torchvision.models._api import Weights

from torchgeo_m2cd.datamodules import SceneDataModule, SyntheticFloodDataModule
from torchgeo_m2cd.datasets import SyntheticFlood
from torchgeo_m2cd.losses import OHEM
from torchgeo_m2cd.models import (
    Experts,
    M2CD_Weights,
    OriginalO2SP,
    PhysicalO2SP,
    Reliability,
    guide_loss,
    m2cd,
    simulate_sar,
    simulate_speckled_sar,
)
from torchgeo_m2cd.models.pretrained import last_convolution
from torchgeo_m2cd.tasks import ChangeDetectionTask, Plateau
from torchgeo_m2cd.transforms import (
    Inputs,
    Relative,
    RelativeDarkness,
    Standardize,
    StandardizeImage,
)

DEFAULT: Any = M2CD_Weights.DEFAULT

# Small models, one for each input layout of TorchGeo's models
MODELS = [
    {'model': 'm2cd', 'backbone': 'mit_b0'},
    {'model': 'unet', 'backbone': 'resnet18'},
    {'model': 'fcn'},
    {'model': 'fcsiamdiff', 'backbone': 'resnet18'},
    {'model': 'fcsiamconc', 'backbone': 'resnet18'},
]


def make_batch(classes: int = 2, size: int = 32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.randint(0, classes, (2, 1, size, size), generator=generator)
    mask[:, :, : size // 4] = 255
    return {
        'image': torch.randn(2, 2, 3, size, size, generator=generator),
        'mask': mask,
    }


def make_task(**kwargs: Any) -> ChangeDetectionTask:
    return ChangeDetectionTask(**({'backbone': 'mit_b0'} | kwargs))


def make_inputs() -> Inputs:
    return Inputs(
        RelativeDarkness([0, 0, 0, 0.4]),
        Relative([5.0], ['otsu', 0.85]),
        window=64,
        bands=SyntheticFlood.all_bands,
        sar_bands=['VV'],
    )


def make_datamodule(inputs: Inputs | None = None) -> SyntheticFloodDataModule:
    return SyntheticFloodDataModule(
        batch_size=2, length=4, eval_length=2, size=64, inputs=inputs
    )


def record_log(task: ChangeDetectionTask) -> dict[str, float]:
    """Let a task log to a dictionary, without a trainer."""
    logged: dict[str, float] = {}

    def log(name: str, value: Tensor, **kwargs: Any) -> None:
        logged[name] = float(value.detach())

    task.__dict__['log'] = log
    return logged


def make_trainer(folder: Path, **kwargs: Any) -> Trainer:
    defaults: dict[str, Any] = {
        'accelerator': 'cpu',
        'max_epochs': 1,
        'default_root_dir': folder,
        'log_every_n_steps': 1,
        'enable_progress_bar': False,
        'enable_model_summary': False,
    }
    return Trainer(**(defaults | kwargs))


class TestChangeDetectionTask:
    @pytest.mark.parametrize('kwargs', MODELS, ids=lambda kwargs: kwargs['model'])
    def test_trainer(self, tmp_path: Path, kwargs: dict[str, Any]) -> None:
        task = make_task(in_channels=4, **kwargs)
        datamodule = make_datamodule()
        checkpoint = ModelCheckpoint(tmp_path, monitor='val_IoU')
        trainer = make_trainer(tmp_path, callbacks=[checkpoint], logger=False)
        trainer.fit(task, datamodule=datamodule)
        logged = set(trainer.callback_metrics)
        assert {'train_loss', 'val_loss', 'val_IoU'} <= logged
        names = {'train_supervised_loss', 'train_balance_loss', 'train_guide_loss'}
        assert names & logged == (names if kwargs['model'] == 'm2cd' else set())

        path = checkpoint.best_model_path
        results = trainer.test(datamodule=datamodule, ckpt_path=path, weights_only=True)
        assert math.isfinite(results[0]['test_loss'])
        predictions = trainer.predict(task, datamodule=datamodule)
        assert predictions is not None
        (prediction,) = predictions
        assert isinstance(prediction, Tensor)
        assert prediction.shape == (2, 1, 64, 64)
        assert prediction.min() >= 0
        assert prediction.max() <= 1

    def test_rule(self, tmp_path: Path) -> None:
        """The rule is tested and predicts without training, also from a checkpoint."""
        task = make_task(model='threshold', model_args={'margin': 5.0})
        trainer = make_trainer(tmp_path, logger=False)
        datamodule = make_datamodule(make_inputs())
        with pytest.raises(ValueError, match='a rule without weights to train'):
            trainer.fit(task, datamodule=datamodule)
        (result,) = trainer.test(task, datamodule=datamodule)
        assert result['test_IoU'] > 0.5
        trainer.save_checkpoint(tmp_path / 'rule.ckpt')
        loaded = ChangeDetectionTask.load_from_checkpoint(
            tmp_path / 'rule.ckpt', weights_only=True
        )
        assert loaded.inputs is not None
        assert loaded.inputs.to_dict() == datamodule.choose_inputs().to_dict()
        trainer.validate(loaded, datamodule=make_datamodule())
        first, second = (
            trainer.predict(each, datamodule=make_datamodule())
            for each in (task, loaded)
        )
        torch.testing.assert_close(first, second)

    @pytest.mark.parametrize(
        ('kwargs', 'match'),
        [
            ({'task': 'multilabel', 'num_labels': 2}, "expected task='binary'"),
            ({'weights': True}, 'weights=True'),
        ],
    )
    def test_rule_arguments(self, kwargs: dict[str, Any], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            make_task(model='threshold', **kwargs)

    def test_rule_inputs(self) -> None:
        task = make_task(model='threshold')
        assert task.inputs is not None
        assert task.inputs.band_names == (['B08'], ['VV'])
        with pytest.raises(ValueError, match='the rule needs Relative'):
            task.take_inputs(Inputs(Standardize([0], [1]), Standardize([0], [1])))

    @pytest.mark.slow
    def test_loss_falls(self) -> None:
        torch.manual_seed(0)
        task = make_task(lr=1e-3)
        record_log(task)
        optimizer = torch.optim.AdamW(task.parameters(), lr=1e-3)
        batch = make_batch()
        # Dark blocks of the second image have changed
        batch['image'] = F.interpolate(batch['image'].flatten(1, 2), size=4)
        batch['image'] = F.interpolate(batch['image'], size=64).unflatten(1, (2, 3))
        batch['mask'] = (batch['image'][:, 1, :1] < 0).long()
        losses = []
        for step in range(30):
            loss = task.training_step(batch, step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.8 * losses[0]

    @pytest.mark.parametrize(
        'experts', [{'balance_weight': 2.0}, Experts(balance_weight=2)]
    )
    def test_sum_of_losses(self, experts: Any) -> None:
        o2sp = OriginalO2SP(weight=3.0)
        task = make_task(o2sp=o2sp, model_args={'experts': experts}).eval()
        batch = make_batch()
        torch.manual_seed(1)
        output = task.model.forward_train(
            batch['image'], simulate_sar(batch['image'][:, 0])
        )
        logged = record_log(task)
        torch.manual_seed(1)
        loss = task.training_step(batch, 0)
        assert logged['train_balance_loss'] == pytest.approx(
            2 * output.balance_loss.item()
        )
        assert logged['train_guide_loss'] == pytest.approx(3 * output.guide_loss.item())
        parts = ['supervised', 'balance', 'guide']
        total = sum(logged[f'train_{part}_loss'] for part in parts)
        assert logged['train_loss'] == pytest.approx(total)
        assert loss.item() == pytest.approx(total)

    @pytest.mark.parametrize(
        ('in_channels', 'index'), [(4, 0), ((4, 1), 0), ((4, 1), 1)]
    )
    def test_physical_o2sp(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        in_channels: Any,
        index: int,
    ) -> None:
        """The simulation uses source units, augmented like the images."""
        batches: list[dict[str, Tensor]] = []
        sources: list[Tensor] = []
        simulated: list[Tensor] = []

        def spy(source: Tensor, channels: int, max_looks: int) -> Tensor:
            sources.append(source)
            simulated.append(simulate_speckled_sar(source, channels, max_looks))
            return simulated[-1]

        class Record(Callback):
            def on_train_batch_start(self, *args: Any) -> None:
                batches.append(args[2])

        name = 'torchgeo_m2cd.models.o2sp.simulate_speckled_sar'
        monkeypatch.setattr(name, spy)
        task = make_task(
            in_channels=in_channels,
            o2sp=PhysicalO2SP(),
            model_args={'optical_index': index},
        )
        trainer = make_trainer(
            tmp_path, logger=False, enable_checkpointing=False, callbacks=[Record()]
        )
        datamodule = make_datamodule()
        trainer.fit(task, datamodule=datamodule)
        loss = trainer.callback_metrics['train_guide_loss']
        assert loss.isfinite()
        assert loss > 0

        bands, simulated_bands = (4, 1) if index == 0 else (1, 4)
        if in_channels == 4:
            simulated_bands = 4
        assert [tuple(s.shape) for s in simulated] == [(2, simulated_bands, 64, 64)] * 2
        # Convert the inputs of the model back to source units
        names = datamodule.bands if index == 0 else datamodule.sar_bands
        mean, std = (
            torch.tensor([values[name] for name in names])[:, None, None]
            for values in (datamodule.means, datamodule.stds)
        )
        for source, batch in zip(sources, batches, strict=True):
            expected = batch['image'][:, index, :bands] * std + mean
            torch.testing.assert_close(source, expected, rtol=1e-4, atol=1e-2)
        # The images are augmented ones, not those of the dataset
        dataset = datamodule.train_dataset
        assert isinstance(dataset, SyntheticFlood)
        chips = [dataset[i]['image'][index, :bands] for i in range(len(dataset))]
        found = torch.cat(sources)
        for source in found:
            values = source.flatten().sort()[0]
            same = [torch.equal(values, chip.flatten().sort()[0]) for chip in chips]
            assert sum(same) == 1
        assert not all(any(torch.equal(s, chip) for chip in chips) for s in found)

    def test_guide_loss(self) -> None:
        stage_weights = [4.0, 0.0, 0.5, 1.0]
        o2sp = OriginalO2SP(
            weight=3.0, distance='cosine', detach=True, stage_weights=stage_weights
        )
        task = make_task(o2sp=o2sp, model_args={'experts': None}).eval()
        logged = record_log(task)
        batch = make_batch()
        batch['mask'][:] = 255  # leaves only the guide loss
        torch.manual_seed(1)
        task.training_step(batch, 0).backward()
        gradients = [p.grad for p in task.model.encoder.parameters()]
        task.zero_grad()
        torch.manual_seed(1)
        output = task.model.forward_train(
            batch['image'],
            simulate_sar(batch['image'][:, 0]),
            lambda features: guide_loss(features, 'cosine', True, stage_weights),
        )
        expected = 3 * output.guide_loss
        assert expected > 0
        assert logged['train_guide_loss'] == pytest.approx(expected.item())
        expected.backward()
        for p, gradient in zip(task.model.encoder.parameters(), gradients, strict=True):
            if p.grad is not None:
                torch.testing.assert_close(gradient, p.grad)

    def test_channels_per_image(self) -> None:
        task = make_task(in_channels=(3, 1))
        assert task.model.in_channels == (3, 1)
        assert task.model.encoder.second_stem is not None
        record_log(task)
        task.training_step(make_batch(), 0).backward()
        assert all(p.grad is not None for p in task.model.parameters())

    @pytest.mark.parametrize(('model', 'bands'), [('unet', 8), ('fcsiamdiff', 4)])
    def test_channels_per_image_of_other_models(self, model: Any, bands: int) -> None:
        task = make_task(model=model, backbone='resnet18', in_channels=(1, 4))
        assert task.hparams['in_channels'] == 4
        assert task.model.encoder.conv1.in_channels == bands

    def test_weights(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[tuple[Any, ...]] = []
        monkeypatch.setattr(
            'torchgeo_m2cd.tasks.m2cd.load_encoder_weights',
            lambda encoder, *weights: calls.append(weights),
        )
        enum, other = (
            ResNet18_Weights.SENTINEL2_ALL_MOCO,
            ResNet50_Weights.SENTINEL1_ALL_MOCO,
        )
        for weights in (None, False, enum, str(other), (enum, str(other))):
            make_task(backbone='resnet18', in_channels=(13, 2), weights=weights)
        assert calls == [(enum,), (other,), (enum, other)]

    def test_imagenet_weights(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[str | bool | None] = []

        def fake(
            name: str, in_channels: int, weights: str | bool | None
        ) -> torch.nn.Module:
            asked.append(weights)
            encoder: torch.nn.Module = get_encoder(name, in_channels)
            return encoder

        monkeypatch.setattr('torchgeo_m2cd.models.encoder.get_encoder', fake)
        make_task(weights=True)
        make_task(weights=False)
        make_task(weights=True, backbone='tu-resnet18')
        assert asked == ['imagenet', None, True]

    def test_ablation(self) -> None:
        task = make_task(model_args={'experts': None})
        logged = record_log(task)
        task.training_step(make_batch(), 0)
        assert logged['train_guide_loss'] == 0
        assert logged['train_balance_loss'] == 0
        assert logged['train_loss'] == logged['train_supervised_loss']

    @pytest.mark.parametrize('loss', ['bce', 'jaccard', 'focal', 'dice'])
    def test_binary_losses(self, loss: Any) -> None:
        task = make_task(loss=loss, model_args={'experts': None}).eval()
        logged = record_log(task)
        batch = make_batch()
        task.validation_step(batch, 0)
        # The same for an image without ignored pixels
        logits = task.model(batch['image'])[:, :, 8:].flatten(1)[None]
        target = batch['mask'][:, :, 8:].flatten(1)[None]
        expected = {
            'bce': lambda: F.binary_cross_entropy_with_logits(logits, target.float()),
            'jaccard': lambda: smp.losses.JaccardLoss('binary')(logits, target),
            'focal': lambda: smp.losses.FocalLoss('binary', normalized=True)(
                logits, target
            ),
            'dice': lambda: smp.losses.DiceLoss('binary')(logits, target),
        }[loss]()
        assert logged['val_loss'] == pytest.approx(expected.item(), rel=1e-4)

    @pytest.mark.parametrize('loss', ['ce', 'jaccard', 'focal', 'dice'])
    def test_multiclass(self, loss: Any) -> None:
        task = make_task(task='multiclass', num_classes=3, loss=loss).eval()
        logged = record_log(task)
        batch = make_batch(3)
        task.validation_step(batch, 0)
        if loss == 'ce':
            logits = task.model(batch['image'])
            expected = F.cross_entropy(logits[:, :, 8:], batch['mask'][:, 0, 8:])
            assert logged['val_loss'] == pytest.approx(expected.item(), rel=1e-4)
        before = logged['val_loss']
        batch['image'][:, :, :, :1] += 1
        prediction = task.predict_step(batch, 0)
        assert prediction.shape == (2, 3, 32, 32)
        torch.testing.assert_close(prediction.sum(1), torch.ones(2, 32, 32))
        assert math.isfinite(before)

    @pytest.mark.parametrize('seen', [[True, False], [False, False]])
    def test_images_without_data_are_not_predicted(self, seen: list[bool]) -> None:
        task = make_task().eval()
        batch = make_batch(2)
        expected = task.predict_step(batch, 0)
        valid = torch.tensor(seen).reshape(2, 1, 1, 1).expand_as(batch['mask'])
        sizes = []
        task.model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
        probabilities = task.predict_step({**batch, 'valid': valid}, 0)
        assert sizes == [1]
        torch.testing.assert_close(probabilities[0], expected[0])
        assert (probabilities[1] == 0).all()

    def test_multilabel(self) -> None:
        task = make_task(task='multilabel', num_labels=2).eval()
        logged = record_log(task)
        batch = make_batch()
        batch['mask'] = batch['mask'].repeat(1, 2, 1, 1)
        task.validation_step(batch, 0)
        logits = task.model(batch['image'])[:, :, 8:]
        target = batch['mask'][:, :, 8:].float()
        expected = F.binary_cross_entropy_with_logits(logits, target)
        assert logged['val_loss'] == pytest.approx(expected.item(), rel=1e-4)

    @pytest.mark.parametrize(
        ('kwargs', 'pos_weight'),
        [
            ({}, 0.5),
            ({'task': 'multilabel', 'num_labels': 2}, [0.5, 3.0]),
            ({'task': 'multilabel', 'num_labels': 2}, torch.tensor([0.5, 3.0])),
        ],
    )
    def test_pos_weight(
        self, kwargs: dict[str, Any], pos_weight: Any, tmp_path: Path
    ) -> None:
        task = make_task(pos_weight=pos_weight, **kwargs).eval()
        path = tmp_path / 'task.ckpt'
        trainer = make_trainer(tmp_path, limit_train_batches=0, logger=False)
        trainer.strategy.connect(task)
        trainer.save_checkpoint(path)
        loaded = ChangeDetectionTask.load_from_checkpoint(path, weights_only=True)
        logged = record_log(loaded.eval())
        batch = make_batch()
        target = batch['mask'][:, :, 8:].float()
        probability = task.model(batch['image'])[:, :, 8:].sigmoid()
        batch['mask'] = batch['mask'].repeat(1, probability.shape[1], 1, 1)
        loaded.validation_step(batch, 0)
        weights = torch.as_tensor(pos_weight).reshape(-1, 1, 1)
        losses = -torch.where(
            target == 1, weights * probability.log(), (1 - probability).log()
        )
        expected = losses.mean().item()
        assert logged['val_loss'] == pytest.approx(expected, rel=1e-4)

    def test_ignored_pixels_do_not_count_in_metrics(self) -> None:
        task = make_task().eval()
        logged = record_log(task)
        batch = make_batch()
        task.validation_step(batch, 0)
        task.on_validation_epoch_end()
        prediction = (task.model(batch['image']) > 0)[:, :, 8:]
        target = batch['mask'][:, :, 8:] == 1
        iou = (prediction & target).sum() / (prediction | target).sum()
        assert logged['val_IoU'] == pytest.approx(iou.item())

    @pytest.mark.parametrize(
        ('kwargs', 'label', 'message'),
        [
            (
                {},
                2,
                r'labels \[0, 1, 2\]: expected 0 to 1, or 255 for pixels to ignore',
            ),
            (
                {'task': 'multiclass', 'num_classes': 3, 'loss': 'ce'},
                7,
                r'labels \[0, 1, 7\]: expected 0 to 2, or 255',
            ),
            ({'ignore_index': None}, 255, r'labels \[0, 1, 255\]: expected 0 to 1$'),
        ],
    )
    @pytest.mark.parametrize('stage', ['training', 'validation', 'test'])
    def test_unknown_labels(
        self, kwargs: dict[str, Any], label: int, message: str, stage: str
    ) -> None:
        task = make_task(**kwargs)
        batch = make_batch()
        batch['mask'].clamp_(max=1)[0, 0, 0, 0] = label
        with pytest.raises(ValueError, match=message):
            getattr(task, f'{stage}_step')(batch, 0)

    def test_nothing_but_ignored_pixels(self) -> None:
        task = make_task()
        logged = record_log(task)
        batch = make_batch()
        batch['mask'][:] = 255
        loss = task.training_step(batch, 0)
        loss.backward()
        assert logged['train_supervised_loss'] == 0
        assert all(p.grad is not None for p in task.model.parameters())

    def test_no_ignore_index(self) -> None:
        task = make_task(ignore_index=None).eval()
        logged = record_log(task)
        batch = make_batch()
        batch['mask'].clamp_(max=1)
        task.validation_step(batch, 0)
        expected = F.binary_cross_entropy_with_logits(
            task.model(batch['image']), batch['mask'].float()
        )
        assert logged['val_loss'] == pytest.approx(expected.item(), rel=1e-4)

    @pytest.mark.parametrize('model', ['m2cd', 'unet'])
    def test_freeze(self, model: Any) -> None:
        backbone = {'m2cd': 'mit_b0', 'unet': 'resnet18'}[model]
        task = make_task(
            model=model, backbone=backbone, freeze_backbone=True, freeze_decoder=True
        )
        trained = {
            n.split('.')[1] for n, p in task.named_parameters() if p.requires_grad
        }
        expected = {'segmentation_head'} | ({'encoder'} if model == 'm2cd' else set())
        assert trained == expected
        if model == 'm2cd':
            assert all(p.requires_grad for p in task.model.encoder.moe.parameters())
            backbone = task.model.encoder.backbone
            assert not any(p.requires_grad for p in backbone.parameters())

    def test_freeze_random_weights(self, tmp_path: Path) -> None:
        """A frozen encoder is useless if nothing has trained it before."""

        def warnings_of(task: ChangeDetectionTask, **kwargs: Any) -> int:
            with warnings.catch_warnings(record=True) as record:
                warnings.simplefilter('always')
                trainer = make_trainer(tmp_path, logger=False)
                trainer.fit(task, datamodule=make_datamodule(), **kwargs)
            trainer.save_checkpoint(path)
            return sum('encoder has random weights' in str(w.message) for w in record)

        path = tmp_path / 'a.ckpt'
        arguments: Any = {'in_channels': 4, 'freeze_backbone': True}
        assert warnings_of(make_task(**arguments)) == 1
        trained = ChangeDetectionTask.load_from_checkpoint(path, weights_only=True)
        assert warnings_of(trained) == 0
        assert warnings_of(make_task(**arguments, init_from=str(path))) == 0
        resumed = make_task(**arguments)
        assert warnings_of(resumed, ckpt_path=path, weights_only=True) == 0
        assert warnings_of(make_task(in_channels=4)) == 0

    @pytest.mark.parametrize('precision', ['bf16-mixed', 'bf16-true'])
    def test_precision(self, tmp_path: Path, precision: Any) -> None:
        trainer = make_trainer(
            tmp_path, precision=precision, accumulate_grad_batches=2, logger=False
        )
        trainer.fit(make_task(in_channels=4), datamodule=make_datamodule())
        assert trainer.global_step == 1
        assert trainer.callback_metrics['train_loss'].isfinite()

    @pytest.mark.slow
    def test_distributed(self, tmp_path: Path) -> None:
        # Without find_unused_parameters: every expert needs a gradient in every step
        trainer = make_trainer(
            tmp_path,
            strategy='ddp_spawn',
            devices=2,
            logger=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(make_task(in_channels=4), datamodule=make_datamodule())
        assert trainer.callback_metrics['train_loss'].isfinite()

    @pytest.mark.parametrize('loss', ['bce', 'ce'])
    def test_ohem(self, loss: Any) -> None:
        kwargs: dict[str, Any] = {'loss': loss}
        if loss == 'ce':
            kwargs |= {'task': 'multiclass', 'num_classes': 2}
        kwargs |= {'model_args': {'experts': None}}
        # Initial logits are about 0: about half of the pixels are below 1/2
        task = make_task(ohem=OHEM(0.5, 100), **kwargs)
        logged = record_log(task)
        batch = make_batch()
        task.training_step(batch, 0)
        with torch.no_grad():
            # Batch norm in training mode, drop path with the same random draws
            torch.manual_seed(0)
            task.training_step(batch, 0)
            torch.manual_seed(0)
            logits = task.model.forward_train(batch['image']).logits
        odds = logits[:, -1] - (logits[:, 0] if loss == 'ce' else 0)
        target = batch['mask'][:, 0]
        true = torch.where(target == 1, odds.sigmoid(), 1 - odds.sigmoid())
        true = true[target != 255]
        assert 100 < (true < 0.5).sum() < true.numel()
        expected = -true[true < 0.5].log().mean().item()
        assert logged['train_supervised_loss'] == pytest.approx(expected, rel=1e-4)
        # Validation uses all pixels
        task.eval().validation_step(batch, 0)
        plain = make_task(**kwargs).eval()
        plain.load_state_dict(task.state_dict())
        logged_plain = record_log(plain)
        plain.validation_step(batch, 0)
        assert logged['val_loss'] == logged_plain['val_loss']

    def test_init_from(self, tmp_path: Path) -> None:
        path = str(tmp_path / 'first.ckpt')
        trainer = make_trainer(tmp_path, limit_train_batches=0, logger=False)
        kwargs: dict[str, Any] = {
            'in_channels': 4,
            'task': 'multiclass',
            'num_classes': 2,
            'loss': 'ce',
        }
        first = make_task(class_weights=[1.0, 2.0], **kwargs)
        trainer.strategy.connect(first)
        trainer.save_checkpoint(path)

        # The second task has another loss
        second = make_task(
            init_from=path, ohem=OHEM(), o2sp=OriginalO2SP(weight=0.5), **kwargs
        )
        weights = second.model.state_dict()
        for name, value in first.model.state_dict().items():
            torch.testing.assert_close(weights[name], value)
        assert second.hparams['init_from'] == path

        # The checkpoint of the second does not need that of the first
        trainer.strategy.connect(second)
        other = tmp_path / 'second.ckpt'
        trainer.save_checkpoint(other)
        (tmp_path / 'first.ckpt').unlink()
        loaded = ChangeDetectionTask.load_from_checkpoint(other, weights_only=True)
        assert loaded.hparams['init_from'] is None
        assert isinstance(loaded.o2sp, OriginalO2SP)
        assert loaded.o2sp.weight == 0.5

    def test_init_from_does_not_fit(self, tmp_path: Path) -> None:
        path = str(tmp_path / 'no.ckpt')
        with pytest.raises(FileNotFoundError, match=r"init_from '.*no.ckpt' does not"):
            make_task(init_from=path)
        torch.save({'epoch': 1}, path)
        with pytest.raises(ValueError, match=r"init_from '.*no.ckpt' has no state_d"):
            make_task(init_from=path)
        trainer = make_trainer(tmp_path, limit_train_batches=0, logger=False)
        trainer.strategy.connect(make_task(backbone='mit_b1'))
        trainer.save_checkpoint(path)
        match = "backbone is 'mit_b0', in the checkpoint 'mit_b1'; .*parameters differ"
        with pytest.raises(ValueError, match=match):
            make_task(init_from=path)
        with pytest.raises(ValueError, match='weights is True, but init_from replaces'):
            make_task(init_from=path, weights=True)

    @pytest.mark.parametrize('fast', [True, False])
    def test_memory_is_kept(self, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = []
        name = 'torchgeo_m2cd.tasks.change'
        monkeypatch.setattr(f'{name}.use_fast', lambda: fast)
        monkeypatch.setattr(f'{name}.keep_memory', lambda: calls.append(1))
        make_task(model='fcn', in_channels=4).setup('predict')
        assert len(calls) == fast

    def test_replaced_optimizer(self, tmp_path: Path) -> None:
        """The argument --optimizer replaces this method."""
        task = make_task(model='fcn', in_channels=4)
        task.configure_optimizers = lambda: None  # type: ignore[method-assign]
        trainer = make_trainer(tmp_path, logger=False)
        with pytest.raises(ValueError, match=r'would replace model\.lr and'):
            trainer.fit(task, datamodule=make_datamodule())

    def test_arguments_of_another_model(self) -> None:
        """To get a baseline, changing the model in a config is enough."""
        with pytest.warns(UserWarning, match="experts, o2sp not used: model is 'unet'"):
            task = ChangeDetectionTask(
                'unet', 'resnet18', model_args={'experts': None}, o2sp=OriginalO2SP()
            )
        plain = ChangeDetectionTask('unet', 'resnet18')
        assert task.state_dict().keys() == plain.state_dict().keys()
        with pytest.warns(UserWarning, match="num_filters not used: model is 'm2cd'"):
            make_task(model_args={'num_filters': 5})

    def test_number_of_filters(self) -> None:
        task = make_task(model='fcn', model_args={'num_filters': 5})
        channels = {parameter.shape[0] for parameter in task.model.parameters()}
        assert channels == {5, 1}

    @pytest.mark.parametrize('model', ['m2cd', 'fcn'])
    def test_hyper_parameters(self, model: Any) -> None:
        """Checkpoints are loaded with them: they are the arguments of the signature."""
        task = make_task(model=model)
        names = inspect.signature(ChangeDetectionTask).parameters.keys()
        assert len(names) <= 21
        assert task.hparams.keys() == names - {'weights'}
        assert task.hparams_initial.keys() == task.hparams.keys()
        again = ChangeDetectionTask(**task.hparams)
        assert again.hparams == task.hparams

    @pytest.mark.parametrize(
        ('kwargs', 'match'),
        [
            ({'model': 'm2dc'}, "unknown model 'm2dc', did you mean 'm2cd'?"),
            ({'task': 'binarry'}, "unknown task 'binarry', did you mean 'binary'?"),
            ({'loss': 'dise'}, "unknown loss 'dise', did you mean 'dice'?"),
            ({'backbone': 'mit_b9'}, "unknown encoder 'mit_b9', did you mean 'mit_b"),
            (
                {'model_args': {'experts': {'num_expert': 2}}},
                "unknown key of experts 'num_expert', did you mean 'num_experts'?",
            ),
            ({'task': 'multiclass', 'loss': 'ce'}, 'needs num_classes'),
            ({'task': 'multilabel'}, 'needs num_labels'),
            (
                {'task': 'multiclass', 'num_classes': 3},
                "loss='bce' does not fit task='multiclass'",
            ),
            ({'loss': 'ce'}, "loss='ce' does not fit task='binary'"),
            (
                {'o2sp': {'class_path': 'os.system'}},
                "unknown O2SP 'os.system': expected one of torchgeo_m2cd.models.Original",
            ),
            (
                {'loss': 'dice', 'ohem': OHEM()},
                "ohem needs loss 'bce' or 'ce', got 'dice'",
            ),
            # The task sets this argument of M2CD itself
            ({'model_args': {'classes': 2}}, "unknown key of model_args 'classes'"),
            ({'optimization': Plateau()}, 'expected an object of'),
            (
                {'model': 'unet', 'backbone': 'resnet19'},
                "unknown encoder 'resnet19', did you mean 'resnet1",
            ),
            (
                {'model': 'changevit', 'backbone': 'vit_small_patch16_225'},
                "did you mean 'vit_small_patch16_224'?",
            ),
            (
                {'model': 'btc', 'backbone': 'swin_tiny', 'in_channels': 4},
                "model 'btc' needs in_channels=3, got 4",
            ),
            ({'weights': 'no.pth'}, "weights 'no.pth' are neither a file nor known"),
            (
                {'model': 'unet', 'backbone': 'resnet18', 'weights': ('a', 'b')},
                "weights may be a pair for model='m2cd' only",
            ),
        ],
    )
    def test_bad_arguments(self, kwargs: dict[str, Any], match: str) -> None:
        with pytest.raises((TypeError, ValueError), match=match.replace('?', r'\?')):
            make_task(**kwargs)

    def test_checkpoint_of_another_architecture(self, tmp_path: Path) -> None:
        trainer = make_trainer(tmp_path, limit_train_batches=0, logger=False)
        trainer.strategy.connect(make_task(model='unet', backbone='resnet18'))
        path = tmp_path / 'unet.ckpt'
        trainer.save_checkpoint(path)
        match = "model is 'm2cd', in the checkpoint 'unet'; .*parameters differ"
        with pytest.raises(ValueError, match=match):
            trainer.test(
                make_task(in_channels=4), ckpt_path=path, datamodule=make_datamodule()
            )

    def test_checkpoint_with_other_arguments(self, tmp_path: Path) -> None:
        trainer = make_trainer(tmp_path, limit_train_batches=0, logger=False)
        trainer.strategy.connect(
            make_task(
                in_channels=(4, 1), model_args={'experts': {'top_k': 1, 'stages': (1,)}}
            )
        )
        path = tmp_path / 'm2cd.ckpt'
        trainer.save_checkpoint(path)

        # The parameters fit, but the function differs
        task = make_task(in_channels=(4, 1), model_args={'experts': {'stages': (1,)}})
        with pytest.warns(UserWarning, match='the checkpoint fits, but model_args is'):
            trainer.test(task, ckpt_path=path, datamodule=make_datamodule())
        # YAML has lists in place of tuples
        task = make_task(
            in_channels=[4, 1], model_args={'experts': {'top_k': 1, 'stages': [1]}}
        )
        with warnings.catch_warnings():
            warnings.filterwarnings('error', 'the checkpoint fits')
            trainer.test(task, ckpt_path=path, datamodule=make_datamodule())

    @pytest.mark.parametrize(
        ('kwargs', 'expected'),
        [
            ({'in_channels': 3}, r'3, .*: expected 4 or \[4, 1\]'),
            ({'in_channels': (1, 4)}, r'\(1, 4\), .*: expected 4 or \[4, 1\]'),
            (
                {'in_channels': (1, 4), 'model_args': {'optical_index': 1}},
                r'\(1, 4\), .*: expected 4 or \[4, 1\]',
            ),
            (
                {'in_channels': (3, 1), 'model': 'unet', 'backbone': 'resnet18'},
                '3, .*: expected 4$',
            ),
        ],
    )
    @pytest.mark.parametrize('stage', ['fit', 'predict'])
    def test_bands_of_data(
        self, kwargs: dict[str, Any], expected: str, stage: str, tmp_path: Path
    ) -> None:
        trainer = make_trainer(tmp_path, logger=False)
        match = f'in_channels is {expected}'.replace('.*', '.* 4 optical and 1 SAR.*')
        with pytest.raises(ValueError, match=match):
            getattr(trainer, stage)(make_task(**kwargs), datamodule=make_datamodule())

    def test_channels_of_inputs(self, tmp_path: Path) -> None:
        """Channels of the inputs count, not bands of the data."""
        inputs = make_inputs()
        assert inputs.channels == (4, 2)
        trainer = make_trainer(tmp_path, logger=False, limit_train_batches=1)
        match = r'in_channels is \[4, 1\], but the inputs have 4 optical and 2 SAR'
        with pytest.raises(ValueError, match=match):
            trainer.fit(
                make_task(in_channels=[4, 1]), datamodule=make_datamodule(inputs)
            )
        trainer.fit(make_task(in_channels=[4, 2]), datamodule=make_datamodule(inputs))
        assert trainer.callback_metrics['train_loss'].isfinite()

    @pytest.mark.parametrize('kwargs', MODELS, ids=lambda kwargs: kwargs['model'])
    def test_bands_of_batch(self, kwargs: dict[str, Any]) -> None:
        task = make_task(in_channels=2, **kwargs)
        match = 'in_channels is 2, but images have 3 channels'
        with pytest.raises(ValueError, match=match):
            task.training_step(make_batch(), 0)
        with pytest.raises(ValueError, match=match):
            task.predict_step(make_batch(), 0)

    def test_physical_o2sp_without_data_module(self, tmp_path: Path) -> None:
        trainer = make_trainer(tmp_path, logger=False)
        loader = DataLoader(SyntheticFlood(length=2, size=64), batch_size=2)
        with pytest.raises(ValueError, match='needs images in source units: expected'):
            trainer.fit(make_task(in_channels=4, o2sp=PhysicalO2SP()), loader)


class TestInputs:
    """The inputs belong to the model."""

    @pytest.fixture(params=['m2cd', 'fcn'])
    def model(self, request: pytest.FixtureRequest) -> Any:
        return request.param

    def make(self, model: Any = 'm2cd', **kwargs: Any) -> ChangeDetectionTask:
        # The channels are those of the inputs, which only the checkpoint has
        in_channels = [4, 2] if model == 'm2cd' else 4
        return make_task(model=model, in_channels=in_channels, **kwargs)

    def make_checkpoint(self, folder: Path, model: Any = 'm2cd') -> Path:
        task = self.make(model)
        trainer = make_trainer(folder, logger=False, limit_train_batches=1)
        trainer.fit(task, datamodule=make_datamodule(make_inputs()))
        trainer.save_checkpoint(folder / 'model.ckpt')
        return folder / 'model.ckpt'

    def test_load_from_checkpoint(self, tmp_path: Path, model: Any) -> None:
        path = self.make_checkpoint(tmp_path, model)
        saved = torch.load(path, weights_only=True)['inputs']
        assert saved == {
            'optical': {
                'class_path': 'torchgeo_m2cd.transforms.RelativeDarkness',
                'init_args': {'shares': [0, 0, 0, 0.4]},
            },
            'sar': {
                'class_path': 'torchgeo_m2cd.transforms.Relative',
                'init_args': {
                    'scale': [5],
                    'references': ['otsu', 0.85],
                    'decibels': 1,
                },
            },
            'window': 64,
            'bands': ['B02', 'B03', 'B04', 'B08'],
            'sar_bands': ['VV'],
        }
        task = ChangeDetectionTask.load_from_checkpoint(path, weights_only=True)
        assert task.inputs is not None
        assert task.inputs.to_dict() == saved
        if model == 'm2cd':
            assert task.model.inputs is task.inputs

    def test_checkpoint_of_the_trainer(self, tmp_path: Path, model: Any) -> None:
        """The data module applies the inputs of the checkpoint."""
        path = self.make_checkpoint(tmp_path, model)
        trainer = make_trainer(tmp_path, logger=False)
        datamodule, task = make_datamodule(), self.make(model)
        (result,) = trainer.test(
            task, datamodule=datamodule, ckpt_path=path, weights_only=True
        )
        assert datamodule.inputs is task.inputs is not None
        assert task.inputs.to_dict() == make_inputs().to_dict()
        expected = trainer.test(
            task, datamodule=make_datamodule(make_inputs()), verbose=False
        )
        assert result == expected[0]
        # Other inputs give another result
        other = Inputs(
            Standardize([0.0] * 4, [1000.0] * 4), Relative([5.0], [0.5, 0.85])
        )
        with pytest.warns(UserWarning, match='was trained with other inputs'):
            (others,) = trainer.test(task, datamodule=make_datamodule(other))
        assert others['test_loss'] != result['test_loss']

    def test_resume(self, tmp_path: Path) -> None:
        path = self.make_checkpoint(tmp_path)
        trainer = make_trainer(tmp_path, logger=False, max_epochs=2)
        datamodule = make_datamodule()
        trainer.fit(
            self.make(), datamodule=datamodule, ckpt_path=path, weights_only=False
        )
        assert datamodule.inputs is not None
        assert datamodule.inputs.to_dict() == make_inputs().to_dict()

    def test_init_from(self, tmp_path: Path) -> None:
        task = self.make(init_from=str(self.make_checkpoint(tmp_path)))
        assert task.inputs is not None
        assert task.model.inputs is task.inputs
        assert task.inputs.to_dict() == make_inputs().to_dict()
        # Training uses them, unless the data module has inputs
        trainer = make_trainer(tmp_path, logger=False, limit_train_batches=1)
        trainer.fit(task, datamodule=make_datamodule())
        assert task.inputs.to_dict() == make_inputs().to_dict()
        given = make_inputs()
        given.optical = StandardizeImage([0.0] * 4, [1000.0] * 4)
        with pytest.warns(UserWarning, match='was trained with other inputs'):
            trainer.fit(task, datamodule=make_datamodule(given))
        assert task.model.inputs is task.inputs is given

    def test_checkpoint_without_inputs(self, tmp_path: Path) -> None:
        """Models that were trained with other data modules have none."""
        path = tmp_path / 'no.ckpt'
        trainer = make_trainer(tmp_path, limit_train_batches=0, logger=False)
        trainer.strategy.connect(make_task(in_channels=4))
        trainer.save_checkpoint(path)
        assert 'inputs' not in torch.load(path, weights_only=True)
        loaded = ChangeDetectionTask.load_from_checkpoint(path, weights_only=True)
        assert loaded.inputs is None
        datamodule = make_datamodule()
        trainer.test(loaded, datamodule=datamodule, ckpt_path=path)
        assert loaded.inputs is datamodule.inputs is not None

    def test_images_in_source_units(self) -> None:
        task = make_task(in_channels=4)
        record_log(task)
        task.inputs = make_datamodule().default_inputs()
        dataset = SyntheticFlood(length=2, size=64)
        samples = [dataset[i] for i in range(2)]
        batch = {key: torch.stack([s[key] for s in samples]) for key in samples[0]}
        for step in (task.training_step, task.validation_step, task.predict_step):
            with pytest.raises(
                ValueError, match=r'no `source`.*: expected inputs.show'
            ):
                step(batch, 0)
            step(task.inputs.show(batch), 0)


class TestReleasedWeights:
    """Tasks that begin with a whole model."""

    @pytest.mark.parametrize('weights', [DEFAULT, 'M2CD_Weights.DEFAULT'])
    def test_model(self, weights: Any) -> None:
        """Architecture, parameters and inputs are those of the weights."""
        task = ChangeDetectionTask(weights=weights)
        expected = m2cd(DEFAULT)
        torch.testing.assert_close(task.model.state_dict(), expected.state_dict())
        own = DEFAULT.meta['model']
        assert task.hparams['backbone'] == own['encoder_name']
        assert task.hparams['in_channels'] == own['in_channels']
        assert task.hparams['model_args']['experts'] == own['experts']
        for inputs in (task.inputs, task.model.inputs):
            assert inputs is not None
            assert inputs.to_dict() == DEFAULT.transforms().to_dict()

    def test_arguments_that_agree(self) -> None:
        own = DEFAULT.meta['model']
        task = ChangeDetectionTask(
            weights=DEFAULT, backbone=own['encoder_name'],
            in_channels=own['in_channels'], model_args={'experts': own['experts']},
        )  # fmt: skip
        assert task.hparams['model_args']['fusion'] == own['fusion']

    @pytest.mark.parametrize(
        ('kwargs', 'message'),
        [
            ({'backbone': 'mit_b5'}, "backbone is 'mit_b5', but that of M2CD_Weights."),
            ({'in_channels': 9}, 'in_channels is 9, but that of M2CD_Weights.'),
            ({'model_args': {'fusion': 'sum'}}, "fusion is 'sum', but that of M2CD_"),
            ({'model': 'unet'}, "are of M²CD: expected model='m2cd'"),
            ({'weights': [DEFAULT, DEFAULT]}, 'expected those of encoders in a pair'),
            ({'init_from': 'a.ckpt'}, 'but init_from replaces all weights'),
        ],
    )
    def test_arguments_that_disagree(
        self, kwargs: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=re.escape(message)):
            ChangeDetectionTask(**{'weights': DEFAULT, **kwargs})

    def test_other_classes(self) -> None:
        task = ChangeDetectionTask(
            weights=DEFAULT, task='multiclass', num_classes=3, loss='ce'
        )
        head = task.model.get_submodule(last_convolution(task.model))
        assert head.bias.shape == (3,)
        encoder = m2cd(DEFAULT).encoder.state_dict()
        torch.testing.assert_close(task.model.encoder.state_dict(), encoder)

    def test_frozen(self) -> None:
        """No part of the encoder is random."""
        task = ChangeDetectionTask(weights=DEFAULT, freeze_backbone=True)
        assert not any(p.requires_grad for p in task.model.encoder.parameters())
        assert all(p.requires_grad for p in task.model.decoder.parameters())

    def test_training(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Training drops the reliability; its checkpoint does not need the weights."""
        meta = {**DEFAULT.meta, 'reliability': Reliability(threshold=0.3).to_dict()}
        value = Weights(DEFAULT.url, DEFAULT.transforms, meta)
        monkeypatch.setattr(DEFAULT, '_value_', value)
        paths = SyntheticFlood().write_scene(tmp_path / 'scene', size=192)
        datamodule = SceneDataModule(
            paths['optical'],
            paths['sar'],
            paths['mask'],
            patch_size=32,
            grid_size=3,
            batch_size=2,
            length=4,
        )
        task = ChangeDetectionTask(weights=DEFAULT, lr=1e-6)
        assert task.reliability is not None
        iou: Any = task.test_metrics['IoU']
        assert (task.reliability.threshold, iou.threshold) == (0.3, 0.3)
        trainer = make_trainer(tmp_path, logger=False, max_steps=1)
        trainer.fit(task, datamodule=datamodule)
        assert task.reliability is None
        assert task.weights is None
        iou = task.test_metrics['IoU']
        assert iou.threshold == 0.5

        trainer.save_checkpoint(tmp_path / 'a.ckpt')
        monkeypatch.setattr(M2CD_Weights, 'get_state_dict', None)
        again = ChangeDetectionTask.load_from_checkpoint(
            tmp_path / 'a.ckpt', weights_only=True
        )
        torch.testing.assert_close(again.state_dict(), task.state_dict())
        assert again.reliability is None
        assert again.inputs is not None
        assert again.inputs.to_dict() == DEFAULT.transforms().to_dict()

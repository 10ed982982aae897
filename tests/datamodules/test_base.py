# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import pathlib
import re
from typing import Any

import matplotlib.pyplot as plt
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchgeo.datasets.utils import Sample

from torchgeo_m2cd.datamodules import OpticalSARDataModule
from torchgeo_m2cd.datasets import OpticalSARDataset

SIZE = 8
MEAN = torch.tensor([[1.0, 2.0], [-10.0, -10.0]])
STD = torch.tensor([[2.0, 4.0], [5.0, 5.0]])


class Fake(OpticalSARDataset):
    bands = ('B03', 'B04')
    rgb_bands = ('B04', 'B03', 'B03')
    sar_bands = ('VV',)

    def __init__(self, split: str, offset: int = 0) -> None:
        self.split = split
        self.offset = offset

    def __getitem__(self, index: int) -> Sample:
        image = torch.arange(2 * 2 * SIZE * SIZE).reshape(2, 2, SIZE, SIZE)
        mask = torch.zeros(1, SIZE, SIZE, dtype=torch.long)
        mask[..., :4] = 255
        return {'image': image.float() + index + self.offset, 'mask': mask}

    def __len__(self) -> int:
        return 5


class Recorder(LightningModule):
    """Task that does nothing but keep the batches that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.batches: dict[str, list[Sample]] = {}

    def training_step(self, batch: Sample) -> Tensor:
        self.batches.setdefault('train', []).append(batch)
        loss: Tensor = self.layer(batch['image'].mean().reshape(1, 1)).sum()
        return loss

    def validation_step(self, batch: Sample) -> None:
        self.batches.setdefault('val', []).append(batch)

    def test_step(self, batch: Sample) -> None:
        self.batches.setdefault('test', []).append(batch)

    def predict_step(self, batch: Sample) -> None:
        self.batches.setdefault('predict', []).append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters())


def make(**kwargs: Any) -> OpticalSARDataModule:
    kwargs = {'batch_size': 2, **kwargs}
    return OpticalSARDataModule(Fake, mean=MEAN, std=STD, **kwargs)


class TestOpticalSARDataModule:
    @pytest.fixture
    def trainer(self, tmp_path: pathlib.Path) -> Trainer:
        return Trainer(
            accelerator='cpu',
            max_epochs=1,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            default_root_dir=tmp_path,
        )

    @pytest.mark.filterwarnings('ignore:The .*dataloader.* does not have many workers')
    def test_fit(self, trainer: Trainer) -> None:
        torch.manual_seed(0)
        task = Recorder()
        datamodule = make(patch_size=(4, 6))
        trainer.fit(task, datamodule)
        train, val = task.batches['train'], task.batches['val']
        assert [len(batch['image']) for batch in train] == [2, 2]
        assert all(batch['image'].shape[1:] == (2, 2, 4, 6) for batch in train)
        assert all(batch['mask'].shape[1:] == (1, 4, 6) for batch in train)
        assert all(batch['mask'].dtype == torch.long for batch in train)
        assert [len(batch['image']) for batch in val] == [2, 2, 1]
        expected = (Fake('val')[0]['image'] - MEAN[..., None, None]) / STD[
            ..., None, None
        ]
        torch.testing.assert_close(val[0]['image'][0], expected)
        assert torch.equal(val[0]['mask'][0], Fake('val')[0]['mask'])

    def test_fewer_samples_than_a_batch(self) -> None:
        make(batch_size=5).setup('fit')
        datamodule = make(batch_size=6)
        with pytest.raises(ValueError, match='is 6, but there are only 5 samples'):
            datamodule.setup('fit')
        datamodule.setup('validate')

    @pytest.mark.filterwarnings('ignore:The .*dataloader.* does not have many workers')
    def test_whole_chips(self, trainer: Trainer) -> None:
        task = Recorder()
        trainer.fit(task, make())
        assert task.batches['train'][0]['image'].shape == (2, 2, 2, SIZE, SIZE)

    @pytest.mark.filterwarnings('ignore:The .*dataloader.* does not have many workers')
    @pytest.mark.parametrize('stage', ['validate', 'test', 'predict'])
    def test_evaluate(self, trainer: Trainer, stage: str) -> None:
        task, datamodule = Recorder(), make(offset=3, patch_size=4)
        getattr(trainer, stage)(task, datamodule)
        (batches,) = task.batches.values()
        assert sum(len(batch['image']) for batch in batches) == 5
        torch.testing.assert_close(
            batches[2]['image'][0] * STD[..., None, None] + MEAN[..., None, None],
            Fake('test', offset=3)[4]['image'],
        )

    def test_setup(self) -> None:
        datamodule = make(test_split='elsewhere')
        datamodule.setup('fit')
        assert isinstance(datamodule.train_dataset, Fake)
        assert isinstance(datamodule.val_dataset, Fake)
        assert datamodule.train_dataset.split == 'train'
        assert datamodule.val_dataset.split == 'val'
        assert datamodule.test_dataset is None
        datamodule.setup('test')
        datamodule.setup('predict')
        assert isinstance(datamodule.test_dataset, Fake)
        assert isinstance(datamodule.predict_dataset, Fake)
        assert datamodule.test_dataset.split == 'elsewhere'
        assert datamodule.predict_dataset.split == 'elsewhere'

    def test_statistics(self) -> None:
        datamodule = make()
        assert torch.equal(datamodule.mean, MEAN)
        assert torch.equal(datamodule.std, STD)
        with pytest.raises(ValueError, match=r'expected \(2, C\)'):
            OpticalSARDataModule(Fake, mean=MEAN[0], std=STD)

    @pytest.mark.parametrize('size', [0, (4, -1)])
    def test_patch_size(self, size: int | tuple[int, int]) -> None:
        with pytest.raises(ValueError, match=r'patch_size is .*: expected at least 1'):
            make(patch_size=size)

    @pytest.mark.parametrize('standardize', ['dataset', 'image', 'otsu'])
    def test_optical_limits(self, standardize: Any) -> None:
        """Up to a limit, the optical image is what it was, and SAR as without any."""
        image = torch.rand(3, 2, 2, SIZE, SIZE) * 100 + 1
        batch = {'image': image.clone()}
        plain = make(standardize=standardize).aug(dict(batch))['image']
        datamodule = make(standardize=standardize, optical_limits=[0, 40])
        output = datamodule.aug(dict(batch))['image']
        torch.testing.assert_close(output[:, 1], plain[:, 1])
        assert (output[:, 0, 0] == 0).all()
        values = image[:, 0, 1]
        expected = torch.where(values < 40, (values - 40) / 20, 0)
        torch.testing.assert_close(output[:, 0, 1], expected)

    def test_crop_scale(self) -> None:
        """Crops of the whole chip are the chip at another resolution; masks stay masks."""
        torch.manual_seed(0)
        datamodule = make(patch_size=4, crop_scale=(1.0, 1.0))
        assert datamodule.train_aug is not None
        # Of one value per half, so that flips and turns change nothing in the mean
        image = torch.zeros(64, 2, 2, SIZE, SIZE)
        image[..., :4] = 10.0
        mask = (image[:, 0, :1] > 0).long() * 255
        batch = datamodule.train_aug({'image': image, 'mask': mask})
        assert batch['image'].shape == (64, 2, 2, 4, 4)
        assert set(batch['mask'].unique().tolist()) == {0, 255}
        assert (batch['mask'].float().mean(dim=(1, 2, 3)) == 127.5).all()
        expected = (5.0 - MEAN) / STD
        mean = batch['image'].mean(dim=(-2, -1))
        torch.testing.assert_close(mean, expected.expand_as(mean))
        # No image is stretched: twice as high as wide, it is of the whole height
        datamodule = make(patch_size=(8, 4), crop_scale=(0.5, 0.5))
        assert datamodule.train_aug is not None
        rows = torch.arange(8.0).reshape(1, 1, 1, 8, 1).expand(1, 2, 2, 8, 8)
        crop = datamodule.train_aug({'image': rows})['image'][0, 0, 0]
        steps = crop.diff(dim=0).abs() * STD[0, 0]
        torch.testing.assert_close(steps, torch.ones(7, 4))
        # Of a quarter, of one half or of both
        datamodule = make(patch_size=4, crop_scale=(0.25, 0.25))
        assert datamodule.train_aug is not None
        shares = datamodule.train_aug({'image': image, 'mask': mask})['mask']
        assert shares.float().mean(dim=(1, 2, 3)).unique().numel() > 2

    @pytest.mark.parametrize(
        ('scale', 'size'),
        [((0.5, 0.2), 4), ((0.0, 1.0), 4), ((0.5, 2.0), 4), ((1, 1), None)],
    )
    def test_wrong_crop_scale(self, scale: Any, size: int | None) -> None:
        with pytest.raises(ValueError, match=r'crop_scale is .*: expected two shares'):
            make(patch_size=size, crop_scale=scale)

    def test_optical_limits_and_jitter(self) -> None:
        """Of SAR alone: what is left out stays out."""
        datamodule = make(optical_limits=[0, 40], jitter=0.5)
        assert datamodule.train_aug is not None
        image = torch.full((4, 2, 2, SIZE, SIZE), 20.0)
        output = datamodule.train_aug({'image': image})['image']
        assert (output[:, 0, 0] == 0).all()
        assert (output[:, 0, 1] == -1).all()
        assert output[:, 1].std() > 0.1

    def test_unknown_argument(self) -> None:
        with pytest.raises(
            TypeError, match="unexpected keyword argument 'standardise'"
        ):
            make(standardise='otsu')

    @pytest.mark.parametrize('limits', [[1.0], [1, -1], [0, 0]])
    def test_wrong_limits(self, limits: list[float]) -> None:
        with pytest.raises(
            ValueError, match=r'optical_limits are .*: expected 2, one per'
        ):
            make(optical_limits=limits)

    def test_standardize_image(self) -> None:
        torch.manual_seed(0)
        datamodule = make(standardize='image', jitter=0.5, patch_size=4)
        assert datamodule.train_aug is not None
        batch = {'image': torch.rand(3, 2, 2, SIZE, SIZE)}
        image = datamodule.aug(dict(batch))['image']
        std, mean = torch.std_mean(image, dim=(2, 3, 4))
        torch.testing.assert_close(mean, torch.zeros(3, 2), atol=1e-4, rtol=0)
        torch.testing.assert_close(std, torch.ones(3, 2), atol=1e-4, rtol=0)
        train = datamodule.train_aug(dict(batch))['image']
        assert train.shape == (3, 2, 2, 4, 4)
        # Gain and offset differ between bands
        assert train.mean(dim=(3, 4)).std() > 0.2
        match = "unknown standardize 'img', did you mean 'image'"
        with pytest.raises(ValueError, match=match):
            make(standardize='img')

    def test_original_augmentation(self) -> None:
        mean, std = torch.full((2, 3), 100.0), torch.full((2, 3), 50.0)
        datamodule = OpticalSARDataModule(
            Fake, mean, std, patch_size=6, augmentation='original'
        )
        batch = {
            'image': torch.full((200, 2, 3, SIZE, SIZE), 110.0),
            'mask': torch.ones(200, 1, SIZE, SIZE, dtype=torch.long),
        }
        assert datamodule.train_aug is not None
        output = datamodule.train_aug(dict(batch))
        image, mask = output['image'], output['mask']
        assert image.shape == (200, 2, 3, 6, 6)
        assert mask.shape == (200, 1, 6, 6)
        assert set(mask.unique().tolist()) == {1, 255}
        # In the middle, where no rotation reaches: colors alone, of 110 and up to 10 and
        # a fifth more or less
        middle = image[..., 2:4, 2:4]
        assert middle.min() >= (0.8 * 100 - 100) / 50
        assert middle.max() <= (1.2 * 120 - 100) / 50
        assert middle.std() > 0.1
        validated = datamodule.aug(dict(batch))['image']
        torch.testing.assert_close(validated, torch.full_like(validated, 0.2))

    @pytest.mark.parametrize(
        ('bands', 'jitter', 'limits'),
        [(2, 0.0, None), (3, 0.1, None), (3, 0.0, [1] * 3)],
    )
    def test_original_augmentation_does_not_fit(
        self, bands: int, jitter: float, limits: Any
    ) -> None:
        mean, std = torch.zeros(2, bands), torch.ones(2, bands)
        match = f'got {bands} bands, jitter={jitter} and optical_limits={limits}'
        with pytest.raises(ValueError, match=re.escape(match)):
            OpticalSARDataModule(
                Fake,
                mean,
                std,
                jitter=jitter,
                augmentation='original',
                optical_limits=limits,
            )

    def test_unknown_augmentation(self) -> None:
        with pytest.raises(ValueError, match="'orignal', did you mean 'original'"):
            make(augmentation='orignal')

    def test_plot(self) -> None:
        datamodule = make()
        assert datamodule.plot(Fake('val')[0]) is None
        datamodule.setup('validate')
        assert isinstance(datamodule.plot(Fake('val')[0]), Figure)
        plt.close()

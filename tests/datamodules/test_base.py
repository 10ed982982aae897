# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import pathlib
import warnings
from typing import Any

import kornia.augmentation as K
import matplotlib.pyplot as plt
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchgeo.datasets import NonGeoDataset
from torchgeo.datasets.utils import Sample

from torchgeo_m2cd.datamodules import OpticalSARDataModule
from torchgeo_m2cd.datasets import OpticalSARDataset
from torchgeo_m2cd.transforms import (
    Darkness,
    DropImage,
    Inputs,
    KeepsInputs,
    LeftOut,
    PairAugmentation,
    PhotometricDistortion,
    RandomDrain,
    RandomGainOffset,
    RandomRotationOrFlip,
    Relative,
    RelativeDarkness,
    Standardize,
    StandardizeImage,
)

SIZE = 8
MEAN = torch.tensor([[1.0, 2.0], [-10.0, -10.0]])
STD = torch.tensor([[2.0, 4.0], [5.0, 5.0]])


def make_inputs(offset: float = 0) -> Inputs:
    return Inputs(
        Standardize(MEAN[0].tolist(), STD[0].tolist()),
        Standardize([MEAN[1, 0].item() + offset], [STD[1, 0].item()]),
    )


class Fake(OpticalSARDataset):
    bands = ('B03', 'B04')
    rgb_bands = ('B04', 'B03', 'B03')
    sar_bands = ('VV',)

    def __init__(self, split: str, offset: int = 0) -> None:
        self.split = split
        self.offset = offset

    def __getitem__(self, index: int) -> Sample:
        image = torch.arange(2 * 2 * SIZE * SIZE).reshape(2, 2, SIZE, SIZE)
        # The SAR band is repeated
        image[1, 1] = image[1, 0]
        mask = torch.zeros(1, SIZE, SIZE, dtype=torch.long)
        mask[..., :4] = 255
        return {'image': image.float() + index + self.offset, 'mask': mask}

    def __len__(self) -> int:
        return 5


class Bare(NonGeoDataset):
    """Dataset like TorchGeo's, without band counts."""

    def __init__(self, split: str) -> None:
        self.split = split

    def __getitem__(self, index: int) -> Sample:
        return {'image': torch.ones(2, 2, SIZE, SIZE)}

    def __len__(self) -> int:
        return 5


class Brighter(K.IntensityAugmentationBase2D):
    """Add 7 to all values."""

    def __init__(self) -> None:
        super().__init__(p=1.0)

    def apply_transform(
        self, input: Tensor, params: Any, flags: Any, transform: Any = None
    ) -> Tensor:
        return input + 7


class Recorder(LightningModule):
    """Task that only keeps its batches."""

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
    kwargs = {'batch_size': 2, 'inputs': make_inputs(), **kwargs}
    return OpticalSARDataModule(Fake, **kwargs)


def train(datamodule: OpticalSARDataModule, batch: Sample) -> Sample:
    """Apply the training augmentation to a batch."""
    assert datamodule.train_aug is not None
    output: Sample = datamodule.train_aug(dict(batch))
    return output


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

    @pytest.mark.parametrize('size', [0, (4, -1)])
    def test_patch_size(self, size: int | tuple[int, int]) -> None:
        with pytest.raises(
            ValueError, match=r'patch_size.* is .*: expected at least 1'
        ):
            make(patch_size=size)

    def test_unknown_argument(self) -> None:
        with pytest.raises(
            TypeError, match="unexpected keyword argument 'standardise'"
        ):
            make(standardise='otsu')

    def test_random_crops(self) -> None:
        """Crops of samples are independent, but the same for image, mask, and source."""
        image = torch.arange(64 * 2 * 2 * SIZE * SIZE).reshape(64, 2, 2, SIZE, SIZE)
        batch = {'image': image.float() + 1, 'mask': image[:, 0, :1] % 2}
        output = train(make(patch_size=(4, 6), augmentation=PairAugmentation()), batch)
        places = set()
        for index in range(64):
            first = int(output['source'][index, 0, 0, 0, 0] - 1) % (SIZE * SIZE)
            row, column = first // SIZE, first % SIZE
            rows, columns = slice(row, row + 4), slice(column, column + 6)
            for key, before in (('source', 'image'), ('mask', 'mask')):
                expected = batch[before][index, ..., rows, columns]
                assert torch.equal(output[key][index], expected)
            places.add((row, column))
        # Of 5 x 3 possible places
        assert len(places) > 10

    @pytest.mark.parametrize('patch_size', [None, 4])
    def test_source(self, patch_size: int | None) -> None:
        """The source is flipped, rotated, and cropped like what the model is shown."""
        datamodule = make(patch_size=patch_size)
        image = 100 * torch.rand(64, 2, 2, SIZE, SIZE)
        # The SAR band is repeated
        image[:, 1] = image[:, 1, :1]
        batch = {
            'image': image,
            'mask': (image[:, 0, :1] > 50).long(),
            'valid': image[:, 0, 1:] > 20,
        }
        output = train(datamodule, batch)
        source, valid = output['source'], output['valid']
        assert torch.equal(output['image'], make_inputs()(source, valid))
        assert torch.equal(output['mask'], (source[:, 0, :1] > 50).long())
        assert torch.equal(valid, source[:, 0, 1:] > 20)
        if patch_size is None:
            unchanged = (source == image).flatten(1).all(dim=1)
            assert 0 < unchanged.sum() < 20
        shown = datamodule.aug(dict(batch))
        assert torch.equal(shown['source'], image)
        assert torch.equal(shown['image'], make_inputs()(image, batch['valid']))

    def test_changed_before_it_is_shown(self) -> None:
        """Augmentation happens in source units before measuring, or as the model is shown."""
        image = 10 * torch.rand(64, 2, 2, SIZE, SIZE) + 50
        image[..., :4] -= 40
        inputs = Inputs(Standardize([0, 0], [1, 1]), Relative([1, 1]))
        expected = inputs(image)
        before, after = (
            train(make(inputs=inputs, augmentation=augmentation), {'image': image})
            for augmentation in (
                PairAugmentation([], [Brighter()]),
                PairAugmentation([Brighter()]),
            )
        )
        torch.testing.assert_close(before['source'], image + 7)
        assert torch.equal(after['source'], image)
        for index, (first, second) in enumerate([(7, 7), (0, 7)]):
            change = before['image'] - expected
            torch.testing.assert_close(
                change[:, index],
                torch.full_like(change[:, index], first),
                atol=0.3,
                rtol=0,
            )
            change = after['image'] - expected
            torch.testing.assert_close(
                change[:, index], torch.full_like(change[:, index], second)
            )

    def test_darkness(self) -> None:
        """The optical image keeps its values up to a limit, and band 1 stays left out."""
        inputs = Inputs(Darkness([0, 40]), Standardize([-10], [5]))
        datamodule = make(
            inputs=inputs, augmentation=PairAugmentation([RandomGainOffset(0.5, [1])])
        )
        image = torch.rand(3, 2, 2, SIZE, SIZE) * 100 + 1
        shown = datamodule.aug({'image': image})['image']
        assert (shown[:, 0, 0] == 0).all()
        values = image[:, 0, 1]
        expected = torch.where(values < 40, (values - 40) / 20, 0)
        torch.testing.assert_close(shown[:, 0, 1], expected)
        torch.testing.assert_close(shown[:, 1, 0], (image[:, 1, 0] + 10) / 5)
        # Only SAR gets gain and offset
        output = train(datamodule, {'image': image})['image']
        assert torch.equal(output[:, 0], shown[:, 0])
        assert (output[:, 1] - shown[:, 1]).std() > 0.1

    @pytest.mark.parametrize('index', [0, 1])
    def test_one_image(self, index: int) -> None:
        """An image that is left out stays 0 in training, and the other is augmented."""
        steps: list[Any] = [Standardize([1, 2], [2, 4]), Standardize([-10], [5])]
        steps[index] = LeftOut([2, 1][index])
        other: Any = 1 - index
        datamodule = make(
            inputs=Inputs(*steps),
            augmentation=PairAugmentation([RandomGainOffset(0.5, [other])]),
        )
        batch = {'image': torch.rand(4, 2, 2, SIZE, SIZE) + 1}
        expected, shown = (m.aug(dict(batch))['image'] for m in (make(), datamodule))
        output = train(datamodule, batch)['image']
        assert (shown[:, index] == 0).all()
        assert (output[:, index] == 0).all()
        assert torch.equal(shown[:, other], expected[:, other])
        assert not torch.allclose(output[:, other], expected[:, other])

    def test_optical_dropout(self) -> None:
        """Training drops the optical image of a quarter of the pairs."""
        datamodule = make(augmentation=PairAugmentation([DropImage(0, p=0.25)]))
        batch = {'image': torch.rand(200, 2, 2, SIZE, SIZE)}
        zero = (train(datamodule, batch)['image'] == 0).flatten(2).all(dim=2)
        assert zero[:, 0].float().mean().item() == pytest.approx(0.25, abs=0.1)
        assert not zero[:, 1].any()
        assert not (datamodule.aug(dict(batch))['image'] == 0).flatten(2).all(2).any()

    def test_standardize_image(self) -> None:
        inputs = Inputs(StandardizeImage([0, 0], [1, 1]), StandardizeImage([0], [1]))
        augmentation = PairAugmentation([RandomGainOffset(0.5)])
        datamodule = make(inputs=inputs, augmentation=augmentation, patch_size=4)
        batch = {'image': torch.rand(3, 2, 2, SIZE, SIZE)}
        image = datamodule.aug(dict(batch))['image']
        for part in (image[:, 0], image[:, 1, :1]):
            std, mean = torch.std_mean(part, dim=(1, 2, 3))
            torch.testing.assert_close(mean, torch.zeros(3), atol=1e-4, rtol=0)
            torch.testing.assert_close(std, torch.ones(3), atol=0.01, rtol=0)
        output = train(datamodule, batch)['image']
        assert output.shape == (3, 2, 2, 4, 4)
        # Gain and offset differ between bands
        assert output.mean(dim=(3, 4)).std() > 0.2

    def test_resized_crops(self) -> None:
        """Crops of the whole chip only change its resolution, and masks stay masks."""

        def resized(scale: float) -> Sample:
            scales = (scale, scale)
            crop = K.RandomResizedCrop((4, 4), scale=scales, ratio=(1.0, 1.0))
            augmentation = PairAugmentation([crop, K.RandomHorizontalFlip()])
            return train(make(augmentation=augmentation), batch)

        # Each half of the image has one value
        image = torch.full((64, 2, 2, SIZE, SIZE), 1.0)
        image[..., :4] = 11.0
        batch = {'image': image, 'mask': (image[:, 0, :1] > 5).long() * 255}
        output = resized(1.0)
        assert output['image'].shape == (64, 2, 2, 4, 4)
        assert set(output['mask'].unique().tolist()) == {0, 255}
        assert (output['mask'].float().mean(dim=(1, 2, 3)) == 127.5).all()
        mean = output['image'].mean(dim=(-2, -1))
        expected = (6.0 - MEAN) / STD
        torch.testing.assert_close(mean, expected.expand_as(mean))
        # Values in source units are not interpolated
        assert set(output['source'].unique().tolist()) == {1, 11}
        same = (output['source'][:, 0, :1] > 5) == (output['mask'] > 0)
        assert same.all()
        # Crops of a quarter of the area lie in one half or in both
        shares = resized(0.25)['mask'].float().mean(dim=(1, 2, 3))
        assert shares.unique().numel() > 2

    def test_drain(self) -> None:
        """Floods are taken away, and what is left is measured; lakes are no land."""
        inputs = Inputs(RelativeDarkness([0.5]), Relative([10.0], [0.5]))
        datamodule = make(
            inputs=inputs, augmentation=PairAugmentation(drain=RandomDrain(1.0))
        )
        image = torch.full((8, 2, 1, 64, 64), 2000.0)
        image[:, 1] = -9.0
        image[..., :40] = torch.tensor([2000.0, -25.0])[:, None, None, None]
        # A lake on the right
        image[..., 32:, 52:] = torch.tensor([100.0, -30.0])[:, None, None, None]
        mask = torch.zeros(8, 1, 64, 64, dtype=torch.long)
        mask[..., :40] = 1
        output = train(datamodule, {'image': image, 'mask': mask})
        assert (output['mask'] == 0).flatten(1).all(dim=1).any()
        drained = (output['mask'] == 0) & (mask == 1)
        assert (output['source'][:, 1][drained] == -9).all()
        # Where little is flooded, the median is that of dry land
        dry = (output['mask'] == 0).flatten(1).all(dim=1)
        assert (output['reference_sar'][dry] == -9).all()

    def test_original_augmentation(self) -> None:
        """The augmentation of configs/original.yaml keeps values and masks in range."""
        inputs = Inputs(Standardize([100] * 3, [50] * 3), Standardize([100], [50]))
        datamodule = make(
            inputs=inputs,
            patch_size=6,
            augmentation=PairAugmentation(
                augmentations=[RandomRotationOrFlip()],
                source_augmentations=[PhotometricDistortion()],
            ),
        )
        batch = {
            'image': torch.full((200, 2, 3, SIZE, SIZE), 110.0),
            'mask': torch.ones(200, 1, SIZE, SIZE, dtype=torch.long),
        }
        output = train(datamodule, batch)
        image, mask = output['image'], output['mask']
        assert image.shape == (200, 2, 3, 6, 6)
        assert mask.shape == (200, 1, 6, 6)
        assert set(mask.unique().tolist()) == {1, 255}
        # Rotations leave no gaps in the middle. Brightness adds up to 10 to 110, and
        # contrast multiplies by 0.8 to 1.2
        middle = image[..., 2:4, 2:4]
        assert middle.min() >= (0.8 * 100 - 100) / 50
        assert middle.max() <= (1.2 * 120 - 100) / 50
        assert middle.std() > 0.1
        # The source has the same colours
        torch.testing.assert_close(
            middle, (output['source'][..., 2:4, 2:4] - 100) / 50, atol=1e-4, rtol=1e-4
        )
        validated = datamodule.aug(dict(batch))['image']
        torch.testing.assert_close(validated, torch.full_like(validated, 0.2))

    def test_plot(self) -> None:
        datamodule = make()
        assert datamodule.plot(Fake('val')[0]) is None
        datamodule.setup('validate')
        assert isinstance(datamodule.plot(Fake('val')[0]), Figure)
        plt.close()


class TestChooseInputs:
    def test_order(self) -> None:
        """Given inputs come first, then those of the trained model, then the default."""
        given, trained = make_inputs(), make_inputs(offset=3)
        datamodule = make(inputs=given)
        assert datamodule.inputs is given
        assert datamodule.choose_inputs() is given
        with pytest.warns(UserWarning, match='was trained with other inputs') as record:
            assert datamodule.choose_inputs(trained) is given
        assert datamodule.inputs is given
        # The warning names what differs, and nothing else
        (warning,) = record
        message = str(warning.message)
        ours, theirs = given.to_dict(), trained.to_dict()
        assert f': sar is {ours["sar"]}, trained with {theirs["sar"]}. Le' in message
        assert 'optical is' not in message

        datamodule = make(inputs=None)
        assert datamodule.inputs is None
        assert datamodule.choose_inputs(trained) is trained
        assert datamodule.inputs is trained
        batch = {'image': torch.rand(1, 2, 2, SIZE, SIZE)}
        shown = datamodule.aug(dict(batch))['image']
        assert torch.equal(shown, trained(batch['image']))

    def test_all_different(self) -> None:
        datamodule = make()
        trained = Inputs(LeftOut(2), LeftOut(1), window=99)
        match = (
            r'used: optical is .*; sar is .*; window is 256, trained with 99\. Leave'
        )
        with pytest.warns(UserWarning, match=match):
            datamodule.choose_inputs(trained)

    def test_same(self) -> None:
        datamodule = make()
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            datamodule.choose_inputs(make_inputs())

    def test_default(self) -> None:
        """Default inputs are chosen when they are first needed."""

        class WithDefault(OpticalSARDataModule):
            def default_inputs(self) -> Inputs:
                return make_inputs(offset=5)

        datamodule = WithDefault(Fake)
        assert datamodule.inputs is None
        image = torch.rand(1, 2, 2, SIZE, SIZE)
        shown = datamodule.aug({'image': image})['image']
        assert torch.equal(shown, make_inputs(offset=5)(image))
        assert datamodule.inputs is not None
        trained = make_inputs()
        assert datamodule.choose_inputs(trained) is trained

    def test_measured(self) -> None:
        """Without inputs, the training split is measured, and no other."""
        datamodule = make(inputs=None)
        with pytest.raises(ValueError, match='inputs are not given, and the model has'):
            datamodule.choose_inputs()
        datamodule.setup('fit')
        inputs = datamodule.choose_inputs()
        assert inputs.band_counts == (2, 1)
        assert inputs.band_names == (['B03', 'B04'], ['VV'])

    @pytest.mark.parametrize('stage', ['fit', 'validate', 'test', 'predict'])
    def test_wrong_bands(self, stage: str) -> None:
        inputs = Inputs(LeftOut(3), LeftOut(2))
        match = (
            'inputs are for 3 optical and 2 SAR bands, but the data have 2 and 1: .*\\. Exp'
            r'ected these bands, .* optical\.bands: \[1, 2, 3\] and sar\.bands: \[1, 2\], w'
        )
        given = make(inputs=inputs)
        given.setup(stage)
        with pytest.raises(ValueError, match=match):
            given.choose_inputs()
        trained = make(inputs=None)
        trained.setup(stage)
        with pytest.raises(ValueError, match=match):
            trained.choose_inputs(inputs)

    def test_names_of_bands(self) -> None:
        """A model gets the names of the bands it is trained with, and keeps them."""
        datamodule = make()
        datamodule.setup('validate')
        assert datamodule.choose_inputs().band_names == (['', ''], [''])
        datamodule = make()
        datamodule.setup('fit')
        trained = datamodule.choose_inputs()
        assert trained.band_names == (['B03', 'B04'], ['VV'])
        # The same inputs without names are no other inputs
        datamodule = make()
        datamodule.setup('test')
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            assert datamodule.choose_inputs(trained).to_dict() == trained.to_dict()
            named = make(inputs=trained)
            assert named.choose_inputs(make_inputs()) is trained
        # The same bands in another order are others
        steps = trained.optical, trained.sar
        swapped = Inputs(*steps, bands=['B04', 'B03'], sar_bands=['VV'])
        match = r"bands is \['B03', 'B04'\], trained with \['B04', 'B03'\]"
        with pytest.warns(UserWarning, match=match):
            make(inputs=trained).choose_inputs(swapped)
        match = (
            r'data have 2 and 1: \[B04, B03\] and \[VV\], not \[B03, B04\] and \[VV\]\. '
            r'.* example with optical\.bands: {B04: 1, B03: 2}, where the numbers are'
        )
        datamodule = make(inputs=None)
        datamodule.setup('test')
        with pytest.raises(ValueError, match=match):
            datamodule.choose_inputs(swapped)

    def test_agree(self) -> None:
        """Data loaders agree with the task on inputs before they are made."""

        class Task(KeepsInputs, LightningModule):
            pass

        task = Task()
        task.inputs = trained = make_inputs()
        datamodule = make(inputs=None)
        datamodule.trainer = Trainer(accelerator='cpu', logger=False)
        datamodule.trainer.strategy.connect(task)
        datamodule.setup('validate')
        assert datamodule.inputs is None
        assert len(datamodule.val_dataloader()) == 3
        assert datamodule.inputs is task.inputs is trained
        # A task without inputs takes those of the data module
        task.inputs, given = None, make(inputs=trained)
        given.trainer = datamodule.trainer
        given.setup('validate')
        given.val_dataloader()
        assert given.inputs is task.inputs is trained
        # Inputs of the task for other bands are refused
        task.inputs = Inputs(LeftOut(1), LeftOut(1))
        with pytest.raises(ValueError, match='but the data have 2 and 1'):
            datamodule.val_dataloader()

    def test_unknown_bands(self) -> None:
        datamodule = OpticalSARDataModule(Bare, batch_size=2)
        datamodule.setup('fit')
        inputs = Inputs(LeftOut(2), LeftOut(1))
        assert datamodule.choose_inputs(inputs) is inputs

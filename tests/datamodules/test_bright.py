# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import pathlib

import pytest
import torch
from torchgeo.datamodules import BRIGHTDFC2025DataModule as TorchGeoDataModule

from tests.data.bright.data import SIZE, arrays, make_bright
from torchgeo_m2cd.datamodules import BRIGHTDFC2025DataModule
from torchgeo_m2cd.transforms import Inputs, LeftOut, Standardize


@pytest.fixture(scope='module')
def root(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp('bright')
    make_bright(folder)
    return folder


class TestBRIGHTDFC2025DataModule:
    def test_splits(self, root: pathlib.Path) -> None:
        datamodule = BRIGHTDFC2025DataModule(root, batch_size=2, patch_size=16)
        for stage, split, length in (
            ('fit', 'train', 4),
            ('validate', 'val', 2),
            ('test', 'test', 2),
            ('predict', 'predict', 2),
        ):
            datamodule.setup(stage)
            assert len(getattr(datamodule, f'{split}_dataset')) == length
            batch = next(iter(getattr(datamodule, f'{split}_dataloader')()))
            assert batch['image'].shape == (2, 2, 3, SIZE, SIZE)
            assert ('mask' in batch) == (stage != 'predict')
        # Masks of the test split are not public
        assert datamodule.test_dataset is not None
        assert datamodule.predict_dataset is not None
        optical, sar, mask = map(torch.from_numpy, arrays(4))
        sample = datamodule.test_dataset[0]
        assert torch.equal(sample['image'][0], optical.float())
        assert torch.equal(sample['image'][1], sar.float().expand(3, -1, -1))
        assert torch.equal(sample['mask'], mask)
        assert torch.equal(
            datamodule.predict_dataset[0]['image'][0],
            torch.from_numpy(arrays(6)[0]).float(),
        )

    def test_standardized(self, root: pathlib.Path) -> None:
        """With mean 0 and standard deviation 255, images are those of TorchGeo's module."""
        ours = BRIGHTDFC2025DataModule(
            root,
            inputs=Inputs(Standardize([0] * 3, [255] * 3), Standardize([0], [255])),
            batch_size=2,
        )
        theirs = TorchGeoDataModule(root=root, batch_size=2)
        images = []
        for datamodule in (ours, theirs):
            datamodule.setup('validate')
            image = next(iter(datamodule.val_dataloader()))['image']
            # Without the mask, since kornia 0.9 refuses the masks of TorchGeo 0.10
            images.append(datamodule.aug({'image': image})['image'])
        torch.testing.assert_close(*images)

    def test_crop(self, root: pathlib.Path) -> None:
        datamodule = BRIGHTDFC2025DataModule(root, patch_size=16, batch_size=2)
        datamodule.setup('fit')
        assert datamodule.train_aug is not None
        batch = datamodule.train_aug(next(iter(datamodule.train_dataloader())))
        assert batch['image'].shape == (2, 2, 3, 16, 16)
        assert batch['mask'].shape == (2, 1, 16, 16)
        assert set(batch['mask'].unique().tolist()) <= {0, 1, 2, 3}

    def test_imagenet(self) -> None:
        # The published statistics are for images in [0, 1]
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        image = torch.rand(4, 2, 3, 8, 8)
        image[:, 1] = image[:, 1, :1]
        shown = BRIGHTDFC2025DataModule().aug({'image': 255 * image})['image']
        for band in range(3):
            expected = (image[:, 0, band] - mean[band]) / std[band]
            torch.testing.assert_close(shown[:, 0, band], expected)
            expected = (image[:, 1, 0] - mean[0]) / std[0]
            torch.testing.assert_close(shown[:, 1, band], expected)

    def test_bands(self, root: pathlib.Path) -> None:
        """Inputs for other bands are refused, though TorchGeo's dataset has no counts."""
        inputs = Inputs(LeftOut(3), LeftOut(3))
        datamodule = BRIGHTDFC2025DataModule(root, inputs=inputs)
        datamodule.setup('predict')
        with pytest.raises(ValueError, match='3 SAR bands, but the data have 3 and 1'):
            datamodule.choose_inputs()

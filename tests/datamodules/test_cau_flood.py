# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import pathlib

import pytest
import torch

from tests.data.cau_flood.data import SIZE, make_cau_flood
from torchgeo_m2cd.datamodules import CAUFloodDataModule
from torchgeo_m2cd.transforms import Inputs, LeftOut, Standardize


class TestCAUFloodDataModule:
    @pytest.mark.parametrize('layout', ['authors', 'original'])
    def test_rgb(self, tmp_path: pathlib.Path, layout: str) -> None:
        make_cau_flood(tmp_path, layout)
        datamodule = CAUFloodDataModule(root=tmp_path, batch_size=2)
        for stage, split in (
            ('fit', 'train'),
            ('validate', 'val'),
            ('test', 'test'),
            ('predict', 'predict'),
        ):
            datamodule.setup(stage)
            batch = next(iter(getattr(datamodule, f'{split}_dataloader')()))
            assert batch['image'].shape == (2, 2, 3, SIZE, SIZE)

    def test_imagenet(self) -> None:
        # The published statistics are for images in [0, 1]
        mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        image = torch.rand(4, 2, 3, SIZE, SIZE)
        image[:, 1] = image[:, 1, :1]
        shown = CAUFloodDataModule().aug({'image': 255 * image})['image']
        for band in range(3):
            expected = (image[:, 0, band] - mean[band]) / std[band]
            torch.testing.assert_close(shown[:, 0, band], expected)
            expected = (image[:, 1, 0] - mean[0]) / std[0]
            torch.testing.assert_close(shown[:, 1, band], expected)
        # Both images have the statistics of the first band
        image = image[:, :, :1]
        shown = CAUFloodDataModule(bands=('B02',)).aug({'image': 255 * image})['image']
        torch.testing.assert_close(shown, (image - 0.406) / 0.225)

    def test_all_bands(self, tmp_path: pathlib.Path) -> None:
        make_cau_flood(tmp_path)
        inputs = Inputs(Standardize([1, 2, 3, 4], [1] * 4), Standardize([5], [2]))
        datamodule = CAUFloodDataModule(
            root=tmp_path,
            bands=('B02', 'B03', 'B04', 'B08'),
            inputs=inputs,
            patch_size=4,
        )
        datamodule.setup('fit')
        names = (['B02', 'B03', 'B04', 'B08'], ['VV'])
        assert datamodule.choose_inputs().band_names == names
        assert datamodule.train_aug is not None
        batch = datamodule.train_aug(next(iter(datamodule.train_dataloader())))
        assert batch['image'].shape == (8, 2, 4, 4, 4)
        for band in range(4):
            expected = batch['source'][:, 0, band] - (band + 1)
            torch.testing.assert_close(batch['image'][:, 0, band], expected)
            expected = (batch['source'][:, 1, band] - 5) / 2
            torch.testing.assert_close(batch['image'][:, 1, band], expected)

    def test_wrong_bands(self, tmp_path: pathlib.Path) -> None:
        """Inputs for RGB do not fit data with four bands."""
        make_cau_flood(tmp_path)
        bands = ('B02', 'B03', 'B04', 'B08')
        datamodule = CAUFloodDataModule(root=tmp_path, bands=bands)
        datamodule.setup('fit')
        with pytest.raises(ValueError, match='1 SAR bands, but the data have 4 and 1'):
            datamodule.choose_inputs(CAUFloodDataModule().default_inputs())

    def test_unknown_band(self) -> None:
        with pytest.raises(ValueError, match=r"unknown band 'B2'.* did you mean 'B02'"):
            CAUFloodDataModule(bands=['B2'])

    def test_no_statistics(self) -> None:
        datamodule = CAUFloodDataModule(bands=['B04', 'B08'])
        match = (
            'ImageNet has no statistics of B08: expected inputs, or only B04, B03, B02'
        )
        with pytest.raises(ValueError, match=match):
            datamodule.choose_inputs()
        inputs = Inputs(LeftOut(2), LeftOut(1))
        assert datamodule.choose_inputs(inputs) is inputs

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import pathlib

import pytest
import torch

from tests.data.cau_flood.data import SIZE, make_cau_flood
from torchgeo_m2cd.datamodules import CAUFloodDataModule


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
        datamodule = CAUFloodDataModule()
        torch.testing.assert_close(datamodule.mean, torch.tensor([mean, mean]) * 255)
        torch.testing.assert_close(datamodule.std, torch.tensor([std, std]) * 255)
        datamodule = CAUFloodDataModule(bands=('B02',))
        torch.testing.assert_close(
            datamodule.mean[:, 0] / 255, torch.tensor([0.406] * 2)
        )

    def test_all_bands(self, tmp_path: pathlib.Path) -> None:
        make_cau_flood(tmp_path)
        datamodule = CAUFloodDataModule(
            root=tmp_path,
            bands=('B02', 'B03', 'B04', 'B08'),
            mean=[[1, 2, 3, 4], [5] * 4],
            std=[[1] * 4, [2] * 4],
            patch_size=4,
        )
        datamodule.setup('fit')
        assert datamodule.train_aug is not None
        batch = datamodule.train_aug(next(iter(datamodule.train_dataloader())))
        assert batch['image'].shape == (8, 2, 4, 4, 4)

    def test_one_value_for_sar(self) -> None:
        datamodule = CAUFloodDataModule(mean=[[1, 2, 3], [4]], std=[[5, 6, 7], [8]])
        assert datamodule.mean.tolist() == [[1, 2, 3], [4, 4, 4]]
        assert datamodule.std.tolist() == [[5, 6, 7], [8, 8, 8]]

    @pytest.mark.parametrize(
        ('kwargs', 'message'),
        [
            ({'bands': ['B2']}, "unknown band 'B2'.* did you mean 'B02'"),
            (
                {'bands': ['B04', 'B08']},
                'ImageNet has no mean for B08: set `mean` to 2',
            ),
            (
                {'bands': ['B08'], 'mean': [[1], [1]]},
                'ImageNet has no std for B08: set `std` to 2 x 1 values',
            ),
            ({'mean': [[1, 2], [3, 4]]}, r'mean has shape \(2, 2\): expected \(2, 3\)'),
            (
                {'std': [1, 2, 3]},
                r'std has shape \(3,\): expected \(2, 3\) for bands B04',
            ),
        ],
    )
    def test_wrong_arguments(self, kwargs: dict[str, object], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            CAUFloodDataModule(**kwargs)  # type: ignore[arg-type]

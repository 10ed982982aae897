# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import pytest
import rasterio
import torch

from torchgeo_m2cd.datamodules import SceneDataModule
from torchgeo_m2cd.datamodules.base import pair_statistics
from torchgeo_m2cd.datasets import SceneDataset, SyntheticFlood

MEAN = [[600.0, 900.0, 800.0, 3000.0], [-12.0]]
STD = [[300.0, 300.0, 500.0, 1000.0], [5.0]]


@pytest.fixture(scope='module')
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A scene of 160 x 160 pixels, which overlap in 140 x 140."""
    folder = tmp_path_factory.mktemp('scene')
    return SyntheticFlood().write_scene(folder, size=160, sar_crs='EPSG:32633')


def make(paths: dict[str, Path], **kwargs: Any) -> SceneDataModule:
    kwargs = {'mean': MEAN, 'std': STD, **kwargs}
    return SceneDataModule(paths['optical'], paths['sar'], **kwargs)


class TestSceneDataModule:
    @pytest.mark.parametrize('num_workers', [0, 2])
    def test_batch(self, num_workers: int, paths: dict[str, Path]) -> None:
        datamodule = make(
            paths, batch_size=3, patch_size=(64, 150), num_workers=num_workers
        )
        datamodule.setup('predict')
        dataset = datamodule.predict_dataset
        assert isinstance(dataset, SceneDataset)
        batch = next(iter(datamodule.predict_dataloader()))
        assert batch['image'].shape == (3, 2, 4, 64, 150)
        assert batch['valid'].shape == (3, 1, 64, 150)
        assert batch['window'].shape == (3, 2)

        normalised = datamodule.aug(dict(batch))
        mean, std = pair_statistics(MEAN), pair_statistics(STD)
        expected = (batch['image'] - mean[..., None, None]) / std[..., None, None]
        valid = batch['valid'].unsqueeze(1).expand_as(expected)
        assert 0 < valid.float().mean() < 1  # Larger than the scene
        torch.testing.assert_close(normalised['image'][valid], expected[valid])
        assert (normalised['image'][~valid] == 0).all()
        assert torch.equal(normalised['window'], batch['window'])

    def test_bands(self, paths: dict[str, Path]) -> None:
        datamodule = make(
            paths, mean=[[1, 2], [3]], std=[[1, 2], [3]], optical_bands=[3, 1]
        )
        datamodule.setup('predict')
        assert datamodule.mean.tolist() == [[1, 2], [3, 3]]
        batch = next(iter(datamodule.predict_dataloader()))
        assert batch['image'].shape[2] == 2

    @pytest.mark.parametrize(
        ('kwargs', 'match'),
        [
            ({'patch_size': 0}, 'patch_size is 0: expected at least 1'),
            ({'patch_size': 8, 'stride': 9}, 'stride is 9: .* or else pixels are left'),
            ({'patch_size': 8, 'stride': 0}, 'stride is 0: expected at least 1'),
            ({'mean': [[1.0]]}, 'expected one list for the optical bands'),
            ({'std': [[1.0], []]}, 'expected one list for the optical bands'),
        ],
    )
    def test_invalid(
        self, kwargs: dict[str, Any], match: str, paths: dict[str, Path]
    ) -> None:
        with pytest.raises(ValueError, match=match):
            make(paths, **kwargs)

    def test_setup_invalid(self, paths: dict[str, Path]) -> None:
        with pytest.raises(ValueError, match="unknown stage of SceneDataModule 'fit'"):
            make(paths).setup('fit')
        datamodule = make(paths, mean=[[1], [2]], std=[[1], [2]])
        match = 'mean has values for 1 optical and 1 SAR bands, .* have 4 and 1'
        with pytest.raises(ValueError, match=match):
            datamodule.setup('predict')

    def test_lazy(self, paths: dict[str, Path]) -> None:
        """Files are not opened before they are needed."""
        make({**paths, 'sar': paths['sar'].with_name('later.tif')})
        with rasterio.open(paths['sar']) as src:
            assert src.count == 1

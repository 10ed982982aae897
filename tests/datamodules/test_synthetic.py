# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import matplotlib.pyplot as plt
import pytest
import torch

from torchgeo_m2cd.datamodules import SyntheticFloodDataModule
from torchgeo_m2cd.datasets import SyntheticFlood
from torchgeo_m2cd.transforms import Darkness, Inputs, LeftOut


class TestSyntheticFloodDataModule:
    def test_fit(self) -> None:
        datamodule = SyntheticFloodDataModule(
            batch_size=2, patch_size=32, length=6, eval_length=3, size=64, seed=1
        )
        datamodule.setup('fit')
        assert len(datamodule.train_dataloader()) == 3
        assert len(datamodule.val_dataloader()) == 2
        assert datamodule.train_aug is not None
        batch = datamodule.train_aug(next(iter(datamodule.train_dataloader())))
        assert batch['image'].shape == (2, 2, 4, 32, 32)
        assert batch['mask'].shape == (2, 1, 32, 32)
        batch = next(iter(datamodule.val_dataloader()))
        assert batch['image'].shape == (2, 2, 4, 64, 64)
        assert datamodule.val_dataset is not None
        datamodule.plot(datamodule.val_dataset[0])
        plt.close()

    def test_splits(self) -> None:
        datamodule = SyntheticFloodDataModule(eval_length=2, size=32)
        datamodule.setup('test')
        datamodule.setup('predict')
        expected = SyntheticFlood('test', size=32)[0]['image']
        for dataset in (datamodule.test_dataset, datamodule.predict_dataset):
            assert isinstance(dataset, SyntheticFlood)
            assert len(dataset) == 2
            assert torch.equal(dataset[0]['image'], expected)
        datamodule.setup('validate')
        assert isinstance(datamodule.val_dataset, SyntheticFlood)
        assert datamodule.val_dataset.split == 'val'
        assert datamodule.train_dataset is None

    def test_statistics(self) -> None:
        """Standardised images have mean 0 and standard deviation 1."""
        datamodule = SyntheticFloodDataModule(
            batch_size=64, eval_length=64, size=128, sar_bands=('VV', 'VH')
        )
        datamodule.setup('validate')
        batch = datamodule.aug(next(iter(datamodule.val_dataloader())))
        image = batch['image'].transpose(0, 2).flatten(2)  # Bands, modality, pixels
        assert image.mean(2).abs().max() < 0.25
        assert (image.std(2) - 1).abs().max() < 0.15

    def test_bands(self) -> None:
        datamodule = SyntheticFloodDataModule(
            bands=('B08', 'B03', 'B02'), sar_bands=('VV', 'VH'), size=32
        )
        values = datamodule.default_inputs().to_dict()
        optical, sar = (values[key]['init_args'] for key in ('optical', 'sar'))
        assert optical['mean'] == [2974.99, 866.40, 634.12]
        assert optical['std'] == [993.88, 304.58, 274.39]
        assert sar == {'mean': [-12.448, -18.583], 'std': [4.755, 4.321]}
        datamodule.setup('predict')
        assert datamodule.choose_inputs().to_dict() == values
        with pytest.raises(ValueError, match='but the data have 3 and 2'):
            datamodule.choose_inputs(Inputs(LeftOut(3), LeftOut(1)))

    def test_invalid(self) -> None:
        with pytest.raises(ValueError, match='eval_length is 0: expected at least 1'):
            SyntheticFloodDataModule(eval_length=0)
        with pytest.raises(ValueError, match='batch_size is 8, but there are only 7'):
            SyntheticFloodDataModule(length=7).setup('fit')
        with pytest.raises(ValueError, match='unknown bands'):
            SyntheticFloodDataModule(bands=('B1',))

    def test_inputs(self) -> None:
        """Inputs replace the default: here only dark pixels in the near infrared."""
        datamodule = SyntheticFloodDataModule(
            length=8,
            eval_length=4,
            size=64,
            inputs=Inputs(Darkness([0, 0, 0, 1500]), LeftOut(1)),
        )
        datamodule.setup('validate')
        batch = datamodule.aug(next(iter(datamodule.val_dataloader())))
        optical = batch['image'][:, 0]
        assert (optical[:, :3] == 0).all()
        assert 0 < (optical[:, 3] < 0).float().mean() < 0.5
        assert torch.equal(optical[:, 3] < 0, batch['source'][:, 0, 3] < 1500)
        assert (batch['image'][:, 1] == 0).all()

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchgeo.datasets import DatasetNotFoundError

from tests.data.ombria.data import SIZE, make_ombria
from torchgeo_m2cd.datamodules import OMBRIADataModule
from torchgeo_m2cd.datasets import OMBRIA

REAL = pathlib.Path(__file__).parents[2].parent / 'shared' / 'data' / 'ombria'


class TestOMBRIADataModule:
    @pytest.fixture
    def root(self, tmp_path: pathlib.Path) -> pathlib.Path:
        make_ombria(tmp_path)
        return tmp_path

    @pytest.mark.parametrize(
        ('stage', 'split', 'length'), [('fit', 'train', 6), ('validate', 'val', 2)]
    )
    def test_train_val(
        self, root: pathlib.Path, stage: str, split: str, length: int
    ) -> None:
        datamodule = OMBRIADataModule(root=root, batch_size=2)
        datamodule.prepare_data()
        datamodule.setup(stage)
        loader = getattr(datamodule, f'{split}_dataloader')()
        batches = list(loader)
        assert sum(len(batch['image']) for batch in batches) == length
        assert batches[0]['image'].shape == (2, 2, 3, SIZE, SIZE)

    @pytest.mark.parametrize(
        ('test_split', 'length'), [('test', 2), ('timor', 1), ('events', 7)]
    )
    def test_test(self, root: pathlib.Path, test_split: str, length: int) -> None:
        datamodule = OMBRIADataModule(root=root, test_split=test_split)
        datamodule.setup('test')
        datamodule.setup('predict')
        (test,), (predict,) = (
            datamodule.test_dataloader(),
            datamodule.predict_dataloader(),
        )
        assert len(test['image']) == length
        assert torch.equal(test['image'], predict['image'])

    @pytest.mark.parametrize(('modality', 'index'), [('sar', 0), ('optical', 1)])
    def test_modality(self, root: pathlib.Path, modality: Any, index: int) -> None:
        both = OMBRIADataModule(root=root, batch_size=2)
        one = OMBRIADataModule(root=root, batch_size=2, modality=modality, jitter=0.5)
        both.setup('test')
        batch = next(iter(both.test_dataloader()))
        expected, output = (m.aug(dict(batch))['image'] for m in (both, one))
        assert (output[:, index] == 0).all()
        assert torch.equal(output[:, 1 - index], expected[:, 1 - index])
        assert one.train_aug is not None
        assert (one.train_aug(dict(batch))['image'][:, index] == 0).all()

    def test_optical_dropout(self, root: pathlib.Path) -> None:
        torch.manual_seed(0)
        datamodule = OMBRIADataModule(root=root, optical_dropout=0.25)
        batch = {
            'image': torch.rand(200, 2, 3, SIZE, SIZE),
            'mask': torch.zeros(200, 1, SIZE, SIZE, dtype=torch.int64),
        }
        assert datamodule.train_aug is not None
        zero = (datamodule.train_aug(dict(batch))['image'] == 0).flatten(2).all(dim=2)
        assert zero[:, 0].float().mean().item() == pytest.approx(0.25, abs=0.1)
        assert not zero[:, 1].any()
        assert not (datamodule.aug(dict(batch))['image'] == 0).flatten(2).all(2).any()

    def test_no_image_left(self, root: pathlib.Path) -> None:
        with pytest.raises(ValueError, match="modality is 'optical': expected 'both'"):
            OMBRIADataModule(root=root, optical_dropout=0.5, modality='optical')

    def test_group_that_is_trained_on(self, root: pathlib.Path) -> None:
        with pytest.raises(ValueError, match="'dry' is a group of training chips"):
            OMBRIADataModule(root=root, test_split='dry', leave_out=['green'])
        datamodule = OMBRIADataModule(root=root, test_split='dry', leave_out=['dry'])
        datamodule.setup('test')
        assert len(datamodule.test_dataloader()) == 1

    def test_unknown_modality(self, root: pathlib.Path) -> None:
        with pytest.raises(ValueError, match="unknown modality 'SAR'"):
            OMBRIADataModule(root=root, modality='SAR')

    def test_train_aug(self, root: pathlib.Path) -> None:
        datamodule = OMBRIADataModule(root=root, batch_size=2, patch_size=5)
        datamodule.setup('fit')
        assert datamodule.train_aug is not None
        batch = datamodule.train_aug(next(iter(datamodule.train_dataloader())))
        assert batch['image'].shape == (2, 2, 3, 5, 5)

    def test_unknown_split(self) -> None:
        with pytest.raises(
            ValueError, match=r"unknown test_split 'tst'.* did you mean"
        ):
            OMBRIADataModule(test_split='tst')

    def test_statistics(self, root: pathlib.Path) -> None:
        datamodule = OMBRIADataModule(root=root, mean=[[0] * 3] * 2, std=[[2] * 3] * 2)
        batch = datamodule.aug({'image': torch.ones(1, 2, 3, 4, 4)})
        assert (batch['image'] == 0.5).all()
        with pytest.raises(
            ValueError, match=r'std is .*: expected 3 values for the op'
        ):
            OMBRIADataModule(std=[[1] * 4, [2]])

    def test_prepare_data(
        self, root: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[dict[str, Any]] = []
        datamodules = [
            OMBRIADataModule(root, test_split='timor', download=d, checksum=True)
            for d in (False, True)
        ]
        monkeypatch.setattr(
            'torchgeo_m2cd.datamodules.ombria.OMBRIA',
            lambda **kwargs: calls.append(kwargs),
        )
        for datamodule in datamodules:
            datamodule.prepare_data()
        # Only what is needed, and nothing unless asked for
        given = {'root': root, 'download': True, 'checksum': True, 'leave_out': ()}
        assert calls == [given | {'split': split} for split in ('train', 'timor')]

    def test_not_found(self, tmp_path: pathlib.Path) -> None:
        datamodule = OMBRIADataModule(root=tmp_path)
        with pytest.raises(DatasetNotFoundError):
            datamodule.setup('fit')

    @pytest.mark.skipif(
        not REAL.is_dir(), reason='needs the real data in ../shared/data/ombria'
    )
    def test_real_statistics(self) -> None:
        files = OMBRIA(REAL).files
        datamodule = OMBRIADataModule()
        optical = np.stack([np.asarray(Image.open(f.optical)) for f in files])
        sar = np.stack([np.asarray(Image.open(f.sar)) for f in files])[..., None]
        for index, images in enumerate([optical, sar]):
            for statistic in ('mean', 'std'):
                actual = getattr(datamodule, statistic)[index]
                expected = getattr(images, statistic)((0, 1, 2), dtype=np.float64)
                np.testing.assert_allclose(
                    actual.numpy(), np.broadcast_to(expected, 3), atol=0.0051
                )

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import pathlib
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from PIL import Image
from torchgeo.datasets import DatasetNotFoundError

from tests.data.ombria.data import SIZE, make_ombria
from torchgeo_m2cd.configs import read_configs
from torchgeo_m2cd.datamodules import OMBRIADataModule, SyntheticFloodDataModule
from torchgeo_m2cd.datasets import OMBRIA
from torchgeo_m2cd.transforms import Inputs, LeftOut, Standardize

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

    def test_group_in_training(self, root: pathlib.Path) -> None:
        with pytest.raises(ValueError, match="'dry' is a group of training chips"):
            OMBRIADataModule(root=root, test_split='dry', leave_out=['green'])
        datamodule = OMBRIADataModule(root=root, test_split='dry', leave_out=['dry'])
        datamodule.setup('test')
        assert len(datamodule.test_dataloader()) == 1

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
        """The statistics are those of the dataset, unless inputs are given."""
        image = torch.ones(1, 2, 3, 4, 4)
        image[:, 1] = 100
        shown = OMBRIADataModule(root=root).aug({'image': image})['image'][0, ..., 0, 0]
        expected = [-71.46 / 29.30, -75.26 / 26.35, -31.08 / 20.49]
        torch.testing.assert_close(shown[0], torch.tensor(expected))
        torch.testing.assert_close(shown[1], torch.full((3,), -52.82 / 49.99))
        inputs = Inputs(Standardize([0] * 3, [2] * 3), Standardize([0], [200]))
        batch = OMBRIADataModule(root=root, inputs=inputs).aug({'image': image})
        assert (batch['image'] == 0.5).all()

    def test_near_infrared(self, root: pathlib.Path) -> None:
        """A model of the near infrared and VV is trained here and used elsewhere."""
        datamodule = OMBRIADataModule(root, 2, bands=['G'])
        image = torch.full((1, 2, 1, 4, 4), 100.0)
        shown = datamodule.aug({'image': image})['image'][0, ..., 0, 0]
        expected = [[23.74 / 26.35], [-52.82 / 49.99]]
        torch.testing.assert_close(shown, torch.tensor(expected))
        for inputs in (None, Inputs(LeftOut(1), LeftOut(1), 256, ['nir'], ['vv'])):
            datamodule = OMBRIADataModule(root, 2, bands=['G'], inputs=inputs)
            datamodule.setup('fit')
            batch = next(iter(datamodule.train_dataloader()))
            assert batch['image'].shape == (2, 2, 1, SIZE, SIZE)
            trained = datamodule.inputs
            assert trained is not None
            assert trained.band_names == (['B08'], ['VV'])
            synthetic = SyntheticFloodDataModule(bands=['B08'], eval_length=1, size=32)
            synthetic.setup('test')
            assert synthetic.choose_inputs(trained) is trained
        datamodule = OMBRIADataModule(root, bands=['R'], inputs=inputs)
        datamodule.setup('test')
        # Nothing is known of the others
        assert datamodule.choose_inputs() is inputs
        datamodule = OMBRIADataModule(root, bands=['R', 'G'], inputs=inputs)
        datamodule.setup('test')
        match = r'\[B08\] and \[VV\], not \[\?, B08\] and \[VV\]'
        with pytest.raises(ValueError, match=match):
            datamodule.choose_inputs()
        with pytest.raises(ValueError, match=r"unknown bands 'nir' \(expected one of"):
            OMBRIADataModule(root, bands=['nir'])

    def test_wrong_bands(self, root: pathlib.Path) -> None:
        datamodule = OMBRIADataModule(root=root, inputs=Inputs(LeftOut(4), LeftOut(1)))
        datamodule.setup('test')
        with pytest.raises(ValueError, match=r'4 optical .* but the data have 3 and 1'):
            datamodule.choose_inputs()

    @pytest.mark.filterwarnings(r'ignore:\s*(By default only|``instantiate_classes)')
    @pytest.mark.parametrize(
        ('names', 'size', 'changes', 'source_changes'),
        [
            (
                'original original_ombria',
                8,
                ['RandomRotationOrFlip'],
                ['PhotometricDistortion'],
            ),
            (
                'ombria',
                128,
                [
                    'RandomResizedCrop',
                    'RandomHorizontalFlip',
                    'RandomVerticalFlip',
                    'RandomQuarterTurn',
                ],
                [],
            ),
        ],
    )
    def test_config(
        self,
        root: pathlib.Path,
        names: str,
        size: int,
        changes: list[str],
        source_changes: list[str],
    ) -> None:
        """Configurations make the inputs and the augmentation that they describe."""
        values = yaml.safe_load(read_configs(*names.split()))['data']
        values['init_args'] |= {'root': str(root), 'patch_size': None, 'batch_size': 6}
        values['init_args']['num_workers'] = 0
        parser = ArgumentParser()
        parser.add_argument('--data', type=OMBRIADataModule)
        parsed = parser.parse_object({'data': values})
        datamodule = parser.instantiate_classes(parsed).data
        made = datamodule.augmentation
        for sequence, expected in (
            (made.augmentations, changes),
            (made.source_augmentations, source_changes),
        ):
            assert [type(change).__name__ for change in sequence] == expected
        datamodule.setup('fit')
        inputs = datamodule.choose_inputs()
        if 'inputs' in values['init_args']:
            described = values['init_args']['inputs']['init_args']
            for key in ('optical', 'sar'):
                step = inputs.to_dict()[key]
                assert step['class_path'] == described[key]['class_path']
                assert step['init_args'].items() >= described[key]['init_args'].items()
        else:
            assert datamodule.train_dataset is not None
            names = datamodule.train_dataset.band_names
            expected_inputs = datamodule.default_inputs().named(*names)
            assert inputs.to_dict() == expected_inputs.to_dict()
        batch = datamodule.train_aug(next(iter(datamodule.train_dataloader())))
        assert batch['image'].shape == batch['source'].shape == (6, 2, 3, size, size)
        assert batch['mask'].shape == (6, 1, size, size)
        assert set(batch['mask'].unique().tolist()) <= {0, 1, 255}

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
        # Only with download=True, and only the parts that are needed
        given = {'root': root, 'download': True, 'checksum': True, 'leave_out': ()}
        given['bands'] = OMBRIA.all_bands
        assert calls == [given | {'split': split} for split in ('train', 'timor')]

    def test_not_found(self, tmp_path: pathlib.Path) -> None:
        datamodule = OMBRIADataModule(root=tmp_path)
        with pytest.raises(DatasetNotFoundError):
            datamodule.setup('fit')

    @pytest.mark.slow
    @pytest.mark.skipif(
        not REAL.is_dir(), reason='needs the real data in ../shared/data/ombria'
    )
    def test_real_statistics(self) -> None:
        files = OMBRIA(REAL).files
        optical = np.stack([np.asarray(Image.open(f.optical)) for f in files])
        sar = np.stack([np.asarray(Image.open(f.sar)) for f in files])[..., None]
        for bands, images in (('RGB', optical), (['VV'], sar)):
            for band, image in zip(bands, np.moveaxis(images, -1, 0), strict=True):
                mean, std = OMBRIADataModule.means[band], OMBRIADataModule.stds[band]
                assert image.mean(dtype=np.float64) == pytest.approx(mean, abs=0.0051)
                assert image.std(dtype=np.float64) == pytest.approx(std, abs=0.0051)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args
from unittest.mock import Mock

import numpy as np
import pytest
import rasterio
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities.data import has_len_all_ranks

from torchgeo_m2cd.datamodules import SceneDataModule
from torchgeo_m2cd.datasets import SARSource, SceneDataset, Source, SyntheticFlood
from torchgeo_m2cd.datasets.source import SARScale
from torchgeo_m2cd.transforms import (
    Darkness,
    Inputs,
    LeftOut,
    PairAugmentation,
    RandomGainOffset,
    Relative,
    RelativeDarkness,
    Standardize,
    StandardizeImage,
)

MEAN = [600.0, 900.0, 800.0, 3000.0]
STD = [300.0, 300.0, 500.0, 1000.0]
OPTICAL = Standardize(MEAN, STD)
SAR = Standardize([-12.0], [5.0])
INPUTS = Inputs(OPTICAL, SAR)


@pytest.fixture(scope='module')
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A scene of 160 x 160 pixels, which overlap in 140 x 140."""
    folder = tmp_path_factory.mktemp('scene')
    return SyntheticFlood().write_scene(folder, size=160, sar_crs='EPSG:32633')


def make(paths: dict[str, Path], **kwargs: Any) -> SceneDataModule:
    kwargs = {'inputs': INPUTS, **kwargs}
    return SceneDataModule(paths['optical'], paths['sar'], **kwargs)


def fit(paths: dict[str, Path], **kwargs: Any) -> SceneDataModule:
    kwargs = {'patch_size': 16, 'grid_size': 3, 'batch_size': 2, **kwargs}
    return make(paths, mask=paths['mask'], **kwargs)


class TestSceneDataModule:
    @pytest.mark.parametrize('num_workers', [0, 2])
    def test_batch(self, num_workers: int, paths: dict[str, Path]) -> None:
        datamodule = make(
            paths, batch_size=3, patch_size=(64, 150), num_workers=num_workers
        )
        datamodule.setup('predict')
        assert datamodule.stride == (32, 75)
        assert len(datamodule.scenes) == 1
        batch = next(iter(datamodule.predict_dataloader()))
        assert batch['image'].shape == (1, 2, 4, 64, 150)
        assert batch['valid'].shape == (1, 1, 64, 150)
        assert batch['window'].shape == (1, 2)

        shown = datamodule.aug(dict(batch))
        mean, std = torch.tensor([MEAN, [-12.0] * 4]), torch.tensor([STD, [5.0] * 4])
        expected = (batch['image'] - mean[..., None, None]) / std[..., None, None]
        valid = batch['valid'].unsqueeze(1).expand_as(expected)
        assert 0 < valid.float().mean() < 1  # Larger than the scene
        torch.testing.assert_close(shown['image'][valid], expected[valid])
        assert (shown['image'][~valid] == 0).all()
        assert torch.equal(shown['source'], batch['image'])
        assert torch.equal(shown['window'], batch['window'])

    def test_more_processes_than_rows(self, paths: dict[str, Path]) -> None:
        """A process that has no row of patches waits for those that have."""
        datamodule = make(paths, patch_size=150)
        datamodule.setup('predict')
        datamodule.trainer = Mock(spec=Trainer, global_rank=1, world_size=2)
        loader = datamodule.predict_dataloader()
        assert len(loader) == 0
        strategy = Mock(spec=Strategy, root_device='cpu')
        strategy.reduce.return_value = 1
        allowed = datamodule.allow_zero_length_dataloader_with_multiple_devices
        assert has_len_all_ranks(loader, strategy, allowed)

    def test_bands(self, paths: dict[str, Path]) -> None:
        inputs = Inputs(Standardize([1, 2], [1, 2]), Standardize([3], [3]))
        datamodule = SceneDataModule(
            Source(paths['optical'], [3, 1]), paths['sar'], inputs=inputs, check=False
        )
        datamodule.setup('predict')
        batch = next(iter(datamodule.predict_dataloader()))
        assert batch['image'].shape[2] == 2
        image = datamodule.aug(dict(batch))['image']
        assert batch['valid'][0, 0, 50, 60]
        transform = datamodule.scenes.scenes[0].transform
        place = (transform.c + 60.5 * transform.a, transform.f + 50.5 * transform.e)
        with rasterio.open(paths['optical']) as src:
            (values,) = src.sample([place], [3, 1])
        assert image[0, 0, :, 50, 60].tolist() == [values[0] - 1, (values[1] - 2) / 2]

    @pytest.mark.parametrize(
        ('kwargs', 'match'),
        [
            ({'patch_size': 0}, 'patch_size is 0: expected at least 1'),
            ({'patch_size': 8, 'stride': 9}, 'stride is 9: .* or else pixels are left'),
            ({'patch_size': 8, 'stride': 0}, 'stride is 0: expected at least 1'),
            ({'splits': [0.8, 0.2]}, r'splits is \[0\.8, 0\.2\]: expected 3 values'),
            ({'splits': [0.8, 0.8, 0.2]}, 'expected shares whose sum is 1'),
            ({'grid_size': 1000}, 'grid_size is 1000: expected from 1 to 100'),
            ({'scenes': 'list.csv'}, 'got scenes, and paths of optical or sar'),
        ],
    )
    def test_invalid(
        self, kwargs: dict[str, Any], match: str, paths: dict[str, Path]
    ) -> None:
        with pytest.raises(ValueError, match=match):
            make(paths, **kwargs)

    def test_setup_invalid(self, paths: dict[str, Path]) -> None:
        with pytest.raises(ValueError, match='fit needs one scene and its mask'):
            make(paths).setup('fit')
        with pytest.raises(ValueError, match='fit needs splits, got None'):
            fit(paths, splits=None).setup('fit')
        with pytest.raises(ValueError, match='batch_size is 8, but there are only 3'):
            fit(paths, batch_size=8, length=3).setup('fit')
        with pytest.raises(ValueError, match='no cell of the training split has room'):
            fit(paths, patch_size=150).setup('fit')
        datamodule = make(paths, inputs=Inputs(SAR, SAR))
        match = (
            r"optical file '.*optical\.tif' has the bands \[B02, B03, B04, B08\], but the "
            r'inputs are for \[1 without names\]: expected optical\.bands, the numbers of the bands to'
        )
        datamodule.setup('predict')
        with pytest.raises(ValueError, match=match):
            datamodule.choose_inputs()
        datamodule = make(paths, inputs=None)
        match = 'inputs are not given, and the model has none'
        datamodule.setup('predict')
        with pytest.raises(ValueError, match=match):
            datamodule.predict_dataloader()
        with pytest.raises(
            ValueError, match='expected the paths of optical and sar, or'
        ):
            SceneDataModule(paths['optical'])

    @pytest.mark.parametrize('ends', ['teardown', 'on_exception'])
    def test_offline(
        self,
        ends: str,
        paths: dict[str, Path],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Files of a list cannot make GDAL open URLs, unless the list names some."""
        name = 'CPL_VSIL_CURL_ALLOWED_EXTENSIONS'
        monkeypatch.delenv(name, raising=False)
        scenes = tmp_path / 'list.csv'
        scenes.write_text(f'optical,sar\n{paths["optical"]},{paths["sar"]}\n')
        datamodule = SceneDataModule(scenes=scenes, inputs=INPUTS, patch_size=64)
        datamodule.setup('predict')
        assert os.environ[name] == '.none'
        getattr(datamodule, ends)('predict')
        assert name not in os.environ
        # One scene is trusted
        datamodule = make(paths, patch_size=64)
        datamodule.setup('predict')
        assert name not in os.environ
        datamodule.teardown('predict')

    def test_check(self, paths: dict[str, Path]) -> None:
        swapped = {**paths, 'optical': paths['sar'], 'sar': paths['optical']}
        for check in (True, False):
            datamodule = make(swapped, check=check, inputs=Inputs(SAR, OPTICAL))
            datamodule.setup('predict')
            if not check:
                datamodule.predict_dataloader()
                continue
            with pytest.raises(ValueError, match='are optical and sar swapped'):
                datamodule.predict_dataloader()
        datamodule = make(paths, inputs=Inputs(Darkness([0, 0, 0, 0.2]), SAR))
        datamodule.setup('predict')
        match = r'optical\.tif.* does not fit the model: optical band 4 has the median'
        with pytest.raises(ValueError, match=match):
            datamodule.predict_dataloader()

    @pytest.mark.parametrize('stage', ['fit', 'validate', 'test', 'predict'])
    @pytest.mark.parametrize('inputs', [None, INPUTS])
    def test_impossible(
        self, inputs: Inputs | None, stage: str, paths: dict[str, Path], tmp_path: Path
    ) -> None:
        """Undeclared no-data values are refused and do not enter statistics."""
        if inputs is None and stage != 'fit':
            pytest.skip('measured in training only')
        with rasterio.open(paths['sar']) as src:
            profile, values = src.profile, src.read()
        values[:, :40] = -9999
        with rasterio.open(tmp_path / 'sar.tif', 'w', **profile) as dst:
            dst.write(values)
        split = {'fit': 'train', 'validate': 'val'}.get(stage, stage)
        for kwargs in ({}, {'check': False}, {'nodata': -9999}):
            sar = SARSource(tmp_path / 'sar.tif', nodata=kwargs.pop('nodata', None))
            datamodule = SceneDataModule(
                paths['optical'], sar, paths['mask'], inputs=inputs, patch_size=16,
                grid_size=3, **kwargs,
            )  # fmt: skip
            datamodule.setup(stage)
            make_loader = getattr(datamodule, f'{split}_dataloader')
            if kwargs or sar.nodata:
                make_loader()
                step = datamodule.choose_inputs().sar
                assert isinstance(step, Standardize)
                assert (step.mean[0] > -20) == (inputs is not None or not kwargs)
            else:
                match = r'sar\.tif. has impossible values: -9999 in 0\.5'
                with pytest.raises(ValueError, match=match):
                    make_loader()

    @pytest.mark.parametrize('stage', ['fit', 'validate', 'test'])
    @pytest.mark.parametrize('statistics', [{}, {'inputs': None}])
    def test_no_data(
        self,
        statistics: dict[str, Any],
        stage: str,
        paths: dict[str, Path],
        tmp_path: Path,
    ) -> None:
        split = {'fit': 'train', 'validate': 'val'}.get(stage, stage)
        if statistics and stage != 'fit':
            pytest.skip('measured in training only')
        with rasterio.open(paths['sar']) as src:
            profile, values = src.profile, src.read()
        with rasterio.open(tmp_path / 'sar.tif', 'w', **profile) as dst:
            dst.write(values * float('nan'))
        datamodule = fit({**paths, 'sar': tmp_path / 'sar.tif'}, **statistics)
        datamodule.setup(stage)
        match = (
            rf'{split} needs pixels with data in both .*optical\.tif.* and .*sar\.tif'
        )
        with pytest.raises(ValueError, match=match):
            getattr(datamodule, f'{split}_dataloader')()
        # The writer reports a scene without data
        inputs = Inputs(StandardizeImage(MEAN, STD), Relative([5.0]))
        datamodule = make({**paths, 'sar': tmp_path / 'sar.tif'}, inputs=inputs)
        datamodule.setup('predict')
        batch = datamodule.aug(next(iter(datamodule.predict_dataloader())))
        assert not batch['valid'].any()
        assert (batch['image'] == 0).all()

    def test_fit(self, paths: dict[str, Path]) -> None:
        datamodule = fit(paths, length=6)
        datamodule.setup('fit')
        batches = list(datamodule.train_dataloader())
        assert len(batches) == 3
        assert batches[0]['image'].shape == (2, 2, 4, 16, 16)
        # Random patches are within the split
        assert all((batch['mask'] != 255).all() for batch in batches)
        assert datamodule.train_aug is not None
        expected = datamodule.aug(dict(batches[0]))
        batch = datamodule.train_aug(dict(batches[0]))
        # The same pixels, flipped or turned together
        assert not torch.equal(batch['image'], expected['image'])
        for key in ('image', 'source', 'mask', 'valid'):
            for values, others in zip(batch[key], expected[key], strict=True):
                pixels, same = (v.reshape(-1, 256).sort()[0] for v in (values, others))
                assert torch.equal(pixels, same)

        datamodule.setup('test')
        regions = [
            dataset.index.geometry.union_all()
            for dataset in (
                datamodule.train_dataset, datamodule.val_dataset, datamodule.test_dataset
            )
            if isinstance(dataset, SceneDataset)
        ]  # fmt: skip
        assert len(regions) == 3
        for i in range(3):
            assert regions[i].intersection(regions[i - 1]).area == 0
        assert sum(region.area for region in regions) == pytest.approx(1400**2)
        for loader in (datamodule.val_dataloader(), datamodule.test_dataloader()):
            assert any((batch['mask'] != 255).any() for batch in loader)

    def test_one_split(self, paths: dict[str, Path]) -> None:
        datamodule = fit(paths, splits=None)
        datamodule.setup('test')
        count = sum(
            int((batch['mask'] != 255).sum()) for batch in datamodule.test_dataloader()
        )
        assert count == 140 * 140

    def test_own_statistics(self, paths: dict[str, Path]) -> None:
        """Without inputs, the statistics of the training split are used."""
        datamodule = fit(paths, inputs=None)
        datamodule.setup('fit')
        datamodule.val_dataloader()
        dataset = datamodule.train_dataset
        assert isinstance(dataset, SceneDataset)
        x, y = dataset.pixel_slice(0, 0, *dataset.shape)
        sample = dataset[x, y]
        pixels = sample['image'][:, :, sample['mask'][0] != 255]
        std, mean = torch.std_mean(pixels, dim=-1)
        inputs = datamodule.inputs
        assert inputs is not None
        assert inputs.band_counts == (4, 1)
        for i, step in enumerate((inputs.optical, inputs.sar)):
            assert isinstance(step, Standardize)
            own, spread = mean[i, : step.bands], std[i, : step.bands]
            assert ((torch.tensor(step.mean) - own).abs() < 0.3 * spread).all()
            assert ((torch.tensor(step.std) / spread - 1).abs() < 0.25).all()

    @pytest.mark.parametrize(
        'inputs',
        [
            Inputs(StandardizeImage(MEAN, STD), StandardizeImage([-12.0], [5.0])),
            Inputs(RelativeDarkness([0, 0, 0.5, 0.4]), Relative([5.0], ['otsu', 0.85])),
            Inputs(Darkness([0, 0, 800, 3000]), Relative([5.0], [0.85])),
            INPUTS,
        ],
    )
    def test_patch_is_shown_like_a_chip(
        self, inputs: Inputs, paths: dict[str, Path]
    ) -> None:
        given = Inputs(inputs.optical, inputs.sar, window=32)
        datamodule = make(paths, inputs=given, patch_size=(48, 32), batch_size=5)
        datamodule.setup('predict')
        for batch in datamodule.predict_dataloader():
            assert ('reference_sar' in batch) == inputs.measures
            shown = datamodule.aug(dict(batch))
            chips = {key: batch[key] for key in ('image', 'valid')}
            expected = inputs.show(chips)
            torch.testing.assert_close(shown['image'], expected['image'])

    @pytest.mark.parametrize('window', [20, 48, 100, 300])
    @pytest.mark.parametrize('stage', ['predict', 'test', 'fit'])
    def test_window(self, stage: str, window: int, paths: dict[str, Path]) -> None:
        """The window around a patch, within the scene, is measured."""
        inputs = Inputs(
            RelativeDarkness([0, 0, 0, 0.4]), Relative([5.0], ['otsu', 0.85]), window
        )
        args: dict[str, Any] = {'inputs': inputs, 'patch_size': 48}
        if stage == 'predict':
            datamodule = make(paths, **args)
        elif stage == 'test':
            datamodule = fit(paths, **args, splits=None)
        else:
            datamodule = fit(paths, **args, grid_size=2, length=8)
        datamodule.setup(stage)
        loader = getattr(
            datamodule, f'{"train" if stage == "fit" else stage}_dataloader'
        )()
        scene = SceneDataset(paths['optical'], paths['sar'])
        x, y, _ = scene.bounds
        whole = scene[x.start : x.stop, y.start : y.stop]
        length = 140
        assert whole['image'].shape[-2:] == (length, length)
        size = max(48, window)
        inside = range(max(length - size, 0) + 1)
        starts = []
        for batch in loader:
            for i, place in enumerate(batch['window']):
                # As close to the middle as the edges of the scene let it
                first = [
                    min((abs(start + size / 2 - p - 24), start) for start in inside)[1]
                    for p in place.tolist()
                ]
                ends = [p + edge for p in place.tolist() for edge in (0, 48)]
                if size == 48 and not all(0 <= end <= length for end in ends):
                    continue  # A patch that reaches beyond the scene is measured itself
                rows, columns = (slice(f, f + size) for f in first)
                expected = inputs.measure(
                    whole['image'][None, ..., rows, columns],
                    whole['valid'][None, :, rows, columns],
                )
                starts.append(first)
                torch.testing.assert_close(
                    batch['reference_optical'][i], expected.optical[0]
                )
                torch.testing.assert_close(batch['reference_sar'][i], expected.sar[0])
                assert expected.sar.shape == (1, 2, 1, 1)
        if window == 100 and stage == 'predict':
            assert sorted({row for row, _ in starts}) == [0, 22, 40]

    def test_units_of_sar(self, paths: dict[str, Path]) -> None:
        """SAR is read in dB, or in the units that the model was trained with."""
        trained = Inputs(OPTICAL, Relative([5.0], decibels=0.4))
        scales = {}
        for scale in get_args(SARScale):
            sar = SARSource(paths['sar'], scale=scale)
            datamodule = SceneDataModule(paths['optical'], sar)
            datamodule.setup('predict')
            inputs = datamodule.choose_inputs(trained)
            assert inputs is datamodule.inputs
            assert isinstance(inputs.sar, Relative)
            scales[scale] = inputs.sar.decibels
            assert inputs.optical is OPTICAL
        assert scales == {'db': 1, 'power': 1, 'amplitude': 1, 'other': 0.4}

        # A step of the model sees the same contrast in dB
        datamodule = make(paths, inputs=None, patch_size=128)
        datamodule.setup('predict')
        datamodule.choose_inputs(trained)
        batch = next(iter(datamodule.predict_dataloader()))
        image = datamodule.aug(dict(batch))['image']
        valid = batch['valid'][:, 0]
        decibels = batch['image'][:, 1, 0][valid]
        shown = image[:, 1, 0][valid]
        torch.testing.assert_close(5 * (shown - shown[0]), decibels - decibels[0])

    @pytest.mark.parametrize('index', [0, 1])
    def test_left_out(self, index: int, paths: dict[str, Path]) -> None:
        one = Inputs(*((LeftOut(4), SAR) if index == 0 else (OPTICAL, LeftOut())))
        images = []
        for inputs in (INPUTS, one):
            datamodule = make(paths, inputs=inputs)
            datamodule.setup('predict')
            batch = next(iter(datamodule.predict_dataloader()))
            images.append(datamodule.aug(batch)['image'])
        both, image = images
        assert (image[:, index] == 0).all()
        assert torch.equal(image[:, 1 - index], both[:, 1 - index])

    def test_random_changes_leave_no_data_alone(self, paths: dict[str, Path]) -> None:
        augmentation = PairAugmentation([RandomGainOffset(0.5)])
        datamodule = fit(paths, augmentation=augmentation)
        datamodule.setup('fit')
        batch = next(iter(datamodule.train_dataloader()))
        plain = datamodule.aug(dict(batch))['image']
        batch['valid'][:, :, :8] = False
        batch['image'][:, :, :, :8] = 7.0
        assert datamodule.train_aug is not None
        image = datamodule.train_aug(dict(batch))['image']
        assert (image[..., :8, :] == 0).all()
        assert not torch.allclose(image[..., 8:, :], plain[..., 8:, :])

    def test_no_change(self, paths: dict[str, Path], tmp_path: Path) -> None:
        """A mask without any flood."""
        with rasterio.open(paths['mask']) as src:
            mask, profile = src.read(), src.profile
        with rasterio.open(tmp_path / 'mask.tif', 'w', **profile) as dst:
            dst.write(np.zeros_like(mask))
        datamodule = fit({**paths, 'mask': tmp_path / 'mask.tif'})
        datamodule.setup('fit')
        with pytest.warns(UserWarning, match=r'mask\.tif.* has only the class 0'):
            datamodule.val_dataloader()

    def test_change(self, paths: dict[str, Path], recwarn: Any) -> None:
        datamodule = fit(paths, inputs=None, grid_size=6)
        datamodule.setup('fit')
        datamodule.val_dataloader()
        assert not [w for w in recwarn if 'has only the class' in str(w.message)]

    @pytest.mark.parametrize(
        ('task', 'count'),
        [
            ({'task': 'multiclass', 'num_classes': 3}, None),
            ({'task': 'multiclass', 'num_classes': 2}, 2),
            ({'task': 'binary', 'num_classes': None}, 2),
            ({}, None),
        ],
    )
    def test_other_classes(
        self,
        task: dict[str, Any],
        count: int | None,
        paths: dict[str, Path],
        tmp_path: Path,
    ) -> None:
        """Classes that the task does not have are refused before training."""
        with rasterio.open(paths['mask']) as src:
            mask, profile = src.read(), src.profile
        with rasterio.open(tmp_path / 'mask.tif', 'w', **profile) as dst:
            dst.write(2 * mask)
        datamodule = fit({**paths, 'mask': tmp_path / 'mask.tif'})
        module = LightningModule()
        module.save_hyperparameters(task)
        datamodule.trainer = cast(Any, SimpleNamespace(lightning_module=module))
        datamodule.setup('fit')
        if count is None:
            datamodule.val_dataloader()
            return
        with pytest.raises(
            ValueError, match=r'has the classes \[0, 2\], .* has 2: .* 1,'
        ):
            datamodule.val_dataloader()

    def test_lazy(self, paths: dict[str, Path]) -> None:
        """Files are not opened before they are needed."""
        make({**paths, 'sar': paths['sar'].with_name('later.tif')})
        with rasterio.open(paths['sar']) as src:
            assert src.count == 1


class TestUnits:
    """A model that was trained with units of 0.2 dB."""

    @pytest.fixture
    def trained(self) -> Inputs:
        sar = Relative([10.0], ['otsu'], decibels=0.2)
        return Inputs(OPTICAL, sar)

    @pytest.mark.parametrize(
        ('kwargs', 'decibels'),
        [
            ({}, 1.0),
            ({'scale': 'other'}, 0.2),
            ({'scale': 'other', 'decibels': 0.5}, 0.5),
            ({'scale': 'power', 'decibels': 0.5}, 1.0),
        ],
    )
    def test_decibels(
        self,
        kwargs: dict[str, Any],
        decibels: float,
        trained: Inputs,
        paths: dict[str, Path],
    ) -> None:
        sar = SARSource(paths['sar'], **kwargs)
        datamodule = SceneDataModule(paths['optical'], sar)
        datamodule.setup('predict')
        assert datamodule.choose_inputs(trained).sar.decibels == decibels

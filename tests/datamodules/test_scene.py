# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import torch

from torchgeo_m2cd.datamodules import SceneDataModule
from torchgeo_m2cd.datamodules.base import pair_statistics
from torchgeo_m2cd.datasets import SceneDataset, SyntheticFlood
from torchgeo_m2cd.transforms import OpticalDarkness, PairAugmentation

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
            paths,
            mean=[[1, 2], [3]],
            std=[[1, 2], [3]],
            optical_bands=[3, 1],
            check=False,
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
            ({'std': None}, 'got one of mean and std: expected both, or none'),
            ({'standardize': 'chip'}, "unknown standardize 'chip'"),
            ({'splits': [0.8, 0.2]}, 'expected the shares to train, validate and test'),
            ({'std': [[0.0] * 4, [1.0]]}, 'expected positive values'),
            ({'scenes': 'list.csv'}, 'got scenes, and optical or sar'),
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
        with pytest.raises(ValueError, match='no cell of the training split has room'):
            fit(paths, patch_size=150).setup('fit')
        datamodule = make(paths, mean=[[1], [2]], std=[[1], [2]])
        match = 'mean has values for 1 optical and 1 SAR bands, .* have 4 and 1'
        datamodule.setup('predict')
        with pytest.raises(ValueError, match=match):
            datamodule.predict_dataloader()
        with pytest.raises(ValueError, match='expected optical and sar, or scenes'):
            SceneDataModule(paths['optical'])

    def test_check(self, paths: dict[str, Path]) -> None:
        swapped = {**paths, 'optical': paths['sar'], 'sar': paths['optical']}
        args = {'mean': MEAN[::-1], 'std': STD[::-1]}
        for check in (True, False):
            datamodule = make(swapped, check=check, **args)
            datamodule.setup('predict')
            if not check:
                datamodule.predict_dataloader()
                continue
            with pytest.raises(ValueError, match='are optical and sar swapped'):
                datamodule.predict_dataloader()

    @pytest.mark.parametrize('stage', ['fit', 'validate', 'test'])
    @pytest.mark.parametrize('statistics', [{}, {'mean': None, 'std': None}])
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
        # Nothing to predict is for the writer to say
        datamodule = make({**paths, 'sar': tmp_path / 'sar.tif'}, standardize='image')
        datamodule.setup('predict')
        datamodule.predict_dataloader()
        assert torch.equal(datamodule.statistics[0][0], datamodule.mean)

    def test_fit(self, paths: dict[str, Path]) -> None:
        datamodule = fit(paths, length=6, jitter=0.1)
        datamodule.setup('fit')
        batches = list(datamodule.train_dataloader())
        assert len(batches) == 3
        assert batches[0]['image'].shape == (2, 2, 4, 16, 16)
        # Random patches are within the split
        assert all((batch['mask'] != 255).all() for batch in batches)
        assert datamodule.train_aug is not None
        batch = datamodule.train_aug(batches[0])
        assert 'valid' not in batch
        assert batch['image'].abs().mean() < 10

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
        """Without statistics, those of the training split are taken."""
        datamodule = fit(paths, mean=None, std=None)
        datamodule.setup('fit')
        datamodule.val_dataloader()
        dataset = datamodule.train_dataset
        assert isinstance(dataset, SceneDataset)
        x, y = dataset.pixel_slice(0, 0, *dataset.shape)
        sample = dataset[x, y]
        pixels = sample['image'][:, :, sample['mask'][0] != 255]
        std, mean = torch.std_mean(pixels, dim=-1)
        assert ((datamodule.mean - mean).abs() < 0.3 * std).all()
        assert ((datamodule.std / std - 1).abs() < 0.25).all()
        assert datamodule.band_counts == (4, 1)

    def test_standardize_image(self, paths: dict[str, Path]) -> None:
        """Valid pixels of each image have mean 0 and standard deviation 1."""
        datamodule = make(paths, standardize='image', patch_size=140)
        datamodule.setup('predict')
        batch = next(iter(datamodule.predict_dataloader()))
        image = datamodule.aug(batch)['image'][0]
        for pair in image:
            pixels = pair[:, batch['valid'][0, 0]]
            assert pixels.mean().item() == pytest.approx(0, abs=0.06)
            assert pixels.std().item() == pytest.approx(1, abs=0.06)

    def test_standardize_otsu(self, paths: dict[str, Path]) -> None:
        """Otsu's threshold of the SAR image is 0, and its contrast is kept."""
        datamodule = make(paths, standardize='otsu', patch_size=140)
        datamodule.setup('predict')
        batch = next(iter(datamodule.predict_dataloader()))
        valid = batch['valid'][0, 0]
        optical, sar = datamodule.aug(batch)['image'][0][..., valid]
        assert optical.mean().item() == pytest.approx(0, abs=0.06)
        assert optical.std().item() == pytest.approx(1, abs=0.06)
        decibels = batch['image'][0, 1, 0, valid]
        shift = decibels / STD[1][0] - sar[0]
        torch.testing.assert_close(shift, shift[:1].expand_as(shift))

        def within(t: float) -> float:
            """Variance within both classes, which Otsu's threshold minimises."""
            parts = (sar[0][sar[0] <= t], sar[0][sar[0] > t])
            return float(sum(p.var(correction=0) * len(p) for p in parts))

        assert all(within(0) <= 1.01 * within(t) for t in (-1, -0.5, 0.5, 1))

    @pytest.mark.parametrize('standardize', ['dataset', 'image', 'otsu'])
    def test_optical_limits(self, standardize: Any, paths: dict[str, Path]) -> None:
        """As the transform of chips does it."""
        limits = [0.0, 0, 800, 3000]
        plain = make(paths, standardize=standardize)
        datamodule = make(paths, standardize=standardize, optical_limits=limits)
        for each in (plain, datamodule):
            each.setup('predict')
        batch = next(iter(plain.predict_dataloader()))
        datamodule.predict_dataloader()
        expected, image = (m.aug(dict(batch))['image'] for m in (plain, datamodule))
        torch.testing.assert_close(image[:, 1], expected[:, 1])
        transform = PairAugmentation(OpticalDarkness(limits))
        expected = transform(dict(batch))['image'] * batch['valid'].unsqueeze(1)
        torch.testing.assert_close(image[:, 0], expected[:, 0])
        assert image[:, 0, 3].min() < -0.1
        # Zero in all bands is no data, also where the file doesn't say so
        batch['image'][..., :40, :] = 0
        image = datamodule.aug(dict(batch))['image']
        assert (image[:, 0, :, :40] == 0).all()
        expected = transform(dict(batch))['image'] * batch['valid'].unsqueeze(1)
        torch.testing.assert_close(image[:, 0], expected[:, 0])

    def test_wrong_limits(self, paths: dict[str, Path]) -> None:
        datamodule = make(paths, optical_limits=[0, 1])
        datamodule.setup('predict')
        with pytest.raises(ValueError, match='expected 4, one per optical band'):
            datamodule.predict_dataloader()

    @pytest.mark.parametrize(('modality', 'index'), [('sar', 0), ('optical', 1)])
    def test_modality(self, modality: Any, index: int, paths: dict[str, Path]) -> None:
        both, one = make(paths), make(paths)
        one.modality = modality
        for datamodule in (both, one):
            datamodule.setup('predict')
        batch = next(iter(both.predict_dataloader()))
        one.predict_dataloader()
        expected, image = (m.aug(dict(batch))['image'] for m in (both, one))
        assert (image[:, index] == 0).all()
        assert torch.equal(image[:, 1 - index], expected[:, 1 - index])

    def test_jitter_leaves_no_data_alone(self, paths: dict[str, Path]) -> None:
        datamodule = fit(paths, jitter=0.5)
        datamodule.setup('fit')
        batch = next(iter(datamodule.train_dataloader()))
        assert datamodule.train_aug is not None
        plain = datamodule.aug(dict(batch))['image']
        batch['valid'][:, :, :8] = False
        batch['image'][:, :, :, :8] = 7.0
        image = datamodule.train_aug[0](dict(batch))['image']  # type: ignore[index]
        assert (image[..., :8, :] == 0).all()
        assert not torch.allclose(image[..., 8:, :], plain[..., 8:, :])

    def test_no_change(self, paths: dict[str, Path], tmp_path: Path) -> None:
        """A mask of 0 and 255, which is to be ignored."""
        with rasterio.open(paths['mask']) as src:
            mask, profile = src.read(), src.profile
        with rasterio.open(tmp_path / 'mask.tif', 'w', **profile) as dst:
            dst.write(np.where(mask == 1, 255, mask))
        datamodule = fit({**paths, 'mask': tmp_path / 'mask.tif'}, mean=None, std=None)
        datamodule.setup('fit')
        with pytest.warns(UserWarning, match=r'mask\.tif.* has the values \[0'):
            datamodule.val_dataloader()

    def test_change(self, paths: dict[str, Path], recwarn: Any) -> None:
        datamodule = fit(paths, mean=None, std=None, grid_size=6)
        datamodule.setup('fit')
        datamodule.val_dataloader()
        assert not [w for w in recwarn if 'has the values' in str(w.message)]

    def test_lazy(self, paths: dict[str, Path]) -> None:
        """Files are not opened before they are needed."""
        make({**paths, 'sar': paths['sar'].with_name('later.tif')})
        with rasterio.open(paths['sar']) as src:
            assert src.count == 1


class TestScenes:
    """Lists of scenes."""

    @pytest.fixture
    def listed(self, paths: dict[str, Path]) -> Path:
        return paths['optical'].parent

    def test_formats(self, listed: Path) -> None:
        rows = {
            'name': ['a', 'b'],
            'optical': ['optical.tif'] * 2,
            'sar': ['sar.tif'] * 2,
        }
        table = pd.DataFrame(rows)
        table.to_csv(listed / 'list.csv', index=False)
        gpd.GeoDataFrame(table, geometry=gpd.points_from_xy([0, 1], [0, 1])).to_file(
            listed / 'list.gpkg'
        )
        items = [
            {
                'type': 'Feature',
                'id': name,
                'assets': {
                    'optical': {'href': 'optical.tif'},
                    'sar': {'href': './sar.tif'},
                    'thumbnail': {'href': 'small.png'},
                },
            }
            for name in 'ab'
        ]
        (listed / 'list.json').write_text(
            json.dumps({'type': 'FeatureCollection', 'features': items})
        )
        (listed / 'item.geojson').write_text(json.dumps(items[0]))
        for name in ('list.csv', 'list.gpkg', 'list.json', 'item.geojson'):
            datamodule = SceneDataModule(scenes=listed / name, mean=MEAN, std=STD)
            names = [scene.name for scene in datamodule.paths]
            assert names == (['a'] if name == 'item.geojson' else ['a', 'b'])
            datamodule.setup('predict')
            assert len(datamodule.scenes) == len(names)

    def test_paths(self, tmp_path: Path) -> None:
        (tmp_path / 'list.csv').write_text(
            'optical,sar\na.tif;b.tif,https://host/sar.tif\n/abs/c.tif,/vsis3/d.tif\n'
        )
        first, second = SceneDataModule(scenes=tmp_path / 'list.csv').paths
        assert first.optical == [str(tmp_path / 'a.tif'), str(tmp_path / 'b.tif')]
        assert first.sar == ['https://host/sar.tif']
        assert (first.name, second.name) == ('a', 'c')
        # Names are text, and may be left out
        (tmp_path / 'list.csv').write_text(
            'name,optical,sar\nNA,a.tif,b.tif\n,c.tif ; d.tif,e.tif\n007,f.tif,g.tif\n'
        )
        paths = SceneDataModule(scenes=tmp_path / 'list.csv').paths
        assert [scene.name for scene in paths] == ['NA', 'c', '007']
        assert paths[1].optical == [str(tmp_path / 'c.tif'), str(tmp_path / 'd.tif')]
        assert (second.optical, second.sar) == (['/abs/c.tif'], ['/vsis3/d.tif'])

    @pytest.mark.parametrize(
        ('text', 'match'),
        [
            ('optical\na.tif\n', r"has 1 rows with the columns \['optical'\]"),
            ('optical,sar\n', 'has 0 rows'),
            ('optical,sar\na.tif,\n', 'expected one row or more, with values'),
            (
                'optical,sar\na.tif;,b.tif\n',
                "has the files 'a.tif;': expected one path",
            ),
            ('', 'cannot be read'),
            (
                'name,optical,sar\n../a,b.tif,c.tif\n',
                r"has the name '\.\./a': expected",
            ),
            ('name,optical,sar\n..,b.tif,c.tif\n', r"has the name '\.\.': expected"),
            (
                'optical,sar\n1/a.tif,b.tif\n2/a.tif,b.tif\n',
                "two scenes of the name 'a'",
            ),
        ],
    )
    def test_invalid(self, text: str, match: str, tmp_path: Path) -> None:
        (tmp_path / 'list.csv').write_text(text)
        with pytest.raises(ValueError, match=match):
            SceneDataModule(scenes=tmp_path / 'list.csv')

    def test_invalid_formats(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"list of scenes '.*no\.csv' does"):
            SceneDataModule(scenes=tmp_path / 'no.csv')
        for name in ('list.json', 'list.gpkg'):
            (tmp_path / name).write_text('broken')
            with pytest.raises(ValueError, match=rf"'.*{name}' cannot be read"):
                SceneDataModule(scenes=tmp_path / name)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from tests.data.geotiff import write
from torchgeo_m2cd.datamodules import SceneDataModule
from torchgeo_m2cd.datamodules.bands import match_bands
from torchgeo_m2cd.datasets import SARSource, SceneDataset, Source
from torchgeo_m2cd.datasets.synthetic import SyntheticFlood
from torchgeo_m2cd.transforms import (
    Inputs,
    LeftOut,
    Relative,
    RelativeDarkness,
    Standardize,
)

REAL = Path(__file__).parents[2].parent / 'shared' / 'data' / 'sen1floods11'

# A value of each band tells which it is
LEVELS = {'VV': -10.0, 'VH': -17.0, 'B04': 400.0, 'B08': 800.0, '': 5.0, '?': 6.0}


def write_bands(path: Path, names: Sequence[str], size: int = 40) -> Path:
    """Write an image whose bands have descriptions, and the values above."""
    noise = np.random.default_rng(0).normal(0, 0.1, (len(names), size, size))
    levels = np.array([LEVELS[name] for name in names])
    write(path, (levels[:, None, None] + noise).astype(np.float32))
    with rasterio.open(path, 'r+') as dst:
        dst.descriptions = tuple(name.strip('?') or None for name in names)
    return path


def make_inputs(bands: Sequence[str], sar_bands: Sequence[str]) -> Inputs:
    """Make inputs that turn the values above into 0."""
    optical, sar = (
        Standardize([LEVELS[name] for name in names], [1] * len(names))
        for names in (bands, sar_bands)
    )
    return Inputs(optical, sar, bands=bands, sar_bands=sar_bands)


def read(scene: SceneDataset) -> list[list[float]]:
    """Read the mean of each band of both images."""
    image = scene.overview()['image']
    means = image.mean(dim=(-1, -2)).round()
    return [means[i, :count].tolist() for i, count in enumerate(scene.band_counts)]


class TestMatchBands:
    @pytest.fixture
    def optical(self, tmp_path: Path) -> Path:
        return write_bands(tmp_path / 'optical.tif', ['B04'])

    @pytest.mark.parametrize(
        ('found', 'wanted', 'read_as'),
        [
            # By name: the order, and what is missing in the model
            (['VH', 'VV'], ['VV', 'VH'], ['VV', 'VH']),
            (['VH', 'VV'], ['VV'], ['VV']),
            (['VV', 'VH'], ['VH'], ['VH']),
            (['?', 'VH', '', 'VV'], ['VV', 'VH'], ['VV', 'VH']),
            (['VV'], ['VV', 'VV'], ['VV', 'VV']),
            # By number: one of them has no names
            (['VH', 'VV'], ['', ''], ['VH', 'VV']),
            (['', '?'], ['VV', 'VH'], ['', '?']),
            (['VV', ''], ['VV', 'VH'], ['VV', '']),
            (['VV', 'VV'], ['VV', 'VV'], ['VV', 'VV']),
        ],
    )
    def test_right(
        self,
        found: list[str],
        wanted: list[str],
        read_as: list[str],
        optical: Path,
        tmp_path: Path,
    ) -> None:
        scene = SceneDataset(optical, write_bands(tmp_path / 'sar.tif', found))
        match_bands(scene, make_inputs(['B04'], wanted))
        expected = [[400.0], [LEVELS[name] for name in read_as]]
        assert read(scene) == expected
        # Nothing changes the second time
        match_bands(scene, make_inputs(['B04'], wanted))
        assert read(scene) == expected

    @pytest.mark.parametrize(
        ('found', 'wanted', 'match'),
        [
            (
                ['VH'],
                ['VV'],
                (
                    r"SAR file '.*sar\.tif' has the bands \[VH\], but the inputs are for "
                    r'\[VV\]: VV is missing, and no other band stands for it: expected '
                    r'a file with VV\. If it is there without that name, say where, by '
                    r'sar\.bands={VV: NUMBER}$'
                ),
            ),
            (['VV', 'B04'], ['VV', 'VH'], r'for \[VV, VH\]: VH is missing, and no'),
            (['VV', ''], ['VH', 'VV'], r'VH is missing'),
            (['VH', '', 'VV', 'VV'], ['VV'], r'VV is there more than once: expected'),
            (
                ['', '?', ''],
                ['VV'],
                r'\[3 without names\], but .* \[VV\]: expected a file with VV',
            ),
            (
                ['VV', 'VH'],
                [''],
                r'\[VV, VH\], but .* \[1 without names\]: expected sar\.bands, the',
            ),
            (['?'], ['', ''], r'\[2 without names\]: .* Are optical and sar swapped\?'),
            (['VV', 'VH'], ['', 'VV'], r'\[VV, VH\], but .* \[\?, VV\]: expected sar'),
        ],
    )
    def test_wrong(
        self,
        found: list[str],
        wanted: list[str],
        match: str,
        optical: Path,
        tmp_path: Path,
    ) -> None:
        scene = SceneDataset(optical, write_bands(tmp_path / 'sar.tif', found))
        for check in (True, False):
            with pytest.raises(ValueError, match=match):
                match_bands(scene, make_inputs(['B04'], wanted), check)

    def test_named(self, optical: Path, tmp_path: Path) -> None:
        """The user knows what the bands of a file without names are."""
        sar = write_bands(tmp_path / 'sar.tif', ['', '?'])
        scene = SceneDataset(optical, SARSource(sar, bands={'vh': 2}))
        assert scene.sar.band_names == ['VH']
        match_bands(scene, make_inputs(['B04'], ['VH']))
        assert read(scene) == [[400], [6]]

    def test_chosen(self, optical: Path, tmp_path: Path) -> None:
        """Chosen bands are read; bands other than the model's are refused."""
        sar = write_bands(tmp_path / 'sar.tif', ['VV', 'VH'])
        scene = SceneDataset(optical, SARSource(sar, bands=[2]))
        match_bands(scene, make_inputs(['B04'], ['VH']))
        match_bands(scene, make_inputs(['B04'], ['']))
        assert read(scene) == [[400], [-17]]
        match = (
            r'has the bands \[VH\], chosen by sar\.bands=\[2\], but the inputs are for '
            r'\[VV\]: leave out sar\.bands, to have bands found by their names, or set '
            'check=False, to use those chosen'
        )
        inputs = make_inputs(['B04'], ['VV'])
        with pytest.raises(ValueError, match=match):
            match_bands(scene, inputs)
        match_bands(scene, inputs, check=False)
        assert read(scene) == [[400], [-17]]
        # Another number is never right
        for check in (True, False):
            with pytest.raises(ValueError, match=r'found by their names$'):
                match_bands(scene, make_inputs(['B04'], ['VV', 'VH']), check)

    def test_optical(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        sar = write_bands(tmp_path / 'sar.tif', ['VV'])
        path = write_bands(tmp_path / 'optical.tif', ['B08', '', 'B04'])
        scene = SceneDataset(path, sar)
        inputs = make_inputs(['B04', 'B08'], ['VV'])
        with caplog.at_level(logging.INFO):
            match_bands(scene, inputs)
        assert read(scene) == [[400, 800], [-10]]
        (message,) = [m for m in caplog.messages if 'as in training' in m]
        assert 'of the bands [B08, ?, B04], [B04, B08] are read' in message
        scene = SceneDataset(Source(path, [1, 3]), sar)
        with pytest.raises(ValueError, match=r'chosen by optical\.bands=\[1, 3\]'):
            match_bands(scene, inputs)


class TestStacks:
    """Stacks without names, of known numbers of bands."""

    L1C = (
        'B01', 'B02', 'B03', 'B04', 'B05', 'B06', 'B07', 'B08', 'B8A', 'B09', 'B10', 'B11',
        'B12',
    )  # fmt: skip
    L2A = (*L1C[:10], *L1C[11:])
    FOUR = ('B02', 'B03', 'B04', 'B08')

    def write(self, path: Path, names: Sequence[str], offset: float = 0) -> Path:
        """Write bands whose values tell which they are, B08 like B8A."""
        rng = np.random.default_rng(2)
        shape = (40, 40)
        near = rng.normal(0, 100, shape)
        image = [
            1000.0 * (i + 1)
            + (near if name in ('B08', 'B8A') else rng.normal(0, 100, shape))
            for i, name in enumerate(names)
        ]
        return write(path, (np.stack(image) + offset).astype(np.float32))

    @pytest.mark.parametrize('stack', [L1C, L2A, FOUR], ids=['13', '12', '4'])
    @pytest.mark.parametrize('wanted', [['B08'], ['B04', 'B03', 'B02']])
    def test_optical(
        self,
        wanted: list[str],
        stack: Sequence[str],
        tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        sar = write_bands(tmp_path / 'sar.tif', ['VV'])
        scene = SceneDataset(self.write(tmp_path / 'optical.tif', stack), sar)
        inputs = Inputs(LeftOut(len(wanted)), LeftOut(), 256, wanted, ['VV'])
        caplog.set_level(logging.INFO)
        for _ in range(2):  # Nothing changes the second time
            match_bands(scene, inputs)
            image = scene.overview()['image'][0]
            found = [round(level / 1000) for level in image.mean(dim=(1, 2)).tolist()]
            assert found == [stack.index(name) + 1 for name in wanted]
        description = scene.optical.describe()
        assert description['bands'] == wanted
        assumption = f'the bands are {", ".join(stack)}, in this order'
        assert description['assumed'].count(assumption) == 1
        assert [m for m in caplog.messages if assumption in m and 'optical.tif' in m]

    @pytest.mark.parametrize('check', [True, False])
    def test_sar(self, check: bool, tmp_path: Path) -> None:
        optical = write_bands(tmp_path / 'optical.tif', ['B04'])
        right = write_bands(tmp_path / 'right.tif', ['?', ''])
        swapped = write_bands(tmp_path / 'swapped.tif', ['', '?'])
        inputs = make_inputs(['B04'], ['VV'])
        scene = SceneDataset(optical, right)
        match_bands(scene, inputs, check)
        assert read(scene) == [[400], [6]]
        scene = SceneDataset(optical, swapped)
        if not check:
            match_bands(scene, inputs, check)
            assert read(scene) == [[400], [5]]
            return
        match = (
            r"SAR file '.*swapped\.tif' has 2 bands without names, which do not look like "
            r'\[VV, VH\]: the first, which would be VV, is darker .* Expected sar\.bands'
        )
        with pytest.raises(ValueError, match=match):
            match_bands(scene, inputs)
        # Grey values have a stretch of each band
        match_bands(SceneDataset(optical, SARSource(swapped, scale='other')), inputs)
        match_bands(SceneDataset(optical, SARSource(swapped, bands=[2])), inputs)

    def test_other_stack(self, tmp_path: Path) -> None:
        """A stack is refused if its B08 and B8A, which are nearly the same, differ."""
        sar = write_bands(tmp_path / 'sar.tif', ['VV'])
        path = self.write(tmp_path / 'optical.tif', ['?'] * 13)
        inputs = Inputs(LeftOut(1), LeftOut(1), 256, ['nir'], ['VV'])
        match = r'13 bands without names, .* \[B01, .*: B08 and B8A would differ'
        with pytest.raises(ValueError, match=match):
            match_bands(SceneDataset(path, sar), inputs)

    def test_no_data(self, tmp_path: Path) -> None:
        """Bands without data are not checked."""
        sar = write(tmp_path / 'sar.tif', np.full((40, 40), np.nan, np.float32))
        path = self.write(tmp_path / 'optical.tif', ['?'] * 13)
        inputs = Inputs(LeftOut(1), LeftOut(1), 256, ['nir'], ['VV'])
        scene = SceneDataset(path, sar)
        match_bands(scene, inputs)
        assert scene.optical.band_names == ['B08']

    def test_names_that_files_have(self, tmp_path: Path) -> None:
        """Names in files are never replaced."""
        sar = write_bands(tmp_path / 'sar.tif', ['VV'])
        path = write_bands(tmp_path / 'optical.tif', ['B08', '', '', ''])
        inputs = Inputs(LeftOut(1), LeftOut(1), 256, ['B02'], ['VV'])
        with pytest.raises(ValueError, match='B02 is missing'):
            match_bands(SceneDataset(path, sar), inputs)

    def test_assumed(self, tmp_path: Path) -> None:
        """Bands without names are taken for those of the model, which is said."""
        sar = write_bands(tmp_path / 's.tif', ['VH', ''])
        path = self.write(tmp_path / 'optical.tif', ['?'])
        inputs = Inputs(LeftOut(1), LeftOut(2), 256, ['nir'], ['VH', 'VV'])
        scene = SceneDataset(path, sar)
        for _ in range(2):
            match_bands(scene, inputs)
        assert scene.band_names == (['B08'], ['VH', 'VV'])
        assert scene.optical.describe()['assumed'][1:] == [
            'the band is B08 (near infrared)'
        ]
        assert scene.sar.describe()['assumed'][-1] == (
            'the bands are VH, VV, in this order'
        )
        # Nothing is assumed of names that the user gives
        scene = SceneDataset(Source(path, {'B08': 1}), sar)
        match_bands(scene, inputs)
        assert not [a for a in scene.optical.describe()['assumed'] if 'band is' in a]

    def test_near_infrared(self, tmp_path: Path) -> None:
        """The advice does not invite to read another band."""
        sar = write_bands(tmp_path / 's.tif', ['VV'])
        path = write_bands(tmp_path / 'o.tif', ['B04', 'B04'])
        inputs = Inputs(LeftOut(1), LeftOut(1), 256, ['nir'], ['VV'])
        match = (
            r'B08 is missing, and no other band stands for it: expected a file with B08 '
            r'\(near infrared\)\. If it is there without that name, say where, by '
            r'optical\.bands={B08: NUMBER}$'
        )
        with pytest.raises(ValueError, match=match):
            match_bands(SceneDataset(path, sar), inputs)

    def test_true_colours(self, tmp_path: Path) -> None:
        sar = write_bands(tmp_path / 'sar.tif', ['VV'])
        path = self.write(tmp_path / 'optical.tif', ['?'] * 3)
        inputs = Inputs(LeftOut(1), LeftOut(1), 256, ['nir'], ['VV'])
        match = (
            r'\[3 without names\], but the inputs are for \[B08\]: true colours do not '
            r'tell water\. Expected a file with the near infrared, and optical\.bands'
        )
        with pytest.raises(ValueError, match=match):
            match_bands(SceneDataset(path, sar), inputs)
        # False colours may have it
        scene = SceneDataset(Source(path, [2]), sar)
        match_bands(scene, inputs)
        assert round(read(scene)[0][0] / 1000) == 2

    @pytest.mark.skipif(
        not REAL.is_dir(), reason='needs the real chip in ../shared/data/sen1floods11'
    )
    @pytest.mark.parametrize('named', [True, False])
    def test_real_chip(self, named: bool, tmp_path: Path) -> None:
        """The near infrared and VV of Sen1Floods11, with the names of its files or not."""
        paths = []
        for kind in ('S2Hand', 'S1Hand'):
            (path,) = REAL.glob(f'*{kind}.tif')
            paths.append(tmp_path / path.name)
            with rasterio.open(path) as src:
                write(paths[-1], src.read(), src.transform, src.crs, src.nodata)
                names = src.descriptions
            if named:
                with rasterio.open(paths[-1], 'r+') as dst:
                    dst.descriptions = names
        inputs = Inputs(RelativeDarkness([0.5]), Relative([10]), 256, ['nir'], ['VV'])
        datamodule = SceneDataModule(paths[0], paths[1])
        datamodule.setup('predict')
        assert datamodule.choose_inputs(inputs) is inputs
        datamodule.predict_dataloader()
        (scene,) = datamodule.scenes.scenes
        assert scene.band_names == (['B08'], ['VV'])
        assert (
            any('in this order' in a for a in scene.sar.describe()['assumed']) != named
        )
        image = scene.overview()['image']
        # Medians of B8 and VV
        assert image[0, 0].median() == pytest.approx(2061, abs=20)
        assert image[1, 0].median() == pytest.approx(-10.5, abs=0.2)


class TestSceneDataModule:
    def show(self, datamodule: SceneDataModule, trained: Inputs | None) -> torch.Tensor:
        """Return the mean of what a model is shown of each scene, shape (N, 2, C)."""
        datamodule.setup('predict')
        datamodule.choose_inputs(trained)
        batches = [datamodule.aug(b) for b in datamodule.predict_dataloader()]
        return torch.cat([batch['image'] for batch in batches]).mean(dim=(-1, -2))

    def test_each_scene_has_its_order(self, tmp_path: Path) -> None:
        trained = make_inputs(['B04', 'B08'], ['VV', 'VH'])
        orders = {
            'a': (['B04', 'B08'], ['VV', 'VH']),
            'b': (['B08', 'B04'], ['VH', 'VV']),
            'c': (['B08', '', 'B04'], ['VV', '', 'VH']),
        }
        lines = ['name,optical,sar']
        for name, bands in orders.items():
            for kind, names in zip(('o', 's'), bands, strict=True):
                write_bands(tmp_path / f'{kind}_{name}.tif', names)
            lines.append(f'{name},o_{name}.tif,s_{name}.tif')
        (tmp_path / 'list.csv').write_text('\n'.join(lines))
        datamodule = SceneDataModule(
            scenes=tmp_path / 'list.csv', patch_size=40, check=False
        )
        shown = self.show(datamodule, trained)
        assert shown.shape == (3, 2, 2)
        torch.testing.assert_close(shown, torch.zeros(3, 2, 2), atol=0.02, rtol=0)
        plans = [scene.sar.describe() for scene in datamodule.scenes.scenes]
        assert [plan['bands'] for plan in plans] == [['VV', 'VH']] * 3

    def test_missing(self, tmp_path: Path) -> None:
        """A missing band is an error before predicting, also with check=False."""
        optical = write_bands(tmp_path / 'o.tif', ['B04'])
        sar = write_bands(tmp_path / 's.tif', ['VH'])
        trained = make_inputs(['B04'], ['VV'])
        for check in (True, False):
            datamodule = SceneDataModule(optical, sar, patch_size=40, check=check)
            with pytest.raises(ValueError, match='VV is missing'):
                self.show(datamodule, trained)
        chosen = SARSource(sar, bands=[1])
        datamodule = SceneDataModule(optical, chosen, patch_size=40, check=False)
        shown = self.show(datamodule, trained)
        assert shown[0, 1, 0].item() == pytest.approx(-7, abs=0.05)
        # Or with inputs for this band
        given = make_inputs(['B04'], ['VH'])
        datamodule = SceneDataModule(
            optical, sar, patch_size=40, inputs=given, check=False
        )
        with pytest.warns(UserWarning, match=r"sar_bands is \['VH'\], trained with"):
            shown = self.show(datamodule, trained)
        assert shown[0, 1, 0].item() == pytest.approx(0, abs=0.05)

    @pytest.mark.parametrize('stage', ['fit', 'validate', 'test'])
    def test_splits(self, stage: str, tmp_path: Path) -> None:
        """The splits are read as the scene is."""
        paths = SyntheticFlood().write_scene(tmp_path, size=160, sar_crs='EPSG:32633')
        inputs = Inputs(LeftOut(2), LeftOut(1), bands=['B08', 'B02'], sar_bands=['VV'])
        datamodule = SceneDataModule(
            paths['optical'], paths['sar'], paths['mask'], patch_size=16, grid_size=3
        )
        datamodule.setup(stage)
        split = {'fit': 'train', 'validate': 'val', 'test': 'test'}[stage]
        datamodule.choose_inputs(inputs)
        loader = getattr(datamodule, f'{split}_dataloader')()
        batch = next(iter(loader))
        assert batch['image'].shape[2] == 2
        nir, blue = batch['image'][:, 0].transpose(0, 1)[:, batch['valid'][:, 0]]
        assert nir.median() > 1500 > blue.median()

    @pytest.mark.parametrize('given', [None, Inputs(LeftOut(4), LeftOut(1))])
    def test_trained(self, given: Inputs | None, tmp_path: Path) -> None:
        """A new model gets the names of the bands that it is trained with."""
        paths = SyntheticFlood().write_scene(tmp_path, size=160)
        datamodule = SceneDataModule(
            paths['optical'], paths['sar'], paths['mask'],
            inputs=given, patch_size=16, grid_size=3,
        )  # fmt: skip
        datamodule.setup('fit')
        inputs = datamodule.choose_inputs()
        assert inputs.band_names == (['B02', 'B03', 'B04', 'B08'], ['VV'])
        # Not known before, not known afterwards
        unknown = Inputs(LeftOut(4), LeftOut(1))
        datamodule = SceneDataModule(paths['optical'], paths['sar'])
        datamodule.setup('predict')
        assert datamodule.choose_inputs(unknown).band_names == unknown.band_names

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Other files of the probabilities of a map that is there."""

import dataclasses
import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from tests.maps.helpers import make_plan, make_scene, map_values
from torchgeo_m2cd.datasets import SceneDataset
from torchgeo_m2cd.maps import FinishedMap, MapPlan, Outputs, Parts, Run, make_map
from torchgeo_m2cd.samplers import SceneSampler


def start(scene: SceneDataset, outputs: Outputs, plan: MapPlan) -> Parts:
    """Start a run, which has nothing to predict."""
    parts = Parts(outputs, plan, SceneSampler(scene, scene.shape, scene.shape))
    assert parts.start() == {0}
    return parts


def remake(scene: SceneDataset, outputs: Outputs, plan: MapPlan) -> None:
    """Make files of the map that is there."""
    parts = start(scene, outputs, plan)
    assert parts.is_pending
    make_map(parts, Run())
    parts.release()
    assert not outputs.parts.exists()


@pytest.fixture
def scene(tmp_path: Path) -> SceneDataset:
    return make_scene(tmp_path / 'in')


class TestFinishedMap:
    @pytest.mark.parametrize('classes', [1, 2, 3])
    @pytest.mark.parametrize('water', [True, False])
    def test_another_threshold(
        self, classes: int, water: bool, scene: SceneDataset, tmp_path: Path
    ) -> None:
        """All files are those of a map that was made of patches, byte by byte."""
        plan = make_plan(scene, water)
        generator = np.random.default_rng(0)
        values = generator.random((classes + water, 64, 64), np.float32)
        values[:, 60:] = math.nan
        fresh, again = (
            Outputs(
                tmp_path / folder / 'a.tif',
                tmp_path / folder / 'c.tif',
                tmp_path / folder / 'p.geojson',
                threshold=0.3,
                min_area=500,
                overwrite=True,
            )
            for folder in ('fresh', 'again')
        )
        expected = map_values(scene, values, fresh, plan)
        first = dataclasses.replace(again, threshold=0.7, polygons=None, min_area=0)
        assert map_values(scene, values, first, plan) != expected
        remake(scene, again, plan)
        for name, path in fresh.files.items():
            if name != 'summary':  # It holds paths and seconds
                assert path.read_bytes() == again.files[name].read_bytes(), name
        summary = json.loads(again.summary.read_bytes())
        for key in ('flooded_km2', 'class_km2', 'polygons', 'threshold', 'mapped_km2'):
            assert summary[key] == expected[key]

    def test_another_file(self, scene: SceneDataset, tmp_path: Path) -> None:
        """What is missing is made, and nothing is replaced that is not of the map."""
        plan = make_plan(scene)
        values = np.full((1, 64, 64), 0.9, np.float32)
        outputs = Outputs(tmp_path / 'a.tif')
        map_values(scene, values, outputs, plan)
        more = Outputs(tmp_path / 'a.tif', tmp_path / 'c.tif', tmp_path / 'p.geojson')
        precious = [tmp_path / 'c.tif', tmp_path / 'c.qml']
        for path in precious:
            path.write_text('precious')
        with pytest.raises(FileExistsError, match=r'c\.tif exists: .*overwrite=True'):
            start(scene, more, plan)
        for path in precious:
            assert path.read_text() == 'precious'
            path.unlink()
        remake(scene, more, plan)
        assert all(path.exists() for path in more.paths)

    def test_replaced_on_request(self, scene: SceneDataset, tmp_path: Path) -> None:
        """Another threshold replaces files, and that has to be said."""
        plan = make_plan(scene)
        values = np.full((1, 64, 64), 0.9, np.float32)
        map_values(scene, values, Outputs(tmp_path / 'a.tif'), plan)
        other = Outputs(tmp_path / 'a.tif', threshold=0.1)
        match = (
            r'anew of the same probabilities\. The map has threshold 0\.5 and .* 0\.1'
        )
        with pytest.raises(FileExistsError, match=match):
            start(scene, other, plan)
        # Of another plan, nothing is the same
        with pytest.raises(FileExistsError, match=r'overwrite=True$'):
            start(scene, other, make_plan(scene, version='2'))

    @pytest.mark.parametrize('text', ['', '{"files": {"output": "a.tif"}}', '[]'])
    def test_unknown_files(
        self, text: str, scene: SceneDataset, tmp_path: Path
    ) -> None:
        """Without a summary, or with that of another folder, no file is known."""
        plan = make_plan(scene)
        values = np.full((1, 64, 64), 0.9, np.float32)
        outputs = Outputs(tmp_path / 'a.tif')
        map_values(scene, values, outputs, plan)
        outputs.summary.write_text(text)
        outputs.files['style'].unlink()
        with pytest.raises(FileExistsError, match=r'a\.tif exists'):
            start(scene, outputs, plan)

    def test_damaged(self, scene: SceneDataset, tmp_path: Path) -> None:
        """It was cut off: the message says how to map again."""
        plan = make_plan(scene)
        values = np.random.default_rng(0).random((1, 64, 64), np.float32)
        outputs = Outputs(tmp_path / 'a.tif', threshold=0.3, overwrite=True)
        map_values(scene, values, dataclasses.replace(outputs, threshold=0.7), plan)
        content = outputs.probability.read_bytes()
        outputs.probability.write_bytes(content[: len(content) // 2])
        with pytest.raises(RuntimeError, match=r'a\.tif is damaged: remove it'):
            remake(scene, outputs, plan)

    @pytest.mark.parametrize(
        'change',
        [{'width': 32}, {'dtype': 'float64'}, {'count': 1}],
        ids=lambda change: next(iter(change)),
    )
    def test_copy(
        self, change: dict[str, Any], scene: SceneDataset, tmp_path: Path
    ) -> None:
        """A copy of a map may have its tags, and not its values."""
        plan = make_plan(scene, water=True)
        values = np.full((2, 64, 64), 0.9, np.float32)
        outputs = Outputs(tmp_path / 'a.tif')
        map_values(scene, values, outputs, plan)
        assert outputs.has_probabilities(plan)
        with rasterio.open(outputs.probability) as src:
            profile, tags = src.profile | {'driver': 'GTiff'} | change, src.tags()
        with rasterio.open(outputs.probability, 'w', **profile) as file:
            file.update_tags(**tags)
        assert not outputs.has_probabilities(plan)

    def test_files_of_another_threshold(
        self, scene: SceneDataset, tmp_path: Path
    ) -> None:
        """They are not taken for those of this one."""
        plan = make_plan(scene)
        values = np.random.default_rng(0).random((1, 64, 64), np.float32)
        first = Outputs(tmp_path / 'a.tif', tmp_path / 'c.tif', threshold=0.7)
        map_values(scene, values, first, plan)
        alone = Outputs(tmp_path / 'a.tif', threshold=0.3, overwrite=True)
        with pytest.warns(UserWarning, match=r'c\.tif is of the map that was here'):
            remake(scene, alone, plan)
        summary = json.loads(alone.summary.read_bytes())
        left = [text for text in summary['warnings'] if 'is of the map' in text]
        assert len(left) == 2  # Classes and their style
        both = dataclasses.replace(first, threshold=0.3)
        with pytest.raises(FileExistsError, match=r'c\.tif exists: .*overwrite=True$'):
            start(scene, both, plan)

    def test_killed_between_names(
        self, scene: SceneDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is left of two thresholds is never taken for the map of one."""
        plan = make_plan(scene)
        values = np.random.default_rng(0).random((1, 64, 64), np.float32)
        first = Outputs(tmp_path / 'a.tif', tmp_path / 'c.tif', threshold=0.7)
        map_values(scene, values, first, plan)
        second = dataclasses.replace(first, threshold=0.3, overwrite=True)
        replace = Path.replace

        def kill(self: Path, target: Path) -> Path:
            if target == first.probability:
                raise KeyboardInterrupt
            return replace(self, target)

        parts = start(scene, second, plan)
        with monkeypatch.context() as patch:
            patch.setattr(Path, 'replace', kill)
            with pytest.raises(KeyboardInterrupt):
                make_map(parts, Run())
        parts.release()
        with pytest.raises(FileExistsError, match=r'a\.tif exists'):
            start(scene, first, plan)
        # The second command goes on
        remake(scene, second, plan)
        with rasterio.open(tmp_path / 'c.tif') as file:
            np.testing.assert_array_equal(file.read(), values >= 0.3)
        assert json.loads(second.summary.read_bytes())['threshold'] == 0.3

    def test_all_files_in_summary(self, scene: SceneDataset, tmp_path: Path) -> None:
        """Summary and STAC item name what earlier runs made, too."""
        plan = make_plan(scene)
        values = np.random.default_rng(0).random((1, 64, 64), np.float32)
        first = Outputs(
            tmp_path / 'a.tif',
            polygons=tmp_path / 'p.geojson',
            stac=tmp_path / 's.json',
        )
        expected = map_values(scene, values, first, plan)
        second = Outputs(tmp_path / 'a.tif', tmp_path / 'c.tif')
        remake(scene, second, plan)
        summary = json.loads(second.summary.read_bytes())
        assert summary['polygons'] == expected['polygons']
        assert summary['polygons']['changed'] > 0
        assert {'classes', 'polygons', 'stac'} <= summary['files'].keys()
        assets = json.loads((tmp_path / 's.json').read_bytes())['assets']
        for asset in assets.values():
            content = (tmp_path / asset['href']).read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            assert asset['file:checksum'] == f'1220{digest}'
        all_of_them = dataclasses.replace(second, polygons=first.polygons)
        assert not start(scene, all_of_them, plan).is_pending

    def test_from_another_folder(
        self, scene: SceneDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Paths may be relative, and the folder may have got another name."""
        plan = make_plan(scene)
        values = np.full((1, 64, 64), 0.9, np.float32)
        (tmp_path / 'maps').mkdir()
        monkeypatch.chdir(tmp_path)
        map_values(scene, values, Outputs(Path('maps/a.tif'), Path('maps/c.tif')), plan)
        (tmp_path / 'maps').rename(tmp_path / 'night')
        monkeypatch.chdir(tmp_path / 'night')
        for folder in (Path(), tmp_path / 'night'):
            outputs = Outputs(folder / 'a.tif', folder / 'c.tif')
            assert not start(scene, outputs, plan).is_pending
        (tmp_path / 'night' / 'c.tif').unlink()
        remake(scene, outputs, plan)
        assert Outputs(Path('a.tif')).with_made(plan).classes == Path('c.tif')
        assert Outputs(tmp_path / 'night' / 'a.tif').with_made(plan) == outputs

    def test_copy_of_another_name(self, scene: SceneDataset, tmp_path: Path) -> None:
        """Its summary names the files of the original."""
        plan = make_plan(scene)
        values = np.full((1, 64, 64), 0.9, np.float32)
        original = Outputs(tmp_path / 'a.tif')
        map_values(scene, values, original, plan)
        for path in original.paths:
            shutil.copy(path, path.with_stem('b'))
        with pytest.raises(FileExistsError, match=r'b\.tif exists: .*overwrite=True$'):
            start(scene, Outputs(tmp_path / 'b.tif'), plan)

    def test_again_on_request(self, scene: SceneDataset, tmp_path: Path) -> None:
        """The same map that is to be overwritten is predicted again."""
        plan = make_plan(scene)
        values = np.full((1, 64, 64), 0.9, np.float32)
        outputs = Outputs(tmp_path / 'a.tif', overwrite=True)
        map_values(scene, values, outputs, plan)
        parts = Parts(outputs, plan, SceneSampler(scene, scene.shape, scene.shape))
        assert parts.start() == set()
        parts.release()

    def test_bands(self, scene: SceneDataset, tmp_path: Path) -> None:
        """Two classes are not one probability and water."""
        values = np.full((3, 64, 64), 0.5, np.float32)
        counts = []
        for channels in (2, 3):
            outputs = Outputs(tmp_path / f'{channels}.tif')
            map_values(scene, values[:channels], outputs, make_plan(scene, water=True))
            finished = FinishedMap(outputs.probability, scene)
            counts.append((finished.classes, finished.water))
        assert counts == [(1, True), (2, False)]

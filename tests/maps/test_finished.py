# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Other files of the probabilities of a map that is there."""

import dataclasses
import json
import math
from pathlib import Path

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
        (tmp_path / 'c.tif').write_text('precious')
        with pytest.raises(FileExistsError, match=r'c\.tif exists: .*overwrite=True'):
            start(scene, more, plan)
        assert (tmp_path / 'c.tif').read_text() == 'precious'
        (tmp_path / 'c.tif').unlink()
        remake(scene, more, plan)
        assert all(path.exists() for path in more.paths)

    def test_replaced_on_request(self, scene: SceneDataset, tmp_path: Path) -> None:
        """Another threshold replaces files, and that has to be said."""
        plan = make_plan(scene)
        values = np.full((1, 64, 64), 0.9, np.float32)
        map_values(scene, values, Outputs(tmp_path / 'a.tif'), plan)
        other = Outputs(tmp_path / 'a.tif', threshold=0.1)
        with pytest.raises(FileExistsError, match='anew of the same probabilities'):
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
        outputs = Outputs(tmp_path / 'a.tif', overwrite=True)
        map_values(scene, values, outputs, plan)
        content = outputs.probability.read_bytes()
        outputs.probability.write_bytes(content[: len(content) // 2])
        with pytest.raises(RuntimeError, match=r'a\.tif is damaged: remove it'):
            remake(scene, outputs, plan)

    def test_another_shape(self, scene: SceneDataset, tmp_path: Path) -> None:
        """A copy of a map may have its tags, and not its pixels."""
        plan = make_plan(scene)
        values = np.full((1, 64, 64), 0.9, np.float32)
        outputs = Outputs(tmp_path / 'a.tif')
        map_values(scene, values, outputs, plan)
        assert outputs.has_probabilities(plan)
        with rasterio.open(outputs.probability) as src:
            profile, tags = src.profile | {'driver': 'GTiff', 'width': 32}, src.tags()
        with rasterio.open(outputs.probability, 'w', **profile) as file:
            file.update_tags(**tags)
        assert not outputs.has_probabilities(plan)

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

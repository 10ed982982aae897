# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from matplotlib import image
from rasterio.errors import RasterioIOError
from shapely.geometry import box

from tests.maps.helpers import make_scene, map_values
from tests.maps.test_district_areas import write_districts
from torchgeo_m2cd.datasets import SceneDataset
from torchgeo_m2cd.maps import Outputs, Run

VALUES = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(1, 64, 64)


@pytest.fixture
def scene(tmp_path: Path) -> SceneDataset:
    return make_scene(tmp_path / 'in')


@pytest.fixture
def outputs(scene: SceneDataset, tmp_path: Path) -> Outputs:
    """Outputs of all kinds, in several folders."""
    x, y = scene.transform.c, scene.transform.f
    boxes = {'Here': box(x, y - 640, x + 300, y)}
    return Outputs(
        tmp_path / 'a.tif',
        tmp_path / 'b' / 'classes.tif',
        tmp_path / 'c' / 'a.shp',
        tmp_path / 'd' / 'a.jpg',
        tmp_path / 'e' / 'a.json',
        write_districts(tmp_path / 'in' / 'd.gpkg', boxes),
        min_area=100.0,
    )


def list_files(folder: Path) -> set[Path]:
    return {
        path for path in folder.rglob('*') if 'in' not in path.parts and path.is_file()
    }


class TestMakeMap:
    def test_all_files(
        self, scene: SceneDataset, outputs: Outputs, tmp_path: Path
    ) -> None:
        map_values(scene, VALUES, outputs)
        assert list_files(tmp_path) == set(outputs.paths)
        assert len(outputs.paths) == 13
        assert outputs.quicklook is not None
        assert image.imread(outputs.quicklook).ndim == 3

    def test_failure(
        self,
        scene: SceneDataset,
        outputs: Outputs,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """If the last file of a map cannot be written, no file remains."""
        error = Mock(side_effect=OSError('No space left on device'))
        monkeypatch.setattr('torchgeo_m2cd.maps.products.make_item', error)
        with pytest.raises(OSError, match='No space left'):
            map_values(scene, VALUES, outputs)
        assert {path.suffix for path in list_files(tmp_path)} == {'.npy', '.json'}
        assert not outputs.summary.exists()

    @pytest.mark.parametrize('free', [2**20 - 1, 2**20])
    def test_full_disk(
        self,
        free: int,
        scene: SceneDataset,
        outputs: Outputs,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A full disk is an error, although GDAL does not report it."""
        error = Mock(
            side_effect=RasterioIOError('Write failed. See previous exception')
        )
        monkeypatch.setattr('torchgeo_m2cd.maps.products.write_cog', error)
        monkeypatch.setattr('shutil.disk_usage', lambda folder: Mock(free=free))
        match = (
            r"No space left on device: '.*a\.tif'" if free < 2**20 else 'Write failed'
        )
        with pytest.raises(OSError, match=match):
            map_values(scene, VALUES, outputs)

    def test_statistics_of_an_older_map(
        self, scene: SceneDataset, tmp_path: Path
    ) -> None:
        """QGIS and GDAL keep them in a file beside the map."""
        (tmp_path / 'a.tif.aux.xml').write_text('')
        map_values(scene, VALUES, Outputs(tmp_path / 'a.tif', overwrite=True))
        assert not (tmp_path / 'a.tif.aux.xml').exists()

    @pytest.mark.parametrize('progress', [False, True])
    def test_progress(
        self,
        progress: bool,
        scene: SceneDataset,
        outputs: Outputs,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        outputs = replace(outputs, polygons=None)
        map_values(scene, VALUES, outputs, run=Run(progress=progress))
        captured = capsys.readouterr()
        assert ('a.tif: 100%' in captured.out + captured.err) == progress
        assert ('blending' in captured.out + captured.err) == progress

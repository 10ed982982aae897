# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.maps.helpers import make_plan, make_scene
from torchgeo_m2cd.maps import Outputs, check_outputs


class TestOutputs:
    @pytest.mark.parametrize(
        ('files', 'match'),
        [
            (
                {'polygons': 'a.kmz'},
                r'one of the suffixes \.gpkg, \.geojson, .*parquet',
            ),
            ({'polygons': 'a'}, r"polygons is 'a': expected a file with one of"),
            ({'classes': 'a.png'}, r"classes is 'a.png': expected .* \.tif, \.tiff"),
            ({'probability': 'a'}, r"output is 'a': expected .* \.tif, \.tiff"),
            ({'quicklook': 'a.doc'}, r"quicklook is 'a.doc': .* \.png"),
            ({'stac': 'a.yaml'}, r"stac is 'a.yaml': expected .* \.json"),
            ({'polygons': 'map.json'}, r"polygons and summary are 'map\.json'"),
            ({'classes': 'map.tif'}, r"output and classes are 'map\.tif'"),
            ({'classes': 'map.tiff'}, r"style and classes_style are 'map\.qml'"),
        ],
    )
    def test_files_that_cannot_be_written(
        self, files: dict[str, str], match: str
    ) -> None:
        paths: dict[str, Any] = {name: Path(file) for name, file in files.items()}
        with pytest.raises(ValueError, match=match):
            Outputs(**{'probability': Path('map.tif'), **paths})

    def test_suffixes(self) -> None:
        """Suffixes in capitals, and all formats of pictures."""
        for suffix in ('png', 'JPG', 'pdf', 'svg', 'tif'):
            Outputs(Path('a.TIF'), Path('b.TIFF'), Path('c.GPKG'), Path(f'd.{suffix}'))

    def test_same(self) -> None:
        """The same file by another path, and a path where districts are expected."""
        with pytest.raises(ValueError, match='output and classes are'):
            Outputs(Path('x/a.tif'), Path('x/../x/a.tif'))
        with pytest.raises(
            TypeError, match=r"districts is 'd.gpkg': expected an object of Districts"
        ):
            Outputs(Path('a.tif'), districts='d.gpkg')  # type: ignore[arg-type]

    @pytest.mark.parametrize('min_area', [-1.0, float('nan')])
    def test_min_area(self, min_area: float) -> None:
        with pytest.raises(ValueError, match=r'min_area is .*: expected'):
            Outputs(Path('a.tif'), min_area=min_area)

    def test_digest(self, tmp_path: Path) -> None:
        """Equal numbers in another notation are the same products."""
        plan = make_plan(make_scene(tmp_path))
        digests = [
            Outputs(Path('a.tif'), threshold=threshold, min_area=min_area).digest(plan)
            for threshold, min_area in ((1, 1000), (1.0, 1000.0), (1, 999), (0.9, 1000))
        ]
        assert digests[0] == digests[1]
        assert len(set(digests)) == 3


class TestCheckOutputs:
    def test_taken(self, tmp_path: Path) -> None:
        """Outputs may not be inputs, also by another path, nor temporary files."""
        output = tmp_path / 'a.tif'
        taken = {str(tmp_path / 'a.json'): 'the list of scenes'}
        with pytest.raises(ValueError, match=r'a\.json is the list of scenes itself'):
            check_outputs([Outputs(output)], taken)
        (tmp_path / 'b').symlink_to(tmp_path)
        with pytest.raises(ValueError, match=r'a\.json is the list of scenes itself'):
            check_outputs([Outputs(tmp_path / 'b' / 'a.tif')], taken)
        classes = tmp_path / 'b' / 'a.tif.parts' / 'x' / 'classes.tif'
        with pytest.raises(ValueError, match=r'parts, which is removed in the end'):
            check_outputs([Outputs(output, classes)], {})

    def test_two_scenes(self, tmp_path: Path) -> None:
        """Names can be such that the files of two scenes are the same."""
        outputs = Outputs(tmp_path / '{name}.tif', tmp_path / '{name}_x.tif')
        check_outputs([outputs.named('a'), outputs.named('b')], {})
        match = r'two of the files to write are the same: .*a_x\.tif'
        with pytest.raises(ValueError, match=match):
            check_outputs([outputs.named('a'), outputs.named('a_x')], {})

    def test_kinds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only regular files are replaced, even with overwrite."""
        output = Outputs(tmp_path / 'a.tif', overwrite=True)
        check_outputs([output], {})
        output.probability.touch()
        check_outputs([output], {})
        output.probability.unlink()
        output.probability.symlink_to(tmp_path / 'missing.tif')
        with pytest.raises(ValueError, match=r'a\.tif is a link: expected a regular'):
            check_outputs([output], {})
        output.probability.unlink()
        output.probability.mkdir()
        with pytest.raises(IsADirectoryError, match=r'a\.tif is a folder'):
            check_outputs([output], {})
        output.probability.rmdir()
        values = (stat.S_IFCHR | 0o666, *[0] * 9)
        monkeypatch.setattr(Path, 'lstat', lambda path: os.stat_result(values))
        with pytest.raises(ValueError, match=r'a\.tif is a device or a pipe'):
            check_outputs([output], {})

    def test_early(self, tmp_path: Path) -> None:
        """Without a plan, files of a map, or of a killed run, may be the same map."""
        outputs = Outputs(tmp_path / 'a.tif')
        outputs.check_early()
        outputs.summary.touch()
        with pytest.raises(FileExistsError, match=r'a\.json exists'):
            outputs.check_early()
        outputs.parts.mkdir()
        outputs.check_early()

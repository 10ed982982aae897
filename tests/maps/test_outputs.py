# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import pytest

from tests.maps.helpers import make_plan, make_scene
from torchgeo_m2cd.maps import Outputs


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
        """The same numbers, written otherwise, are the same products."""
        plan = make_plan(make_scene(tmp_path))
        digests = [
            Outputs(Path('a.tif'), threshold=threshold, min_area=min_area).digest(plan)
            for threshold, min_area in ((1, 1000), (1.0, 1000.0), (1, 999), (0.9, 1000))
        ]
        assert digests[0] == digests[1]
        assert len(set(digests)) == 3

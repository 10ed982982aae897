# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from tests.maps.helpers import make_scene
from torchgeo_m2cd.maps import Mosaic, PatchRow
from torchgeo_m2cd.maps.row_writer import RowWriter
from torchgeo_m2cd.samplers import SceneSampler

SIZE, STRIDE = 32, 16


@pytest.fixture
def mosaic(tmp_path: Path) -> Mosaic:
    scene = make_scene(tmp_path / 'scene', (64, 96))
    (tmp_path / 'parts').mkdir()
    return Mosaic(
        SceneSampler(scene, (SIZE, SIZE), (STRIDE, STRIDE)), tmp_path / 'parts'
    )


@pytest.mark.parametrize('batch_size', [1, 2, 16])
def test_patches_of_an_image(mosaic: Mosaic, batch_size: int) -> None:
    """Patches that agree where they overlap blend to the image that they were cut from."""
    rng = np.random.default_rng(0)
    image = rng.random((2, 64, 96), np.float32)
    known = rng.random((64, 96)) > 0.1
    writer = RowWriter(mosaic.patch_row(number) for number in range(len(mosaic.tops)))
    for top in mosaic.tops:
        for first in range(0, len(mosaic.lefts), batch_size):
            places = [
                (slice(top, top + SIZE), slice(left, left + SIZE))
                for left in mosaic.lefts[first : first + batch_size]
            ]
            writer.add(
                np.stack([image[:, *place] for place in places]),
                np.stack([known[place] for place in places]),
            )
    writer.close()
    ((_, strip),) = mosaic.strips()
    np.testing.assert_allclose(strip, np.where(known, image, np.nan), rtol=1e-5)


def test_nothing_to_discard(mosaic: Mosaic) -> None:
    RowWriter([mosaic.patch_row(0)]).discard()
    mosaic.patch_row(0).discard()
    assert not list(mosaic.folder.iterdir())


def test_full_disk(mosaic: Mosaic, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = RowWriter([mosaic.patch_row(0)])
    patch, valid = (
        np.zeros((1, 1, SIZE, SIZE), np.float32),
        np.ones((1, SIZE, SIZE), bool),
    )
    writer.add(patch, valid)
    monkeypatch.setattr(PatchRow, 'write', Mock(side_effect=OSError(28, 'no space')))
    writer.add(patch, valid)
    with pytest.raises(OSError, match='no space'):
        writer.add(patch, valid)
    assert len(list(mosaic.folder.iterdir())) == 1
    writer.discard()
    assert not list(mosaic.folder.iterdir())

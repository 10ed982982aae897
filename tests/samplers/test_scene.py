# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch

from torchgeo_m2cd.datasets import SceneDataset, SyntheticFlood
from torchgeo_m2cd.samplers import PatchRowSampler, SceneSampler


@pytest.fixture(scope='module')
def dataset(tmp_path_factory: pytest.TempPathFactory) -> SceneDataset:
    """A scene of 160 x 160 pixels, which overlap in 140 x 140."""
    folder = tmp_path_factory.mktemp('scene')
    paths = SyntheticFlood().write_scene(folder, size=160, sar_crs='EPSG:32633')
    return SceneDataset(paths['optical'], paths['sar'])


@pytest.mark.parametrize(
    ('size', 'stride'),
    [
        ((64, 64), (32, 32)),
        ((64, 64), (64, 64)),
        ((64, 64), (16, 31)),
        ((32, 63), (16, 31)),
        ((140, 140), (140, 140)),
        ((141, 141), (7, 7)),
        ((256, 64), (2, 64)),
        ((400, 400), (200, 200)),
        ((1, 1), (1, 1)),
    ],
)
def test_covers_scene(
    size: tuple[int, int], stride: tuple[int, int], dataset: SceneDataset
) -> None:
    assert dataset.shape == (140, 140)
    sampler = SceneSampler(dataset, size, stride)
    assert len(list(sampler)) == len(sampler)
    count = torch.zeros(140, 140)
    x0, y0 = dataset.transform[2:6:3]
    places = []
    for x, y in sampler:
        column, row = (x.start - x0) / 10, (y0 - y.stop) / 10
        assert (column, row) == (round(column), round(row))  # On the grid
        assert ((x.stop - x.start) / 10, (y.stop - y.start) / 10) == (size[1], size[0])
        places.append((row, column))
        assert min(row, column) >= 0
        for start, length in ((row, size[0]), (column, size[1])):
            assert start + length <= 140 or (start == 0 and length > 140)
        count[int(row) : int(row) + size[0], int(column) : int(column) + size[1]] += 1
    assert count.min() >= 1
    assert places == sorted(set(places))


class TestPatchRowSampler:
    @pytest.mark.parametrize('batch_size', [1, 2, 64])
    def test_rows(self, batch_size: int, dataset: SceneDataset) -> None:
        """The patches of the rows that were asked for, and no batch spans two rows."""
        samplers = [
            SceneSampler(dataset, (64, 64), (48, 48)),
            SceneSampler(dataset, (64, 100), (64, 48)),
        ]
        patch_rows = [(0, 2), (1, 0), (1, 1)]
        sampler = PatchRowSampler(samplers, patch_rows, batch_size)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        for batch in batches:
            assert 1 <= len(batch) <= batch_size
            assert len({(scene, y.start) for scene, _, y in batch}) == 1
        columns = len(samplers[0].lefts)
        expected = [(0, *patch) for patch in list(samplers[0])[2 * columns :][:columns]]
        columns = len(samplers[1].lefts)
        expected += [(1, *patch) for patch in list(samplers[1])[: 2 * columns]]
        assert [patch for batch in batches for patch in batch] == expected

    def test_nothing(self, dataset: SceneDataset) -> None:
        sampler = PatchRowSampler([SceneSampler(dataset, (64, 64), (32, 32))], [], 2)
        assert list(sampler) == []
        assert len(sampler) == 0

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import zipfile
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from lightning.pytorch import Trainer

from tests.data.geotiff import write
from tests.data.server import serve
from torchgeo_m2cd.datasets import SARSource, SceneDataset
from torchgeo_m2cd.maps import MapPlan, plan_maps
from torchgeo_m2cd.samplers import SceneSampler
from torchgeo_m2cd.tasks import ChangeDetectionTask
from torchgeo_m2cd.transforms import Darkness, Inputs, Standardize

INPUTS = Inputs(Standardize([0], [1]), Standardize([-10], [5]))


def make_plan(
    folder: Path,
    scale: str = 'db',
    top_k: int = 2,
    optical: str = '',
    inputs: Inputs = INPUTS,
    compiled: bool = False,
) -> MapPlan:
    """Plan the map of a scene whose optical image is in an archive, or elsewhere."""
    file = write(folder / 'optical.tif', np.ones((1, 64, 64), np.float32))
    with zipfile.ZipFile(folder / 'optical.zip', 'w') as archive:
        archive.write(file, 'optical.tif')
    sar = write(folder / 'sar.tif', np.ones((1, 64, 64), np.float32))
    source = SARSource(sar, scale=scale)  # type: ignore[arg-type]
    optical = optical or f'/vsizip/{folder}/optical.zip/optical.tif'
    scene = SceneDataset(optical, source)
    task = ChangeDetectionTask(
        'm2cd', 'mit_b0', in_channels=1,
        model_args={'experts': {'stages': [4], 'top_k': top_k}},
    )  # fmt: skip
    for parameter in task.parameters():
        parameter.data.fill_(0.5)
    trainer = Mock(Trainer, lightning_module=task, precision='32-true')
    sampler = SceneSampler(scene, (32, 32), (16, 16))
    (plan,) = plan_maps(trainer, inputs, [sampler], 4, compiled)
    return plan


class TestMapPlan:
    def test_contents(self, tmp_path: Path) -> None:
        plan = make_plan(tmp_path)
        optical, sar = plan.files
        stats = [(tmp_path / name).stat() for name in ('optical.zip', 'sar.tif')]
        times = [[stat.st_size, stat.st_mtime_ns] for stat in stats]
        assert optical == [f'/vsizip/{tmp_path}/optical.zip/optical.tif', *times[0]]
        assert sar == [str(tmp_path / 'sar.tif'), *times[1]]
        assert plan.model['MODEL'] == 'ChangeDetectionTask, m2cd, mit_b0'
        assert plan.inputs == INPUTS.to_dict()
        assert (plan.shape, plan.size, plan.stride) == ([64, 64], [32, 32], [16, 16])

    def test_token(self, tmp_path: Path) -> None:
        """A URL with a new signature is the same file; it has no time."""
        with serve(tmp_path) as url:
            plan = make_plan(tmp_path, optical=f'{url}/optical.tif?sig=secret')
            assert plan.files[0] == [f'{url}/optical.tif']

    def test_water(self, tmp_path: Path) -> None:
        """Patches hold where water was before, if the inputs tell."""
        assert not make_plan(tmp_path).water
        inputs = Inputs(Darkness([1]), INPUTS.sar)
        assert make_plan(tmp_path, inputs=inputs).water

    def test_digest(self, tmp_path: Path) -> None:
        """Whatever changes the probabilities changes the digest."""
        plan = make_plan(tmp_path)
        digests = {plan.digest(), plan.digest(threshold=0.4)}
        digests |= {
            replace(plan, batch_size=5).digest(),
            replace(plan, version='0').digest(),
            replace(plan, precision='16').digest(),
            make_plan(tmp_path, compiled=True).digest(),
        }
        # The same weights, and another way to use them; the same files, read otherwise
        others = (make_plan(tmp_path, top_k=1), make_plan(tmp_path, scale='other'))
        for other in others:
            assert other.model == plan.model
            digests.add(replace(other, files=plan.files).digest())
        assert len(digests) == 8

    @pytest.mark.parametrize('more', [{}, {'threshold': 0.5}])
    def test_text(self, tmp_path: Path, more: dict[str, float]) -> None:
        """The same plan is always the same text."""
        plan = make_plan(tmp_path)
        shuffled = dict(reversed(list(plan.inputs.items())))
        assert replace(plan, inputs=shuffled).digest(**more) == plan.digest(**more)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Maps of given values, without a model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.transform import Affine

from tests.data.geotiff import GRID, write
from torchgeo_m2cd.datasets import SceneDataset
from torchgeo_m2cd.maps import MapPlan, Outputs, Parts, Run, make_map, read_summary
from torchgeo_m2cd.samplers import SceneSampler
from torchgeo_m2cd.transforms import Inputs, LeftOut

# 180 degrees is 1.3 km to the east
FIJI = Affine(10, 0, 818_500, 0, -10, 8_140_000)


def make_scene(
    folder: Path,
    shape: tuple[int, int] = (64, 64),
    transform: Affine = GRID,
    crs: str = 'EPSG:32633',
    names: Sequence[str] = ('optical.tif', 'sar.tif'),
) -> SceneDataset:
    """Make a scene with data everywhere."""
    folder.mkdir(parents=True, exist_ok=True)
    optical, sar = (
        write(folder / name, np.ones((1, *shape), np.float32), transform, crs)
        for name in names
    )
    return SceneDataset(optical, sar)


def make_plan(scene: SceneDataset, water: bool = False, **changes: Any) -> MapPlan:
    """Make a plan of a scene that is one patch."""
    arguments: dict[str, Any] = {
        'version': '1',
        'arguments': {},
        'model': {'MODEL': 'Nothing', 'WEIGHTS_SHA256': '0123456789abcdef'},
        'inputs': Inputs(LeftOut(), LeftOut()).to_dict(),  # The rule needs others
        'precision': '32-true',
        'compiled': False,
        'files': [],
        'sources': [],
        'shape': list(scene.shape),
        'transform': list(scene.transform)[:6],
        'crs': scene.crs.to_string(),
        'size': list(scene.shape),
        'stride': list(scene.shape),
        'batch_size': 1,
        'water': water,
    }
    return MapPlan(**(arguments | changes))


def map_values(
    scene: SceneDataset,
    values: npt.NDArray[np.float32],
    outputs: Outputs,
    plan: MapPlan | None = None,
    run: Run | None = None,
) -> dict[str, Any]:
    """Make the map of values of shape (channels, H, W); return its summary."""
    plan = plan or make_plan(scene)
    parts = Parts(outputs, plan, SceneSampler(scene, scene.shape, scene.shape))
    parts.start()
    np.save(parts.folder / '000000.npy', values.transpose(2, 0, 1))
    try:
        make_map(parts, run or Run())
    finally:
        parts.release()
    return read_summary(outputs)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import math
from pathlib import Path

import numpy as np
import pytest

from tests.data.geotiff import write
from torchgeo_m2cd.datasets import SceneDataset, SyntheticFlood
from torchgeo_m2cd.maps import plot_quicklook


@pytest.mark.parametrize('bands', [1, 2])
def test_plot_quicklook(bands: int, tmp_path: Path) -> None:
    paths = SyntheticFlood().write_scene(tmp_path, size=96, sar_crs='EPSG:32632')
    dataset = SceneDataset(paths['optical'], paths['sar'])
    probability = np.full((bands, *dataset.shape), 0.25, np.float32)
    path = write(tmp_path / 'p.tif', probability, dataset.transform, nodata=math.nan)
    figure = plot_quicklook(dataset, path, max_size=40)
    images = [np.ma.asarray(axes.images[0].get_array()) for axes in figure.axes[:3]]
    sample = dataset.overview(40)
    assert max(images[0].shape[:2]) <= 40
    assert images[0].shape[:2] == images[1].shape == images[2].shape
    # White without data
    invalid = ~sample['valid'][0].numpy()
    assert invalid.any()
    assert (images[0][invalid] == 1).all()
    assert (images[1][invalid] == 1).all()
    assert images[2].max() == (0.25 if bands == 1 else 0.75)

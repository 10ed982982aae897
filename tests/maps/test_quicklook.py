# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from tests.data.geotiff import write
from torchgeo_m2cd.datasets import SceneDataset, SyntheticFlood
from torchgeo_m2cd.maps import plot_quicklook
from torchgeo_m2cd.maps.styles import color_classes, name_classes


@pytest.mark.parametrize('count', [2, 3])
def test_plot_quicklook(count: int, tmp_path: Path) -> None:
    paths = SyntheticFlood().write_scene(tmp_path, size=96, sar_crs='EPSG:32632')
    dataset = SceneDataset(paths['optical'], paths['sar'])
    classes = np.zeros((1, *dataset.shape), np.uint8)
    classes[:, :20], classes[:, 20:40] = 1, count - 1
    path = write(tmp_path / 'c.tif', classes, dataset.transform, nodata=255)
    labels = name_classes(1, water=count == 3)
    figure = plot_quicklook(dataset, path, labels, 'flooded 1 km²', max_size=40)
    images = [np.ma.asarray(axes.images[0].get_array()) for axes in figure.axes]
    sample = dataset.overview(40)
    assert max(images[0].shape[:2]) <= 40
    assert images[0].shape[:2] == images[1].shape == images[2].shape
    # White without data
    invalid = ~sample['valid'][0].numpy()
    assert invalid.any()
    assert (images[0][invalid] == 1).all()
    assert (images[1][invalid] == 1).all()
    # The classes over SAR, in the colours of the style
    mapped = figure.axes[2].images[1]
    shown = mapped.to_rgba(np.ma.asarray(mapped.get_array()))
    colors = color_classes(labels)
    np.testing.assert_allclose(shown[0, 0], to_rgba(colors[1]))
    np.testing.assert_allclose(
        shown[30 * len(shown) // dataset.shape[0], 0], to_rgba(colors[count - 1])
    )
    assert shown[-1, 0, 3] == 0
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == list(labels.values())[1:]
    assert figure.get_suptitle() == 'flooded 1 km²'

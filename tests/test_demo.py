# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from torchgeo_m2cd.demo import main


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:The .*dataloader.* does not have many workers')
def test_main(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, output = tmp_path / 'here', tmp_path / 'new' / 'demo'
    here.mkdir()
    monkeypatch.chdir(here)
    main(
        [
            *('--output', str(output), '--size', '128'),
            *('--trainer.max_epochs', '1', '--trainer.accelerator', 'cpu'),
            *('--data.batch_size', '2'),
            *('--data.length', '4', '--data.eval_length', '2', '--data.size', '64'),
        ]
    )

    change, classes = output / 'change.tif', output / 'classes.tif'
    with (
        rasterio.open(output / 'scene' / 'optical.tif') as optical,
        rasterio.open(output / 'scene' / 'sar.tif') as sar,
        rasterio.open(change) as src,
        rasterio.open(classes) as mask_src,
    ):
        for dst in (src, mask_src):
            assert dst.count == 1
            assert dst.crs == optical.crs == 'EPSG:32633'
            assert dst.res == optical.res == (10, 10)
            # On the grid of the optical image, where the images overlap
            column = (dst.bounds.left - optical.bounds.left) / 10
            row = (optical.bounds.top - dst.bounds.top) / 10
            assert (column, row) == (round(column), round(row))
            overlap = rasterio.coords.BoundingBox(
                max(optical.bounds.left, sar.bounds.left),
                max(optical.bounds.bottom, sar.bounds.bottom),
                min(optical.bounds.right, sar.bounds.right),
                min(optical.bounds.top, sar.bounds.top),
            )
            assert dst.bounds == pytest.approx(overlap)
        assert np.isnan(src.nodata)
        assert mask_src.nodata == 255
        probability, mask = src.read(1), mask_src.read(1)
    valid = np.isfinite(probability)
    assert valid.mean() > 0.9
    assert probability[valid].min() >= 0
    assert probability[valid].max() <= 1
    assert np.array_equal(mask[valid], probability[valid] >= 0.5)
    assert (mask[~valid] == 255).all()

    with Image.open(output / 'demo.png') as figure:
        assert min(figure.size) > 200

    out = capsys.readouterr().out
    for command in ('fit', 'test', 'predict'):
        assert f'$ torchgeo {command} --config' in out
    pattern = (
        r'IoU of the flood: (0\.\d\d|1\.00|nan) on unseen chips, (0\.\d\d|1\.00) on'
    )
    assert re.search(pattern, out)
    # The files that it prints exist, and it wrote no others
    for path in (change, classes, output / 'demo.png', output / 'scene' / 'sar.tif'):
        assert str(path) in out
        assert path.is_file()
    checkpoint = re.search(r'Checkpoint: +(.*\.ckpt)', out)
    assert checkpoint is not None
    assert Path(checkpoint[1]).is_file()
    assert Path(checkpoint[1]).is_relative_to(output)
    assert list(here.iterdir()) == []

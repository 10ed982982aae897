# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pytest

from tests.data.geotiff import write
from torchgeo_m2cd.datamodules.statistics import measure_statistics
from torchgeo_m2cd.datasets import SceneDataset
from torchgeo_m2cd.transforms import Standardize


class TestMeasureStatistics:
    def make(
        self, folder: Path, optical: float = 2000, spread: float = 3
    ) -> SceneDataset:
        """A scene whose first third has no data in any optical band."""
        rng = np.random.default_rng(0)
        image = rng.normal(optical, 300, (2, 150, 150))
        image[1] += 1000
        image[:, :50] = 0
        image[0, 50:60] = 0
        sar = rng.normal(-12, 3, (1, 150, 150))
        sar[:, :50] = -25
        mask = np.zeros((150, 150), np.uint8)
        mask[60:90] = 1
        return SceneDataset(
            write(folder / 'o.tif', image.astype(np.float32)),
            write(
                folder / 's.tif', (sar if spread else 0 * sar - 9).astype(np.float32)
            ),
            write(folder / 'm.tif', mask),
        )

    def test_zeros(self, tmp_path: Path) -> None:
        """They are no data where all optical bands have them, as for a model."""
        inputs = measure_statistics(self.make(tmp_path), (32, 32))
        optical, sar = inputs.optical, inputs.sar
        assert isinstance(optical, Standardize)
        assert isinstance(sar, Standardize)
        assert optical.mean[0] == pytest.approx(1800, rel=0.1)
        assert optical.mean[1] == pytest.approx(3000, rel=0.02)
        assert optical.std[1] == pytest.approx(300, rel=0.1)
        assert sar.mean == pytest.approx([-12], abs=0.6)
        assert sar.std == pytest.approx([3], rel=0.1)

    def test_constant(self, tmp_path: Path) -> None:
        match = r"band 1 of SAR file .*s\.tif' is -9 wherever .* see sar\.bands"
        with pytest.raises(ValueError, match=match):
            measure_statistics(self.make(tmp_path, spread=0), (32, 32))

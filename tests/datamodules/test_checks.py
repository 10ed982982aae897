# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path

import numpy as np
import pytest
import torch
from rasterio.transform import from_origin

from tests.data.geotiff import NORTH, WEST, write
from torchgeo_m2cd.datamodules.checks import check_mask, check_values, probe
from torchgeo_m2cd.datasets import SARSource, SceneDataset
from torchgeo_m2cd.datasets.source import SARScale
from torchgeo_m2cd.transforms import Inputs, Standardize


class TestCheckValues:
    @pytest.fixture
    def real(self, tmp_path: Path) -> tuple[Path, Path]:
        """A scene with plausible values."""
        rng = np.random.default_rng(0)
        image = rng.normal(2000, 300, (3, 100, 120)).astype(np.uint16)
        sar = rng.normal(-12, 4, (1, 100, 120)).astype(np.float32)
        return write(tmp_path / 'o.tif', image), write(tmp_path / 's.tif', sar)

    MEAN = torch.tensor([[2000.0] * 3, [-12.0] * 3])

    def inputs(self, optical_std: float = 300.0, sar_mean: float = -12.0) -> Inputs:
        return Inputs(
            Standardize([2000.0] * 3, [optical_std] * 3), Standardize([sar_mean], [4.0])
        )

    def test_probe(self, real: tuple[Path, Path]) -> None:
        pixels = probe(SceneDataset(*real), 4, 16)
        assert pixels.shape == (2, 3, 16 * 256)
        mean = pixels.mean(-1)
        torch.testing.assert_close(mean, self.MEAN, rtol=0.02, atol=0)

    def test_good(self, real: tuple[Path, Path]) -> None:
        dataset = SceneDataset(*real)
        assert check_values(dataset) == 36 * 32 * 32
        seen: list[torch.Tensor] = []
        assert check_values(dataset, seen.append) == 36 * 32 * 32
        assert torch.equal(seen[0], probe(dataset))
        assert check_values(dataset, self.inputs().check) == 36 * 32 * 32

    def test_swapped(self, real: tuple[Path, Path]) -> None:
        with pytest.raises(ValueError, match=r's\.tif.* are optical and sar swapped'):
            check_values(SceneDataset(*real[::-1]))
        # A linear scale is not negative
        with pytest.raises(ValueError, match=r'median of 33\.01 dB .* swapped'):
            check_values(SceneDataset(real[0], SARSource(real[0], scale='power')))

    def test_linear_that_was_said_to_be_decibels(
        self, real: tuple[Path, Path], tmp_path: Path
    ) -> None:
        path = write(tmp_path / 'power.tif', np.full((100, 120), 0.06, np.float32))
        with pytest.raises(ValueError, match=r"power\.tif' has mostly positive values"):
            check_values(SceneDataset(real[0], path))
        scales: tuple[SARScale, ...] = ('power', 'other')
        for scale in scales:
            dataset = SceneDataset(real[0], SARSource(path, scale=scale))
            assert check_values(dataset) > 0

    @pytest.mark.parametrize(
        ('changed', 'match'),
        [
            ({'optical_std': 30_000.0}, 'optical band 1 has the median'),
            ({'sar_mean': 488.0}, 'SAR band 1 has the median'),
        ],
    )
    def test_other_units(
        self, changed: dict[str, float], match: str, real: tuple[Path, Path]
    ) -> None:
        match = rf"o\.tif' and SAR file .*s\.tif' does not fit the model: {match}"
        with pytest.raises(ValueError, match=match):
            check_values(SceneDataset(*real), self.inputs(**changed).check)

    def test_no_data(self, real: tuple[Path, Path], tmp_path: Path) -> None:
        path = write(tmp_path / 'nan.tif', np.full((100, 120), np.nan, np.float32))
        asked: list[torch.Tensor] = []
        assert check_values(SceneDataset(real[0], path), asked.append) == 0
        assert asked == []


class TestCheckMask:
    def test_elsewhere(self, tmp_path: Path) -> None:
        """A mask that has nothing to say of the scene."""
        optical = write(tmp_path / 'o.tif', np.ones((3, 100, 120)))
        sar = write(tmp_path / 's.tif', np.ones((100, 120)))
        values = np.zeros((50, 50), np.uint8)
        values[20:30] = 1
        inside = write(tmp_path / 'in.tif', values)
        check_mask(SceneDataset(optical, sar, inside), 2)
        there = from_origin(WEST + 5000, NORTH, 10, 10)
        outside = write(tmp_path / 'out.tif', values, there)
        with pytest.raises(
            ValueError,
            match=r"out\.tif' has no label in the scene, .* west 500000, .*32633",
        ):
            check_mask(SceneDataset(optical, sar, outside), 2)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import hashlib
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import torch
from torch.utils.data import DataLoader

from torchgeo_m2cd.datasets import SyntheticFlood

# Sample 3 of the training split, which must be the same on all machines
MASK_SHA256 = '057f5516d4b8f227c34f6e6121f3d4e918e188eb92dcf880b1b733040ddcdf9a'
OPTICAL_SHA256 = 'f82f0ab0b37a3327506d043797c82373a950c767d72e1d229d8c821f0736f2ee'
SAR_MEANS = [
    -12.2499,
    -12.2983,
    -13.5128,
    -12.1055,
    -11.2976,
    -10.803,
    -11.8407,
    -12.3533,
    -11.5574,
    -9.2463,
    -11.2711,
    -12.4808,
    -11.5186,
    -11.2205,
    -14.4477,
    -13.3726,
]

DIGEST = """
import hashlib
from torchgeo_m2cd.datasets import SyntheticFlood
sample = SyntheticFlood(size=64, seed=5)[7]
print(hashlib.sha256(sample['image'].numpy().tobytes()).hexdigest())
"""


def power(decibel: torch.Tensor) -> torch.Tensor:
    return 10 ** (decibel.double() / 10)


@pytest.fixture(scope='module')
def samples() -> list[dict[str, torch.Tensor]]:
    dataset = SyntheticFlood(length=50)
    return [dataset[i] for i in range(50)]


class TestSyntheticFlood:
    def test_getitem(self) -> None:
        sample = SyntheticFlood(size=96, sar_bands=('VV', 'VH'))[0]
        assert sample['image'].shape == (2, 4, 96, 96)
        assert sample['image'].dtype == torch.float32
        assert sample['mask'].shape == (1, 96, 96)
        assert sample['mask'].dtype == torch.int64
        assert set(sample['mask'].unique().tolist()) <= {0, 1}
        optical, sar = sample['image']
        assert torch.equal(optical, optical.round())
        assert 1 <= optical.min() <= optical.max() <= 10_000
        assert -60 <= sar.min() <= sar.max() < 20
        # VV, VH, VV, VH
        assert torch.equal(sar[:2], sar[2:])
        assert sar[1].mean() < sar[0].mean()

    def test_bands(self) -> None:
        full = SyntheticFlood(size=64, sar_bands=('VV', 'VH'))[1]['image']
        part = SyntheticFlood(size=64, bands=('B08', 'B02'), sar_bands=('VH',))[1]
        assert torch.equal(part['image'][0], full[0, [3, 0]])
        assert torch.equal(part['image'][1], full[1, [1, 1]])
        # VV does not depend on whether VH is simulated
        alone = SyntheticFlood(size=64)[1]['image']
        assert torch.equal(alone[1, 0], full[1, 0])

    def test_transforms(self) -> None:
        new = torch.zeros(1)
        dataset = SyntheticFlood(size=32, transforms=lambda sample: {'new': new})
        assert dataset[0] == {'new': new}

    def test_len(self) -> None:
        dataset = SyntheticFlood(size=32, length=3)
        assert len(dataset) == 3
        # Iteration ends
        assert len([*iter(dataset)]) == 3
        for index in (-1, 3):
            with pytest.raises(IndexError, match=r'not in \[0, 3\)'):
                dataset[index]

    def test_independent(self) -> None:
        images = [
            SyntheticFlood(split, size=32, seed=seed)[index]['image']
            for split in ('train', 'val', 'test')
            for seed in (0, 1)
            for index in (0, 1)
        ]
        for i, image in enumerate(images):
            assert not any(torch.equal(image, other) for other in images[:i])

    @pytest.mark.slow
    def test_deterministic(self) -> None:
        dataset = SyntheticFlood(size=64, length=8, seed=5)
        expected = [dataset[i] for i in range(8)]
        for workers in (0, 2):
            loader = DataLoader(dataset, batch_size=2, num_workers=workers)
            images = torch.cat([batch['image'] for batch in loader])
            masks = torch.cat([batch['mask'] for batch in loader])
            for i, sample in enumerate(expected):
                assert torch.equal(images[i], sample['image'])
                assert torch.equal(masks[i], sample['mask'])

        result = subprocess.run(
            [sys.executable, '-c', DIGEST], capture_output=True, text=True, check=True
        )
        digest = hashlib.sha256(expected[7]['image'].numpy().tobytes()).hexdigest()
        assert result.stdout.strip() == digest

    def test_same_on_all_machines(self) -> None:
        sample = SyntheticFlood(size=128)[3]
        optical, sar = sample['image']
        mask = sample['mask'].numpy().astype(np.uint8)
        assert hashlib.sha256(mask.tobytes()).hexdigest() == MASK_SHA256
        digits = optical.numpy().astype('<u2')
        assert hashlib.sha256(digits.tobytes()).hexdigest() == OPTICAL_SHA256
        means = torch.nn.functional.avg_pool2d(sar[:1], 32).flatten()
        torch.testing.assert_close(means, torch.tensor(SAR_MEANS), atol=1e-3, rtol=0)

    @pytest.mark.parametrize('looks', [1, 4])
    def test_speckle(self, looks: int) -> None:
        """Speckle has the moments of a Gamma distribution of shape L and mean 1."""
        # Many looks have practically no speckle
        clean = SyntheticFlood(size=512, looks=100_000_000)[0]['image'][1, 0]
        speckled = SyntheticFlood(size=512, looks=looks)[0]['image'][1, 0]
        ratio = power(speckled) / power(clean)
        count = ratio.numel()
        deviation = 1 / math.sqrt(looks)
        assert abs(ratio.mean() - 1) < 5 * deviation / math.sqrt(count)
        assert ratio.var().item() == pytest.approx(1 / looks, rel=0.03)
        skewness = ((ratio - 1) ** 3).mean() / ratio.var() ** 1.5
        assert skewness.item() == pytest.approx(2 / math.sqrt(looks), rel=0.1)
        # No correlation between neighbours
        products = (ratio[:, 1:] - 1) * (ratio[:, :-1] - 1)
        assert abs(products.mean()) < 5 / looks / math.sqrt(count)

    def test_optical_is_before_the_flood(
        self, samples: list[dict[str, torch.Tensor]]
    ) -> None:
        water = torch.stack([s['image'][0, 1] > s['image'][0, 3] for s in samples])
        mask = torch.stack([s['mask'][0] for s in samples]) == 1
        # Almost none: the point spread of the instrument mixes pixels at the banks
        assert water[mask].float().mean() < 0.01
        assert water[~mask].float().mean() > 0.02

    def test_difficulty(self, samples: list[dict[str, torch.Tensor]]) -> None:
        sar = torch.stack([sample['image'][1, 0] for sample in samples])
        mask = torch.stack([sample['mask'][0] for sample in samples]) == 1
        fractions = mask.float().mean((1, 2))
        assert 0.1 < fractions.mean() < 0.35
        assert 0 < (fractions == 0).sum() < 15
        ious = [
            ((sar < t) & mask).sum() / ((sar < t) | mask).sum() for t in range(-26, -5)
        ]
        # SAR is useful, but a threshold does not solve the task
        assert 0.25 < max(ious) < 0.5

    def test_plot(self) -> None:
        dataset = SyntheticFlood(size=32)
        dataset.plot(dataset[0], suptitle='Test')
        plt.close()

    @pytest.mark.parametrize(
        ('kwargs', 'match'),
        [
            ({'split': 'valid'}, "unknown split 'valid'.* did you mean 'val'"),
            ({'bands': ('B2',)}, "unknown bands 'B2'"),
            ({'bands': ()}, r'bands is \(\): expected at least 1 item'),
            ({'sar_bands': ('HH',)}, "unknown sar_bands 'HH'"),
            ({'length': 0}, 'length is 0: expected at least 1'),
            ({'size': 31}, 'size is 31: expected at least 32'),
            ({'seed': -1}, 'seed is -1: expected at least 0'),
            ({'looks': 0}, 'looks is 0: expected at least 1'),
        ],
    )
    def test_invalid(self, kwargs: dict[str, object], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            SyntheticFlood(**kwargs)  # type: ignore[arg-type]


class TestWriteScene:
    def test_files(self, tmp_path: Path) -> None:
        dataset = SyntheticFlood(sar_bands=('VV', 'VH'))
        folder = tmp_path / 'new' / 'scene'
        paths = dataset.write_scene(folder, size=128)
        assert sorted(folder.iterdir()) == sorted(paths.values())

        with rasterio.open(paths['optical']) as src:
            optical, grid = src.read(), src.transform
            assert src.crs == 'EPSG:32633'
            assert src.res == (10, 10)
            assert src.dtypes == ('uint16',) * 4
            assert src.nodata == 0
            assert src.descriptions == ('B02', 'B03', 'B04', 'B08')
            bounds = src.bounds
        assert optical.shape == (4, 128, 128)
        assert optical.min() > 0
        with rasterio.open(paths['mask']) as src:
            mask = src.read()
            assert src.transform == grid
            assert src.nodata == 255
            assert src.dtypes == ('uint8',)
        assert mask.shape == (1, 128, 128)
        assert set(np.unique(mask)) == {0, 1}
        with rasterio.open(paths['sar']) as src:
            sar = src.read()
            assert src.res == (20, 20)
            assert math.isnan(src.nodata)
            assert src.descriptions == ('VV', 'VH')
            assert src.bounds == rasterio.coords.BoundingBox(
                bounds.left + 160, bounds.bottom - 160, bounds.right + 160,
                bounds.top - 160,
            )  # fmt: skip
        assert sar.shape == (2, 64, 64)
        assert np.isfinite(sar).all()

    @pytest.mark.parametrize('index', [0, 3])
    def test_georeference(self, index: int, tmp_path: Path) -> None:
        """Without speckle, SAR values change most at the shores in the mask."""
        dataset = SyntheticFlood(looks=100_000_000)
        paths = dataset.write_scene(tmp_path, 256, index, sar_resolution=10)
        with rasterio.open(paths['mask']) as src:
            mask = src.read(1)[32:, 32:].astype(float)
        with rasterio.open(paths['sar']) as src:
            sar = src.read(1)[:-32, :-32]

        def edges(image: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
            here = image[:-1, :-1].astype(np.float64)
            return np.abs(image[1:, :-1] - here) + np.abs(image[:-1, 1:] - here)

        shore = edges(mask)[8:-8, 8:-8] > 0
        contrast = {
            shift: np.roll(edges(sar), shift, (0, 1))[8:-8, 8:-8][shore].mean()
            for shift in np.ndindex(7, 7)
            for shift in [(shift[0] - 3, shift[1] - 3)]
        }
        assert max(contrast, key=lambda shift: contrast[shift]) == (0, 0)

    @pytest.mark.parametrize('crs', ['EPSG:32632', 'EPSG:4326'])
    def test_sar_crs(self, crs: str, tmp_path: Path) -> None:
        paths = SyntheticFlood().write_scene(tmp_path, size=128, sar_crs=crs)
        with rasterio.open(paths['sar']) as src:
            sar = src.read(1)
            assert src.crs == crs
            # The corners of the rotated rectangle are NaN; the rotation may be very small
            assert 0.7 < np.isfinite(sar).mean() <= 1
            metres = 111_320 if crs == 'EPSG:4326' else 1
            assert src.res[0] * metres == pytest.approx(20)

    def test_overwrite(self, tmp_path: Path) -> None:
        dataset = SyntheticFlood()
        paths = dataset.write_scene(tmp_path, size=64, index=0)
        before = paths['mask'].read_bytes()
        with pytest.raises(FileExistsError, match=r'optical\.tif exists'):
            dataset.write_scene(tmp_path, size=64, index=1)
        assert paths['mask'].read_bytes() == before
        dataset.write_scene(tmp_path, size=64, index=1, overwrite=True)
        assert paths['mask'].read_bytes() != before

    def test_nothing_half_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(self: object, *args: object) -> None:
            raise OSError('disk full')

        monkeypatch.setattr('pathlib.Path.replace', fail)
        with pytest.raises(OSError, match='disk full'):
            SyntheticFlood().write_scene(tmp_path, size=64)
        assert not list(tmp_path.iterdir())

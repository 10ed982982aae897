# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from tests.data.cau_flood.data import write
from tests.data.chips.data import SIZE, arrays, make_chips
from torchgeo_m2cd.datasets import ChipFolder, MaskSource, SARSource, Source

MASK = MaskSource('{split}/label/*', classes={0: 0, 255: 1})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_chips(tmp_path)
    return tmp_path


class TestChipFolder:
    def test_sample(self, root: Path) -> None:
        dataset = ChipFolder(root, 'val', mask=MASK)
        assert len(dataset) == 2
        assert dataset.decibels == 1
        assert dataset.bands == ('1', '2', '3', '4')
        assert dataset.band_names == ([''] * 4, [''] * 2)
        sample = dataset[1]
        optical, sar, mask = map(torch.from_numpy, arrays(5))
        assert torch.equal(sample['image'][0], optical.float())
        assert torch.equal(sample['image'][1], sar.repeat(2, 1, 1))
        assert torch.equal(sample['mask'], (mask == 255).long())
        assert sample['valid'].all()

    def test_settings(self, root: Path) -> None:
        """Sources say how to read files, with the default patterns if they have none."""
        dataset = ChipFolder(
            root,
            optical=Source(bands=[4, 2], gain=0.1),
            sar=SARSource(bands=['VV', 'VH']),
            mask=MASK,
            # Of 4 chips, each is a run
            splits={'val': ['1', '5']},
        )
        assert [chip.name for chip in dataset.files] == ['2', '3']
        optical, sar, _ = arrays(2)
        image = dataset[0]['image'].numpy()
        np.testing.assert_allclose(image[0], optical[[3, 1]] / 10, rtol=1e-6)
        np.testing.assert_array_equal(image[1], sar)
        assert dataset.band_names == (['', ''], ['VV', 'VH'])

    def test_no_masks(self, root: Path) -> None:
        assert set(ChipFolder(root, mask=None)[0]) == {'image', 'index', 'valid'}

    def test_no_data(self, root: Path) -> None:
        """Where one of the images has no data, nothing counts."""
        optical, sar, _ = arrays(0)
        optical[:, 0, 5:7] = 0
        sar[0, 0, :5] = np.nan
        write(root / 'train/A/0.tif', optical)
        write(root / 'train/B/0.tif', sar)
        sample = ChipFolder(root, mask=MASK)[0]
        assert not sample['valid'][0, 0, :7].any()
        assert sample['valid'].sum() == SIZE**2 - 7
        assert torch.equal(sample['mask'] == 255, ~sample['valid'])
        assert sample['image'].isfinite().all()

    def test_transforms(self, root: Path) -> None:
        dataset = ChipFolder(root, mask=MASK, transforms=lambda s: {'n': s['mask'][0]})
        assert list(dataset[0]) == ['n']

    @pytest.mark.parametrize(
        ('bands', 'shown'),
        [
            (None, ('1', '2', '3')),
            ([2], ('2', '2', '2')),
            ([1, 2], ('1', '2', '2')),
            (['B08', 'B02', 'B03', 'B04'], ('B04', 'B03', 'B02')),
        ],
    )
    def test_plot(self, root: Path, bands: Any, shown: tuple[str, ...]) -> None:
        dataset = ChipFolder(root, optical=Source(bands=bands), mask=MASK)
        assert dataset.rgb_bands == shown
        assert len(dataset.plot(dataset[0]).axes) == 3
        plt.close()

    def test_table(self, root: Path) -> None:
        rows = [f'{s}/A/{n}.tif,{s}/B/{n}.tif,{s}/label/{n}.png,{s}' for s, n in
                (('train', 0), ('val', 4))]  # fmt: skip
        (root / 'chips.csv').write_text('\n'.join(['optical,sar,mask,split', *rows]))
        optical = Source(bands=[2])
        dataset = ChipFolder(root, 'val', optical, mask=MASK, table='chips.csv')
        (chip,) = dataset.files
        assert chip.name == '4'
        assert torch.equal(
            dataset[0]['image'][0, 0], torch.from_numpy(arrays(4)[0][1]).float()
        )
        match = r"got table, and optical 'A/\*\.tif': expected one of them"
        with pytest.raises(ValueError, match=match):
            ChipFolder(root, optical='A/*.tif', mask=MASK, table='chips.csv')

    @pytest.mark.parametrize(
        ('folder', 'shape'),
        [('A', (4, 16, 32)), ('B', (2, 32, 30)), ('label', (1, 9, 9))],
    )
    def test_sizes(self, root: Path, folder: str, shape: tuple[int, ...]) -> None:
        suffix = 'png' if folder == 'label' else 'tif'
        path = root / f'train/{folder}/1.{suffix}'
        write(path, np.zeros(shape, np.uint8 if folder == 'label' else np.float32))
        dataset = ChipFolder(root, mask=MASK)
        match = (
            rf"{folder}/1\.{suffix}' has {shape[1]} x {shape[2]} pixels.*: expected the "
            r"same size, and 32 x 32 as '.*A/0\.tif' has"
        )
        with pytest.raises(ValueError, match=match):
            dataset[1]

    def test_size_of_other_chips(self, root: Path) -> None:
        make_chips(root, {'train': 1}, size=16)
        match = (
            r"A/1\.tif' has 32 x 32 .*, '.*B/1.tif' has 32 x 32 pixels: .* 16 x 16 as"
        )
        with pytest.raises(ValueError, match=match):
            ChipFolder(root, mask=None)[1]

    @pytest.mark.parametrize(
        ('kind', 'source', 'message'),
        [
            ('optical', Source(date='2024-01-01'), "optical.date is '2024-01-01': exp"),
            (
                'sar',
                SARSource(trim=3),
                'sar.trim is 3: expected none, it is for scenes',
            ),
            ('mask', MaskSource(attribute='id'), 'mask.attribute'),
        ],
    )
    def test_settings_of_scenes(
        self, root: Path, kind: str, source: Source, message: str
    ) -> None:
        arguments: dict[str, Any] = {kind: source}
        with pytest.raises(ValueError, match=message):
            ChipFolder(root, **arguments)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

from collections.abc import Iterator
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from torch import Tensor
from torchgeo.datasets import RGBBandsMissingError
from torchgeo.datasets.utils import Sample

from torchgeo_m2cd.datasets import OpticalSARDataset, stack_pair

H, W = 6, 8


class TestStackPair:
    def test_equal(self) -> None:
        optical, sar = torch.rand(2, H, W), torch.rand(2, H, W)
        assert torch.equal(stack_pair(optical, sar), torch.stack([optical, sar]))

    def test_one_sar_band(self) -> None:
        optical, sar = torch.rand(3, H, W), torch.rand(1, H, W)
        pair = stack_pair(optical, sar)
        assert pair.shape == (2, 3, H, W)
        assert torch.equal(pair[0], optical)
        assert torch.equal(pair[1], torch.cat([sar, sar, sar]))

    def test_two_sar_bands(self) -> None:
        optical, sar = torch.rand(3, H, W), torch.rand(2, H, W)
        assert torch.equal(stack_pair(optical, sar)[1], sar[[0, 1, 0]])

    def test_more_sar_bands(self) -> None:
        optical, sar = torch.rand(2, H, W), torch.rand(5, H, W)
        pair = stack_pair(optical, sar)
        assert torch.equal(pair[0], optical[[0, 1, 0, 1, 0]])
        assert torch.equal(pair[1], sar)

    def test_size(self) -> None:
        with pytest.raises(
            ValueError, match=r'\(6, 8\) .* \(8, 6\): expected the same'
        ):
            stack_pair(torch.rand(3, H, W), torch.rand(1, W, H))


class Fake(OpticalSARDataset):
    bands: tuple[str, ...] = ('B02', 'B03', 'B04', 'B08')
    rgb_bands = ('B04', 'B03', 'B02')
    sar_bands = ('VV', 'VH')

    def __getitem__(self, index: int) -> Sample:
        torch.manual_seed(index)
        optical, sar = 1 + torch.rand(4, H, W), torch.rand(2, H, W) - 15
        mask = torch.zeros(1, H, W, dtype=torch.long)
        mask[:, :3] = 1
        mask[:, :, 0] = 255
        return {'image': stack_pair(optical, sar), 'mask': mask}

    def __len__(self) -> int:
        return 1


def shown(ax: Axes) -> npt.NDArray[Any]:
    """Return the displayed colours of a panel, shape (H, W, 3)."""
    image = ax.get_images()[0]
    array = image.get_array()
    assert array is not None
    colours = np.asarray(image.to_rgba(array))
    return colours[..., :3]


class TestOpticalSARDataset:
    @pytest.fixture
    def dataset(self) -> Fake:
        return Fake()

    @pytest.fixture
    def sample(self, dataset: Fake) -> Sample:
        return dataset[0]

    @pytest.fixture(autouse=True)
    def close(self) -> Iterator[None]:
        yield
        plt.close('all')

    def test_attributes(self, dataset: Fake) -> None:
        assert dataset.classes == ('unchanged', 'changed')
        assert dataset.ignore_index == 255

    def test_optical(self, dataset: Fake, sample: Sample) -> None:
        rgb = shown(dataset.plot(sample).axes[0])
        bands = sample['image'][0, [2, 1, 0]].numpy()
        low, high = np.sort(bands.ravel())[[3, -4]]  # 2 % of 144 values are 2.9
        expected = np.clip((bands - low) / (high - low), 0, 1).transpose(1, 2, 0)
        np.testing.assert_allclose(rgb, expected, atol=0.01)

    def test_sar(self, dataset: Fake, sample: Sample) -> None:
        grey = shown(dataset.plot(sample).axes[1])[..., 0]
        band = sample['image'][1, 0].numpy()
        low, high = np.sort(band.ravel())[[1, -2]]  # 2 % of 48 values are 0.96
        expected = np.clip((band - low) / (high - low), 0, 1)
        np.testing.assert_allclose(grey, expected, atol=0.01)

    @pytest.mark.parametrize('scale', ['power', 'amplitude'])
    def test_sar_linear(
        self, dataset: Fake, sample: Sample, scale: Literal['power', 'amplitude']
    ) -> None:
        expected = shown(dataset.plot(sample).axes[1])
        factor = 10 if scale == 'power' else 20
        sample['image'][1] = 10 ** (sample['image'][1] / factor)
        dataset.sar_scale = scale
        actual = shown(dataset.plot(sample).axes[1])
        np.testing.assert_allclose(actual, expected, atol=0.01)

    @pytest.mark.parametrize('zeros', [1, W])
    def test_sar_zero_power(self, dataset: Fake, sample: Sample, zeros: int) -> None:
        sample['image'][1] = 10 ** (sample['image'][1] / 10)
        sample['image'][1, :, :, :zeros] = 0
        dataset.sar_scale = 'power'
        grey = shown(dataset.plot(sample).axes[1])
        assert np.isfinite(grey).all()
        assert (grey[:, :zeros] == 0).all()

    def test_errors(self, dataset: Fake, sample: Sample) -> None:
        # Rows of pixels 0 to 2 are changed, and column 0 has no data
        sample['prediction'] = torch.zeros(1, H, W, dtype=torch.long)
        sample['prediction'][:, 2:4] = 1
        figure = dataset.plot(sample)
        truth, prediction, errors = (shown(ax) for ax in figure.axes[2:])
        black, white, grey = to_rgb('black'), to_rgb('white'), to_rgb('#999999')
        missed, false_alarm = to_rgb('#D55E00'), to_rgb('#56B4E9')
        for row, column, expected in (
            (0, 1, (white, black, missed)),
            (2, 1, (white, white, white)),
            (3, 1, (black, white, false_alarm)),
            (4, 1, (black, black, black)),
            (0, 0, (grey, black, grey)),
            (3, 0, (grey, white, grey)),
        ):
            for panel, color in zip((truth, prediction, errors), expected, strict=True):
                np.testing.assert_allclose(panel[row, column], color, atol=0.01)
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert labels == ['unchanged', 'changed', 'missed', 'false alarm', 'no data']

    def test_titles(self, dataset: Fake, sample: Sample) -> None:
        sample['prediction'] = sample['mask'] == 1
        figure = dataset.plot(sample, suptitle='Fake')
        assert figure.get_suptitle() == 'Fake'
        assert [ax.get_title() for ax in figure.axes] == [
            'Optical (before)',
            'SAR (after)',
            'Ground truth',
            'Prediction',
            'Errors',
        ]
        figure = dataset.plot(sample, show_titles=False)
        assert figure.get_suptitle() == ''
        assert not any(ax.get_title() for ax in figure.axes)

    @pytest.mark.parametrize('shape', [(1, H, W), (H, W)])
    def test_prediction_only(
        self, dataset: Fake, sample: Sample, shape: tuple[int, ...]
    ) -> None:
        del sample['mask']
        sample['prediction'] = torch.ones(shape, dtype=torch.bool)
        figure = dataset.plot(sample)
        assert [ax.get_title() for ax in figure.axes][2:] == ['Prediction']
        assert len(figure.legends[0].get_texts()) == 2

    def test_mask_only(self, dataset: Fake, sample: Sample) -> None:
        figure = dataset.plot(sample)
        assert [ax.get_title() for ax in figure.axes][2:] == ['Ground truth']
        labels = [text.get_text() for text in figure.legends[0].get_texts()]
        assert labels == ['unchanged', 'changed', 'no data']

    def test_image_only(self, dataset: Fake, sample: Sample) -> None:
        figure = dataset.plot({'image': sample['image']})
        assert len(figure.axes) == 2
        assert not figure.legends

    def test_input_unchanged(self, dataset: Fake, sample: Sample) -> None:
        sample['prediction'] = torch.ones(1, H, W, dtype=torch.long)
        before: dict[str, Tensor] = {key: x.clone() for key, x in sample.items()}
        dataset.plot(sample)
        assert all(torch.equal(sample[key], before[key]) for key in before)

    def test_rgb_missing(self, dataset: Fake, sample: Sample) -> None:
        dataset.bands = ('B02', 'B08')
        with pytest.raises(RGBBandsMissingError, match='RGB bands'):
            dataset.plot(sample)

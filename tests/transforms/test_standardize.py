# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import numpy as np
import pytest
import torch

from tests.transforms.helpers import everything, show
from torchgeo_m2cd.transforms import Standardize, StandardizeImage


class TestStandardize:
    def test_values(self) -> None:
        mean, std = [1.0, 20.0, -3.0], [2.0, 4.0, 0.5]
        image = 30 * torch.randn(2, 3, 4, 5)
        nothing = torch.empty(2, 0, 1, 1)
        shown = Standardize(mean, std)(image, nothing)
        for band in range(3):
            expected = (image[:, band].numpy() - mean[band]) / std[band]
            np.testing.assert_allclose(shown[:, band], expected, rtol=1e-5, atol=1e-6)
        again = Standardize(mean, std).inverse(shown, nothing)
        torch.testing.assert_close(again, image)

    @pytest.mark.parametrize(
        ('mean', 'std', 'match'),
        [
            ([1, 2], [1], 'mean has 2 values and std has 1: expected one per band'),
            ([], [], 'mean has 0 values and std has 0'),
            ([1, 2], [1, 0], r'std\[1\] is 0: expected more than 0'),
            ([1], [-1], r'std\[0\] is -1: expected more than 0'),
            ([1], [float('nan')], r'std\[0\] is nan: expected a finite number'),
        ],
    )
    def test_wrong(self, mean: list[float], std: list[float], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            Standardize(mean, std)

    def test_check(self) -> None:
        step = Standardize([1000, 2000], [300, 400])
        pixels = torch.randn(2, 500)
        like = pixels * 300 + 1500
        step.check(like)
        far = like.clone()
        far[1] += 30_000
        match = (
            r'^band 2 has the median 3\.\d+e\+04 and the standard deviation \d+\.?\d*, '
            r'the model expects about 2000 and 400\. Other units'
        )
        with pytest.raises(ValueError, match=match):
            step.check(far)
        # Reflectance from 0 to 1
        with pytest.raises(ValueError, match=r'^band 1 has the median 0'):
            step.check(like / 10_000)


class TestStandardizeImage:
    def test_moments(self) -> None:
        mean, std = [1000.0, 2000.0], [300.0, 400.0]
        pixels = 50 * torch.randn(2, 400) + torch.tensor([[1200.0], [1500.0]])
        step = StandardizeImage(mean, std)
        shown = show(step, pixels).numpy()
        assert shown.mean() == pytest.approx(0, abs=1e-4)
        assert shown.std() == pytest.approx(1, abs=1e-4)
        # The bands keep their differences
        weighed = (pixels.numpy() - np.array(mean)[:, None]) / np.array(std)[:, None]
        expected = (weighed - weighed.mean()) / weighed.std()
        np.testing.assert_allclose(shown, expected, atol=1e-4)
        reference = step.measure(pixels, everything(pixels))
        np.testing.assert_allclose(
            reference, [weighed.mean(), weighed.std()], rtol=1e-4
        )

    def test_inverse(self) -> None:
        """The inverse also holds for the reference of another image."""
        step = StandardizeImage([5, 6], [7, 8])
        image = torch.randn(3, 2, 4, 5)
        reference = torch.rand(3, 2, 1, 1) + 0.5
        again = step.inverse(step(image, reference), reference)
        torch.testing.assert_close(again, image, atol=1e-5, rtol=1e-5)

    def test_constant(self) -> None:
        shown = show(StandardizeImage([5, 6], [2, 2]), torch.tensor([[7.0], [8.0]]))
        assert shown.tolist() == [[0], [0]]

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import itertools
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from torchgeo_m2cd.datasets import stack_pair
from torchgeo_m2cd.transforms import (
    Darkness,
    Inputs,
    InputStep,
    LeftOut,
    Reference,
    Relative,
    RelativeDarkness,
    Standardize,
    StandardizeImage,
)

B, H, W = 3, 12, 10

# Each makes a step for a number of bands
STEPS: dict[str, Callable[[int], InputStep]] = {
    'standardize': lambda bands: Standardize(
        [20.0 * (i + 1) for i in range(bands)], [5.0 + i for i in range(bands)]
    ),
    'image': lambda bands: StandardizeImage([30.0] * bands, [10.0] * bands),
    'otsu': lambda bands: Relative([5.0 + i for i in range(bands)], decibels=0.5),
    'quantiles': lambda bands: Relative([4.0] * bands, [0.85, 'otsu', 0.5]),
    'darkness': lambda bands: Darkness([30.0] * bands),
    'relative_darkness': lambda bands: RelativeDarkness([0.6] * bands),
    'left_out': LeftOut,
}
PAIRS = list(itertools.product(STEPS, STEPS))
# Steps that lose no information
EXACT = {'standardize', 'image', 'otsu', 'quantiles'}


def make_image(
    optical_bands: int = 3, sar_bands: int = 1, size: Any = (H, W)
) -> Tensor:
    """Make pairs in source units with some water in both images."""
    water = torch.rand(B, 1, *size) < 0.3
    images = [
        torch.where(water, 10.0, 60.0) + 5 * torch.rand(B, bands, *size)
        for bands in (optical_bands, sar_bands)
    ]
    pairs = map(stack_pair, *images)
    return torch.stack(list(pairs))


def make_valid() -> Tensor:
    """Make masks with data in 30, 70, and 100 % of the pixels."""
    return torch.rand(B, 1, H, W) < torch.tensor([0.3, 0.7, 1]).reshape(B, 1, 1, 1)


def pairs(valid: Tensor, like: Tensor) -> Tensor:
    """Expand pixels with data to both images and all channels."""
    return valid.unsqueeze(1).expand_as(like)


@pytest.mark.parametrize('sar_bands', [1, 2])
@pytest.mark.parametrize(('optical', 'sar'), PAIRS)
class TestCombinations:
    """Combine each step for the optical image with each step for the SAR image."""

    def test_there_and_back(self, optical: str, sar: str, sar_bands: int) -> None:
        inputs = Inputs(STEPS[optical](3), STEPS[sar](sar_bands))
        assert inputs.band_counts == (3, sar_bands)
        image, valid = make_image(3, sar_bands), make_valid()
        reference = inputs.measure(image, valid)
        shown = inputs(image, valid, reference)
        channels = {'quantiles': 3}
        counts = (3 * channels.get(optical, 1), sar_bands * channels.get(sar, 1))
        assert inputs.channels == counts
        assert shown.shape == (B, 2, max(counts), H, W)
        assert shown.isfinite().all()
        if {optical, sar} <= EXACT:
            again = inputs.inverse(shown, reference)
            assert again.shape == image.shape
            seen = pairs(valid, image)
            torch.testing.assert_close(again[seen], image[seen], atol=1e-4, rtol=1e-5)
        else:
            with pytest.raises(ValueError, match='has no inverse: it does not keep'):
                inputs.inverse(shown, reference)

    def test_of_a_chip(self, optical: str, sar: str, sar_bands: int) -> None:
        """Each chip of a batch is measured on its own."""
        inputs = Inputs(STEPS[optical](3), STEPS[sar](sar_bands))
        image, valid = make_image(3, sar_bands), make_valid()
        reference = inputs.measure(image, valid)
        shown = inputs(image, valid)
        assert torch.equal(shown, inputs(image, valid, reference))
        counts = inputs.optical.num_references, inputs.sar.num_references
        assert inputs.measures == any(counts)
        assert [part.shape for part in reference] == [(B, k, 1, 1) for k in counts]
        for i in range(B):
            one = slice(i, i + 1)
            assert torch.equal(inputs(image[one], valid[one]), shown[one])

    @pytest.mark.parametrize('garbage', [1e6, -1e6, torch.nan, torch.inf])
    def test_no_data(
        self, optical: str, sar: str, sar_bands: int, garbage: float
    ) -> None:
        """Pixels without data change nothing, and become 0."""
        inputs = Inputs(STEPS[optical](3), STEPS[sar](sar_bands))
        image, valid = make_image(3, sar_bands), make_valid()
        seen = pairs(valid, image)
        shown = inputs(image, valid)
        again = inputs(torch.where(seen, image, garbage), valid)
        assert torch.equal(again, shown)
        assert (shown[~pairs(valid, shown)] == 0).all()
        # Zeros in the optical image mark pixels without data
        image = torch.where(seen, image, 0)
        image[:, 1] = torch.where(seen[:, 1], image[:, 1], garbage)
        assert torch.equal(inputs(image), shown)


class TestInputs:
    @pytest.fixture
    def inputs(self) -> Inputs:
        """Inputs whose references the tests below compute with NumPy."""
        return Inputs(Darkness([0, 30, 0]), Relative([2], [0.85]))

    def test_land(self, inputs: Inputs) -> None:
        """The SAR reference comes from pixels that are not dark in the optical image."""
        image, valid = make_image(), make_valid()
        reference = inputs.measure(image, valid).sar.flatten()
        optical, sar = image.numpy().swapaxes(0, 1)
        shown = inputs(image, valid).numpy()
        for i in range(B):
            inside = valid[i, 0].numpy()
            land = inside & (optical[i, 1] >= 30)
            assert 0 < land.sum() < inside.sum()
            level = np.quantile(sar[i, 0, land], 0.85)
            assert reference[i].item() == pytest.approx(level, rel=1e-5)
            expected = (sar[i, 0, inside] - level) / 2
            np.testing.assert_allclose(shown[i, 1, 0, inside], expected, atol=1e-4)

    @pytest.mark.parametrize('step', ['darkness', 'relative_darkness'])
    def test_land_in_any_units(self, step: str) -> None:
        """Each of the steps for darkness finds land. Others take all pixels for land."""
        image = make_image()
        sar = [
            Inputs(STEPS[name](3), Relative([1], [0.85])) for name in (step, 'image')
        ]
        land, everything = (inputs.measure(image).sar.flatten() for inputs in sar)
        for i in range(B):
            dry = (image[i, 0] > 30).all(dim=0)
            for level, where in ((land, dry), (everything, dry | ~dry)):
                expected = np.quantile(image[i, 1, 0, where].numpy(), 0.85)
                assert level[i].item() == pytest.approx(expected, rel=1e-5)

    def test_repeated(self) -> None:
        """The image with fewer channels repeats them, as in a pair."""
        inputs = Inputs(Standardize([1, 2, 3], [1, 2, 4]), Standardize([5, 6], [8, 9]))
        image = make_image(3, 2)
        shown = inputs(image)
        for channel in range(3):
            mean, std = ([1, 2, 3], [1, 2, 4])
            expected = (image[:, 0, channel] - mean[channel]) / std[channel]
            torch.testing.assert_close(shown[:, 0, channel], expected)
            band = channel % 2
            expected = (image[:, 1, band] - [5, 6][band]) / [8, 9][band]
            torch.testing.assert_close(shown[:, 1, channel], expected)

    @pytest.mark.parametrize('step', STEPS)
    def test_nothing_at_all(self, step: str) -> None:
        """Images without data do not disturb others in the batch."""
        inputs = Inputs(STEPS[step](3), STEPS[step](1))
        image = make_image()
        expected = inputs(image[:1])
        valid = torch.ones(B, 1, H, W, dtype=torch.bool)
        image[1, 0] = 0
        valid[2] = False
        reference = inputs.measure(image, valid)
        assert all((part[1:] == 0).all() for part in reference)
        shown = inputs(image, valid)
        assert torch.equal(shown[:1], expected)
        assert (shown[1:] == 0).all()

    def test_valid(self, inputs: Inputs) -> None:
        """A pixel has data if any optical band is not 0 and the dataset agrees."""
        image, valid = make_image(), make_valid()
        image[:, 0, :, :3] = 0
        image[:, 0, 2, 0] = 1
        image[:, 1, :, 5] = 0
        expected = torch.ones(B, 1, H, W, dtype=torch.bool)
        expected[:, :, 1:3] = False
        assert torch.equal(inputs.valid(image), expected)
        assert torch.equal(inputs.valid(image, valid), valid & expected)
        # One pair without a batch, and fewer optical than SAR bands
        assert torch.equal(inputs.valid(image[1], valid[1]), (valid & expected)[1])
        inputs = Inputs(LeftOut(1), LeftOut(3))
        assert inputs.valid(image)[:, :, 1:3].sum() == 0

    @pytest.mark.parametrize('shape', [(B, 2, 2, H, W), (B, 1, 3, H, W), (3, H, W)])
    def test_wrong_bands(self, inputs: Inputs, shape: tuple[int, ...]) -> None:
        match = (
            rf'image has shape \({B if len(shape) > 3 else 3}, .*\): expected '
            r'\(B, 2, 3, H, W\), the model is made for 3 optical and 1 SAR bands'
        )
        for use in (inputs, inputs.valid, inputs.measure):
            with pytest.raises(ValueError, match=match):
                use(torch.rand(shape))

    @pytest.mark.parametrize(
        ('size', 'step'), [((256, 256), 1), ((257, 256), 2), ((384, 512), 3)]
    )
    def test_thinned(self, inputs: Inputs, size: tuple[int, int], step: int) -> None:
        """Large images are measured with every second, third, ... pixel."""
        image = make_image(size=size)
        level = inputs.measure(image).sar.flatten()
        optical, sar = image.flatten(3)[..., ::step].numpy().swapaxes(0, 1)
        for i in range(B):
            expected = np.quantile(sar[i, 0, optical[i, 1] >= 30], 0.85)
            assert level[i].item() == pytest.approx(expected, rel=1e-5)

    def test_show(self, inputs: Inputs) -> None:
        image = make_image()
        batch = {'image': image, 'mask': torch.arange(B)}
        shown = inputs.show(batch)
        references = ['reference_optical', 'reference_sar']
        assert list(shown) == ['image', 'mask', 'source', 'valid', *references]
        assert torch.equal(shown['valid'], inputs.valid(image))
        assert torch.equal(shown['source'], image)
        assert torch.equal(shown['image'], inputs(image))
        assert torch.equal(shown['mask'], batch['mask'])
        assert batch['image'] is image
        assert 'source' not in batch
        # With the valid pixels of the dataset
        valid = make_valid()
        shown = inputs.show({**batch, 'valid': valid})
        assert torch.equal(shown['image'], inputs(image, valid))
        assert torch.equal(shown['valid'], valid)

    def test_find_water(self) -> None:
        """Dark pixels with data, by the limit of the image or of its surroundings."""
        image = torch.ones(2, 2, 2, 3, 5)
        image[0, 0, 1, 0] = image[1, 0, 1] = 0.3
        valid = torch.ones(2, 1, 3, 5, dtype=torch.bool)
        valid[0, 0, 0, 4] = False
        sar = Standardize([0], [1])
        expected = torch.zeros_like(valid)
        expected[0, 0, 0, :4] = expected[1] = True
        inputs = Inputs(Darkness([0, 0.5]), sar)
        shown = inputs.show({'image': image, 'valid': valid})
        assert torch.equal(inputs.find_water(shown), expected)
        # Measured around each image: the second one lies in a dark land
        inputs = Inputs(RelativeDarkness([0, 0.5]), sar)
        reference = torch.tensor([[1, 1], [1, 0.4]])[..., None, None]
        batch = {
            'image': image, 'valid': valid, 'reference_optical': reference,
            'reference_sar': torch.zeros(2, 0, 1, 1),
        }  # fmt: skip
        expected[1] = False
        assert torch.equal(inputs.find_water(inputs.show(batch)), expected)
        # A step that cannot tell
        inputs = Inputs(Standardize([0, 0], [1, 1]), sar)
        assert not inputs.optical.finds_water
        assert not inputs.find_water(
            inputs.show({'image': image, 'valid': valid})
        ).any()

    def test_show_part_of_a_scene(self) -> None:
        """Patches of a scene use the values measured around them."""
        inputs = Inputs(StandardizeImage([0] * 3, [1] * 3), Relative([2], [0.85]))
        image = make_image()
        reference = Reference(torch.rand(B, 2, 1, 1) + 1, torch.rand(B, 1, 1, 1))
        batch = {
            'image': image,
            'reference_optical': reference.optical,
            'reference_sar': reference.sar,
        }
        shown = inputs.show(batch)['image']
        mean, std = reference.optical.unbind(1)
        for band in range(3):
            expected = (image[:, 0, band] - mean) / std
            torch.testing.assert_close(shown[:, 0, band], expected)
        expected = (image[:, 1, 0] - reference.sar[:, 0]) / 2
        torch.testing.assert_close(shown[:, 1, 0], expected)
        assert not torch.allclose(shown, inputs(image))

    def test_in_decibels(self) -> None:
        inputs = Inputs(Darkness([30]), Relative([2, 3], decibels=0.5), window=99)
        expected = inputs.to_dict()
        expected['sar']['init_args']['decibels'] = 1
        assert inputs.in_decibels().to_dict() == expected

    def test_check(self, inputs: Inputs) -> None:
        pixels = make_image()[0].flatten(-2)
        inputs.check(pixels)
        wrong = pixels.clone()
        wrong[0] /= 10_000
        with pytest.raises(ValueError, match=r'^optical band 2 has the median 0\.'):
            inputs.check(wrong)
        wrong = pixels.clone()
        wrong[1] *= 1000
        with pytest.raises(ValueError, match=r'^SAR band 1 has the standard deviation'):
            inputs.check(wrong)
        # Pixels without data are not checked, and one pixel is too few
        wrong[0] = 0
        inputs.check(torch.cat([pixels, wrong], dim=-1))
        inputs.check(torch.cat([1e6 * pixels[..., :1], wrong], dim=-1))
        inputs.check(wrong[..., :0])

    @pytest.mark.parametrize(('optical', 'sar'), PAIRS)
    def test_dict(self, optical: str, sar: str) -> None:
        inputs = Inputs(STEPS[optical](3), STEPS[sar](2), window=64)
        values = inputs.to_dict()
        again = Inputs.from_dict(json.loads(json.dumps(values)))
        assert again.to_dict() == values
        assert again.window == 64
        image = make_image(3, 2)
        assert torch.equal(again(image), inputs(image))

    def test_plain(self) -> None:
        assert Inputs(LeftOut(3), Darkness([1])).to_dict() == {
            'optical': {
                'class_path': 'torchgeo_m2cd.transforms.LeftOut',
                'init_args': {'bands': 3},
            },
            'sar': {
                'class_path': 'torchgeo_m2cd.transforms.Darkness',
                'init_args': {'limits': [1.0]},
            },
            'window': 256,
            'bands': ['', '', ''],
            'sar_bands': [''],
        }

    def test_from_wrong_dict(self, inputs: Inputs) -> None:
        values = inputs.to_dict()
        match = (
            r"inputs have the keys \['bands', 'optical', 'sar', 'sar_bands', 'size', "
            r"'window'\]: expected \['bands', 'optical', 'sar', 'sar_bands', 'window'\]"
        )
        with pytest.raises(ValueError, match=match):
            Inputs.from_dict({**values, 'size': 3})
        with pytest.raises(ValueError, match=r"have the keys \['optical', 'sar'\]"):
            Inputs.from_dict({key: values[key] for key in ('optical', 'sar')})
        with pytest.raises(ValueError, match=r"unknown input step 'os\.system'"):
            Inputs.from_dict({**values, 'sar': {'class_path': 'os.system'}})

    def test_bands(self) -> None:
        """Names are those that files have, whatever the user calls the bands."""
        steps = LeftOut(3), LeftOut(2)
        assert Inputs(*steps).band_names == (['', '', ''], ['', ''])
        inputs = Inputs(*steps, bands=['red', 'B8', 'SR_B4'], sar_bands=['vv', ''])
        # A name of another sensor stays what it is
        assert inputs.bands == ['B04', 'B08', 'SR_B4']
        assert inputs.sar_bands == ['VV', '']
        again = Inputs.from_dict(json.loads(json.dumps(inputs.to_dict())))
        assert again.band_names == inputs.band_names
        assert inputs.in_decibels(2.0).band_names == inputs.band_names
        match = r"bands is \['VV', 'VH'\]: expected 3 names, as many as the step has"
        with pytest.raises(ValueError, match=match):
            Inputs(*steps, bands=['VV', 'VH'])

    def test_named(self) -> None:
        """Only bands without names are named, and only if it is clear which is which."""
        inputs = Inputs(LeftOut(2), LeftOut(1), 99, ['B04', ''])
        named = inputs.named(['B02', 'B08'], ['VV', 'VH'])
        assert named.band_names == (['B04', 'B08'], [''])
        assert (named.optical, named.sar) == (inputs.optical, inputs.sar)
        assert named.window == 99
        assert inputs.bands == ['B04', '']
        assert named.named(['B02', 'B03'], ['']) is named

    def test_from_dict_without_names(self) -> None:
        """Old checkpoints have no names."""
        values = Inputs(LeftOut(2), LeftOut(1), 64).to_dict()
        del values['bands'], values['sar_bands']
        inputs = Inputs.from_dict(values)
        assert (inputs.band_names, inputs.window) == ((['', ''], ['']), 64)

    def test_window(self) -> None:
        with pytest.raises(ValueError, match='window is 0: expected at least 1'):
            Inputs(LeftOut(), LeftOut(), window=0)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import colorsys
from typing import Literal

import kornia.augmentation as K
import pytest
import torch
from torch import Tensor

from torchgeo_m2cd.transforms import (
    DropImage,
    PairAugmentation,
    PhotometricDistortion,
    RandomGainOffset,
    RandomQuarterTurn,
    RandomRotationOrFlip,
    StrictRandomCrop,
)

B, C, H, W = 64, 3, 8, 8


def make_batch(height: int = H, width: int = W) -> dict[str, Tensor]:
    """Make a batch in which each pixel of each channel has a different value."""
    size = B * 2 * C * height * width
    image = torch.arange(size).reshape(B, 2, C, height, width).float()
    # The mask is a function of the first channel, also after augmentation
    mask = torch.tensor([0, 1, 255])[(image[:, 0, :1] % 3).long()]
    return {'image': image, 'mask': mask}


def orientations(x: Tensor) -> list[Tensor]:
    """Return all eight orientations of the last two dimensions."""
    return [
        torch.rot90(y, turns, (-2, -1)) for y in (x, x.flip(-1)) for turns in range(4)
    ]


class TestPairAugmentation:
    def test_same_geometry(self) -> None:
        torch.manual_seed(0)
        batch = make_batch()
        augmentation = PairAugmentation(
            [K.RandomHorizontalFlip(), K.RandomVerticalFlip(), RandomQuarterTurn()]
        )
        output = augmentation(batch)
        assert output['mask'].dtype == torch.int64
        found = []
        for index in range(B):
            image, mask = output['image'][index], output['mask'][index]
            candidates = orientations(batch['image'][index])
            equal = [torch.equal(image, candidate) for candidate in candidates]
            assert sum(equal) == 1
            found.append(equal.index(True))
            expected = orientations(batch['mask'][index])[found[-1]]
            assert torch.equal(mask, expected)
        # Samples are transformed independently, and all orientations occur
        assert set(found) == set(range(8))

    def test_interpolated(self) -> None:
        torch.manual_seed(0)
        batch = make_batch()
        output = PairAugmentation([K.RandomRotation(30.0, p=1.0)])(batch)
        assert output['image'].shape == (B, 2, C, H, W)
        assert set(output['mask'].unique().tolist()) == {0, 1, 255}
        assert output['mask'].dtype == torch.int64
        # Both images have the same rotation, so they differ by a constant inside
        difference = output['image'][:, 1] - output['image'][:, 0]
        inside = difference[..., 3:5, 3:5]
        torch.testing.assert_close(
            inside, torch.full_like(inside, C * H * W), atol=1e-2, rtol=0
        )

    def test_without_mask(self) -> None:
        batch = {'image': make_batch()['image']}
        output = PairAugmentation([K.RandomHorizontalFlip(p=1.0)])(batch)
        assert list(output) == ['image']
        assert torch.equal(output['image'], batch['image'].flip(-1))

    def test_other_keys(self) -> None:
        batch = make_batch() | {'prediction': torch.arange(B)}
        before = {key: value.clone() for key, value in batch.items()}
        output = PairAugmentation([K.RandomHorizontalFlip(p=1.0)])(batch)
        assert torch.equal(output['prediction'], torch.arange(B))
        assert all(torch.equal(batch[key], before[key]) for key in batch)

    def test_source_and_valid(self) -> None:
        """All tensors get the same geometry and keep their data types."""
        batch = make_batch()
        # More bands than the model is shown
        batch['source'] = torch.cat([batch['image'], 2 * batch['image']], dim=2) + 1
        batch['valid'] = batch['image'][:, 0, :1] % 5 > 0
        # The model sees 0 where there are no data
        valid = batch['valid'].unsqueeze(1)
        shown = torch.where(valid, batch['image'], 0)
        augmentation = PairAugmentation(
            [
                K.RandomHorizontalFlip(),
                K.RandomVerticalFlip(),
                RandomQuarterTurn(),
                StrictRandomCrop((4, 6)),
            ]
        )
        output = augmentation({**batch, 'image': shown})
        assert output['source'].shape == (B, 2, 2 * C, 4, 6)
        assert output['valid'].shape == (B, 1, 4, 6)
        assert output['valid'].dtype == torch.bool
        source = output['source']
        image = source[:, :, :C] - 1
        assert torch.equal(source[:, :, C:] - 1, 2 * image)
        assert torch.equal(output['valid'], image[:, 0, :1] % 5 > 0)
        assert torch.equal(
            output['image'], torch.where(output['valid'].unsqueeze(1), image, 0)
        )
        assert torch.equal(
            output['mask'], torch.tensor([0, 1, 255])[(image[:, 0, :1] % 3).long()]
        )

    def test_source_and_valid_interpolated(self) -> None:
        """Values in source units are not interpolated: invalid ones do not spread."""
        size = 33
        columns = torch.arange(1.0, size + 1).expand(B, 2, C, size, size)
        valid = torch.ones(B, 1, size, size, dtype=torch.bool)
        valid[..., :3] = False
        batch = {
            'image': torch.where(valid.unsqueeze(1), columns, 0),
            'source': columns.where(valid.unsqueeze(1), torch.nan),
            'valid': valid,
        }
        output = PairAugmentation([K.RandomRotation(30.0, p=1.0)])(batch)
        source, image, valid = (output[key] for key in ('source', 'image', 'valid'))
        seen = valid.unsqueeze(1).expand_as(source)
        assert set(source[seen].tolist()) == set(range(4, size + 1))
        outside = source[~seen]
        assert ((outside == 0) | outside.isnan()).all()
        assert (outside == 0).any()
        assert (image[~seen] == 0).all()
        # At most half a diagonal from the nearest pixel
        inside = torch.zeros(size, size, dtype=torch.bool)
        inside[10:-10, 12:-10] = True
        difference = (source - image).abs()[..., inside]
        assert 0.1 < difference.max() < 0.71
        assert source.isfinite()[..., inside].all()

    def test_changed_values_without_data(self) -> None:
        """Pixels without data stay 0 when an augmentation changes values."""
        batch = make_batch()
        batch['valid'] = batch['image'][:, 0, :1] % 5 > 0
        output = PairAugmentation([RandomGainOffset(1.0)])(batch)
        changed = output['image'] != batch['image']
        seen = batch['valid'].unsqueeze(1).expand_as(changed)
        assert changed[seen].all()
        assert (output['image'][~seen] == 0).all()
        assert torch.equal(output['valid'], batch['valid'])

    def test_nothing(self) -> None:
        batch = make_batch()
        batch['valid'] = torch.ones(B, 1, H, W, dtype=torch.bool)
        batch['source'] = batch['image'] + 1
        augmentation = PairAugmentation()
        for output in (augmentation(batch), augmentation.change_source(batch)):
            assert output.keys() == batch.keys()
            assert all(torch.equal(output[key], batch[key]) for key in batch)
            assert all(output[key].dtype == batch[key].dtype for key in batch)

    def test_change_source(self) -> None:
        batch = make_batch() | {'prediction': torch.arange(B)}
        before = {key: value.clone() for key, value in batch.items()}
        augmentation = PairAugmentation(
            [K.RandomHorizontalFlip(p=1.0)], [DropImage(0), DropImage(1, p=0.0)]
        )
        changed = augmentation.change_source(batch)
        assert changed.keys() == batch.keys()
        assert (changed['image'][:, 0] == 0).all()
        assert torch.equal(changed['image'][:, 1], batch['image'][:, 1])
        for key in ('mask', 'prediction'):
            assert torch.equal(changed[key], batch[key])
        assert all(torch.equal(batch[key], before[key]) for key in batch)
        # The other list applies to forward only
        output = augmentation(batch)
        assert torch.equal(output['image'], batch['image'].flip(-1))

    def test_crop_of_source(self) -> None:
        torch.manual_seed(0)
        batch = make_batch()
        batch['valid'] = batch['mask'] != 1
        batch['image'] = batch['image'] * batch['valid'].unsqueeze(1)
        crop = PairAugmentation(source_augmentations=[StrictRandomCrop((4, 6))])
        output = crop.change_source(batch)
        assert output['image'].shape == (B, 2, C, 4, 6)
        for index in range(B):
            found = [
                (row, column)
                for row in range(H - 4 + 1)
                for column in range(W - 6 + 1)
                if all(
                    torch.equal(
                        output[key][index],
                        batch[key][index, ..., row : row + 4, column : column + 6],
                    )
                    for key in batch
                )
            ]
            assert len(found) == 1

    @pytest.mark.parametrize('shape', [(2, C, H, W), (B, C, H, W), (B, 3, C, H, W)])
    def test_shape(self, shape: tuple[int, ...]) -> None:
        batch = {'image': torch.rand(shape)}
        augmentation = PairAugmentation()
        with pytest.raises(ValueError, match=r'expected \(B, 2, C, H, W\)'):
            augmentation(batch)
        with pytest.raises(ValueError, match=r'expected \(B, 2, C, H, W\)'):
            augmentation.change_source(batch)


class TestStrictRandomCrop:
    @pytest.mark.parametrize('size', [(3, 5), (8, 8)])
    def test_crop(self, size: tuple[int, int]) -> None:
        torch.manual_seed(0)
        batch = make_batch()
        output = PairAugmentation([StrictRandomCrop(size)])(batch)
        for index in range(B):
            first = int(output['image'][index, 0, 0, 0, 0]) % (H * W)
            top, left = first // W, first % W
            for key in ('image', 'mask'):
                expected = batch[key][
                    index, ..., top : top + size[0], left : left + size[1]
                ]
                assert torch.equal(output[key][index], expected)

    @pytest.mark.parametrize('size', [(9, 8), (8, 9)])
    def test_too_large(self, size: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match='is larger than images of 8 x 8 pixels'):
            PairAugmentation([StrictRandomCrop(size)])(make_batch())


class TestRandomQuarterTurn:
    @pytest.mark.parametrize('p', [0.0, 1.0])
    def test_probability(self, p: float) -> None:
        batch = make_batch()
        output = PairAugmentation([RandomQuarterTurn(p)])(batch)
        expected = torch.rot90(batch['image'], int(p), (-2, -1))
        assert torch.equal(output['image'], expected)

    def test_not_square(self) -> None:
        batch = make_batch(6, 8)
        output = PairAugmentation([RandomQuarterTurn(1.0)])(batch)
        assert torch.equal(output['image'], batch['image'])
        assert torch.equal(output['mask'], batch['mask'])

    def test_square_crop(self) -> None:
        batch = make_batch(6, 8)
        output = PairAugmentation([StrictRandomCrop((4, 4)), RandomQuarterTurn(1.0)])(
            batch
        )
        row = output['image'][0, 0, 0, 0]
        assert row.diff().tolist() == [8, 8, 8]  # a column of the input


class TestRandomRotationOrFlip:
    @pytest.mark.parametrize(('height', 'mirrors'), [(H, [0, 1, 2, 3]), (6, [0, 2])])
    def test_mirrors(self, height: int, mirrors: list[int]) -> None:
        batch = make_batch(height)
        # Without small rotations
        output = PairAugmentation([RandomRotationOrFlip(0.0)])(batch)
        found = []
        for index in range(B):
            image, mask = output['image'][index], output['mask'][index]
            candidates = [
                torch.rot90(batch['image'][index].flip(-1), turns, (-2, -1))
                for turns in mirrors
            ] + [batch['image'][index]]
            # Interpolation rounds, but values of different pixels are 1 apart
            near = [
                c.shape == image.shape and torch.allclose(image, c, atol=0.1)
                for c in candidates
            ]
            assert sum(near) == 1
            found.append(near.index(True))
            first = image[0, :1].round()
            assert torch.equal(mask, torch.tensor([0, 1, 255])[(first % 3).long()])
        assert set(found) == set(range(len(candidates)))
        unchanged = sum(number == len(mirrors) for number in found)
        assert unchanged / B == pytest.approx(0.75, abs=0.15)

    def test_rotation(self) -> None:
        size = 65
        # The value of a pixel is its position relative to the centre
        axis = torch.arange(size) - (size - 1) / 2
        y, x = torch.meshgrid(axis, axis, indexing='ij')
        image = torch.stack([x, y]).expand(B, 2, 2, size, size)
        mask = torch.ones(B, 1, size, size, dtype=torch.long)
        output = PairAugmentation([RandomRotationOrFlip(20.0)])(
            {'image': image, 'mask': mask}
        )
        inside = x**2 + y**2 < axis[-1] ** 2
        degrees = []
        for index in range(B):
            was_x, was_y = output['image'][index, 1]
            assert (output['mask'][index, 0][inside] == 1).all()
            # Angle of the former position of a pixel right of the centre
            center = size // 2
            angle = torch.atan2(was_y[center, -2], was_x[center, -2])
            if was_x.diff(dim=1)[inside[:, 1:] & inside[:, :-1]].min() < 0.5:
                continue  # mirrored
            degrees.append(torch.rad2deg(angle).item())
            expected_x = x * angle.cos() - y * angle.sin()
            torch.testing.assert_close(
                was_x[inside], expected_x[inside], atol=1e-2, rtol=0
            )
            if abs(degrees[-1]) > 2:
                corners = output['mask'][index, 0][[0, 0, -1, -1], [0, -1, 0, -1]]
                assert corners.tolist() == [255] * 4
                image_corners = output['image'][
                    index, ..., [0, 0, -1, -1], [0, -1, 0, -1]
                ]
                assert (image_corners == 0).all()
        rotated = [value for value in degrees if abs(value) > 1e-3]
        assert len(rotated) / B == pytest.approx(0.5, abs=0.15)
        assert 15 < max(rotated) <= 20.01
        assert -20.01 <= min(rotated) < -15


class TestPhotometricDistortion:
    def test_nothing(self) -> None:
        image = 255 * torch.rand(4, 2, 3, H, W)
        output = PairAugmentation([PhotometricDistortion(p=0.0)])({'image': image})
        torch.testing.assert_close(output['image'], image)

    def test_brightness_and_contrast(self) -> None:
        # Far from black and white, where values are clipped
        image = 80 + 50 * torch.rand(B, 2, 3, H, W)
        distort = PhotometricDistortion(saturation=0, hue=0, p=1.0)
        output = PairAugmentation([distort])({'image': image})['image']
        # Each image is mapped linearly: slope and added value
        x, y = image.flatten(2), output.flatten(2)
        slope = (y[..., 1] - y[..., 0]) / (x[..., 1] - x[..., 0])
        added = y[..., 0] / slope - x[..., 0]
        torch.testing.assert_close(
            y, slope[..., None] * (x + added[..., None]), atol=0.1, rtol=0
        )
        assert 0.79 < slope.min() < 0.85
        assert 1.15 < slope.max() < 1.21
        assert -10.5 < added.min() < -8
        assert 8 < added.max() < 10.5
        # Both images of a pair change independently
        assert torch.corrcoef(slope.T)[0, 1].abs() < 0.4

    def test_hue_and_saturation(self) -> None:
        image = torch.tensor([100.0, 150.0, 120.0]).reshape(3, 1, 1)
        image = image.expand(B, 2, 3, 1, 1)
        distort = PhotometricDistortion(brightness=0, contrast=0, p=1.0)
        output = PairAugmentation([distort])({'image': image})['image']
        before = colorsys.rgb_to_hsv(100 / 255, 150 / 255, 120 / 255)
        after = torch.tensor(
            [
                colorsys.rgb_to_hsv(*rgb)
                for rgb in (output / 255).reshape(-1, 3).tolist()
            ]
        )
        hue = 360 * (after[:, 0] - before[0])
        saturation = after[:, 1] / before[1]
        assert -20.1 < hue.min() < -15
        assert 15 < hue.max() < 20.1
        assert 0.79 < saturation.min() < 0.85
        assert 1.15 < saturation.max() < 1.21
        torch.testing.assert_close(after[:, 2], torch.full((2 * B,), 150 / 255))

    def test_range(self) -> None:
        image = torch.tensor([0.0, 255.0]).reshape(1, 2, 1, 1, 1).expand(B, 2, 3, 2, 2)
        output = PairAugmentation([PhotometricDistortion()])({'image': image})['image']
        assert output.min() == 0
        assert output.max() == 255
        assert (output[:, 0] > 0).any()


class TestDropImage:
    @pytest.mark.parametrize('index', [0, 1])
    def test_drop(self, index: Literal[0, 1]) -> None:
        batch = make_batch()
        image = batch['image'].clone()
        output = PairAugmentation([DropImage(index)])(batch)
        assert (output['image'][:, index] == 0).all()
        assert torch.equal(output['image'][:, 1 - index], image[:, 1 - index])
        assert torch.equal(output['mask'], batch['mask'])
        assert torch.equal(batch['image'], image)  # Not in place

    def test_probability(self) -> None:
        torch.manual_seed(0)
        batch = {'image': torch.ones(400, 2, C, 2, 2)}
        output = PairAugmentation([DropImage(0, p=0.25)])(batch)['image']
        dropped = (output[:, 0] == 0).flatten(1).all(dim=1)
        assert dropped.float().mean().item() == pytest.approx(0.25, abs=0.07)


class TestRandomGainOffset:
    def test_distribution(self) -> None:
        torch.manual_seed(0)
        image = torch.randn(400, 2, C, 2, 2)
        output = PairAugmentation([RandomGainOffset(0.2)])({'image': image})['image']
        # Two pixels of a band give the line on which all of its pixels lie
        x, y = image.flatten(-2), output.flatten(-2)
        gain = (y[..., 1] - y[..., 0]) / (x[..., 1] - x[..., 0])
        offset = y[..., 0] - gain * x[..., 0]
        expected = gain[..., None] * x + offset[..., None]
        torch.testing.assert_close(y, expected, atol=1e-2, rtol=1e-2)
        for values, mean in ((gain, 1), (offset, 0)):
            assert values.mean().item() == pytest.approx(mean, abs=0.02)
            assert values.std().item() == pytest.approx(0.2, rel=0.1)
            # Independent between samples, images and bands
            correlation = torch.corrcoef(values.flatten(1).T) - torch.eye(2 * C)
            assert correlation.abs().max() < 0.25

    @pytest.mark.parametrize('index', [0, 1])
    def test_one_image(self, index: Literal[0, 1]) -> None:
        image = torch.randn(4, 2, C, 8, 8)
        output = PairAugmentation([RandomGainOffset(0.2, [index])])({'image': image})
        changed = (output['image'] != image).flatten(2).any(dim=2)
        assert changed[:, index].all()
        assert not changed[:, 1 - index].any()

    def test_probability(self) -> None:
        torch.manual_seed(0)
        batch = make_batch()
        output = PairAugmentation([RandomGainOffset(0.2, p=0.5)])(batch)
        same = (output['image'] == batch['image']).flatten(1).all(dim=1)
        assert 0.2 < same.float().mean() < 0.8
        assert torch.equal(output['mask'], batch['mask'])

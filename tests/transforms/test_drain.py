# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import pytest
import torch
from torch import Tensor

from torchgeo_m2cd.transforms import PairAugmentation, RandomDrain

SIZE = 32


def make_batch(count: int = 1) -> tuple[dict[str, Tensor], Tensor]:
    """Make chips with land above 100, and a flood below 10 on the left."""
    generator = torch.Generator().manual_seed(0)
    image = 100 + torch.rand(count, 2, 2, SIZE, SIZE, generator=generator)
    mask = torch.zeros(count, 1, SIZE, SIZE, dtype=torch.long)
    mask[..., :12] = 1
    # No land beside the flood: its edge is drawn roughly
    image[:, 1, :, :, :16] = 10 * torch.rand(count, 2, SIZE, 16, generator=generator)
    # A lake, and what is not known
    image[:, 1, :, 20:, 24:] = 5
    mask[..., :4, 28:] = 255
    land = torch.ones_like(mask, dtype=torch.bool)
    land[..., 20:, 24:] = False
    return {'image': image, 'mask': mask}, land


class TestRandomDrain:
    def test_drained(self) -> None:
        batch, land = make_batch(64)
        before = {key: value.clone() for key, value in batch.items()}
        torch.manual_seed(0)
        output = RandomDrain(1.0)(batch, land)
        assert all(torch.equal(batch[key], before[key]) for key in batch)
        image, mask = output['image'], output['mask']
        assert torch.equal(image[:, 0], batch['image'][:, 0])
        # Land, lakes and unknown pixels stay
        assert torch.equal(image[..., 16:], batch['image'][..., 16:])
        assert torch.equal(mask[..., 12:], batch['mask'][..., 12:])
        left = (mask[..., :12] == 1).flatten(1).float().mean(dim=1)
        # Half of the chips lose all of their floods, the others a part
        assert 0.3 < (left == 0).float().mean() < 0.8
        assert ((left > 0) & (left < 1)).any()
        drained = (batch['mask'] == 1) & (mask == 0)
        bands = image[:, 1][drained.expand(-1, 2, -1, -1)]
        # What is copied is land, and no lake
        assert bands.min() >= 100
        flooded = (mask == 1).expand(-1, 2, -1, -1)
        assert torch.equal(image[:, 1][flooded], batch['image'][:, 1][flooded])

    def test_bands_together(self) -> None:
        """All bands of a pixel are from the same place."""
        batch, land = make_batch(8)
        batch['image'][:, 1, 1] = batch['image'][:, 1, 0] + 1
        image = RandomDrain(1.0)(batch, land)['image']
        torch.testing.assert_close(image[:, 1, 1], image[:, 1, 0] + 1)

    def test_no_land(self) -> None:
        batch, land = make_batch()
        output = RandomDrain(1.0)(batch, torch.zeros_like(land))
        assert all(torch.equal(output[key], batch[key]) for key in batch)

    def test_little_land(self) -> None:
        """Pixels without a copy get values of land, too."""
        batch, land = make_batch(16)
        land[..., 16:] = False
        land[..., 17:19] = True
        output = RandomDrain(1.0)(batch, land)
        drained = (batch['mask'] == 1) & (output['mask'] == 0)
        assert drained.any()
        assert output['image'][:, 1][drained.expand(-1, 2, -1, -1)].min() >= 100

    def test_probability(self) -> None:
        batch, land = make_batch(200)
        torch.manual_seed(0)
        mask = RandomDrain(0.3)(batch, land)['mask']
        changed = (mask != batch['mask']).flatten(1).any(dim=1).float().mean()
        assert 0.2 < changed < 0.4
        with pytest.raises(ValueError, match=r'p is 1\.5'):
            RandomDrain(1.5)

    def test_pair_augmentation(self) -> None:
        batch, land = make_batch(4)
        augmentation = PairAugmentation(drain=RandomDrain(1.0))
        same = augmentation.change_source(batch)
        assert torch.equal(same['mask'], batch['mask'])
        drained = augmentation.change_source(batch, land)
        assert not torch.equal(drained['mask'], batch['mask'])

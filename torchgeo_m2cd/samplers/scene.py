# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Sampling of whole scenes."""

from collections.abc import Iterator
from typing import ClassVar, Literal

from torchgeo.samplers import SpatialSampler

from ..datasets import SceneDataset


class SceneSampler(SpatialSampler):
    """Sample all of a scene, row by row from top to bottom.

    Unlike TorchGeo's :class:`~torchgeo.samplers.GriddedPatchSampler`, no patch reaches
    beyond a scene that is larger than the patch: the last row and the last column end
    where the scene ends. A model sees no made-up zeros there.
    """

    strategy: ClassVar[Literal['random', 'sequential']] = 'sequential'

    def __init__(
        self, dataset: SceneDataset, size: tuple[int, int], stride: tuple[int, int]
    ) -> None:
        """Initialize a new SceneSampler instance.

        Args:
            dataset: Scene to sample from.
            size: Height and width of a patch in pixels.
            stride: Distance between patches in pixels, at most *size*; less before the
                last row and column.
        """
        super().__init__(dataset)
        self.dataset = dataset
        self.size = size
        self.rows, self.columns = (
            _starts(*axis) for axis in zip(dataset.shape, size, stride, strict=True)
        )
        self._length = len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        """Iterate over the patches.

        Yields:
            [xmin:xmax, ymin:ymax] coordinates to index the dataset.
        """
        for row in self.rows:
            for column in self.columns:
                yield self.dataset.pixel_slice(row, column, *self.size)


def _starts(length: int, size: int, stride: int) -> list[int]:
    """Return the first pixels of the patches along an axis."""
    last = max(length - size, 0)
    return [*range(0, last, stride), last]

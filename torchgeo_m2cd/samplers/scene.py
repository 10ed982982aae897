# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Sampling of whole scenes."""

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

from torch.utils.data import Sampler
from torchgeo.samplers import SpatialSampler

from ..checks import Count, checked
from ..datasets import SceneDataset


class SceneSampler(SpatialSampler):
    """Sample all of a scene, one row of patches after the other, from top to bottom.

    Unlike TorchGeo's :class:`~torchgeo.samplers.GriddedPatchSampler`, no patch reaches
    beyond a scene that is larger than the patch: the last row and the last column of
    patches end where the scene ends. A model sees no made-up zeros there.
    """

    strategy: ClassVar[Literal['random', 'sequential']] = 'sequential'

    @checked
    def __init__(
        self,
        dataset: SceneDataset,
        size: tuple[Count, Count],
        stride: tuple[Count, Count],
    ) -> None:
        """Initialize a new SceneSampler instance.

        Args:
            dataset: Scene to sample from.
            size: Height and width of a patch in pixels.
            stride: Distance between patches in pixels, at most *size*; less before the
                last row and column of patches.
        """
        super().__init__(dataset)
        self.dataset = dataset
        self.size = size
        self.stride = stride
        #: First row of pixels of each row of patches, and first column of pixels of
        #: each column of patches.
        self.tops, self.lefts = (
            _starts(*axis) for axis in zip(dataset.shape, size, stride, strict=True)
        )
        self._length = len(self.tops) * len(self.lefts)

    def patch_row(self, number: int) -> list[tuple[slice, slice]]:
        """Return the patches of a row.

        Args:
            number: Number of the row of patches.

        Returns:
            [xmin:xmax, ymin:ymax] coordinates to index the dataset, from left to right.
        """
        return [
            self.dataset.pixel_slice(self.tops[number], left, *self.size)
            for left in self.lefts
        ]

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        """Iterate over the patches.

        Yields:
            [xmin:xmax, ymin:ymax] coordinates to index the dataset.
        """
        for number in range(len(self.tops)):
            yield from self.patch_row(number)


class PatchRowSampler(Sampler[list[tuple[int, slice, slice]]]):
    """Sample rows of patches of several scenes, in batches of one row alone.

    A row of patches is what one process works on, and what need not be done again after
    an interruption.
    """

    @checked
    def __init__(
        self,
        samplers: Sequence[SceneSampler],
        patch_rows: Sequence[tuple[int, int]],
        batch_size: Count,
    ) -> None:
        """Initialize a new PatchRowSampler instance.

        Args:
            samplers: Sampler of each scene.
            patch_rows: Number of the scene and of the row of patches, of each row to
                sample.
            batch_size: Patches in a batch; fewer at the end of a row.
        """
        self.samplers = samplers
        self.patch_rows = patch_rows
        self.batch_size = batch_size

    def __len__(self) -> int:
        """Return the number of batches."""
        return sum(
            -(-len(self.samplers[scene].lefts) // self.batch_size)
            for scene, _ in self.patch_rows
        )

    def __iter__(self) -> Iterator[list[tuple[int, slice, slice]]]:
        """Iterate over the batches.

        Yields:
            Number of the scene, and coordinates to index it, of each patch.
        """
        for scene, number in self.patch_rows:
            patches = [(scene, x, y) for x, y in self.samplers[scene].patch_row(number)]
            for start in range(0, len(patches), self.batch_size):
                yield patches[start : start + self.batch_size]


@checked
def list_patch_rows(samplers: Sequence[SceneSampler]) -> list[tuple[int, int]]:
    """List the rows of patches of all scenes.

    Args:
        samplers: Sampler of each scene.

    Returns:
        Number of the scene and of the row of patches, of each row.
    """
    return [
        (scene, number)
        for scene, sampler in enumerate(samplers)
        for number in range(len(sampler.tops))
    ]


def _starts(length: int, size: int, stride: int) -> list[int]:
    """Return the first pixels of the patches along an axis."""
    last = max(length - size, 0)
    return [*range(0, last, stride), last]

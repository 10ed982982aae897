# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Sampling of whole scenes."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Literal

from torch.utils.data import Sampler
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
        self.stride = stride
        #: First pixels of the rows and of the columns of patches.
        self.rows, self.columns = (
            _starts(*axis) for axis in zip(dataset.shape, size, stride, strict=True)
        )
        self._length = len(self.rows) * len(self.columns)

    def row(self, row: int) -> list[tuple[slice, slice]]:
        """Return the patches of a row.

        Args:
            row: Number of the row.

        Returns:
            [xmin:xmax, ymin:ymax] coordinates to index the dataset, from left to right.
        """
        return [
            self.dataset.pixel_slice(self.rows[row], column, *self.size)
            for column in self.columns
        ]

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        """Iterate over the patches.

        Yields:
            [xmin:xmax, ymin:ymax] coordinates to index the dataset.
        """
        for row in range(len(self.rows)):
            yield from self.row(row)


class SceneRowSampler(Sampler[list[tuple[int, slice, slice]]]):
    """Sample several scenes in batches, none of which holds patches of two rows.

    A row of patches is what one process works on, and what need not be done again after
    an interruption. The processes take turns, whatever was done before.
    """

    def __init__(
        self,
        samplers: Sequence[SceneSampler],
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Initialize a new SceneRowSampler instance.

        Args:
            samplers: Sampler of each scene.
            batch_size: Patches in a batch; fewer at the end of a row.
            rank: Number of this process.
            world_size: Number of processes.
        """
        self.samplers = samplers
        self.batch_size = batch_size
        rows = [
            (scene, row)
            for scene, sampler in enumerate(samplers)
            for row in range(len(sampler.rows))
        ]
        self.own = rows[rank::world_size]
        self.first = rows[0]
        #: Finds the rows to leave out: number of the scene and of the row.
        self.find_done: Callable[[], set[tuple[int, int]]] = set

    @functools.cached_property
    def todo(self) -> list[tuple[int, int]]:
        """Rows that this process is to do: number of the scene and of the row."""
        done = self.find_done()
        return [row for row in self.own if row not in done]

    def __len__(self) -> int:
        """Return the number of batches."""
        return (
            sum(
                -(-len(self.samplers[scene].columns) // self.batch_size)
                for scene, _ in self.todo
            )
            or 1
        )

    def __iter__(self) -> Iterator[list[tuple[int, slice, slice]]]:
        """Iterate over the batches.

        Yields:
            Number of the scene, and coordinates to index it, of each patch. If nothing
            is left to do, the first batch of all: without one, Lightning calls no
            callback.
        """
        for scene, row in self.todo or [self.first]:
            patches = [(scene, x, y) for x, y in self.samplers[scene].row(row)]
            for start in range(0, len(patches), self.batch_size):
                yield patches[start : start + self.batch_size]
                if not self.todo:
                    return


def _starts(length: int, size: int, stride: int) -> list[int]:
    """Return the first pixels of the patches along an axis."""
    last = max(length - size, 0)
    return [*range(0, last, stride), last]

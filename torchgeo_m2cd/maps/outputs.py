# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""The files of a change map, and what is there of them already."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, Self

import rasterio
from lightning.pytorch.utilities import rank_zero_info
from rasterio.errors import RasterioError

from ..samplers import SceneSampler
from ..utils import beside
from .plan import MapPlan

#: Tag of a map that says which plan and products it was made of.
PLAN_TAG = 'PLAN_SHA256'


@dataclasses.dataclass(frozen=True)
class Outputs:
    """The files to make of a scene.

    Args:
        probability: GeoTIFF of the probabilities.
        classes: GeoTIFF of the predicted classes, if any.
        polygons: GeoPackage of the outlines of what has changed, if any.
        quicklook: PNG of images and probabilities, if any.
        threshold: Probability from which on a pixel of a binary task is changed.
        min_area: Smallest area of a polygon in m².
        overwrite: Whether to replace existing files.

    Raises:
        ValueError: If two of the files are the same, or *threshold* is not within
            [0, 1].
    """

    probability: pathlib.Path
    classes: pathlib.Path | None = None
    polygons: pathlib.Path | None = None
    quicklook: pathlib.Path | None = None
    threshold: float = 0.5
    min_area: float = 0.0
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not 0 <= self.threshold <= 1:
            raise ValueError(
                f'threshold is {self.threshold}: expected a value from 0 to 1'
            )
        for path in self.paths:
            if self.paths.count(path) > 1:
                raise ValueError(
                    f'two of the files to write are the same: {str(path)!r}'
                )

    @property
    def paths(self) -> list[pathlib.Path]:
        """Files that are asked for."""
        files = (self.probability, self.classes, self.polygons, self.quicklook)
        return [path for path in files if path is not None]

    def named(self, name: str) -> Self:
        """Put the name of a scene into the paths.

        Args:
            name: The name, which replaces ``{name}``.

        Returns:
            The files of this scene.
        """
        files = {
            field: pathlib.Path(str(path).replace('{name}', name))
            for field, path in vars(self).items()
            if isinstance(path, pathlib.Path)
        }
        changed: dict[str, Any] = {**vars(self), **files}
        return dataclasses.replace(self, **changed)

    def check(self, inputs: Iterable[str]) -> None:
        """Check that the files can be written.

        Args:
            inputs: Files of the scene.

        Raises:
            IsADirectoryError: If one of the files is a folder.
            ValueError: If one is a file of the scene.
        """
        images = {os.path.realpath(file) for file in inputs}
        for path in self.paths:
            if path.is_dir():
                raise IsADirectoryError(f'{path} is a folder: expected a file')
            if os.path.realpath(path) in images:
                raise ValueError(f'{path} is a file of the scene itself')

    def check_new(self) -> None:
        """Check that no existing file would be replaced without being asked.

        Raises:
            FileExistsError: If a file exists and *overwrite* is False.
        """
        for path in self.paths:
            if path.exists() and not self.overwrite:
                raise FileExistsError(f'{path} exists and overwrite is False')

    def digest(self, plan: MapPlan) -> str:
        """Compute the SHA-256 of a plan and of what is made of the probabilities.

        Args:
            plan: The plan of the map.

        Returns:
            64 hexadecimal digits.
        """
        return plan.digest(threshold=self.threshold, min_area=self.min_area)

    def folder(self, plan: MapPlan) -> pathlib.Path:
        """Return the folder of the rows of patches of a plan.

        Args:
            plan: The plan of the map.

        Returns:
            Folder of its own, so that rows of two plans never meet.
        """
        return beside(self.probability, 'parts') / plan.digest()[:16]

    def is_complete(self, plan: MapPlan) -> bool:
        """Whether all files are there already, made of this plan.

        Args:
            plan: The plan of the map.

        Returns:
            Whether they are; never if they are to be overwritten.
        """
        if self.overwrite or not all(path.exists() for path in self.paths):
            return False
        try:
            with rasterio.open(self.probability) as src:
                return bool(src.tags().get(PLAN_TAG) == self.digest(plan))
        except RasterioError:
            return False


def rows_done(
    outputs: Sequence[Outputs],
    plans: Sequence[MapPlan],
    samplers: Sequence[SceneSampler],
) -> set[tuple[int, int]]:
    """Find the rows of patches that need not be predicted again.

    Args:
        outputs: The files of the map of each scene.
        plans: The plan of each map.
        samplers: The patches of each scene.

    Returns:
        Number of the scene and of the row of patches, all of them of a scene whose map
        is complete.

    Raises:
        FileExistsError: If a file exists that is of another plan, and is not to be
            overwritten.
    """
    done: set[tuple[int, int]] = set()
    for scene, (files, plan, sampler) in enumerate(
        zip(outputs, plans, samplers, strict=True)
    ):
        numbers: Iterable[int] = range(len(sampler.tops))
        if files.is_complete(plan):
            rank_zero_info(f'{files.probability} is complete already')
        else:
            files.check_new()
            numbers = (int(path.stem) for path in files.folder(plan).glob('*.npy'))
        done |= {(scene, number) for number in numbers}
    return done

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
from matplotlib.figure import Figure
from rasterio.errors import RasterioError

from ..checks import PositiveOrZero, Share, checked
from ..samplers import SceneSampler
from ..utils import beside
from .districts import Districts
from .plan import MapPlan
from .polygons import check_vector_suffix, list_side_files

#: Tag of a map that says which plan and products it was made of.
PLAN_TAG = 'PLAN_SHA256'


@checked
@dataclasses.dataclass(frozen=True)
class Outputs:
    """The files to make of a scene.

    Beside *probability*, there are a summary (``.json``) and a style for QGIS (``.qml``),
    and with *districts* a table (``.districts.csv``). *classes* have a style, too.

    Args:
        probability: GeoTIFF of the probabilities.
        classes: GeoTIFF of the predicted classes, if any.
        polygons: Vector file of the outlines of what has changed, if any, in the format
            of its suffix.
        quicklook: Picture of images and probabilities, if any, in the format of its
            suffix.
        stac: STAC item of the map, if any.
        districts: Districts to sum up areas in, if any.
        threshold: Probability from which on a pixel of a binary task is changed.
        min_area: Smallest area of what has changed in m².
        overwrite: Whether to replace existing files.

    Raises:
        TypeError: If *districts* are a path.
        ValueError: If two of the files are the same, a suffix cannot be written,
            *threshold* is not within [0, 1], or *min_area* is negative.
    """

    probability: pathlib.Path
    classes: pathlib.Path | None = None
    polygons: pathlib.Path | None = None
    quicklook: pathlib.Path | None = None
    stac: pathlib.Path | None = None
    districts: Districts | None = None
    threshold: Share = 0.5
    min_area: PositiveOrZero = 0.0
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check the arguments."""
        _check_suffix('output', self.probability, ('.tif', '.tiff'))
        _check_suffix('classes', self.classes, ('.tif', '.tiff'))
        pictures = Figure().canvas.get_supported_filetypes()
        _check_suffix('quicklook', self.quicklook, [f'.{name}' for name in pictures])
        _check_suffix('stac', self.stac, ('.json', '.geojson'))
        if self.polygons is not None:
            check_vector_suffix(self.polygons)
        names: dict[str, str] = {}
        for name, path in self.files.items():
            other = names.setdefault(os.path.realpath(path), name)
            if other != name:
                raise ValueError(
                    f'two of the files to write are the same: {other} and {name} are '
                    f'{str(path)!r}'
                )

    @property
    def summary(self) -> pathlib.Path:
        """JSON file with the summary."""
        return self.probability.with_suffix('.json')

    @property
    def files(self) -> dict[str, pathlib.Path]:
        """All files to write, by what they are."""
        asked: dict[str, pathlib.Path | None] = {
            'output': self.probability,
            'classes': self.classes,
            'polygons': self.polygons,
            'quicklook': self.quicklook,
            'stac': self.stac,
            'summary': self.summary,
            'style': self.probability.with_suffix('.qml'),
            'classes_style': self.classes and self.classes.with_suffix('.qml'),
            'districts': self.probability.with_suffix('.districts.csv')
            if self.districts
            else None,
        }
        for path in list_side_files(self.polygons) if self.polygons else ():
            asked[f'polygons{path.suffix}'] = path
        return {name: path for name, path in asked.items() if path is not None}

    @property
    def paths(self) -> list[pathlib.Path]:
        """All files to write."""
        return list(self.files.values())

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

    def check_task(self, task: str | None) -> None:
        """Check that a task has the classes that the files need.

        Args:
            task: Kind of the task.

        Raises:
            ValueError: If a pixel may have several labels.
        """
        needs = (self.classes, self.polygons, self.quicklook, self.districts)
        if task == 'multilabel' and any(needs):
            raise ValueError(
                "task is 'multilabel': expected an output alone, as there is no single "
                'class of a pixel for classes, polygons, quicklook and districts'
            )

    def check(self, inputs: Iterable[str]) -> None:
        """Check that the files can be written.

        Args:
            inputs: Files of the scene.

        Raises:
            IsADirectoryError: If one of the files is a folder.
            ValueError: If one is a file that is read.
        """
        images = {os.path.realpath(file) for file in inputs}
        districts = self.districts and os.path.realpath(self.districts.path)
        for path in self.paths:
            if path.is_dir():
                raise IsADirectoryError(f'{path} is a folder: expected a file')
            if os.path.realpath(path) in images:
                raise ValueError(f'{path} is a file of the scene itself')
            if os.path.realpath(path) == districts:
                raise ValueError(f'{path} is the file of the districts itself')

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
        districts = self.districts and self.districts.describe()
        return plan.digest(
            threshold=float(self.threshold),
            min_area=float(self.min_area),
            districts=districts,
        )

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


@checked
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


def _check_suffix(name: str, path: pathlib.Path | None, known: Sequence[str]) -> None:
    """Check that a file has a suffix that can be written."""
    if path is not None and path.suffix.lower() not in known:
        raise ValueError(
            f'{name} is {str(path)!r}: expected a file with one of the suffixes '
            f'{", ".join(known)}'
        )

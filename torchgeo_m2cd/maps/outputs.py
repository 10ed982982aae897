# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""The files of a change map, and which of them are to be made."""

import dataclasses
import os
import pathlib
import stat
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

from matplotlib.figure import Figure

from ..checks import PositiveOrZero, Share, checked
from ..utils import beside
from .districts import Districts
from .earlier import PLAN_TAG, EarlierMap
from .plan import MapPlan
from .polygons import check_vector_suffix, list_side_files


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

    def check(self, taken: Mapping[str, str]) -> None:
        """Check that the files can be written, and replace nothing but maps.

        Args:
            taken: What else there is, by its real path: images, the checkpoint.

        Raises:
            IsADirectoryError: If one of the files is a folder.
            ValueError: If one is something else, a link, or a file that is read, or if it
                is in the folder of the rows of patches.
        """
        if self.districts is not None:
            districts = os.path.realpath(self.districts.path)
            taken = {**taken, districts: 'the file of the districts'}
        parts = os.path.realpath(self.parts)
        for path in self.paths:
            real = os.path.realpath(path)
            if real in taken:
                raise ValueError(
                    f'{path} is {taken[real]} itself: expected another path'
                )
            if parts in map(str, pathlib.Path(real).parents):
                raise ValueError(
                    f'{path} is in {self.parts}, which is removed in the end: expected '
                    'another folder'
                )
            _check_kind(path)

    def check_new(
        self, ours: Collection[pathlib.Path] = (), plan: MapPlan | None = None
    ) -> None:
        """Check that no existing file would be replaced without being asked.

        Args:
            ours: Files that may be replaced, as they are of the same map.
            plan: The plan of the map, if it is known.

        Raises:
            FileExistsError: If another file exists and *overwrite* is False.
        """
        for path in self.paths:
            if path.exists() and path not in ours and not self.overwrite:
                raise FileExistsError(
                    f'{path} exists: expected another path, or overwrite=True'
                    f'{"" if plan is None else self._advise(plan)}'
                )

    def check_early(self) -> None:
        """Check the same before there is a plan, which tells whether maps are the same.

        Raises:
            FileExistsError: If a file exists that is of no map.
        """
        if not (self._earlier.read_tag(PLAN_TAG) or self.parts.exists()):
            self.check_new()

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

    @property
    def parts(self) -> pathlib.Path:
        """Folder of the map in the making."""
        return beside(self.probability, 'parts')

    def is_complete(self, plan: MapPlan) -> bool:
        """Whether all files are there already, made of this plan and these settings.

        Args:
            plan: The plan of the map.

        Returns:
            Whether they are; never if they are to be overwritten. A picture that could
            not be drawn is not missed.
        """
        if self.overwrite or not self._is_same(plan):
            return False
        recorded = self._earlier.files
        return all(
            path.exists() and os.path.realpath(path) == recorded.get(name)
            for name, path in self.files.items()
            if name != 'quicklook' or recorded.get(name, '') is not None
        )

    def has_probabilities(self, plan: MapPlan) -> bool:
        """Whether the probabilities of a finished map of this plan can be used.

        Args:
            plan: The plan of the map.

        Returns:
            Whether they can; not if the very same map is to be overwritten.
        """
        if self.overwrite and self._is_same(plan):
            return False
        return self._earlier.has_probabilities(plan)

    def list_made(self, plan: MapPlan) -> set[pathlib.Path]:
        """List the files that are there, and that this plan and these settings made.

        Args:
            plan: The plan of the map.

        Returns:
            Those that the summary names. A file that is asked for now, and was not then,
            is somebody else's.
        """
        if not self._is_same(plan):
            return set()
        recorded = set(self._earlier.files.values())
        return {path for path in self.paths if os.path.realpath(path) in recorded}

    def with_made(self, plan: MapPlan) -> Self:
        """Add the files that were made of this plan and these settings before.

        All of them are named in one summary and one STAC item.

        Args:
            plan: The plan of the map.

        Returns:
            The files of both.
        """
        if not self._is_same(plan):
            return self
        recorded = self._earlier.files
        is_absolute = self.probability.is_absolute()
        more: dict[str, Any] = {
            name: pathlib.Path(path if is_absolute else os.path.relpath(path))
            for name in ('classes', 'polygons', 'quicklook', 'stac')
            if getattr(self, name) is None
            and (path := recorded.get(name)) is not None
            and os.path.exists(path)
        }
        return dataclasses.replace(self, **more)

    def list_left(self, plan: MapPlan) -> list[str]:
        """List the files of the map before this one that are not made again.

        Args:
            plan: The plan of the map.

        Returns:
            Real paths of those that exist.
        """
        if self._is_same(plan):
            return []
        paths = filter(None, self._earlier.files.values())
        made = {os.path.realpath(path) for path in self.paths}
        return [path for path in paths if path not in made and os.path.exists(path)]

    def _advise(self, plan: MapPlan) -> str:
        """Say what would be made anew, and of which settings the map is."""
        new = dataclasses.replace(self, overwrite=True)
        if not new.has_probabilities(plan):
            return ''
        text = ', which makes it anew of the same probabilities'
        asked = {'threshold': self.threshold, 'min_area_m2': self.min_area}
        summary = self._earlier.summary
        there = {name: summary.get(name) for name in asked}
        if None in there.values() or there == asked:
            return text
        return (
            f'{text}. The map has threshold {there["threshold"]:g} and min_area '
            f'{there["min_area_m2"]:g}; {self.threshold:g} and {self.min_area:g} are '
            'asked for'
        )

    def _is_same(self, plan: MapPlan) -> bool:
        """Whether a map is there of the same plan and settings."""
        return self._earlier.is_of(self.digest(plan))

    @property
    def _earlier(self) -> EarlierMap:
        """The map that is there, read anew each time: runs replace it."""
        return EarlierMap(self.probability, self.summary)


@checked
def check_outputs(outputs: Sequence[Outputs], taken: Mapping[str, str]) -> None:
    """Check the files of several maps.

    Args:
        outputs: The files of each map.
        taken: What must not be replaced, by its real path, see :meth:`Outputs.check`.

    Raises:
        IsADirectoryError: If one of the files is a folder.
        ValueError: If two files are the same, or one is something that is not a map.
    """
    places: set[str] = set()
    for each in outputs:
        each.check(taken)
        for path in each.paths:
            real = os.path.realpath(path)
            if real in places:
                raise ValueError(
                    f'two of the files to write are the same: {path}. Expected names that '
                    'tell scenes and files apart'
                )
            places.add(real)


def _check_kind(path: pathlib.Path) -> None:
    """Check that nothing but a regular file would be replaced."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f'{path} is a folder: expected a file')
    if not stat.S_ISREG(mode):
        what = 'a link' if stat.S_ISLNK(mode) else 'a device or a pipe'
        raise ValueError(f'{path} is {what}: expected a regular file, or none')


def _check_suffix(name: str, path: pathlib.Path | None, known: Sequence[str]) -> None:
    """Check that a file has a suffix that can be written."""
    if path is not None and path.suffix.lower() not in known:
        folder = ", or a folder, such as 'maps/'" if name == 'output' else ''
        raise ValueError(
            f'{name} is {str(path)!r}: expected a file with one of the suffixes '
            f'{", ".join(known)}{folder}'
        )

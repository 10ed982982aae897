# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""All files of a change map, made together.

They are made strip by strip, or at a lower resolution: memory grows with the number of
polygons, not with the size of the map.
"""

import contextlib
import errno
import os
import pathlib
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import geopandas as gpd
import pandas as pd
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from ..checks import checked
from ..transforms import Inputs
from ..utils import beside, create_beside, naming, sync
from .areas import Areas
from .check import check_map
from .district_areas import COLUMNS, DistrictAreas, read_districts
from .earlier import OUTPUTS_TAG, PLAN_TAG
from .finished import FinishedMap
from .mosaic import Mosaic, strips
from .outputs import Outputs
from .parts import Parts
from .plan import MapPlan
from .polygons import (
    erase_polygons,
    find_polygons,
    list_side_files,
    mean_probability,
    save_polygons,
)
from .quicklook import plot_quicklook
from .rasters import (
    Measures,
    Rasters,
    measure_rasters,
    tag_rasters,
    write_cog,
    write_rasters,
)
from .stac import make_item
from .styles import WATER_BEFORE, name_classes, style_classes, style_probability
from .summary import Run, format_change, make_tags, summarize, to_json

# With less space on the disk, an error while files are made is taken for a full disk
_LEAST_SPACE = 2**20


@checked
def make_map(parts: Parts, run: Run) -> None:
    """Make the files of a map, and remove the rows of patches.

    Files are made beside their places, and renamed when all of them are complete.

    Args:
        parts: The rows of patches, and the files to make of them.
        run: The run that makes it.

    Raises:
        NoDataError: If no pixel is valid.
        OSError: If a file cannot be written.
        RuntimeError: If a row of patches is missing, or broken.
    """
    mosaic, probabilities = parts.mosaic, parts.probabilities
    outputs = parts.outputs.with_made(parts.plan)
    if probabilities.missing:
        raise RuntimeError(
            f'{outputs.probability} is not written: {probabilities.missing} of '
            f'{len(mosaic.tops)} rows of patches are missing in {mosaic.folder}. Run the '
            'same command again, without a limit of batches'
        )
    new: dict[pathlib.Path, pathlib.Path] = {}
    with parts.stage() as folder:
        with _noticing_full_disks(folder, outputs.probability):
            made = _Maker(outputs, parts.plan, probabilities, run, folder).make()
        try:
            for path, step in made.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                with create_beside(path) as file:
                    new[path] = pathlib.Path(file.name)
                with naming(path):
                    shutil.move(step, new[path])
                    with new[path].open('r+b') as file:
                        sync(file)
            parts.announce(new.items())
            # The raster of probabilities last: its tags say that all is complete
            for path in sorted(made, key=lambda path: path == outputs.probability):
                beside(path, 'aux.xml').unlink(missing_ok=True)  # Of an older map
                with naming(path):
                    new[path].replace(path)
        finally:
            for path in new.values():
                path.unlink(missing_ok=True)
    parts.clear()


class NoDataError(ValueError):
    """No pixel of a scene has data in both images."""


@contextlib.contextmanager
def _noticing_full_disks(folder: pathlib.Path, output: pathlib.Path) -> Iterator[None]:
    """Say that a disk is full where GDAL says that something could not be written."""
    try:
        yield
    except Exception as error:
        if shutil.disk_usage(folder).free < _LEAST_SPACE:
            reason = os.strerror(errno.ENOSPC)
            raise OSError(errno.ENOSPC, reason, str(output)) from error
        raise


class _Maker:
    """Makes the files of a map in a folder of their own."""

    def __init__(
        self,
        outputs: Outputs,
        plan: MapPlan,
        probabilities: Mosaic | FinishedMap,
        run: Run,
        folder: pathlib.Path,
    ) -> None:
        self.probabilities = probabilities
        self.scene = probabilities.dataset
        self.outputs = outputs
        self.plan = plan
        self.run = run
        self.folder = folder
        self.rasters = Rasters(folder / 'probability', folder / 'classes')
        self.areas = Areas(self.scene.grid, self.scene.shape)
        task = plan.arguments.get('task')
        self.labels = name_classes(probabilities.classes, probabilities.water, task)
        self.made: dict[pathlib.Path, pathlib.Path] = {}

    def make(self) -> dict[pathlib.Path, pathlib.Path]:
        """Make the files.

        Returns:
            Where each file is, by its place.
        """
        outputs, scene = self.outputs, self.scene
        length = len(list(strips(*scene.shape)))
        with Tqdm(
            total=6 * length,
            desc=outputs.probability.name,
            disable=not self.run.progress,
            unit='strip',
        ) as bar:

            @contextlib.contextmanager
            def step(name: str) -> Iterator[None]:
                bar.set_postfix_str(name)
                done = bar.n
                yield
                bar.update(length - (bar.n - done))

            with step('blending'):
                if not write_rasters(
                    self.probabilities, outputs.threshold, self.rasters, bar.update
                ):
                    raise NoDataError(
                        f'{outputs.probability} is not written: no pixel of the scene '
                        'has data in both images'
                    )
            with step('polygons'):
                polygons = self._make_polygons()
            with step('areas'):
                summary, measures = self._measure(bar.update)
            if polygons is not None:
                summary['polygons'] = {
                    name: int((polygons['class'] == value).sum())
                    for value, name in self.labels.items()
                    if value
                }
            with step('check'):
                self._check(summary)
            with step('rasters'):
                self._make_rasters()
            with step('other files'):
                self._make_others(summary, measures)
        return self.made

    def _add(self, path: pathlib.Path, name: str) -> pathlib.Path:
        """Name the place where a file is made."""
        self.made[path] = self.folder / name
        return self.made[path]

    def _make_polygons(self) -> gpd.GeoDataFrame | None:
        """Make polygons, and remove what is too small from the classes, too."""
        outputs = self.outputs
        if outputs.polygons is None and outputs.min_area == 0:
            return None
        classes = self.rasters.classes
        table = find_polygons(classes, self.areas, self.labels)
        small = table['area_m2'] < outputs.min_area
        if small.any():
            erase_polygons(classes, table[small].reset_index(drop=True))
        if outputs.polygons is None:
            return None
        table = table[~small].reset_index(drop=True)
        table['mean_probability'] = mean_probability(
            self.rasters.probability, classes, table
        )
        suffix = outputs.polygons.suffix.lower()
        made = self.folder / f'polygons{suffix}'
        save_polygons(table, made)
        self.made[outputs.polygons] = made
        self.made |= zip(
            list_side_files(outputs.polygons), list_side_files(made), strict=True
        )
        return table

    def _measure(
        self, advance: Callable[[], object]
    ) -> tuple[dict[str, Any], Measures]:
        """Measure the rasters, and sum up the map."""
        outputs, scene = self.outputs, self.scene
        districts = None
        if outputs.districts is not None:
            table = read_districts(outputs.districts, scene.grid, scene.shape)
            districts = DistrictAreas(table, scene.transform)
        measures = measure_rasters(
            self.rasters, outputs.threshold, self.areas, districts, advance
        )
        summary = summarize(scene, outputs, self.plan, self.run, measures, self.labels)
        if districts is not None:
            water = WATER_BEFORE if summary['water_before_km2'] is not None else None
            summary['districts'] = districts.to_records(water)
        tags = {
            **make_tags(summary, self.plan),
            PLAN_TAG: self.plan.digest(),
            OUTPUTS_TAG: outputs.digest(self.plan),
        }
        tag_rasters(self.rasters, tags, measures, self.labels)
        return summary, measures

    def _check(self, summary: dict[str, Any]) -> None:
        """Compare the map with a rule, and the images with the training data."""
        arguments = self.plan.arguments
        check = check_map(
            self.scene,
            self.rasters.classes,
            Inputs.from_dict(self.plan.inputs),
            self.probabilities.classes == 1
            and arguments.get('task') != 'multilabel'
            and arguments.get('model') != 'threshold',
            self.run.reliability,
        )
        summary['rule'] = rule = check.to_dict()
        if rule is not None:
            # Extrapolated from the compared patches
            share = check.by_rule / check.compared
            rule['flooded_km2'] = round(share * summary['mapped_km2'], 6)
        summary['warnings'] = check.warn(self.run.reliability)

    def _make_rasters(self) -> None:
        """Make the rasters, and their styles."""
        outputs = self.outputs
        band = min(self.probabilities.classes, 2)
        label = 'change' if band == 1 else self.labels[1]
        write_cog(
            self.rasters.probability, self._add(outputs.probability, 'probability.tif')
        )
        self._add(outputs.files['style'], 'probability.qml').write_bytes(
            style_probability(band, f'probability of {label}')
        )
        if outputs.classes is not None:
            write_cog(self.rasters.classes, self._add(outputs.classes, 'classes.tif'))
            self._add(outputs.files['classes_style'], 'classes.qml').write_bytes(
                style_classes(self.labels)
            )

    def _draw(self, path: pathlib.Path, summary: Mapping[str, Any]) -> None:
        """Draw the quick look."""
        suffix = path.suffix.lower()
        made = self._add(path, f'quicklook{suffix}')
        figure = plot_quicklook(
            self.scene, self.rasters.classes, self.labels, format_change(summary)
        )
        figure.savefig(made, format=suffix[1:], dpi=100)

    def _make_others(self, summary: dict[str, Any], measures: Measures) -> None:
        """Make the quick look, the table of districts, the summary and the STAC item."""
        outputs = self.outputs
        if outputs.quicklook is not None:
            try:
                self._draw(outputs.quicklook, summary)
            except (MemoryError, OSError, RuntimeError, ValueError) as error:
                # The map is worth more than its picture
                del self.made[outputs.quicklook]
                summary['files']['quicklook'] = None
                message = f'{outputs.quicklook} could not be drawn: {error}'
                warnings.warn(message, stacklevel=1)
                summary['warnings'].append(message)
        if outputs.districts is not None:
            pd.DataFrame(summary['districts'], columns=COLUMNS).to_csv(
                self._add(outputs.files['districts'], 'districts.csv'), index=False
            )
        summary['seconds'] = self.run.seconds
        summary['warnings'] = [*self.run.warnings, *summary['warnings']]
        summary['outputs_sha256'] = outputs.digest(self.plan)
        for left in outputs.list_left(self.plan):
            message = f'{left} is of the map that was here before: it is not made again'
            warnings.warn(message, stacklevel=1)
            summary['warnings'].append(message)
        self._add(outputs.summary, 'summary.json').write_bytes(to_json(summary))
        if outputs.stac is not None:
            item = make_item(self.scene, outputs, summary, measures, self.made)
            self._add(outputs.stac, 'stac.json').write_bytes(to_json(item))

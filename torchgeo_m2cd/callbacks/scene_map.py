# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Change maps that are put together from rows of patches."""

import contextlib
import json
import math
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.io import DatasetWriter
from rasterio.windows import Window

from ..products import _strips, plot_quicklook, write_cog, write_polygons
from ..samplers import SceneSampler
from ..utils import GDAL_ENV, beside, write_beside


class Outputs(NamedTuple):
    """Files to make of a scene; see :class:`SceneWriter`."""

    output: pathlib.Path
    mask: pathlib.Path | None
    polygons: pathlib.Path | None
    quicklook: pathlib.Path | None

    def paths(self) -> list[pathlib.Path]:
        """Return the files that are asked for."""
        return [path for path in self if path is not None]


class SceneMap:
    """The change map of one scene.

    Each row of patches is blended and kept in a file of its own, in a folder beside
    the output. When all of them are there, whichever process or run they are of, they
    are blended from top to bottom.

    Weights of patches depend on their places alone, and not on what was skipped or is
    without data: those of a pixel sum up to 1.
    """

    def __init__(
        self,
        sampler: SceneSampler,
        outputs: Outputs,
        plan: Mapping[str, Any],
        tags: Mapping[str, str],
        threshold: float,
        min_area: float,
    ) -> None:
        """Initialize a new SceneMap.

        Args:
            sampler: The scene and its patches.
            outputs: Files to make.
            plan: All that the rows depend on. A row of another plan is of no use.
            tags: Tags of the files.
            threshold: See :class:`SceneWriter`.
            min_area: See :class:`SceneWriter`.
        """
        self.sampler = sampler
        self.dataset = sampler.dataset
        self.outputs = outputs
        self.plan = dict(plan)
        self.tags = dict(tags)
        self.threshold = threshold
        self.min_area = min_area
        self.folder = beside(outputs.output, 'parts')
        self.weights_y, self.weights_x = (
            blend_weights(starts, size, stride, length)
            for starts, size, stride, length in zip(
                (sampler.rows, sampler.columns),
                sampler.size,
                sampler.stride,
                self.dataset.shape,
                strict=True,
            )
        )
        # Rows of pixels that count, of each row of patches
        used = [np.flatnonzero(weights) for weights in self.weights_y]
        self.used = [(int(rows[0]), int(rows[-1]) + 1) for rows in used]

    def prepare(self) -> None:
        """Make the folder for rows of patches, without those of another plan.

        Raises:
            FileExistsError: If there is a folder of this name with something else in it.
        """
        path = self.folder / 'plan.json'
        with contextlib.suppress(OSError, ValueError):
            if json.loads(path.read_text()) == self.plan:
                return
        if self.folder.exists():
            if not path.exists() and any(self.folder.iterdir()):
                raise FileExistsError(
                    f'{self.folder} is needed for rows of patches, but holds other files'
                )
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        write_beside(path, lambda file: file.write(json.dumps(self.plan).encode()))

    def done(self) -> set[int]:
        """Return the rows of patches that are complete."""
        return {int(path.stem) for path in self.folder.glob('*.npy')}

    def row(self, row: int) -> 'MapRow':
        """Start to blend a row of patches.

        Args:
            row: Number of the row.

        Returns:
            The row, without any patch.
        """
        return MapRow(
            self._part(row),
            self.used[row],
            self.dataset.shape[1],
            self.sampler.columns,
            self.weights_x,
        )

    def finish(self) -> None:
        """Make the files, and remove the rows of patches.

        Raises:
            RuntimeError: If a row of patches is missing.
            ValueError: If no pixel is valid.
        """
        missing = set(range(len(self.sampler.rows))) - self.done()
        if missing:
            raise RuntimeError(
                f'{self.outputs.output} is not written: {len(missing)} of '
                f'{len(self.sampler.rows)} rows of patches are missing in {self.folder}. '
                'Run the same command again, without a limit of batches'
            )
        outputs = self.outputs
        work = outputs.output.with_name(f'{outputs.output.name}.{os.getpid()}')
        steps = {name: work.with_name(f'{work.name}.{name}') for name in _STEPS}
        try:
            if not self._blend(steps['probability'], steps['classes']):
                raise ValueError(
                    f'{outputs.output} is not written: no pixel of the scene has data '
                    'in both images'
                )
            made: dict[pathlib.Path, pathlib.Path] = {outputs.output: steps['cog']}
            write_cog(steps['probability'], steps['cog'])
            if outputs.mask is not None:
                made[outputs.mask] = steps['mask']
                write_cog(steps['classes'], steps['mask'])
            if outputs.polygons is not None:
                made[outputs.polygons] = steps['polygons.gpkg']
                write_polygons(
                    steps['probability'],
                    steps['classes'],
                    steps['polygons.gpkg'],
                    self.min_area,
                )
            if outputs.quicklook is not None:
                made[outputs.quicklook] = steps['quicklook']
                figure = plot_quicklook(self.dataset, steps['cog'])
                figure.savefig(steps['quicklook'], format='png', dpi=100)
            for path, step in made.items():
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(step, beside(path, f'{os.getpid()}.new'))
            for path in made:
                beside(path, f'{os.getpid()}.new').replace(path)
        finally:
            for path in [
                *steps.values(),
                *(beside(path, f'{os.getpid()}.new') for path in outputs.paths()),
            ]:
                path.unlink(missing_ok=True)
        shutil.rmtree(self.folder)

    def _blend(self, probability: pathlib.Path, classes: pathlib.Path) -> bool:
        """Blend the rows of patches strip by strip; return whether any pixel is valid."""
        count = np.load(self._part(0), mmap_mode='r').shape[1]
        any_valid = False
        with (
            rasterio.Env(**GDAL_ENV),
            self._create(probability, count, 'float32', math.nan) as file,
            self._create(classes, 1, 'uint8', self.dataset.ignore_index) as labels,
        ):
            for window in _strips(*self.dataset.shape):
                strip = self._blend_strip(count, window)
                known = np.isfinite(strip[0])
                any_valid |= bool(known.any())
                chosen = (
                    strip.argmax(axis=0)
                    if len(strip) > 1
                    else strip[0] >= self.threshold
                ).astype(np.uint8)
                chosen[~known] = self.dataset.ignore_index
                file.write(strip, window=window)
                labels.write(chosen, 1, window=window)
        return any_valid

    def _blend_strip(self, count: int, window: Window) -> npt.NDArray[np.float32]:
        """Blend the rows of patches that a strip of pixels is part of."""
        top, bottom = window.row_off, window.row_off + window.height
        strip = np.zeros((count, window.height, window.width), np.float32)
        for row, first in enumerate(self.sampler.rows):
            start, stop = self.used[row]
            begin, end = max(top, first + start), min(bottom, first + stop)
            if begin < end:
                # Opened anew for each strip: what is mapped counts as memory
                values = np.load(self._part(row), mmap_mode='r')
                part = values[..., begin - first - start : end - first - start]
                weights = self.weights_y[row, begin - first : end - first, None]
                strip[:, begin - top : end - top] += part.transpose(1, 2, 0) * weights
        return strip

    def _create(
        self, path: pathlib.Path, count: int, dtype: str, nodata: float
    ) -> DatasetWriter:
        """Create a raster file of the scene."""
        file = rasterio.open(
            path,
            'w',
            driver='GTiff',
            dtype=dtype,
            count=count,
            height=self.dataset.shape[0],
            width=self.dataset.shape[1],
            crs=self.dataset.crs,
            transform=self.dataset.transform,
            nodata=nodata,
            bigtiff='if_safer',
        )
        file.update_tags(**self.tags)
        return file

    def _part(self, row: int) -> pathlib.Path:
        """Return the file of a row of patches."""
        return self.folder / f'{row:06}.npy'


class MapRow:
    """A row of patches of a map, blended from left to right.

    What no further patch is part of is written at once, so that memory is needed for
    two patches, and not for the row.
    """

    def __init__(
        self,
        path: pathlib.Path,
        used: tuple[int, int],
        width: int,
        columns: Sequence[int],
        weights: npt.NDArray[np.float32],
    ) -> None:
        """Initialize a new MapRow.

        Args:
            path: File to write it to, with an array of shape (W, classes, rows).
            used: First and last but one row of pixels that count, within the patches.
            width: Width of the scene in pixels.
            columns: First column of pixels of each patch.
            weights: Weights of each patch, shape (patches, W).
        """
        self.path = path
        self.used = used
        self.width = width
        self.places = list(zip(columns, weights, strict=True))
        # Columns from this one on are in the making: their sums, and which are known
        self.column = 0
        self.total: npt.NDArray[np.float32] | None = None
        self.known = np.zeros((0, used[1] - used[0]), np.bool_)
        self.file: BinaryIO | None = None
        self.left = width  # Columns to write

    @property
    def is_complete(self) -> bool:
        """Whether no patch is missing."""
        return not self.places

    def add(
        self, patch: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float32]:
        """Add the next patch.

        Args:
            patch: Probabilities, shape (classes, H, W).
            valid: Which of them are valid, shape (H, W).

        Returns:
            Columns that are complete with it, shape (columns, classes, rows), NaN
            where not valid; to be written in this order.
        """
        start, stop = self.used
        if self.total is None:
            self.total = np.zeros((0, len(patch), stop - start), np.float32)
        column, weights = self.places.pop(0)
        # Of a scene that is smaller than a patch, patches reach beyond it
        end = min(column + patch.shape[-1], self.width)
        # Columns that are new to the ones in the making
        more = end - self.column - len(self.total)
        total = np.pad(self.total, ((0, more), (0, 0), (0, 0)))
        known = np.pad(self.known, ((0, more), (0, 0)))
        place, inside = slice(column - self.column, None), slice(0, end - column)
        weighted = (patch[:, start:stop] * weights)[..., inside]
        total[place] += weighted.transpose(2, 0, 1)
        known[place] |= valid[start:stop, inside].T

        following = self.places[0][0] if self.places else end
        ready = following - self.column
        self.column = following
        self.total, self.known = total[ready:], known[ready:]
        done = total[:ready]
        np.copyto(done, math.nan, where=~known[:ready, None])
        return done

    def write(self, columns: npt.NDArray[np.float32]) -> None:
        """Write columns beside the file, which gets its name with the last of them.

        Args:
            columns: What :meth:`add` returned, or several of them.
        """
        part = beside(self.path, f'{os.getpid()}.part')
        try:
            if self.file is None:
                self.file = part.open('wb')
                shape = (self.width, *columns.shape[1:])
                header = {'descr': '<f4', 'fortran_order': False, 'shape': shape}
                np.lib.format.write_array_header_1_0(self.file, header)
            columns.astype('<f4').tofile(self.file)
            self.left -= len(columns)
            if self.left == 0:
                self.file.close()
                part.replace(self.path)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove what was written, if it is not complete."""
        if self.file is not None:
            self.file.close()
            beside(self.path, f'{os.getpid()}.part').unlink(missing_ok=True)


# Files in the making
_STEPS = ('probability', 'classes', 'cog', 'mask', 'polygons.gpkg', 'quicklook')


def blend_weights(
    starts: Sequence[int], size: int, stride: int, length: int
) -> npt.NDArray[np.float32]:
    """Compute the weights of patches along an axis.

    A model sees least at the edge of a patch. There, for a quarter of the overlap, a
    patch counts nothing; then its weight rises smoothly (a squared sine) over half of
    the overlap. At the edges of the scene it does not fall.

    Args:
        starts: First pixel of each patch.
        size: Pixels of a patch.
        stride: Largest distance between patches.
        length: Pixels of the scene.

    Returns:
        Weights of shape (patches, size), which sum up to 1 in each pixel of the scene.
    """
    overlap = size - stride
    margin = overlap // 4
    ramp = (np.arange(size) + 0.5 - margin) / max(overlap - 2 * margin, 1)
    rising = np.sin(np.clip(ramp, 0, 1) * np.pi / 2) ** 2
    weights = np.ones((len(starts), size))
    for weight, start in zip(weights, starts, strict=True):
        if start > 0:
            weight *= rising
        if start + size < length:
            weight *= rising[::-1]
        weight[max(length - start, 0) :] = 0
    total = np.zeros(starts[-1] + size)
    for weight, start in zip(weights, starts, strict=True):
        total[start : start + size] += weight
    for weight, start in zip(weights, starts, strict=True):
        weight[weight > 0] /= total[start : start + size][weight > 0]
    return weights.astype(np.float32)

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Blending of overlapping patches."""

import contextlib
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from lightning.pytorch.utilities import rank_zero_info
from rasterio.windows import Window

from ..checks import Count, CountOrZero, checked
from ..samplers import SceneSampler
from ..utils import create_beside, naming, sync

# Rows of pixels at a time
_STRIP = 256


class Mosaic:
    """The patches of a scene, blended.

    Each row of patches is blended and kept in a file of its own. When all of them are
    there, whichever process or run made them, they are blended from top to bottom.

    Weights of patches depend on their places alone, not on what was skipped or has no
    data: those of a pixel sum up to 1.
    """

    @checked
    def __init__(
        self, sampler: SceneSampler, folder: pathlib.Path, water: bool = False
    ) -> None:
        """Initialize a new Mosaic.

        Args:
            sampler: The scene and its patches.
            folder: Folder with the files of rows of patches.
            water: Whether patches have one more channel, 1 where water was before and
                else 0. It is blended like the probabilities.
        """
        self.dataset = sampler.dataset
        self.water = water
        self.folder = folder
        self.tops, self.lefts = sampler.tops, sampler.lefts
        self.weights_y, self.weights_x = (
            blend_weights(starts, size, stride, length)
            for starts, size, stride, length in zip(
                (sampler.tops, sampler.lefts),
                sampler.size,
                sampler.stride,
                self.dataset.shape,
                strict=True,
            )
        )
        # Rows of pixels that count, within each row of patches
        used = [np.flatnonzero(weights) for weights in self.weights_y]
        self.used = [(int(rows[0]), int(rows[-1]) + 1) for rows in used]

    def patch_row(self, number: int) -> 'PatchRow':
        """Start to blend a row of patches.

        Args:
            number: Number of the row of patches.

        Returns:
            The row, without any patch.
        """
        return PatchRow(
            self._part(number),
            self.used[number],
            self.dataset.shape[1],
            self.lefts,
            self.weights_x,
        )

    def find(self) -> set[int]:
        """Find the rows of patches that are there, and remove files that are not whole.

        Returns:
            Their numbers.
        """
        found = set()
        for number in range(len(self.tops)):
            try:
                self._read(number)
            except FileNotFoundError:
                continue
            except RuntimeError:
                part = self._part(number)
                rank_zero_info(f'{part} is not whole: it is predicted again')
                part.unlink()
            else:
                found.add(number)
        return found

    @property
    def missing(self) -> int:
        """Number of rows of patches that are not there yet."""
        return sum(not self._part(i).exists() for i in range(len(self.tops)))

    @property
    def classes(self) -> int:
        """Number of probabilities of a pixel."""
        return self._channels - self.water

    @property
    def _channels(self) -> int:
        """Number of channels of a patch."""
        return int(self._read(0).shape[1])

    def strips(self) -> Iterator[tuple[Window, npt.NDArray[np.float32]]]:
        """Blend the rows of patches, a strip of the scene at a time.

        Yields:
            Window of the strip in pixels, and values of shape (channels, H, W), NaN where
            not valid, from top to bottom.
        """
        channels = self._channels
        for window in strips(*self.dataset.shape):
            top, bottom = window.row_off, window.row_off + window.height
            strip = np.zeros((channels, window.height, window.width), np.float32)
            for number, first in enumerate(self.tops):
                start, stop = self.used[number]
                begin, end = max(top, first + start), min(bottom, first + stop)
                if begin < end:
                    # Opened anew for each strip: what is mapped counts as memory
                    values = self._read(number)
                    part = values[..., begin - first - start : end - first - start]
                    weights = self.weights_y[number, begin - first : end - first, None]
                    strip[:, begin - top : end - top] += (
                        part.transpose(1, 2, 0) * weights
                    )
            yield window, strip

    def _read(self, number: int) -> npt.NDArray[np.float32]:
        """Open a row of patches, shape (W, channels, rows of pixels)."""
        part = self._part(number)
        start, stop = self.used[number]
        try:
            values: npt.NDArray[np.float32] = np.load(part, mmap_mode='r')
            width, _, height = values.shape
            whole = (width, height) == (self.dataset.shape[1], stop - start)
        except (EOFError, ValueError):  # Cut off, or something else
            whole = False
        if not whole or values.dtype != np.float32:
            raise RuntimeError(
                f'{part} is not a row of patches of this map: it was cut off, or another '
                'program has changed it. Run the same command again: it predicts that '
                'row anew'
            )
        return values

    def _part(self, number: int) -> pathlib.Path:
        """Return the file of a row of patches."""
        return self.folder / f'{number:06}.npy'


class PatchRow:
    """A row of patches, blended from left to right.

    Columns of pixels that no further patch covers are written at once, so that memory
    holds two patches and not the whole row.
    """

    @checked
    def __init__(
        self,
        path: pathlib.Path,
        used: tuple[CountOrZero, CountOrZero],
        width: Count,
        lefts: Sequence[CountOrZero],
        weights: npt.NDArray[np.float32],
    ) -> None:
        """Initialize a new PatchRow.

        Args:
            path: File to write, with an array of shape (W, channels, rows of pixels).
            used: First row of pixels that counts, within the patches, and one past the
                last.
            width: Width of the scene in pixels.
            lefts: First column of pixels of each patch.
            weights: Weights of each patch, shape (patches, W).
        """
        self.path = path
        self.used = used
        self.width = width
        self.places = list(zip(lefts, weights, strict=True))
        # Sums from this column on, which further patches may add to, and where they are
        # known
        self.column = 0
        self.total: npt.NDArray[np.float32] | None = None
        self.known = np.zeros((0, used[1] - used[0]), np.bool_)
        self.file: BinaryIO | None = None
        self.remaining = width  # Columns of pixels to write

    @property
    def is_complete(self) -> bool:
        """Whether all patches were added."""
        return not self.places

    def add(
        self, patch: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float32]:
        """Add the next patch.

        Args:
            patch: Values, shape (channels, H, W).
            valid: Which of them are valid, shape (H, W).

        Returns:
            Columns of pixels that it completes, shape (columns, channels, rows of
            pixels), NaN where not valid, from left to right.
        """
        start, stop = self.used
        if self.total is None:
            self.total = np.zeros((0, len(patch), stop - start), np.float32)
        column, weights = self.places.pop(0)
        # Patches reach beyond a scene that is smaller than they are
        end = min(column + patch.shape[-1], self.width)
        # Columns that no earlier patch covers
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
        """Write columns of pixels; the file gets its name with the last of them.

        Args:
            columns: One or more results of :meth:`add`, in their order.
        """
        try:
            with naming(self.path):
                if self.file is None:
                    self.file = create_beside(self.path)
                    shape = (self.width, *columns.shape[1:])
                    header = {'descr': '<f4', 'fortran_order': False, 'shape': shape}
                    np.lib.format.write_array_header_1_0(self.file, header)
                self.file.write(columns.astype('<f4').tobytes())
                self.remaining -= len(columns)
                if self.remaining == 0:
                    sync(self.file)
                    self.file.close()
                    pathlib.Path(self.file.name).replace(self.path)
        except BaseException:
            self.discard()
            raise

    def discard(self) -> None:
        """Remove what was written of an incomplete row."""
        if self.file is not None:
            with contextlib.suppress(OSError):  # What is in its buffer does not matter
                self.file.close()
            pathlib.Path(self.file.name).unlink(missing_ok=True)


def strips(height: int, width: int) -> Iterator[Window]:
    """Cut a raster into strips, from top to bottom.

    Args:
        height: Height in pixels.
        width: Width in pixels.

    Yields:
        Window of each strip.
    """
    for row in range(0, height, _STRIP):
        yield Window(0, row, width, min(_STRIP, height - row))


@checked
def blend_weights(
    starts: Sequence[CountOrZero], size: Count, stride: Count, length: Count
) -> npt.NDArray[np.float32]:
    """Compute the weights of patches along an axis.

    A model sees least at the edge of a patch. There, over a quarter of the overlap, its
    weight is 0; over the next half of the overlap it rises smoothly, as a squared sine.
    At the edges of the scene it does not fall.

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

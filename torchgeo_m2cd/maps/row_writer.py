# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Blending and writing of rows of patches, while the model predicts the next ones."""

import concurrent.futures
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from .mosaic import PatchRow


class RowWriter:
    """Adds batches of patches to their rows, and writes these, in a thread of its own."""

    def __init__(self, rows: Iterable[PatchRow]) -> None:
        """Initialize a new RowWriter.

        Args:
            rows: The rows of patches to write, in the order of the patches.
        """
        self._rows = iter(rows)
        self._row: PatchRow | None = None
        self._thread = concurrent.futures.ThreadPoolExecutor(1)
        self._writing: concurrent.futures.Future[None] | None = None

    def add(
        self, patches: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]
    ) -> None:
        """Add the next patches of a row.

        One batch at a time is blended and written: more would fill the memory.

        Args:
            patches: Values, shape (B, channels, H, W).
            valid: Which of them are valid, shape (B, H, W).

        Raises:
            OSError: If the batch before could not be written.
        """
        self._wait()
        if self._row is None or self._row.is_complete:
            self._row = next(self._rows)
        self._writing = self._thread.submit(_add, self._row, patches, valid)

    def close(self) -> None:
        """Wait for what is being written, and end the thread.

        Raises:
            OSError: If it could not be written.
        """
        self._wait()
        self._thread.shutdown()

    def discard(self) -> None:
        """End the thread, and remove what was written of an incomplete row."""
        self._thread.shutdown()
        if self._row is not None:
            self._row.discard()

    def _wait(self) -> None:
        """Wait for the batch that is being written, and raise what went wrong."""
        if self._writing is not None:
            self._writing.result()
            self._writing = None


def _add(
    row: PatchRow, patches: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]
) -> None:
    """Add patches to a row, and write what they complete."""
    row.write(
        np.concatenate([row.add(*pair) for pair in zip(patches, valid, strict=True)])
    )

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Which file has the districts that areas are summed up in."""

import dataclasses
import os
from typing import Any

from ..checks import checked
from ..datasets.paths import public_path, stamp
from ..utils import Path


@checked
@dataclasses.dataclass(frozen=True)
class Districts:
    """A vector file of districts, such as municipalities.

    Args:
        path: Vector file with polygons. Those of the same name are one district.
        attribute: Attribute that holds the name.
        layer: Layer of the file, if there are several.
    """

    path: Path
    attribute: str
    layer: str | None = None

    def describe(self) -> list[Any]:
        """Describe the file, such that another one has another description.

        Returns:
            The arguments, and size and time of modification of a local file.
        """
        path = self.local_path
        return [public_path(path), self.attribute, self.layer, *stamp(path)]

    @property
    def local_path(self) -> str:
        """Path of the file, without ``~``."""
        return os.path.expanduser(self.path)

    @property
    def label(self) -> str:
        """Name of the file, for messages."""
        return f'districts file {public_path(self.local_path)!r}'

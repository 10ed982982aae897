# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""What the files of a map that is there already say of it."""

import contextlib
import json
import os
import pathlib
from typing import Any

import rasterio
from rasterio.errors import RasterioError

from .plan import MapPlan
from .styles import WATER_LABEL

#: Tag of a map that says of which plan its probabilities are.
PLAN_TAG = 'PLAN_SHA256'

#: Tag that says in addition what was made of them: of which threshold, for example.
OUTPUTS_TAG = 'OUTPUTS_SHA256'


class EarlierMap:
    """The map that is at the place of a new one, if there is any."""

    def __init__(self, probability: pathlib.Path, summary: pathlib.Path) -> None:
        """Initialize a new EarlierMap.

        Args:
            probability: GeoTIFF of the probabilities.
            summary: JSON file with the summary.
        """
        self.probability = probability
        #: The summary, empty if there is none.
        self.summary: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            values = json.loads(summary.read_bytes())
            if isinstance(values, dict):
                self.summary = values

    @property
    def files(self) -> dict[str, str | None]:
        """The files that the summary names, by what they are.

        Real paths, also if the folder of the map was renamed; None for a picture that
        could not be drawn. Nothing if the summary is of another map.
        """
        names = self.summary.get('files', {})
        folder, name = os.path.split(names.get('output', ''))
        if name != self.probability.name:
            return {}
        return {
            key: path
            and os.path.realpath(
                self.probability.parent / os.path.relpath(path, folder or '.')
            )
            for key, path in names.items()
        }

    def read_tag(self, name: str) -> str:
        """Read a tag of the raster.

        Args:
            name: Name of the tag.

        Returns:
            Its value, empty if there is none.
        """
        with contextlib.suppress(RasterioError), rasterio.open(self.probability) as src:
            return str(src.tags().get(name, ''))
        return ''

    def is_of(self, digest: str) -> bool:
        """Tell whether raster and summary are there, both of a plan and its settings.

        A run that was killed while files got their names may have left those of two maps.

        Args:
            digest: SHA-256 of plan and settings.

        Returns:
            Whether both are.
        """
        recorded = self.summary.get('outputs_sha256')
        return recorded == self.read_tag(OUTPUTS_TAG) == digest

    def has_probabilities(self, plan: MapPlan) -> bool:
        """Tell whether the raster holds the probabilities of a plan.

        Args:
            plan: The plan of the map.

        Returns:
            Whether it does. A copy of a map may have its tags, and other values.
        """
        with contextlib.suppress(RasterioError), rasterio.open(self.probability) as src:
            has_water = src.descriptions[-1] == WATER_LABEL
            return bool(
                src.tags().get(PLAN_TAG) == plan.digest()
                and list(src.shape) == list(plan.shape)
                and set(src.dtypes) == {'float32'}
                and (plan.water if has_water else src.count > 1 or not plan.water)
            )
        return False

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""The raster files of a map, made strip by strip."""

import math
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from matplotlib.colors import to_rgb
from rasterio.io import DatasetReader, DatasetWriter
from rasterio.windows import Window
from torchgeo.datasets.utils import Path

from ..checks import checked
from ..datasets import SceneDataset
from ..utils import GDAL_ENV
from .areas import Areas
from .district_areas import DistrictAreas
from .mosaic import strips
from .styles import WATER_BEFORE, WATER_LABEL, color_classes


class Rasters(NamedTuple):
    """The raster files in the making."""

    #: Probability of change, then where water was before if that is known (1, else 0), or
    #: probability of each class.
    probability: pathlib.Path
    #: Classes.
    classes: pathlib.Path


class Measures(NamedTuple):
    """What was measured in the rasters of a map."""

    #: Area of each class in m², shape (256,); 255 is no data.
    area: npt.NDArray[np.float64]
    #: Area of what has changed in m², also where water was before.
    changed: float
    #: Number of pixels with data.
    valid: int
    #: Minimum, maximum, mean and standard deviation of each band of the probabilities,
    #: then of the classes.
    statistics: list[dict[str, float]]


class Probabilities(Protocol):
    """Probabilities of a scene, blended or read."""

    @property
    def dataset(self) -> SceneDataset:
        """The scene."""

    @property
    def classes(self) -> int:
        """Number of probabilities of a pixel."""

    @property
    def water(self) -> bool:
        """Whether the last band is where water was before."""

    def strips(self) -> Iterator[tuple[Window, npt.NDArray[np.float32]]]:
        """Yield them from top to bottom, see :meth:`Mosaic.strips`."""


def write_rasters(
    probabilities: Probabilities,
    threshold: float,
    rasters: Rasters,
    advance: Callable[[], object],
) -> bool:
    """Write probabilities and classes, strip by strip.

    Args:
        probabilities: The probabilities, from patches or from a finished map.
        threshold: Probability from which on a pixel of a binary task is changed.
        rasters: The files to write.
        advance: Called after each strip.

    Returns:
        Whether any pixel is valid.
    """
    ignored = probabilities.dataset.ignore_index
    has_water = probabilities.water and probabilities.classes == 1
    count = probabilities.classes + has_water
    any_valid = False
    with (
        rasterio.Env(**GDAL_ENV),
        _create(probabilities, rasters.probability, count, 'float32', math.nan) as file,
        _create(probabilities, rasters.classes, 1, 'uint8', ignored) as labels,
    ):
        if has_water:
            file.set_band_description(count, WATER_LABEL)
        for window, strip in probabilities.strips():
            bands = strip[: probabilities.classes]
            known = np.isfinite(bands[0])
            any_valid |= bool(known.any())
            if len(bands) > 1:
                chosen = bands.argmax(axis=0).astype(np.uint8)
            else:
                chosen = (bands[0] >= threshold).astype(np.uint8)
                if has_water:
                    water = strip[-1] >= 0.5
                    chosen[water] = WATER_BEFORE
                    bands = np.stack([bands[0], np.where(known, water, math.nan)])
            chosen[~known] = ignored
            file.write(bands, window=window)
            labels.write(chosen, 1, window=window)
            advance()
    return any_valid


def _create(
    probabilities: Probabilities,
    path: pathlib.Path,
    count: int,
    dtype: str,
    nodata: float,
) -> DatasetWriter:
    """Create a raster file of the scene."""
    return rasterio.open(
        path,
        'w',
        driver='GTiff',
        dtype=dtype,
        count=count,
        height=probabilities.dataset.shape[0],
        width=probabilities.dataset.shape[1],
        crs=probabilities.dataset.crs,
        transform=probabilities.dataset.transform,
        nodata=nodata,
        bigtiff='if_safer',
    )


def measure_rasters(
    rasters: Rasters,
    threshold: float,
    areas: Areas,
    districts: DistrictAreas | None,
    advance: Callable[[], object],
) -> Measures:
    """Measure the rasters of a map.

    Args:
        rasters: The files.
        threshold: Probability from which on a pixel of a binary task is changed.
        areas: Areas on their grid.
        districts: Districts to sum up areas in, if any.
        advance: Called after each strip.

    Returns:
        What was measured.
    """
    area, changed = np.zeros(256), 0.0
    with (
        rasterio.Env(**GDAL_ENV),
        rasterio.open(rasters.probability) as src,
        rasterio.open(rasters.classes) as labels,
    ):
        statistics = [_Statistics() for _ in range(src.count + 1)]
        for window in strips(src.height, src.width):
            values, classes = src.read(window=window), labels.read(1, window=window)
            pixels = areas.pixels(window)
            known = classes != labels.nodata
            area += np.bincount(classes.ravel(), pixels.ravel(), 256)
            chosen = (classes > 0) & known
            if is_binary(src):
                chosen &= (classes != WATER_BEFORE) | (values[0] >= threshold)
            changed += pixels[chosen].sum()
            for band, summed in zip([*values, classes], statistics, strict=True):
                summed.add(band[known].astype(np.float64))
            if districts is not None:
                districts.add(window, classes, pixels)
            advance()
    return Measures(
        area, changed, statistics[0].count, [each.result() for each in statistics]
    )


def is_binary(file: DatasetReader) -> bool:
    """Whether a raster of a map holds the probability of change, not one per class.

    Args:
        file: The open raster of probabilities.

    Returns:
        Whether it does. Where water was before may be a second band.
    """
    return bool(file.count == 1 or file.descriptions[-1] == WATER_LABEL)


class _Statistics:
    """Minimum, maximum, mean and standard deviation of values that come in parts."""

    def __init__(self) -> None:
        self.count = 0
        self.minimum, self.maximum = math.inf, -math.inf
        self.total = self.squares = 0.0

    def add(self, values: npt.NDArray[np.float64]) -> None:
        """Add values, shape (N,)."""
        if values.size:
            self.count += values.size
            self.minimum = min(self.minimum, float(values.min()))
            self.maximum = max(self.maximum, float(values.max()))
            self.total += float(values.sum())
            self.squares += float((values * values).sum())

    def result(self) -> dict[str, float]:
        """Return the statistics by their names in GDAL's tags."""
        mean = self.total / self.count
        variance = max(self.squares / self.count - mean * mean, 0.0)
        return {
            'MINIMUM': self.minimum,
            'MAXIMUM': self.maximum,
            'MEAN': mean,
            'STDDEV': math.sqrt(variance),
        }


def tag_rasters(
    rasters: Rasters,
    tags: Mapping[str, str],
    measures: Measures,
    labels: Mapping[int, str],
) -> None:
    """Say in the rasters what they hold.

    Args:
        rasters: The files.
        tags: Tags of both files.
        measures: What was measured in them.
        labels: Name of each class.
    """
    *of_bands, of_classes = measures.statistics
    with rasterio.open(rasters.probability, 'r+') as file:
        share = 100 * measures.valid / (file.height * file.width)
        binary = is_binary(file)
        file.update_tags(**tags)
        for band, statistics in enumerate(of_bands, 1):
            if file.descriptions[band - 1] != WATER_LABEL:
                what = 'change' if binary else labels[band - 1]
                file.set_band_description(band, f'probability of {what}')
            file.set_band_unit(band, '1')
            _tag_statistics(file, band, statistics, share)
    with rasterio.open(rasters.classes, 'r+') as file:
        file.update_tags(**tags)
        names = ', '.join(f'{value} {name}' for value, name in labels.items())
        file.set_band_description(1, f'class: {names}')
        file.write_colormap(
            1,
            {
                value: tuple(round(255 * part) for part in (*to_rgb(color), 1.0))
                for value, color in color_classes(labels).items()
            },
        )
        _tag_statistics(file, 1, of_classes, share)


def _tag_statistics(
    file: DatasetWriter, band: int, statistics: Mapping[str, float], share: float
) -> None:
    """Write the statistics of a band as GDAL does."""
    tags = {f'STATISTICS_{name}': f'{value:.9g}' for name, value in statistics.items()}
    file.update_tags(band, **tags, STATISTICS_VALID_PERCENT=f'{share:.4g}')


@checked
def write_cog(source: Path, output: Path) -> None:
    """Copy a raster file to a Cloud-Optimized GeoTIFF with overviews.

    Args:
        source: Raster file; overviews of floating-point values are averages.
        output: File to write.
    """
    with rasterio.Env(**GDAL_ENV):
        with rasterio.open(source) as src:
            average = np.issubdtype(src.dtypes[0], np.floating)
        rasterio.shutil.copy(
            source,
            output,
            driver='COG',
            compress='deflate',
            predictor='yes',
            blocksize=256,
            num_threads='all_cpus',
            bigtiff='if_safer',
            overview_resampling='average' if average else 'nearest',
        )

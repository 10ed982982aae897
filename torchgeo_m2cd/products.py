# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""What is made of a change map: Cloud-Optimized GeoTIFF, polygons, and a quick look.

All of it strip by strip, or at a lower resolution: memory does not grow with the map, but
with the number of polygons.
"""

from collections.abc import Iterator
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
import torch
from matplotlib.figure import Figure
from rasterio.features import rasterize, shapes
from rasterio.windows import Window
from shapely.geometry import shape
from torchgeo.datasets.utils import Path, quantile_normalization

from .datasets import SceneDataset
from .utils import GDAL_ENV

#: Equal-area projection of the whole world (NSIDC EASE-Grid 2.0).
EQUAL_AREA_CRS = 'EPSG:6933'

# Rows at a time
_STRIP = 256


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


def write_polygons(
    probability: Path, classes: Path, output: Path, min_area: float = 0.0
) -> int:
    """Write the outlines of what has changed to a GeoPackage.

    Attributes are ``class`` (1 for a binary map), ``area_m2`` in a world-wide equal-area
    projection, and ``mean_probability``, of the class, over the pixels of the polygon.

    Args:
        probability: Raster file of the probability of change, or of each class.
        classes: Raster file of the classes, 0 is unchanged.
        output: GeoPackage to write.
        min_area: Smallest area of a polygon in m².

    Returns:
        Number of polygons.
    """
    with rasterio.Env(**GDAL_ENV), rasterio.open(classes) as labels:
        band = rasterio.band(labels, 1)
        found = [
            (shape(geometry), int(value))
            for geometry, value in shapes(band, band, transform=labels.transform)
            if value != labels.nodata
        ]
        table = gpd.GeoDataFrame(
            {'class': np.array([value for _, value in found], np.int32)},
            geometry=[geometry for geometry, _ in found],
            crs=labels.crs,
        )
        table['area_m2'] = table.to_crs(EQUAL_AREA_CRS).area.astype(float)
        table = table[table['area_m2'] >= min_area].reset_index(drop=True)
        with rasterio.open(probability) as src:
            table['mean_probability'] = _zonal_mean(src, labels, table)
    table.to_file(output, driver='GPKG', layer='change', geometry_type='Polygon')
    return len(table)


def _zonal_mean(
    src: Any, labels: Any, table: gpd.GeoDataFrame
) -> npt.NDArray[np.float64]:
    """Average the probability of the class over the pixels of each polygon."""
    total, count = np.zeros((2, len(table) + 1))
    for window in _strips(src.height, src.width):
        bounds = rasterio.windows.bounds(window, src.transform)
        hit = table.iloc[table.sindex.intersection(bounds)]
        if not len(hit):
            continue
        zones = rasterize(
            zip(hit.geometry, hit.index + 1, strict=True),
            (window.height, window.width),
            transform=rasterio.windows.transform(window, src.transform),
            dtype='int32',
        )
        values = src.read(window=window)
        if src.count > 1:
            own = labels.read(window=window).clip(max=src.count - 1).astype(np.int64)
            values = np.take_along_axis(values, own, axis=0)
        zones, values = zones.ravel(), values.ravel()
        inside = zones > 0
        total += np.bincount(zones[inside], values[inside], len(total))
        count += np.bincount(zones[inside], minlength=len(count))
    mean: npt.NDArray[np.float64] = total[1:] / np.maximum(count[1:], 1)
    return mean


def _strips(height: int, width: int) -> Iterator[Window]:
    """Iterate over the strips of a raster, from top to bottom."""
    for row in range(0, height, _STRIP):
        yield Window(0, row, width, min(_STRIP, height - row))


def plot_quicklook(
    dataset: SceneDataset, probability: Path, max_size: int = 1024
) -> Figure:
    """Plot both images of a scene and the probability of change side by side.

    Args:
        dataset: The scene.
        probability: Raster file of the probability of change, or of each class, the
            first of which is unchanged.
        max_size: Largest height and width of an image in pixels.

    Returns:
        The figure.
    """
    sample = dataset.overview(max_size)
    optical, sar = sample['image']
    with rasterio.open(probability) as src:
        values = src.read(1, out_shape=tuple(sar.shape[-2:]), masked=True)
        if src.count > 1:
            values = 1 - values
    valid = sample['valid'][0]
    # 0 is where there are no data
    bands = [quantile_normalization(optical[i]) for i in dataset.rgb_channels]
    rgb = torch.stack(bands) * valid + ~valid
    grey = quantile_normalization(sar[0]) * valid + ~valid

    height, width = sar.shape[-2:]
    figure = Figure(figsize=(15, 15 / 3 * height / width + 1), layout='constrained')
    axes = figure.subplots(1, 3)
    axes[0].imshow(rgb.permute(1, 2, 0).numpy())
    axes[1].imshow(grey.numpy(), cmap='gray', vmin=0, vmax=1)
    mapped = axes[2].imshow(values, cmap='cividis', vmin=0, vmax=1)
    figure.colorbar(mapped, ax=axes[2], shrink=0.8)
    for axis, title in zip(
        axes, ('Optical (before)', 'SAR (after)', 'Probability of change'), strict=True
    ):
        axis.set_title(title)
        axis.set_axis_off()
    return figure

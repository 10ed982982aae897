# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""The files of a change map: Cloud-Optimized GeoTIFFs, polygons, and a quick look.

They are made strip by strip, or at a lower resolution: memory grows with the number of
polygons, not with the size of the map.
"""

import contextlib
import math
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import geopandas as gpd
import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
import torch
from matplotlib.figure import Figure
from rasterio.features import rasterize, shapes
from rasterio.io import DatasetWriter
from shapely.geometry import shape
from torchgeo.datasets.utils import Path, quantile_normalization

from ..datasets import SceneDataset
from ..utils import GDAL_ENV, beside
from .mosaic import Mosaic, strips
from .outputs import PLAN_TAG, Outputs
from .plan import MapPlan

#: Equal-area projection of the whole world (NSIDC EASE-Grid 2.0).
EQUAL_AREA_CRS = 'EPSG:6933'

# Files in the making
_STEPS = (
    'probability',
    'classes',
    'probability.cog',
    'classes.cog',
    'polygons.gpkg',
    'quicklook',
)


def make_map(
    mosaic: Mosaic, outputs: Outputs, plan: MapPlan, tags: Mapping[str, str]
) -> None:
    """Make the files of a map, and remove the rows of patches.

    Files are made beside their places, and renamed when all of them are complete.

    Args:
        mosaic: The patches of the scene.
        outputs: The files to make.
        plan: The plan of the map.
        tags: Tags of the rasters.

    Raises:
        RuntimeError: If a row of patches is missing.
        ValueError: If no pixel is valid.
    """
    if mosaic.missing:
        raise RuntimeError(
            f'{outputs.probability} is not written: {mosaic.missing} of '
            f'{len(mosaic.tops)} rows of patches are missing in {mosaic.folder}. Run the '
            'same command again, without a limit of batches'
        )
    work = beside(outputs.probability, str(os.getpid()))
    steps = {name: beside(work, name) for name in _STEPS}
    new = {path: beside(path, f'{os.getpid()}.new') for path in outputs.paths}
    tags = {**tags, PLAN_TAG: outputs.digest(plan)}
    try:
        if not _write_rasters(
            mosaic, outputs.threshold, tags, steps['probability'], steps['classes']
        ):
            raise ValueError(
                f'{outputs.probability} is not written: no pixel of the scene has data '
                'in both images'
            )
        write_cog(steps['probability'], steps['probability.cog'])
        made = {outputs.probability: steps['probability.cog']}
        if outputs.classes is not None:
            write_cog(steps['classes'], steps['classes.cog'])
            made[outputs.classes] = steps['classes.cog']
        if outputs.polygons is not None:
            write_polygons(
                steps['probability'],
                steps['classes'],
                steps['polygons.gpkg'],
                outputs.min_area,
            )
            made[outputs.polygons] = steps['polygons.gpkg']
        if outputs.quicklook is not None:
            figure = plot_quicklook(mosaic.dataset, steps['probability.cog'])
            figure.savefig(steps['quicklook'], format='png', dpi=100)
            made[outputs.quicklook] = steps['quicklook']
        for path, step in made.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(step, new[path])
        for path in made:
            new[path].replace(path)
    finally:
        for path in (*steps.values(), *new.values()):
            path.unlink(missing_ok=True)
    _remove_rows(mosaic.folder.parent)


def _write_rasters(
    mosaic: Mosaic,
    threshold: float,
    tags: Mapping[str, str],
    probability: pathlib.Path,
    classes: pathlib.Path,
) -> bool:
    """Write probabilities and classes; return whether any pixel is valid."""
    ignored = mosaic.dataset.ignore_index
    any_valid = False
    with (
        rasterio.Env(**GDAL_ENV),
        _create(mosaic, tags, probability, mosaic.classes, 'float32', math.nan) as file,
        _create(mosaic, tags, classes, 1, 'uint8', ignored) as labels,
    ):
        for window, strip in mosaic.strips():
            known = np.isfinite(strip[0])
            any_valid |= bool(known.any())
            chosen = (
                strip.argmax(axis=0) if len(strip) > 1 else strip[0] >= threshold
            ).astype(np.uint8)
            chosen[~known] = ignored
            file.write(strip, window=window)
            labels.write(chosen, 1, window=window)
    return any_valid


def _create(
    mosaic: Mosaic,
    tags: Mapping[str, str],
    path: pathlib.Path,
    count: int,
    dtype: str,
    nodata: float,
) -> DatasetWriter:
    """Create a raster file of the scene."""
    file = rasterio.open(
        path,
        'w',
        driver='GTiff',
        dtype=dtype,
        count=count,
        height=mosaic.dataset.shape[0],
        width=mosaic.dataset.shape[1],
        crs=mosaic.dataset.crs,
        transform=mosaic.dataset.transform,
        nodata=nodata,
        bigtiff='if_safer',
    )
    file.update_tags(**tags)
    return file


def _remove_rows(parts: pathlib.Path) -> None:
    """Remove the rows of patches of all plans, and nothing else."""
    for plan in parts.glob('*/plan.json'):
        shutil.rmtree(plan.parent)
    with contextlib.suppress(OSError):  # Something else is in there
        parts.rmdir()


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
    for window in strips(src.height, src.width):
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

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""STAC items of maps."""

import datetime
import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pystac
import shapely
import shapely.affinity
from pyproj import Transformer
from pystac.extensions.classification import Classification, ClassificationExtension
from pystac.extensions.file import FileExtension
from pystac.extensions.projection import ProjectionExtension
from rasterio.transform import array_bounds
from rasterio.warp import transform_geom

from ..datasets import SceneDataset
from .outputs import Outputs
from .rasters import Measures
from .styles import WATER_LABEL, color_classes

_COG = pystac.MediaType.COG
_TYPES = {
    '.tif': _COG,
    '.tiff': _COG,
    '.json': pystac.MediaType.JSON,
    '.geojson': pystac.MediaType.GEOJSON,
    '.gpkg': pystac.MediaType.GEOPACKAGE,
    '.fgb': pystac.MediaType.FLATGEOBUF,
    '.parquet': pystac.MediaType.PARQUET,
    '.png': pystac.MediaType.PNG,
    '.csv': 'text/csv',
    '.qml': 'application/xml',
}

_ROLES = {
    'output': ['data'],
    'classes': ['data'],
    'polygons': ['data'],
    'districts': ['data'],
    'quicklook': ['overview'],
}


def make_item(
    scene: SceneDataset,
    outputs: Outputs,
    summary: Mapping[str, Any],
    measures: Measures,
    made: Mapping[pathlib.Path, pathlib.Path],
) -> dict[str, Any]:
    """Make the STAC item of a map.

    Its date is the last one of the SAR image or, if the names of its files hold none, the
    time when the map was made. The description says which.

    Args:
        scene: The scene.
        outputs: The files of the map.
        summary: The summary of the map.
        measures: What was measured in its rasters.
        made: Where each of the files is now.

    Returns:
        The item, plain values.
    """
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    dates = summary['sar']['dates']
    taken = now
    if dates:
        taken = datetime.datetime.fromisoformat(dates[-1]).replace(tzinfo=datetime.UTC)
    bounds = array_bounds(*scene.shape, scene.transform)
    geometry, bbox = _footprint(bounds, scene)
    keys = ('threshold', 'min_area_m2', 'flooded_km2', 'mapped_km2', 'water_before_km2')
    item = pystac.Item(
        outputs.probability.stem,
        geometry,
        bbox,
        taken,
        {
            'created': now.isoformat().replace('+00:00', 'Z'),
            'title': 'Change between an optical and a SAR image',
            'description': (
                'The date is that of the SAR image.'
                if dates
                else 'The date of the SAR image is not known: the date is that of the map.'
            ),
            **{f'torchgeo_m2cd:{key}': summary[key] for key in keys},
            'torchgeo_m2cd:model': summary['model'],
            'torchgeo_m2cd:version': summary['version'],
        },
    )
    authority = scene.crs.to_authority()
    ProjectionExtension.ext(item, add_if_missing=True).apply(
        code=':'.join(authority) if authority else None,
        wkt2=None if authority else scene.crs.to_wkt(),
        shape=list(scene.shape),
        transform=list(scene.transform)[:6],
        bbox=list(bounds),
    )
    for name in ('optical', 'sar'):
        for file in summary[name]['files']:
            href = os.path.abspath(file) if os.path.exists(file) else file
            item.add_link(pystac.Link('derived_from', href, title=name))
    for name, path in outputs.files.items():
        if path in made:
            item.add_asset(name, _make_asset(name, path, outputs))
            # The item has to own it first
            asset = FileExtension.ext(item.assets[name], add_if_missing=True)
            asset.apply(checksum=_multihash(made[path]), size=made[path].stat().st_size)
    _add_bands(item, summary, measures)
    return item.to_dict(include_self_link=False)


def _make_asset(name: str, path: pathlib.Path, outputs: Outputs) -> pystac.Asset:
    """Make the asset of a file, relative to the item."""
    assert outputs.stac is not None
    href = os.path.relpath(path.absolute(), outputs.stac.absolute().parent)
    return pystac.Asset(
        f'./{href}',
        media_type=_TYPES.get(path.suffix.lower()),
        roles=_ROLES.get(name, ['metadata']),
    )


def _add_bands(
    item: pystac.Item, summary: Mapping[str, Any], measures: Measures
) -> None:
    """Describe the bands of the rasters."""
    bands: list[dict[str, Any]] = [
        {
            'name': f'band{number}',
            'statistics': {key.lower(): value for key, value in statistics.items()},
        }
        for number, statistics in enumerate(measures.statistics[:-1], 1)
    ]
    if summary['water_before_km2'] is not None:
        bands[-1]['description'] = WATER_LABEL
    item.assets['output'].extra_fields |= {
        'bands': bands,
        'data_type': 'float32',
        'nodata': 'nan',
    }
    if 'classes' in item.assets:
        asset = item.assets['classes']
        asset.extra_fields |= {'data_type': 'uint8', 'nodata': 255}
        labels = {int(value): name for value, name in summary['classes'].items()}
        colors = color_classes(labels)
        ClassificationExtension.ext(asset, add_if_missing=True).apply(
            [
                Classification.create(
                    value,
                    name=name.replace(' ', '_'),
                    description=name,
                    color_hint=colors[value].lstrip('#').upper(),
                )
                for value, name in labels.items()
            ]
        )


def _footprint(
    bounds: tuple[float, float, float, float], scene: SceneDataset
) -> tuple[dict[str, Any], list[float]]:
    """Return the outline of a scene in degrees, cut at 180 degrees, and its bounds."""
    box = shapely.box(*bounds)
    edge = max(bounds[2] - bounds[0], bounds[3] - bounds[1])
    outline = shapely.segmentize(box, edge / 20)
    x, y = outline.exterior.xy
    to_degrees = Transformer.from_crs(scene.crs, 'OGC:CRS84', always_xy=True)
    longitude, latitude = to_degrees.transform(x, y)
    longitude = np.unwrap(longitude, period=360)
    if abs(longitude[-1] - longitude[0]) < 180:
        turned = shapely.Polygon(np.column_stack([longitude, latitude]))
        world = shapely.box(-180, -90, 180, 90)
        parts = [
            shapely.affinity.translate(turned, turn).intersection(world)
            for turn in (-360, 0, 360)
        ]
        outline = shapely.union_all([part for part in parts if part.area > 0])
        geometry = shapely.geometry.mapping(shapely.set_precision(outline, 1e-7))
    else:  # Around a pole, which GDAL knows how to cut
        geometry = transform_geom(
            scene.crs, 'OGC:CRS84', shapely.geometry.mapping(outline), precision=7
        )
    shape = shapely.geometry.shape(geometry)
    west, south, east, north = shape.bounds
    if (west, east) == (-180, 180) and shape.geom_type == 'MultiPolygon':
        # Two parts: from the east of the one to the west of the other
        west = min(part.bounds[0] for part in shape.geoms if part.bounds[2] == 180)
        east = max(part.bounds[2] for part in shape.geoms if part.bounds[0] == -180)
    return geometry, [west, south, east, north]


def _multihash(path: pathlib.Path) -> str:
    """Compute the SHA-256 of a file, as a multihash."""
    with path.open('rb') as file:
        return '1220' + hashlib.file_digest(file, 'sha256').hexdigest()

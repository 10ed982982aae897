# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Areas on the ellipsoid."""

from typing import cast

import numpy as np
import numpy.typing as npt
import shapely
from pyproj import CRS, Transformer
from pyproj.crs import ProjectedCRS
from pyproj.crs.coordinate_operation import (
    LambertAzimuthalEqualAreaConversion,
    LambertCylindricalEqualAreaConversion,
)
from rasterio.windows import Window

from ..checks import Count, checked
from ..datasets.grid import Grid

# Columns between the pixels whose area is computed; those in between are interpolated
_STEP = 64

# Pixels along an edge after which it gets another vertex: straight lines on the grid are
# curves in another projection
_EDGE = 50


class Areas:
    """Areas of polygons and of pixels of a scene, in m² on the ellipsoid of its CRS.

    They are measured in an equal-area projection centred on the scene, so 180 degrees is
    a place like any other. For a projected CRS, it is Lambert's azimuthal projection. For
    degrees, it is the cylindrical one, in which the edges of pixels stay straight: areas
    are exact there, at the poles too.
    """

    @checked
    def __init__(self, grid: Grid, shape: tuple[Count, Count]) -> None:
        """Initialize a new Areas instance.

        Args:
            grid: Grid of the scene.
            shape: Height and width of the scene in pixels.
        """
        self.transform = grid.transform
        self.is_geographic = grid.crs.is_geographic
        self._project = _centre(grid, shape)

    def polygons(self, geometries: npt.NDArray[np.object_]) -> npt.NDArray[np.float64]:
        """Measure polygons.

        Args:
            geometries: Polygons in the CRS of the grid, shape (N,).

        Returns:
            Areas in m², shape (N,).
        """
        if not self.is_geographic:
            geometries = shapely.segmentize(geometries, _EDGE * abs(self.transform.a))
        moved = shapely.transform(
            geometries, lambda points: np.stack(self._move(*points.T), axis=1)
        )
        return cast(npt.NDArray[np.float64], shapely.area(moved))

    def pixels(self, window: Window) -> npt.NDArray[np.float64]:
        """Measure the pixels of a window.

        Args:
            window: The window, in pixels of the grid.

        Returns:
            Areas in m², shape (H, W).
        """
        height, width = int(window.height), int(window.width)
        # Along a parallel, all pixels are the same
        nodes = (
            np.zeros(1)
            if self.is_geographic
            else np.unique([*range(0, width, _STEP), width - 1])
        )
        columns, rows = np.meshgrid(
            window.col_off + np.concatenate([nodes, nodes + 1]),
            window.row_off + np.arange(height + 1),
        )
        x, y = self._move(*(self.transform @ (columns, rows)))
        # Half the cross product of the diagonals
        (x_left, x_right), (y_left, y_right) = (np.split(v, 2, axis=1) for v in (x, y))
        areas = 0.5 * np.abs(
            (x_right[1:] - x_left[:-1]) * (y_left[1:] - y_right[:-1])
            - (y_right[1:] - y_left[:-1]) * (x_left[1:] - x_right[:-1])
        )
        if len(nodes) == 1:
            return np.broadcast_to(areas, (height, width))
        place = np.interp(np.arange(width), nodes, np.arange(len(nodes)))
        left = np.minimum(place.astype(np.int64), len(nodes) - 2)
        share = place - left
        return areas[:, left] * (1 - share) + areas[:, left + 1] * share

    def _move(
        self, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Project points of the grid."""
        if self._project is None:
            return x, y
        if self.is_geographic:
            y = y.clip(-90, 90)  # Pixels on a pole may reach beyond it
        moved = self._project.transform(x, y)
        return cast(tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]], moved)


def _centre(grid: Grid, shape: tuple[int, int]) -> Transformer | None:
    """Make the projection; None for a local CRS, which has no place on the Earth."""
    base = grid.crs.geodetic_crs
    if base is None:
        return None
    base = base.to_2d()
    height, width = shape
    x, y = grid.transform @ (width / 2, height / 2)
    lon, lat = Transformer.from_crs(grid.crs, base, always_xy=True).transform(x, y)
    lon = (lon + 180) % 360 - 180
    conversion = (
        LambertCylindricalEqualAreaConversion(longitude_natural_origin=lon)
        if grid.crs.is_geographic
        else LambertAzimuthalEqualAreaConversion(lat, lon)
    )
    equal: CRS = ProjectedCRS(conversion, geodetic_crs=base)
    return Transformer.from_crs(grid.crs, equal, always_xy=True)

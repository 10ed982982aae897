# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Pixel grids."""

import itertools
import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import rasterio
import shapely
from pyproj import CRS, Transformer
from rasterio.crs import CRS as RasterioCRS
from rasterio.io import DatasetReader
from rasterio.transform import Affine, from_origin
from rasterio.warp import calculate_default_transform

from .headers import Header


@dataclass(frozen=True)
class Grid:
    """A north-up pixel grid without an end.

    Args:
        crs: CRS of its coordinates.
        transform: Transform from columns and rows to coordinates.
    """

    crs: CRS
    transform: Affine

    @classmethod
    def of(
        cls, src: DatasetReader, crs: CRS | None, res: tuple[float, float] | None
    ) -> Self:
        """Make the grid of a file.

        Args:
            src: The file.
            crs: CRS to warp to (defaults to that of the file).
            res: Width and height of a pixel (defaults to those of the file).

        Returns:
            The grid of the file itself, if that will do.
        """
        with rasterio.Env(OSR_WKT_FORMAT='WKT2_2018'):
            own = CRS.from_user_input(src.crs)
        target = RasterioCRS.from_user_input(crs or own)
        if src.crs == target and res is None and is_north_up(src.transform):
            return cls(own, src.transform)
        transform = _suggest_transform(src, target, res)
        if res is not None:
            # Scenes of the same resolution then share their grid
            west, north = (
                round_to(edge / step) * step
                for round_to, edge, step in zip(
                    (math.floor, math.ceil),
                    (transform.c, transform.f),
                    res,
                    strict=True,
                )
            )
            transform = from_origin(west, north, *res)
        return cls(crs or own, transform)

    @property
    def res(self) -> tuple[float, float]:
        """Width and height of a pixel in units of the CRS."""
        return self.transform.a, -self.transform.e

    def locate(self, x: float, y: float) -> tuple[float, float]:
        """Return column and row of a point.

        Args:
            x: First coordinate.
            y: Second coordinate.

        Returns:
            Column and row.
        """
        grid = self.transform
        return (x - grid.c) / grid.a, (y - grid.f) / grid.e

    def shift(self, columns: int, rows: int) -> Affine:
        """Return the transform of a window.

        Args:
            columns: First column of the window.
            rows: First row of the window.

        Returns:
            Transform whose origin is the upper left corner of the window.
        """
        x, y = self.transform @ (columns, rows)
        return from_origin(x, y, *self.res)

    def edges(self, src: DatasetReader | Header) -> tuple[float, float, float, float]:
        """Locate a file.

        Args:
            src: The file.

        Returns:
            Its left, top, right and bottom edge, in columns and rows of the grid.

        Raises:
            ProjError: If it has no place in the CRS of the grid.
        """
        west, south, east, north = _bounds(src, self.crs)
        left, top = self.locate(west, north)
        right, bottom = self.locate(east, south)
        turn = self._turn((left + right) / 2)
        return left + turn, top, right + turn, bottom

    def place(self, src: DatasetReader | Header) -> dict[str, Any]:
        """Say how a file is to be warped to the grid across 180 degrees.

        Args:
            src: The file.

        Returns:
            Arguments of :class:`rasterio.vrt.WarpedVRT` that override the place of the
            file, empty if there is no need.
        """
        if not src.crs.is_geographic:
            return {}
        west, _, east, _ = _bounds(src, CRS.from_user_input(src.crs))
        if self.crs.is_geographic:
            turn = self._turn(self.locate((west + east) / 2, 0)[0]) * self.transform.a
            transform = Affine.translation(turn, 0) @ src.transform
            return {'src_transform': transform} if turn else {}
        if west >= -180 and east <= 180:
            return {}
        # Else PROJ puts half of the file on the other side of the world
        middle = round((west + east) / 2)
        return {'src_crs': f'{src.crs.to_proj4()} +lon_wrap={middle}'}

    def project(self, geometry: shapely.Geometry, crs: CRS) -> shapely.Geometry:
        """Project a geometry to the CRS of the grid.

        Args:
            geometry: The geometry.
            crs: CRS of its coordinates.

        Returns:
            The geometry, on the side of 180 degrees of the grid.
        """
        transformer = Transformer.from_crs(crs, self.crs, always_xy=True)

        def project(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            x, y = transformer.transform(points[:, 0], points[:, 1])
            return np.column_stack([self.wrap(x), y])

        return shapely.transform(geometry, project)

    def wrap(self, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Shift first coordinates by full turns to the side of 180 degrees of the grid.

        Args:
            x: First coordinates.

        Returns:
            Coordinates less than half a turn from the origin, the same if they are no
            longitudes.
        """
        if not self.crs.is_geographic:
            return x
        turns: npt.NDArray[np.float64] = np.round((x - self.transform.c) / 360)
        return x - 360 * turns

    def _turn(self, column: float) -> float:
        """Return columns of the full turns that bring a column near the origin."""
        if not self.crs.is_geographic:
            return 0.0
        turn: float = 360 / self.transform.a
        return -turn * round(column / turn)


def is_north_up(transform: Affine) -> bool:
    """Whether rows go south and columns go east.

    Args:
        transform: Transform from columns and rows to coordinates.

    Returns:
        Whether they do.
    """
    north_up: bool = (
        transform.b == transform.d == 0 and transform.a > 0 and transform.e < 0
    )
    return north_up


def _bounds(src: DatasetReader | Header, crs: CRS) -> tuple[float, float, float, float]:
    """Return west, south, east and north of a file, east above 180 if it goes beyond."""
    corners = itertools.product((0, src.width), (0, src.height))
    x, y = zip(*(src.transform @ corner for corner in corners), strict=True)
    bounds = min(x), min(y), max(x), max(y)
    if src.crs == RasterioCRS.from_user_input(crs):
        return bounds
    transformer = Transformer.from_crs(src.crs, crs, always_xy=True)
    west, south, east, north = transformer.transform_bounds(*bounds, errcheck=True)
    return west, south, east + (360 if crs.is_geographic and east < west else 0), north


def _suggest_transform(
    src: DatasetReader, target: RasterioCRS, res: tuple[float, float] | None
) -> Affine:
    """Return the transform of a file in another CRS, as GDAL suggests it."""
    crs = CRS.from_user_input(target)
    bounds = _bounds(src, CRS.from_user_input(src.crs))
    west, _, east, north = _bounds(src, crs)
    size = src.width, src.height
    if src.transform.b or src.transform.d:
        # That of a raster of the same place and resolution that is not turned
        pixel = math.sqrt(abs(src.transform.determinant))
        size = (
            round((bounds[2] - bounds[0]) / pixel),
            round((bounds[3] - bounds[1]) / pixel),
        )
    if crs.is_geographic and east > 180:
        # GDAL would suggest the way around the world: turn the zero meridian instead
        turned, _, _ = calculate_default_transform(
            src.crs,
            '+proj=longlat +datum=WGS84 +pm=180',
            *size,
            *bounds,
            resolution=res,
        )
        return from_origin(west, north, turned.a, -turned.e)
    transform, _, _ = calculate_default_transform(
        src.crs, target, *size, *bounds, resolution=res
    )
    return transform

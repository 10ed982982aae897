# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Pixel grids."""

import math
from dataclasses import dataclass
from typing import Self

import rasterio
from pyproj import CRS, Transformer
from rasterio.crs import CRS as RasterioCRS
from rasterio.io import DatasetReader
from rasterio.transform import Affine, array_bounds, from_origin
from rasterio.warp import calculate_default_transform


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
        bounds = array_bounds(src.height, src.width, src.transform)
        transform, _, _ = calculate_default_transform(
            src.crs, target, src.width, src.height, *bounds, resolution=res
        )
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

    def edges(self, src: DatasetReader) -> tuple[float, float, float, float]:
        """Locate a file.

        Args:
            src: The file.

        Returns:
            Its left, top, right and bottom edge, in columns and rows of the grid.

        Raises:
            ProjError: If it has no place in the CRS of the grid.
        """
        west, south, east, north = array_bounds(src.height, src.width, src.transform)
        if src.crs != RasterioCRS.from_user_input(self.crs):
            transformer = Transformer.from_crs(src.crs, self.crs, always_xy=True)
            west, south, east, north = transformer.transform_bounds(
                west, south, east, north, errcheck=True
            )
        return *self.locate(west, north), *self.locate(east, south)


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

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Probabilities of a map that is there already."""

import pathlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window

from ..checks import checked
from ..datasets import SceneDataset
from ..utils import GDAL_ENV
from .mosaic import strips
from .rasters import is_binary


class FinishedMap:
    """The raster of probabilities of a finished map.

    It takes the place of a :class:`~torchgeo_m2cd.maps.Mosaic` when other files are made
    of the same probabilities.
    """

    #: Number of rows of patches that are not there.
    missing = 0

    @checked
    def __init__(self, path: pathlib.Path, dataset: SceneDataset) -> None:
        """Initialize a new FinishedMap.

        Args:
            path: GeoTIFF of the probabilities.
            dataset: The scene.
        """
        self.path = path
        self.dataset = dataset
        with rasterio.open(path) as src:
            #: Number of probabilities of a pixel.
            self.classes = 1 if is_binary(src) else src.count
            #: Whether the last band is where water was before. Maps of several classes,
            #: which have no use for it, lack that band.
            self.water = src.count > self.classes

    def strips(self) -> Iterator[tuple[Window, npt.NDArray[np.float32]]]:
        """Read the probabilities, a strip of the scene at a time.

        Yields:
            Window of the strip in pixels, and values of shape (bands, H, W), NaN where
            not valid, from top to bottom.

        Raises:
            RuntimeError: If the file cannot be read.
        """
        try:
            with rasterio.Env(**GDAL_ENV), rasterio.open(self.path) as src:
                for window in strips(*self.dataset.shape):
                    yield window, src.read(window=window)
        except RasterioError as error:
            raise RuntimeError(
                f'{self.path} is damaged: remove it, and run the same command again, '
                'which maps the scene anew'
            ) from error

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""CAU-Flood data module."""

from typing import Any, ClassVar

from torchgeo.datasets.utils import Path

from ..checks import Count, CountOrZero, Names, Size, checked
from ..datasets import CAUFlood
from ..transforms import Inputs
from ..utils import check_choice
from .base import OpticalSARDataModule


class CAUFloodDataModule(OpticalSARDataModule):
    """LightningDataModule implementation for the CAU-Flood dataset.

    By default, the optical image is RGB, and both images are standardised with the
    statistics of ImageNet, as in the original M²CD. This suits 8-bit images. Set *inputs*
    for float images and for other bands.
    """

    # Red, green, and blue of ImageNet, times 255
    means: ClassVar[dict[str, float]] = {'B04': 123.675, 'B03': 116.28, 'B02': 103.53}
    stds: ClassVar[dict[str, float]] = {'B04': 58.395, 'B03': 57.12, 'B02': 57.375}

    @checked
    def __init__(
        self,
        root: Path = 'data',
        batch_size: Count = 8,
        patch_size: Size | None = None,
        num_workers: CountOrZero = 0,
        bands: Names = CAUFlood.rgb_bands,
        **kwargs: Any,
    ) -> None:
        """Initialize a new CAUFloodDataModule instance.

        Args:
            root: Root directory of the dataset.
            batch_size: Size of each mini-batch.
            patch_size: Size of the random crops in training, either ``size`` or
                ``(height, width)``. If None, whole chips of 256 x 256 pixels are used.
            num_workers: Number of workers for parallel data loading.
            bands: Optical bands to use.
            **kwargs: Additional keyword arguments passed to
                :class:`OpticalSARDataModule`, like *inputs*.

        Raises:
            ValueError: If one of *bands* is unknown, or if *patch_size* is not positive.
        """
        for band in bands:
            check_choice('band', band, CAUFlood.all_bands)
        super().__init__(
            CAUFlood,
            batch_size=batch_size,
            patch_size=patch_size,
            num_workers=num_workers,
            root=root,
            bands=bands,
            **kwargs,
        )
        self.bands = bands

    def default_inputs(self) -> Inputs:
        """Return the inputs of a new model if the user gives none.

        Returns:
            Inputs with the statistics of ImageNet.

        Raises:
            ValueError: If ImageNet has no statistics for a band.
        """
        unknown = [band for band in self.bands if band not in self.means]
        if unknown:
            raise ValueError(
                f'ImageNet has no statistics of {", ".join(unknown)}: expected inputs, or '
                f'only {", ".join(self.means)}'
            )
        return self._standardized(self.bands, self.bands[:1])

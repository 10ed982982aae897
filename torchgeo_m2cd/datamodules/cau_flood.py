# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""CAU-Flood data module."""

from collections.abc import Sequence
from typing import Any, ClassVar

from torchgeo.datasets.utils import Path

from ..datasets import CAUFlood
from ..transforms import Inputs, Standardize
from ..utils import check_choice
from .base import OpticalSARDataModule


class CAUFloodDataModule(OpticalSARDataModule):
    """LightningDataModule implementation for the CAU-Flood dataset.

    By default, the optical image is RGB, and both images are normalized with the
    statistics of ImageNet, like in the original M²CD. This is meant for 8-bit images; set
    *inputs* for float images and for other bands.
    """

    # ImageNet, times 255: red, green, and blue
    means: ClassVar[dict[str, float]] = {'B04': 123.675, 'B03': 116.28, 'B02': 103.53}
    stds: ClassVar[dict[str, float]] = {'B04': 58.395, 'B03': 57.12, 'B02': 57.375}

    def __init__(
        self,
        root: Path = 'data',
        batch_size: int = 8,
        patch_size: int | tuple[int, int] | None = None,
        num_workers: int = 0,
        bands: Sequence[str] = CAUFlood.rgb_bands,
        **kwargs: Any,
    ) -> None:
        """Initialize a new CAUFloodDataModule instance.

        Args:
            root: Root directory where the dataset is.
            batch_size: Size of each mini-batch.
            patch_size: Size of the random crops in training, either ``size`` or
                ``(height, width)``. Whole chips of 256 x 256 pixels are used if None.
            num_workers: Number of workers for parallel data loading.
            bands: Optical bands to use.
            **kwargs: Additional keyword arguments passed to
                :class:`OpticalSARDataModule`, like *inputs*.

        Raises:
            ValueError: If one of *bands* is unknown, or an argument is not as described.
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
        """Return what a new model is shown, if nothing else is said.

        Returns:
            Inputs with the statistics of ImageNet.

        Raises:
            ValueError: If ImageNet has none for a band.
        """
        unknown = [band for band in self.bands if band not in self.means]
        if unknown:
            raise ValueError(
                f'ImageNet has no statistics of {", ".join(unknown)}: expected inputs, or '
                f'only {", ".join(self.means)}'
            )
        mean, std = (
            [values[band] for band in self.bands] for values in (self.means, self.stds)
        )
        return Inputs(Standardize(mean, std), Standardize(mean[:1], std[:1]))

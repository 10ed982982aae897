# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""BRIGHT data module."""

from typing import Any, ClassVar

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchgeo.datasets import BRIGHTDFC2025
from torchgeo.datasets.utils import Path

from ..checks import Count, CountOrZero, Size, checked
from ..transforms import Inputs
from .base import OpticalSARDataModule


class _BRIGHTDFC2025(BRIGHTDFC2025):
    """TorchGeo's dataset with the bands that inputs are checked against."""

    # Red, green and blue, and a band of the polarisation that was at hand
    band_names = (['B04', 'B03', 'B02'], [''])


class BRIGHTDFC2025DataModule(OpticalSARDataModule):
    """LightningDataModule implementation for the BRIGHT dataset.

    TorchGeo's :class:`~torchgeo.datasets.BRIGHTDFC2025` maps building damage in four
    classes from an optical image before and a SAR image after a disaster. TorchGeo's data
    module gives whole chips of 1024 x 1024 pixels without augmentation. This one crops and
    augments them, as for any other pair.

    The masks of the test split are not public. So the val split is also used for tests,
    and the test split for predictions.

    By default, both images are standardised with the statistics of ImageNet, as in the
    original M²CD.
    """

    # ImageNet's are for images from 0 to 1, and these have 8 bits
    means: ClassVar[dict[str, float]] = {
        band: 255 * value
        for band, value in zip('RGB', IMAGENET_DEFAULT_MEAN, strict=True)
    }
    stds: ClassVar[dict[str, float]] = {
        band: 255 * value
        for band, value in zip('RGB', IMAGENET_DEFAULT_STD, strict=True)
    }

    @checked
    def __init__(
        self,
        root: Path = 'data',
        batch_size: Count = 8,
        patch_size: Size | None = 512,
        num_workers: CountOrZero = 0,
        download: bool = False,
        checksum: bool = True,
        **kwargs: Any,
    ) -> None:
        """Initialize a new BRIGHTDFC2025DataModule instance.

        Args:
            root: Root directory of the dataset, to which it can be downloaded.
            batch_size: Size of each mini-batch.
            patch_size: Size of the random crops in training, either ``size`` or
                ``(height, width)``. If None, whole chips of 1024 x 1024 pixels are used.
            num_workers: Number of workers for parallel data loading.
            download: Whether to download the dataset if it is missing.
            checksum: Whether to verify the checksum of the archive (may be slow).
            **kwargs: Additional keyword arguments passed to
                :class:`OpticalSARDataModule`, like *inputs*.

        Raises:
            ValueError: If *patch_size* is not positive.
        """
        super().__init__(
            _BRIGHTDFC2025,
            batch_size=batch_size,
            patch_size=patch_size,
            num_workers=num_workers,
            test_split='val',
            predict_split='test',
            root=root,
            download=download,
            checksum=checksum,
            **kwargs,
        )

    def default_inputs(self) -> Inputs:
        """Return the inputs of a new model if the user gives none.

        Returns:
            Inputs with the statistics of ImageNet.
        """
        return self._standardized('RGB', 'R')

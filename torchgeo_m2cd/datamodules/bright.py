# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""BRIGHT data module."""

from collections.abc import Sequence
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchgeo.datasets import BRIGHTDFC2025
from torchgeo.datasets.utils import Path

from .base import OpticalSARDataModule, pair_statistics

# The images have 8 bits
MEAN = [[255 * value for value in IMAGENET_DEFAULT_MEAN]] * 2
STD = [[255 * value for value in IMAGENET_DEFAULT_STD]] * 2


class _BRIGHTDFC2025(BRIGHTDFC2025):
    """TorchGeo's dataset, which tells a task and a checkpoint its bands."""

    band_counts = (3, 1)


class BRIGHTDFC2025DataModule(OpticalSARDataModule):
    """LightningDataModule implementation for the BRIGHT dataset.

    TorchGeo's :class:`~torchgeo.datasets.BRIGHTDFC2025`: building damage from an optical
    image before and a SAR image after a disaster, in four classes. TorchGeo's own data
    module gives whole chips of 1024 x 1024 pixels, unchanged; this one gives random crops,
    like for any other pair.

    The masks of the test split are not public: the val split is for tests, too, and
    predictions are made for the test split.
    """

    def __init__(
        self,
        root: Path = 'data',
        batch_size: int = 8,
        patch_size: int | tuple[int, int] | None = 512,
        num_workers: int = 0,
        mean: Sequence[Sequence[float]] = MEAN,
        std: Sequence[Sequence[float]] = STD,
        download: bool = False,
        checksum: bool = True,
        **kwargs: Any,
    ) -> None:
        """Initialize a new BRIGHTDFC2025DataModule instance.

        Args:
            root: Root directory where the dataset is, or is downloaded to.
            batch_size: Size of each mini-batch.
            patch_size: Size of the random crops in training, either ``size`` or
                ``(height, width)``. Whole chips of 1024 x 1024 pixels are used if None.
            num_workers: Number of workers for parallel data loading.
            mean: Mean of each band, first of the optical, then of the SAR bands, from 0
                to 255. ImageNet by default, like in the original M²CD.
            std: Standard deviation of each band, likewise.
            download: Whether to download the dataset if it is not there yet.
            checksum: Whether to check the archive (may be slow).
            **kwargs: Additional keyword arguments passed to
                :class:`OpticalSARDataModule`, like *standardize*.

        Raises:
            ValueError: If an argument is not as described.
        """
        super().__init__(
            _BRIGHTDFC2025,
            mean=pair_statistics(mean),
            std=pair_statistics(std),
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

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""BRIGHT data module."""

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchgeo.datasets import BRIGHTDFC2025
from torchgeo.datasets.utils import Path

from ..transforms import Inputs, Standardize
from .base import OpticalSARDataModule


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

    By default, both images are normalized with the statistics of ImageNet, like in the
    original M²CD.
    """

    # The images have 8 bits
    means = tuple(255 * value for value in IMAGENET_DEFAULT_MEAN)
    stds = tuple(255 * value for value in IMAGENET_DEFAULT_STD)

    def __init__(
        self,
        root: Path = 'data',
        batch_size: int = 8,
        patch_size: int | tuple[int, int] | None = 512,
        num_workers: int = 0,
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
            download: Whether to download the dataset if it is not there yet.
            checksum: Whether to check the archive (may be slow).
            **kwargs: Additional keyword arguments passed to
                :class:`OpticalSARDataModule`, like *inputs*.

        Raises:
            ValueError: If an argument is not as described.
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
        """Return what a new model is shown, if nothing else is said.

        Returns:
            Inputs with the statistics of ImageNet.
        """
        return Inputs(
            Standardize(self.means, self.stds),
            Standardize(self.means[:1], self.stds[:1]),
        )

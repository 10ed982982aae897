# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""CAU-Flood data module."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchgeo.datasets.utils import Path

from ..datasets import CAUFlood
from ..utils import check_choice
from .base import OpticalSARDataModule, pair_statistics


class CAUFloodDataModule(OpticalSARDataModule):
    """LightningDataModule implementation for the CAU-Flood dataset.

    By default, the optical image is RGB, and both images are normalized with the
    statistics of ImageNet, like in the original M²CD. This is meant for 8-bit images; set
    *mean* and *std* for float images and for other bands.
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
        mean: Sequence[Sequence[float]] | None = None,
        std: Sequence[Sequence[float]] | None = None,
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
            mean: Mean of each band, first of the optical, then of the SAR image, in
                the units of the files; one value is enough for the latter. ImageNet by
                default.
            std: Standard deviation of each band, likewise.
            **kwargs: Additional keyword arguments passed to
                :class:`OpticalSARDataModule`, like *standardize*.

        Raises:
            ValueError: If one of *bands* is unknown, if *mean* and *std* are needed but
                not given, or an argument is not as described.
        """
        for band in bands:
            check_choice('band', band, CAUFlood.all_bands)
        super().__init__(
            CAUFlood,
            mean=_statistics('mean', mean, self.means, bands),
            std=_statistics('std', std, self.stds, bands),
            batch_size=batch_size,
            patch_size=patch_size,
            num_workers=num_workers,
            root=root,
            bands=bands,
            **kwargs,
        )


def _statistics(
    argument: str,
    given: Sequence[Sequence[float]] | None,
    imagenet: dict[str, float],
    bands: Sequence[str],
) -> Tensor:
    """Return the given statistics or those of ImageNet.

    Args:
        argument: Name of the argument, for the messages.
        given: Statistics that the user gave.
        imagenet: Statistics of ImageNet by band.
        bands: Optical bands.

    Returns:
        Tensor of shape (2, C).

    Raises:
        ValueError: If there are no or too few statistics for the bands.
    """
    if given is None:
        unknown = [band for band in bands if band not in imagenet]
        if unknown:
            raise ValueError(
                f'ImageNet has no {argument} for {", ".join(unknown)}: set `{argument}` '
                f'to 2 x {len(bands)} values, or use only {", ".join(imagenet)}'
            )
        given = [[imagenet[band] for band in bands]] * 2
    lists = len(given) == 2 and all(isinstance(values, Sequence) for values in given)
    statistics = pair_statistics(given) if lists else torch.tensor(given)
    if statistics.shape != (2, len(bands)):
        raise ValueError(
            f'{argument} has shape {tuple(statistics.shape)}: expected '
            f'(2, {len(bands)}) for bands {", ".join(bands)}'
        )
    return statistics

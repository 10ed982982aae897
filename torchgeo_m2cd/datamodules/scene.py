# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Scene data module."""

from collections.abc import Sequence

from torch import Tensor, nn
from torchgeo.datamodules import GeoDataModule
from torchgeo.datasets.utils import Path, Sample

from ..datasets import SceneDataset
from ..samplers import SceneSampler
from ..transforms import PairAugmentation, pair_normalize
from ..utils import check_choice
from .base import pair_statistics


class SceneDataModule(GeoDataModule):
    """LightningDataModule implementation to predict the change of a scene.

    The scene is the overlap of an optical and a SAR scene, see
    :class:`~torchgeo_m2cd.datasets.SceneDataset`. It is cut into overlapping patches,
    for :class:`~torchgeo_m2cd.callbacks.SceneWriter` to put their predictions together.
    """

    def __init__(
        self,
        optical: Path | Sequence[Path],
        sar: Path | Sequence[Path],
        mean: Sequence[Sequence[float]],
        std: Sequence[Sequence[float]],
        batch_size: int = 8,
        patch_size: int | tuple[int, int] = 256,
        stride: int | tuple[int, int] | None = None,
        num_workers: int = 0,
        optical_bands: Sequence[int] | None = None,
        sar_bands: Sequence[int] | None = None,
    ) -> None:
        """Initialize a new SceneDataModule instance.

        Args:
            optical: Pre-event optical scene: one or more files, or folders with them.
            sar: Post-event SAR scene, likewise.
            mean: Mean of each band, first of the optical, then of the SAR bands,
                in the units of the files. Take those that the model was trained with.
            std: Standard deviation of each band, likewise.
            batch_size: Size of each mini-batch.
            patch_size: Size of each patch in pixels, either ``size`` or
                ``(height, width)``.
            stride: Distance between patches in pixels (defaults to half of
                *patch_size*).
            num_workers: Number of workers for parallel data loading.
            optical_bands: Optical bands to use, starting at 1 (defaults to all).
            sar_bands: SAR bands to use, starting at 1 (defaults to all).

        Raises:
            ValueError: If *mean* or *std* does not hold values for both images,
                *patch_size* is not positive, or *stride* is not within
                [1, *patch_size*].
        """
        height, width = size = _to_pair(patch_size)
        steps = (
            (max(height // 2, 1), max(width // 2, 1))
            if stride is None
            else _to_pair(stride)
        )
        if min(size) < 1:
            raise ValueError(f'patch_size is {patch_size}: expected at least 1')
        if not all(1 <= step <= edge for step, edge in zip(steps, size, strict=True)):
            raise ValueError(
                f'stride is {stride}: expected at least 1 and at most patch_size, '
                f'which is {patch_size}, or else pixels are left out'
            )
        super().__init__(
            SceneDataset,
            batch_size,
            size,
            num_workers=num_workers,
            optical=optical,
            sar=sar,
            optical_bands=optical_bands,
            sar_bands=sar_bands,
        )
        self.stride = steps
        self.band_counts = tuple(map(len, mean))
        self.mean = pair_statistics(mean)
        self.std = pair_statistics(std)
        self.aug = _NormalizeValid(self.mean, self.std)

    def setup(self, stage: str) -> None:
        """Set up dataset and sampler.

        Args:
            stage: 'predict'.

        Raises:
            DatasetNotFoundError: If there is no raster file in a folder.
            FileNotFoundError: If a file or folder does not exist.
            ValueError: If *stage* is another one, a file has no CRS or lacks a band,
                the scenes do not overlap, or they have not as many bands as *mean*.
        """
        stage = str(getattr(stage, 'value', stage))  # The trainer gives an enum
        check_choice('stage of SceneDataModule', stage, ['predict'])
        dataset = SceneDataset(**self.kwargs)
        if dataset.band_counts != self.band_counts:
            raise ValueError(
                'mean has values for {} optical and {} SAR bands, but the scenes have '
                '{} and {}'.format(*self.band_counts, *dataset.band_counts)
            )
        self.predict_dataset = dataset
        self.predict_sampler = SceneSampler(
            dataset, _to_pair(self.patch_size), self.stride
        )


class _NormalizeValid(nn.Module):
    """Normalize a batch of scene patches, 0 where not valid."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        """Initialize a new _NormalizeValid instance.

        Args:
            mean: Mean of shape (2, C).
            std: Standard deviation of shape (2, C).
        """
        super().__init__()
        self.normalize = PairAugmentation(pair_normalize(mean, std))

    def forward(self, batch: Sample) -> Sample:
        """Normalize a batch.

        Args:
            batch: Batch with ``image`` of shape (B, 2, C, H, W) and ``valid`` of shape
                (B, 1, H, W).

        Returns:
            Batch with normalized ``image``.
        """
        batch = self.normalize(batch)
        batch['image'] = batch['image'] * batch['valid'].unsqueeze(1)
        return batch


def _to_pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return height and width."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])

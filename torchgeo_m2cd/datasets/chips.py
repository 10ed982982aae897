# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Finding and reading the files of chips, with the checks that datasets share."""

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
import torch
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from torch import Tensor
from torchgeo.datasets.utils import Path, Sample

from .base import stack_pair


class Files(NamedTuple):
    """The files of one sample."""

    optical: str  # pre-event optical image
    sar: str  # post-event SAR image
    mask: str  # change mask


def read_image(path: Path, count: int) -> Tensor:
    """Read an image and check its bands and values.

    Args:
        path: Any raster file that GDAL can read, such as PNG or GeoTIFF.
        count: Expected number of bands.

    Returns:
        Float32 tensor of shape (count, H, W) in source units.

    Raises:
        RuntimeError: If the file cannot be read, for example because it is truncated.
        ValueError: If the file has another number of bands, or values that are not finite.
    """
    array = _read(path)
    if len(array) != count:
        raise ValueError(f'{path} has {len(array)} band(s): expected {count}')
    array = array.astype(np.float32)
    invalid = array.size - np.count_nonzero(np.isfinite(array))
    if invalid:
        raise ValueError(
            f'{path} has {invalid} NaN or infinite value(s): expected finite values only'
        )
    return torch.from_numpy(array)


def read_mask(path: Path, changed: Sequence[int] = (255,)) -> Tensor:
    """Read a binary change mask.

    Args:
        path: Raster file of one band.
        changed: Values that may mean "changed". 0 means "unchanged".

    Returns:
        Int64 tensor of shape (1, H, W), 0 for unchanged and 1 for changed.

    Raises:
        RuntimeError: If the file cannot be read.
        ValueError: If the file has more than one band, a value that is neither 0 nor in
            *changed*, or several of the values in *changed*.
    """
    array = _read(path)
    if len(array) != 1:
        raise ValueError(f'{path} has {len(array)} bands: expected a mask of 1 band')
    values = sorted(set(np.unique(array).tolist()) - {0})
    if len(values) > 1 or not set(values) <= set(changed):
        found = ', '.join(str(value) for value in values[:5])
        expected = ' or '.join(str(value) for value in changed)
        raise ValueError(
            f'{path} has mask value(s) {found} beside 0: expected 0 for unchanged '
            f'and {expected} for changed'
        )
    return torch.from_numpy((array != 0).astype(np.int64))


def read_sample(
    files: Files,
    optical_count: int,
    sar_count: int,
    optical_indices: Sequence[int] | None = None,
    changed: Sequence[int] = (255,),
) -> Sample:
    """Read a pair of images and its mask.

    Args:
        files: Files of the sample.
        optical_count: Expected number of optical bands in the file.
        sar_count: Expected number of SAR bands C2.
        optical_indices: Indices of the C1 optical bands to return (defaults to all). If
            these are 0 and others are not, they become 1.2e-38, which is not no data.
        changed: Mask values that may mean "changed".

    Returns:
        ``image`` of shape (2, max(C1, C2), H, W) and ``mask`` of shape (1, H, W).

    Raises:
        RuntimeError: If a file cannot be read.
        ValueError: If a file has wrong bands or values, or if the files differ in size.
    """
    optical = read_image(files.optical, optical_count)
    sar = read_image(files.sar, sar_count)
    mask = read_mask(files.mask, changed)
    if not optical.shape[1:] == sar.shape[1:] == mask.shape[1:]:
        sizes = ', '.join(
            f'{path} has {tensor.shape[1]} x {tensor.shape[2]} pixels'
            for path, tensor in zip(files, (optical, sar, mask), strict=True)
        )
        raise ValueError(f'{sizes}: expected the same size')
    if optical_indices is not None:
        seen = (optical != 0).any(dim=0)
        optical = optical[list(optical_indices)]
        # Where all bands are 0, models see no data, but water may be 0 in some of them
        dark = (optical == 0).all(dim=0) & seen
        optical[:, dark] = torch.finfo(torch.float32).tiny
    return {'image': stack_pair(optical, sar), 'mask': mask}


def match_files[Key](
    optical: Mapping[Key, str], sar: Mapping[Key, str], mask: Mapping[Key, str]
) -> list[Files]:
    """Match the optical images, SAR images, and masks of a dataset.

    Args:
        optical: Optical images by key, such as the number or the stem of the file name.
        sar: SAR images by key.
        mask: Masks by key.

    Returns:
        The files of each key, in the order of *optical*.

    Raises:
        FileNotFoundError: If the SAR image, the optical image, or the mask of a key is
            missing.
    """
    files = {'optical': optical, 'SAR': sar, 'mask': mask}
    for paths in files.values():
        for other, others in files.items():
            lonely = [path for key, path in paths.items() if key not in others]
            if lonely:
                more = f' (nor have {len(lonely) - 1} more)' if lonely[1:] else ''
                raise FileNotFoundError(
                    f'{lonely[0]} has no {other} file{more}: found {len(optical)} '
                    f'optical, {len(sar)} SAR, and {len(mask)} mask files, expected one '
                    'of each for every sample'
                )
    return [Files(optical[key], sar[key], mask[key]) for key in optical]


def _read(path: Path) -> npt.NDArray[Any]:
    """Read all bands of a raster file.

    Args:
        path: Raster file.

    Returns:
        Array of shape (bands, H, W) in the data type of the file.

    Raises:
        RuntimeError: If the file cannot be read.
    """
    try:
        # Chips need no georeference, so GDAL must not warn about it. GDAL's fast path for
        # PNG silently fills the missing part of a truncated file with zeros.
        with (
            warnings.catch_warnings(category=NotGeoreferencedWarning, action='ignore'),
            rasterio.Env(GDAL_PNG_WHOLE_IMAGE_OPTIM=False),
            rasterio.open(os.fspath(path)) as src,
        ):
            array: npt.NDArray[Any] = src.read()
    except RasterioError as error:
        raise RuntimeError(
            f'{path} cannot be read: expected a complete image file '
            f'({error.__cause__ or error})'
        ) from error
    return array

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Unpacking the archives of datasets, which come from elsewhere."""

import pathlib
import re
import shutil
import zipfile
from collections.abc import Collection

from torchgeo.datasets.utils import Path

#: Largest size in bytes of the images of a folder. Those of the largest folder of OMBRIA
#: have 122 MB, also without compression.
MAX_FOLDER = 2**28


def extract_images(path: Path, folders: Collection[str], target: Path) -> None:
    """Extract the PNG images in some folders of a ZIP archive of GitHub.

    Args:
        path: The archive.
        folders: Folders to extract, relative to the folder that GitHub puts all files in.
        target: Folder to extract to.

    Raises:
        BadZipFile: If the archive is corrupted. CRC-32 of each image is checked.
        RuntimeError: If the images of a folder have more than :data:`MAX_FOLDER` bytes.
    """
    sizes = dict.fromkeys(folders, 0)
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            _, _, name = member.filename.partition('/')
            folder, _, filename = name.rpartition('/')
            if folder not in sizes or not re.fullmatch(r'[a-zA-Z]\w*\.png', filename):
                continue
            # Reading a file never gives more bytes than the archive declares
            sizes[folder] += member.file_size
            if sizes[folder] > MAX_FOLDER:
                raise RuntimeError(
                    f'{folder} has more than {MAX_FOLDER:,} bytes when unpacked'
                )
            image = pathlib.Path(target, folder, filename)
            image.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as src, open(image, 'wb') as dst:
                shutil.copyfileobj(src, dst)

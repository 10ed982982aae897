# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Headers of raster files, cached between runs for images of many files."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Self

import shapely
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.io import DatasetReader
from rasterio.transform import Affine

from .. import __version__
from ..utils import write_beside
from .files import open_file

# Images of fewer files open fast
_MANY = 100


@dataclasses.dataclass(frozen=True)
class Header:
    """Header of a raster file, with the names of rasterio.

    Args:
        wkt: CRS, empty if there is none.
        affine: Transform from columns and rows to coordinates, six numbers.
        height: Height in pixels.
        width: Width in pixels.
        dtypes: Type of the values of each band.
        nodata: Value without data, None if there is none.
        has_mask: Whether an alpha band or a mask file says where there are data.
        colours: Color interpretation of each band.
        descriptions: Description of each band.
        scales: Physical value of one unit, of each band.
        offsets: Physical value of 0, of each band.
        has_points: Whether there are ground control points, or coefficients instead.
    """

    wkt: str
    affine: Sequence[float]
    height: int
    width: int
    dtypes: Sequence[str]
    nodata: float | None
    has_mask: bool
    colours: Sequence[int]
    descriptions: Sequence[str | None]
    scales: Sequence[float]
    offsets: Sequence[float]
    has_points: bool

    @classmethod
    def of(cls, src: DatasetReader) -> Self:
        """Read the header of a file.

        Args:
            src: The open file.

        Returns:
            The header.
        """
        return cls(
            '' if src.crs is None else src.crs.to_wkt(version='WKT2_2019'),
            list(src.transform)[:6],
            src.height,
            src.width,
            list(src.dtypes),
            None if src.nodata is None else float(src.nodata),
            MaskFlags.per_dataset in src.mask_flag_enums[0],
            [int(colour) for colour in src.colorinterp],
            list(src.descriptions),
            list(src.scales),
            list(src.offsets),
            bool(src.gcps[0] or src.rpcs),
        )

    @property
    def crs(self) -> Any:
        """CRS of the coordinates, None if there is none."""
        return _parse_crs(self.wkt) if self.wkt else None

    @property
    def transform(self) -> Affine:
        """Transform from columns and rows to coordinates."""
        return Affine(*self.affine)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width

    @property
    def colorinterp(self) -> list[ColorInterp]:
        """Color interpretation of each band."""
        return [ColorInterp(colour) for colour in self.colours]


class Headers:
    """The headers of the files of an image.

    Those of many local files are kept in the user's cache, so that another run need not
    open them. A file that has changed, or in whose folder another file came or went, is
    read anew; one with side files always is.
    """

    def __init__(self, files: Sequence[str]) -> None:
        """Initialize a new Headers instance.

        Args:
            files: The files.
        """
        self._cache: pathlib.Path | None = None
        self._known: dict[str, Any] = {}
        self._changed = False
        if len(files) >= _MANY:
            key = hashlib.sha256('\0'.join([__version__, *files]).encode()).hexdigest()
            root = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
            self._cache = pathlib.Path(root, 'torchgeo_m2cd', f'{key[:32]}.json')
            with contextlib.suppress(OSError, ValueError):
                self._known = dict(json.loads(self._cache.read_bytes()))
        self._folders: dict[str, int] = {}
        # The file that was opened last: its header is read, and then its zeros
        self._src: DatasetReader | None = None

    def __getitem__(self, path: str) -> Header:
        """Return the header of a file.

        Args:
            path: The file.

        Returns:
            Its header.

        Raises:
            RasterioError: If the file cannot be opened.
        """
        stamp = self._stamp(path)
        with contextlib.suppress(KeyError, TypeError):
            entry = self._known[path]
            if stamp and entry['stamp'] == stamp:
                return Header(**entry['header'])
        src = self._open(path)
        header = Header.of(src)
        alone = src.files == [path]
        self._known.pop(path, None)
        if self._cache is not None and alone and stamp:
            self._known[path] = {'stamp': stamp, 'header': dataclasses.asdict(header)}
            self._changed = True
        return header

    def empty(
        self,
        path: str,
        numbers: list[int],
        anywhere: bool,
        find: Callable[..., shapely.Geometry | None],
    ) -> shapely.Geometry | None:
        """Find the areas of a file where all bands are zero, once.

        Args:
            path: The file.
            numbers: Numbers of the bands.
            anywhere: Whether areas count that are not at a corner.
            find: Finds them in the open file, see
                :func:`~torchgeo_m2cd.datasets.empty.find_empty`.

        Returns:
            The areas in coordinates of the file, None if there are none.

        Raises:
            RasterioError: If the file cannot be read.
        """
        entry = self._known.get(path, {})
        key = f'{numbers} {anywhere}'
        if key in entry:
            return shapely.from_wkb(entry[key])
        found = find(self._open(path), numbers, anywhere)
        entry[key] = None if found is None else shapely.to_wkb(found, hex=True)
        self._changed = True
        return found

    def _open(self, path: str) -> DatasetReader:
        """Open a file, unless it is the one that is open."""
        if self._src is None or self._src.name != path:
            self.close()
            self._src = open_file(path)
        return self._src

    def close(self) -> None:
        """Close the file that is open."""
        if self._src is not None:
            self._src.close()
            self._src = None

    def save(self) -> None:
        """Keep the headers for the next run, if there is a place."""
        if self._cache is not None and self._changed:
            text = json.dumps(self._known)
            with contextlib.suppress(OSError):
                self._cache.parent.mkdir(parents=True, exist_ok=True)
                write_beside(self._cache, lambda file: file.write(text.encode()))

    def _stamp(self, path: str) -> list[int]:
        """Identify a version of a local file; empty if the file is not local."""
        folder = os.path.dirname(path) or '.'
        try:
            stat = os.stat(path)
            if folder not in self._folders:
                self._folders[folder] = os.stat(folder).st_mtime_ns
        except OSError:
            return []
        return [stat.st_size, stat.st_mtime_ns, self._folders[folder]]


@functools.lru_cache(maxsize=128)
def _parse_crs(wkt: str) -> CRS:
    """Parse a CRS."""
    return CRS.from_wkt(wkt)

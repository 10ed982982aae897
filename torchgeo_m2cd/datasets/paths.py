# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""How files are named: local paths, patterns, URLs, and names of GDAL's own."""

import glob
import os
import pathlib
import posixpath
import re
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# jsonargparse does not look into an alias that is made with `type`
#: One or more files, folders, or patterns like ``'scenes/*.tif'``.
Paths = Sequence[str | pathlib.Path] | str | pathlib.Path

# zip://products.zip!before.tif
_URI_OF_ARCHIVE = (
    r'(?P<before>(?:zip|tar|gzip)(?:\+file)?://)(?P<file>[^!]+)(?P<after>(?:!.*)?)'
)
# /vsizip/products.zip/before.tif, /vsizip/{products.zip}/before.tif
_VSI_OF_ARCHIVE = (
    r'(?P<before>/vsi(?:zip|tar|gzip|7z|rar)/\{?)'
    r'(?P<file>(?!/?vsi).+?\.(?:zip|kmz|tar|tar\.gz|tgz|gz|7z|rar))'
    r'(?P<after>\}?(?:/.*)?)'
)
# NETCDF:"after.nc":vv, HDF5:after.h5://grid/vv, SENTINEL2_L2A:MTD_MSIL2A.xml:10m:...
_SUBDATASET = (
    r'(?P<before>(?:(?:NETCDF|HDF4\w*|HDF5|ZARR|GPKG|BAG|SENTINEL2_\w+)'
    r'|(?:GTIFF_DIR|NITF_IM|SENTINEL1_CALIB|RCM_CALIB|DERIVED_SUBDATASET):\w+):"?)'
    r'(?P<file>(?!/vsi|\w{2,}://)(?:[A-Z]:(?=[\\/]))?[^":]+)(?P<after>(?:"?:.*|"?))'
)
# Names with a local file in them: what is before it, the file, and what is after it
_LOCAL = [
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (_URI_OF_ARCHIVE, _VSI_OF_ARCHIVE, _SUBDATASET)
]

# WMS:https://..., PG:..., and other names that only GDAL reads
_GDAL = re.compile(r'[A-Z][A-Z0-9_]{2,}:')

# Other names of schemes that rasterio knows
_SCHEMES = {'gcs': 'gs', 's3a': 's3', 's3n': 's3'}

_REMOTE = r'(?:https?|ftps?|s3[an]?|gc?s|az|abfss?|oss|swift)://'

# Files beside a raster: its overviews, masks, statistics and georeference, and what comes
# with a product
_SIDE_FILES = (
    *('.ovr', '.msk', '.xml', '.tfw', '.tfwx', '.tifw', '.wld', '.jgw', '.pgw', '.j2w'),
    *('.prj', '.rrd', '.hdr', '.qml', '.sld', '.lyr', '.clr', '.ige', '.idx', '.lock'),
    *('.txt', '.md', '.csv', '.json', '.geojson', '.yaml', '.yml', '.pdf', '.html'),
    *('.log', '.md5', '.sha256', '.safe', '.xsd', '.ini', '.db', '.part', '.py'),
    *('.shp', '.shx', '.dbf', '.cpg', '.sbn', '.sbx', '.gpkg', '.fgb', '.parquet'),
    *('.kml', '.kmz', '.gml', '.gfs'),
)
_PICTURES = ('.png', '.jpg', '.jpeg', '.gif', '.webp', '.bmp', '.svg')
_ARCHIVES = {'.zip': 'zip', '.tar': 'tar', '.tgz': 'tar', '.tar.gz': 'tar'}


def list_paths(
    paths: os.PathLike[str] | Iterable[Any], name: str = 'paths'
) -> list[str]:
    """List one or more paths.

    Args:
        paths: One path, or several.
        name: What the paths are, for messages.

    Returns:
        The paths as strings.

    Raises:
        TypeError: If one of them is no path.
    """
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    if not isinstance(paths, Iterable) or isinstance(paths, Mapping | bytes):
        paths = [paths]
    found = []
    for path in paths:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(
                f'{name} is {path!r}: expected the name of a file, or a list of names. In '
                'YAML, quote names that look like numbers, dates or booleans'
            )
        found.append(os.fspath(path))
    return found


def name_paths(paths: os.PathLike[str] | Iterable[Any]) -> str:
    """Name files or folders in a message.

    Args:
        paths: One path, or several.

    Returns:
        At most three paths, quoted and without secrets, and the number of the others.
    """
    paths = [public_path(path) for path in list_paths(paths)]
    more = [f'and {len(paths) - 3} more'] if len(paths) > 3 else []
    return ', '.join([*map(repr, paths[:3]), *more])


def is_remote(path: str) -> bool:
    """Whether a path names no local file: a URL, or a name that only GDAL understands.

    Args:
        path: The path.

    Returns:
        Whether it does.
    """
    return not local_file(path)


def local_file(path: str) -> str:
    """Return the local file or folder that a path names, or that holds what it names.

    Args:
        path: A path, ``'zip://products.zip!before.tif'`` or ``'NETCDF:after.nc:vv'`` for
            example.

    Returns:
        The file, ``'products.zip'`` or ``'after.nc'`` for example; empty for a URL.
    """
    return _split(path)[1]


def stamp(file: str) -> list[int]:
    """Identify a version of a file.

    Args:
        file: Path of the file.

    Returns:
        Size and time of modification of a local file, nothing of others.
    """
    file = local_file(file)
    if not os.path.exists(file):
        return []
    stat = os.stat(file)
    return [stat.st_size, stat.st_mtime_ns]


def name_stem(path: str) -> str:
    """Return the name of a file without its folder and its suffix.

    Args:
        path: A path, a URL, or a name of GDAL's own.

    Returns:
        The name, for the names of other files.
    """
    before, file, after = _split(path)
    in_archive = 'vsi' in before or '://' in before
    name = after.strip('!/}') if in_archive else ''
    return pathlib.PurePath(
        re.split(r'[/\\!]', name or file or public_path(path))[-1]
    ).stem


def resolve(path: str, base: str = '') -> str:
    """Turn a path into one that rasterio opens.

    Args:
        path: A path, maybe with ``~``, or a URL, maybe ``file://`` or ``gcs://``.
        base: Local or remote file that a relative path is relative to (defaults to the
            working directory).

    Returns:
        The path.
    """
    if match := re.match(r'file:(?://(?:localhost(?=/))?)?(?=.)', path, re.IGNORECASE):
        path = path[match.end() :]
        if not os.path.exists(path):
            path = urllib.parse.unquote(path)
        path = re.sub(r'^/(?=[A-Za-z]:[\\/])', '', path)  # file:///C:/before.tif
    scheme, mark, rest = path.partition('://')
    path = _SCHEMES.get(scheme, scheme) + mark + rest
    before, file, after = _split(path)
    if not file:
        return path
    file = os.path.expanduser(file)
    if '://' in before and not base:
        file = os.path.abspath(file)  # Or else GDAL takes the ! for a part of the name
    is_absolute = os.path.isabs(file) or pathlib.PureWindowsPath(file).is_absolute()
    if base and not is_absolute:
        if is_remote(base):
            scheme, mark, rest = public_path(base).rpartition('://')
            rest = posixpath.join(posixpath.dirname(rest), file.replace('\\', '/'))
            file = scheme + mark + posixpath.normpath(rest)
        else:
            file = str(pathlib.Path(os.path.dirname(base), file))
    return before + file + after


def expand(name: str, paths: Paths) -> list[str]:
    """List paths, and the matches of those that are patterns.

    A file or folder whose name looks like a pattern, ``'tile [1].tif'``, is taken for what
    it is. Backslashes are taken for slashes where nothing has such a name.

    Args:
        name: What the files are, for messages.
        paths: One or more files, folders, or patterns.

    Returns:
        Existing files and folders, URLs, and names of GDAL's own. Matches of a pattern
        are sorted, without the files that :func:`list_files` passes over, unless there
        are no others.

    Raises:
        FileNotFoundError: If a file or folder does not exist, or nothing matches a
            pattern.
        TypeError: If a path is none.
        ValueError: If a path is a pipe, a socket or a device.
    """
    found = []
    for path in list_paths(paths, name):
        before, file, after = _split(resolve(path))
        matches = _find(file)
        if not matches and (file or not path):
            raise FileNotFoundError(
                f'no {name} file matches {path!r}'
                if glob.has_magic(file) and not before
                else f'{name} file {file!r} does not exist'
            )
        for match in matches:
            refuse_pipe(match, f'{name} file {match!r}')
        found += [before + match + after for match in matches or [file]]
    return found


def refuse_pipe(path: str, what: str) -> None:
    """Refuse paths that are neither files nor folders: reading a pipe would block.

    Args:
        path: Path or URL.
        what: What it is, for the message.

    Raises:
        ValueError: If it is a pipe, a socket or a device.
    """
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise ValueError(
            f'{what} is a pipe, a socket or a device: expected a file or a folder'
        )


def list_files(path: str) -> list[str]:
    """List the files of a folder or archive, or return the path itself.

    Files beside rasters are passed over: overviews (``.ovr``), masks (``.msk``), metadata
    (``.aux.xml``), world files, vector files, documents, hidden files, and pictures
    (``.png``, ``.jpg``) unless there is nothing else.

    Args:
        path: A file or folder, local or remote.

    Returns:
        The files, also those of folders in the folder, sorted by name.
    """
    root = path
    if os.path.isdir(path):
        found = [
            os.path.join(folder, file)
            for folder, _, files in os.walk(path, followlinks=True)
            for file in files
        ]
    elif root := _to_vsi(path):
        # Not at the top, as the help of the command line must not wait for TorchGeo
        from torchgeo.datasets.utils import find_files

        found = find_files(root) or [path]
    else:
        return [path]
    return _list_rasters(
        file for file in found if not re.search(r'[/\\]\.', file[len(root) :])
    )


def public_path(path: str) -> str:
    """Remove from a path what may be secret.

    Args:
        path: A path.

    Returns:
        A URL without user, password, query and fragment, the same whichever token it was
        signed with; other paths as they are.
    """
    return _remove_secrets(path, '"!}')


def without_secrets(text: str) -> str:
    """Remove from a text what may be secret in URLs.

    Args:
        text: A text, such as an error of GDAL.

    Returns:
        The text with :func:`public_path` in the place of each URL.
    """
    return _remove_secrets(text, '"!}\'`<>\\s')


def _remove_secrets(text: str, end: str) -> str:
    """Remove secrets of URLs, which end at one of some characters."""

    def clean_options(match: re.Match[str]) -> str:
        # /vsicurl?url=https%3A%2F%2Fhost%2Fbefore.tif&header.Authorization=...
        urls = urllib.parse.parse_qs(match['options']).get('url', [''])
        return f'{match["name"]}/{urls[0]}'

    text = re.sub(
        rf'(?P<name>/vsi\w+)\?(?P<options>[^{end}]*)',
        clean_options,
        text,
        flags=re.IGNORECASE,
    )
    return re.sub(
        rf'({_REMOTE})(?:[^/?#{end}]*@)?([^?#{end}]*)(?:[?#][^{end}]*)?',
        r'\1\2',
        text,
        flags=re.IGNORECASE,
    )


def _split(path: str) -> tuple[str, str, str]:
    """Return the local file in a path, what is before it, and what is after it."""
    if os.path.exists(path):
        return '', path, ''
    for pattern in _LOCAL:
        if match := pattern.fullmatch(path):
            return match['before'], match['file'], match['after']
    if '://' in path or path.startswith('/vsi') or _GDAL.match(path):
        return '', '', path
    return '', path, ''


def _find(path: str) -> list[str]:
    """List the local file or folder of a name, or else the matches of a pattern."""
    for option in dict.fromkeys((path, path.replace('\\', os.sep))):
        if os.path.exists(option):
            return [option]
        if glob.has_magic(option):
            # Only what does not exist is a pattern: not the [1] in 'tiles [1]/*.tif'
            folder = next(
                (parent for parent in pathlib.Path(option).parents if parent.exists()),
                pathlib.Path(),
            )
            rest = str(pathlib.Path(option).relative_to(folder))
            for pattern in (rest, rest.replace('[', '[[]')):
                found = glob.glob(pattern, root_dir=folder, recursive=True)
                matches = sorted(str(folder / match) for match in found)
                if matches:  # Maybe of masks, which are vector files
                    return _list_rasters(matches) or matches
    return []


def _list_rasters(paths: Iterable[str]) -> list[str]:
    """Sort files and folders, without the files beside rasters."""
    found = [
        path
        for path in sorted(paths)
        if os.path.isdir(path) or not path.lower().endswith(_SIDE_FILES)
    ]
    return [path for path in found if not path.lower().endswith(_PICTURES)] or found


def _to_vsi(path: str) -> str:
    """Return GDAL's name of an archive or remote folder, empty for other paths."""
    before, file, after = _split(path)
    archive = next(
        (_ARCHIVES[end] for end in _ARCHIVES if file.lower().endswith(end)), ''
    )
    if archive and not before:
        return f'/vsi{archive}/{file}'
    if match := re.match(r'(zip|tar)(?:\+file)?://$', before):
        before, after = f'/vsi{match[1]}/', after.replace('!', '/').replace('//', '/')
    if match := re.match(r'(s3|gs|az|oss)://', path):
        after = f'/vsi{match[1]}/{path[match.end() :]}'
    root = before + file + after
    suffix = pathlib.PurePath(after.rstrip('/')).suffix.lower()
    is_folder = suffix in ('', '.safe') or after.endswith('/')
    is_listed = re.match(r'/vsi(?!curl)', root) is not None
    return root.rstrip('/') if is_folder and is_listed else ''

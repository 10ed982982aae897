# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Users import public classes from their package, and find them in the API reference."""

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import torchgeo_m2cd

API = Path(__file__).parents[1] / 'docs' / 'api'

PACKAGES = [
    module.name
    for module in pkgutil.iter_modules(torchgeo_m2cd.__path__, 'torchgeo_m2cd.')
    if module.ispkg
]

#: Classes that are for developers: they are neither arguments nor results of what users
#: call. All others are exported.
INTERNAL = {
    # How files are read
    'Band', 'Chip', 'Entry', 'Granule', 'Grid', 'GridFile', 'GridRaster', 'Header',
    'Headers', 'ImageReader', 'Layer', 'LayerReader', 'Mask', 'OpenFiles', 'Polygons',
    'Radiometry', 'RasterLabels', 'Scan',
    # Parts of others
    'EarlierMap', 'ExpertLinear', 'Landscape', 'Measures', 'Probabilities', 'Rasters', 'RowWriter',
}  # fmt: skip


def list_classes(package: str) -> set[str]:
    """List the public classes that the modules of a package define."""
    path = importlib.import_module(package).__path__
    modules = [
        importlib.import_module(module.name)
        for module in pkgutil.iter_modules(path, f'{package}.')
        if module.name != f'{package}.__main__'
    ]
    return {
        name
        for module in modules
        for name, member in inspect.getmembers(module, inspect.isclass)
        if member.__module__ == module.__name__ and not name.startswith('_')
    }


@pytest.mark.parametrize('package', PACKAGES)
def test_exported(package: str) -> None:
    exported = getattr(importlib.import_module(package), '__all__', ())
    missing = list_classes(package) - {*exported} - INTERNAL
    assert not missing, (
        f'export it in {package}, or say in INTERNAL that it is not public'
    )
    assert not {*exported} & INTERNAL


def test_internal() -> None:
    """The list has no names of the past."""
    assert {*INTERNAL} <= set().union(*map(list_classes, PACKAGES))


@pytest.mark.parametrize('package', PACKAGES)
def test_documented(package: str) -> None:
    """The page of a package shows all that it exports."""
    page = package.rpartition('.')[2]
    lines = (API / f'{page}.rst').read_text().splitlines()
    start = lines.index(f'.. automodule:: {package}')
    # No option leaves anything out
    assert not ''.join(lines[start + 1 : start + 2]).strip()
    assert f'   {page}' in (API / 'index.rst').read_text().splitlines()

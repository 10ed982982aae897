# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Ready-made configurations for the ``torchgeo`` command."""

from pathlib import Path

from ..utils import check_choice


def list_configs() -> list[str]:
    """List the names of the configurations.

    Returns:
        The names, sorted.
    """
    return sorted(path.stem for path in Path(__file__).parent.glob('*.yaml'))


def config_path(name: str) -> Path:
    """Find a configuration.

    Args:
        name: Its name, one of :func:`list_configs`.

    Returns:
        The path of the YAML file.

    Raises:
        ValueError: If there is none of that name.
    """
    check_choice('configuration', name, list_configs())
    return Path(__file__).parent / f'{name}.yaml'

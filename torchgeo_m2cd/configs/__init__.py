# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Ready-made configurations for the ``torchgeo`` command."""

from pathlib import Path
from typing import Any

import yaml

from ..utils import check_choice


def list_configs() -> list[str]:
    """List the names of the configurations.

    Returns:
        The names, sorted.
    """
    return sorted(path.stem for path in Path(__file__).parent.glob('*.yaml'))


def config_path(name: str) -> Path:
    """Return the path of a configuration.

    Args:
        name: Name of the configuration, one of :func:`list_configs`.

    Returns:
        The path of the YAML file.

    Raises:
        ValueError: If no configuration has this name.
    """
    check_choice('configuration', name, list_configs())
    return Path(__file__).parent / f'{name}.yaml'


def read_configs(*names: str) -> str:
    """Read a configuration, or merge several.

    Args:
        names: Names of configurations. Values of a later one replace those of an earlier
            one, as with several ``--config`` arguments of ``torchgeo``.

    Returns:
        YAML text, which ``torchgeo --config`` takes in place of a path. The text of a
        single configuration keeps its comments.

    Raises:
        ValueError: If no configuration has one of these names.
    """
    texts = [config_path(name).read_text() for name in names]
    if len(texts) == 1:
        return texts[0]
    merged: dict[str, Any] = {}
    for text in texts:
        merged = _merge(merged, yaml.safe_load(text))
    result: str = yaml.safe_dump(merged, sort_keys=False)
    return f'# {" + ".join(names)}\n{result}'


def _merge(base: Any, top: Any) -> Any:
    """Merge two mappings, key by key; any other value of *top* replaces that of *base*."""
    if not isinstance(base, dict) or not isinstance(top, dict):
        return top
    both = {key: _merge(base[key], top[key]) for key in base.keys() & top.keys()}
    return {**base, **top, **both}

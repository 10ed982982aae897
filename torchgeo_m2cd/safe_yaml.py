# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""YAML texts of the command line: configs, and values of options."""

import contextlib
from collections.abc import Iterable
from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

from .utils import count_values

#: Most values that a text may hold, each alias counted with all that it stands for.
MAX_VALUES = 100_000

_load = get_loader('yaml')

# In C where PyYAML has it, as jsonargparse does
_Loader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)


def guard_parsers() -> None:
    """Let the parsers of this process check each YAML text before they load it."""
    set_loader('yaml', load_yaml, (yaml.YAMLError,))


def load_yaml(text: str) -> Any:
    """Load a YAML text as jsonargparse does, if :func:`check_yaml` lets it pass.

    Args:
        text: The text.

    Returns:
        Its values.

    Raises:
        ValueError: See :func:`check_yaml`.
        yaml.YAMLError: If it is no YAML.
    """
    check_yaml(text)
    return _load(text)


def check_yaml(text: str) -> None:
    """Check that a YAML text is of a size that can be handled.

    A few lines of aliases may stand for billions of values. Texts within the text, which
    may be parsed later, are checked as well.

    Args:
        text: The text. JSON is YAML, too.

    Raises:
        ValueError: If it holds more than :data:`MAX_VALUES` values, contains itself or is
            nested too deeply.
        yaml.YAMLError: If it is no YAML.
    """
    try:
        count_values(yaml.compose(text, _Loader), _list_children, MAX_VALUES)
    except (OverflowError, RecursionError) as error:
        start = ' '.join(text.split())
        raise ValueError(
            f'the YAML text {start[:40]!r}… stands for more than {MAX_VALUES:,} values, '
            'contains itself or is nested too deeply: expected a config or a value'
        ) from error


def _list_children(node: yaml.Node | None) -> Iterable[yaml.Node]:
    """List the nodes in a node; those of a text that may be parsed later, too."""
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    if isinstance(node, yaml.CollectionNode):
        return list(node.value)
    if isinstance(node, yaml.ScalarNode) and {'&', '*'} <= set(node.value):
        with contextlib.suppress(yaml.YAMLError):
            return [yaml.compose(node.value, _Loader)]
    return ()

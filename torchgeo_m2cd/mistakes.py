# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""What was wrong on the command line, in one short line with the culprit first.

jsonargparse lists all that it has tried, which is kept for ``--debug``.
"""

import difflib
import pydoc
import re
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

_KINDS = {'int': 'an integer', 'float': 'a number', 'bool': 'true or false'}

# Longest message in characters
_LENGTH = 300

# How jsonargparse begins the list of what it has tried
_TRIED = r'Does not validate against any of the Union subtypes Subtypes: .*? Errors: - '


def explain(error: Exception, options: Sequence[str] = ()) -> str:
    """Say in one line what was wrong.

    Args:
        error: The error. The message of jsonargparse is shortened, others are left alone.
        options: Options of the command, as :func:`list_options` returns them.

    Returns:
        One line, with the nearest right name if a name is unknown.
    """
    message = ' '.join(str(error).split())
    if not isinstance(error, ArgumentError) and not re.match(_TRIED, message):
        return message
    # What is wrong inside is said before what contains it
    place = re.findall(r'Parser key "([\w.]+)"', message)
    if found := re.search(
        r"class_path '([\w.]+)': Option '([\w.]+)' is not acc|"
        r"(?:accept option '|unrecognized arguments: --)([\w.]+)",
        message,
    ):
        class_path, option, of_command = found.groups()
        name = of_command or option
        known = options if of_command else _list_arguments(class_path)
        owner = f' of {class_path}' if class_path else ''
        return f'unknown option {name!r}{owner}{_suggest(name, known)}'
    if found := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        module: Any = pydoc.locate(found[1])
        return f'unknown class {found[1]}.{found[2]}{_suggest(found[2], dir(module))}'
    if found := re.search(r'Expected a dot import path string: (\S+)', message):
        from . import callbacks, datamodules, tasks

        names = [*callbacks.__all__, *datamodules.__all__, *tasks.__all__]
        return f'unknown class {found[1]!r} for {place[0]}{_suggest(found[1], names)}'
    kinds = re.findall(
        r"Expected an? (?:<class '|typing\.Literal\[)(.+?)(?:'>|\])", message
    )
    value = re.search(r'(?:Got|Given) value: (.*?)(?: - |$)', message)
    if place and kinds and value:
        # In the order of the type hint, and None goes without saying
        words = [_KINDS.get(kind, kind) for kind in kinds if kind != 'NoneType']
        expected = ' or '.join(dict.fromkeys(words))
        return f'{".".join(place)} is {_cut(value[1], 100)!r}: expected {expected}'
    message = re.sub(_TRIED, '', message)
    return _cut(
        re.sub(r"( - Expected a <class 'NoneType'>)? Given value.*", '', message),
        _LENGTH,
    )


def list_options(parser: ArgumentParser) -> list[str]:
    """List the options of a command.

    Args:
        parser: Its parser.

    Returns:
        Their names, without dashes.
    """
    return re.findall(r'(?<![\w-])--([\w.]+)', parser.format_help())


def _list_arguments(class_path: str) -> list[str]:
    """List the arguments of a class, with those that it passes to its base classes."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(pydoc.locate(class_path), fail_untyped=False)
    return list_options(parser)


def _suggest(name: str, known: Sequence[str]) -> str:
    """Suggest the nearest known name."""
    nearest = difflib.get_close_matches(name, known, n=1) or difflib.get_close_matches(
        name.partition('.')[0], known, n=1
    )
    return f', did you mean {nearest[0]!r}?' if nearest else ''


def _cut(text: str, length: int) -> str:
    """Cut a text that is too long for a line."""
    return text if len(text) <= length else f'{text[: length - 1]}…'

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""What was wrong on the command line, in one short line with the culprit first.

jsonargparse lists all that it has tried, which is kept for ``--debug``.
"""

import ast
import contextlib
import difflib
import pydoc
import re
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

_KINDS = {'int': 'an integer', 'float': 'a number', 'bool': 'true or false'}

_OURS = tuple(
    f'{__package__}.{name}'
    for name in ('callbacks', 'datamodules', 'losses', 'models', 'tasks', 'transforms')
)

# Where the classes of an option are, if not in all of our packages
_CLASSES = {
    'optimizer': ('torch.optim',),
    'lr_scheduler': ('torch.optim.lr_scheduler',),
    'trainer.logger': ('lightning.pytorch.loggers',),
    'trainer.callbacks': ('lightning.pytorch.callbacks', f'{__package__}.callbacks'),
}

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
    place = '.'.join(re.findall(r'Parser key "([\w.]+)"', message))
    if found := re.search(
        r"class_path '([\w.]+)': (?:Option '|unrecognized arguments: --)([\w.-]+)|"
        r"(?:accept option '|unrecognized arguments: --)([\w.-]+)",
        message,
    ):
        class_path, option, of_command = found.groups()
        known = options if of_command else _list_arguments(class_path)
        return _unknown_option(of_command or option, class_path, known)
    classes = re.findall(r"Problem with given class_path '([^']+)': ", message)
    value = re.search(r'(?:Got|Given) value: (.*?)(?: - |$)', message)
    # The innermost alone: others do not have the arguments of the classes within
    for class_path in classes[-1:]:
        if name := _find_unknown_key(class_path, message):
            return _unknown_option(name, class_path, _list_arguments(class_path))
    if found := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        module: Any = pydoc.locate(found[1])
        return f'unknown class {found[1]}.{found[2]}{_suggest(found[2], dir(module))}'
    if found := re.search(
        r'Expected a dot import path string: (.+?)(?: - |$)', message
    ):
        names = _list_classes(place)
        where = f' for {place}' if place else ''
        return f'unknown class {found[1]!r}{where}{_suggest(found[1], names)}'
    kinds = re.findall(
        r"Expected an? (?:<class '|typing\.Literal\[)(.+?)(?:'>|\])", message
    )
    # In the order of the type hint, and None goes without saying
    words = [_KINDS.get(kind, kind) for kind in kinds if kind != 'NoneType']
    causes = _find_causes(message)
    if place and words and value and not causes:
        expected = ' or '.join(dict.fromkeys(words))
        return f'{place} is {_cut(value[1], 100)!r}: expected {expected}'
    if causes:
        owner = f'{classes[-1]}: ' if classes else ''
        where = f'{place}: ' if place else ''
        message = f'{where}{owner}{causes[-1]}'
    return _cut(message, _LENGTH)


def list_options(parser: ArgumentParser) -> list[str]:
    """List the options of a command.

    Args:
        parser: Its parser.

    Returns:
        Their names, without dashes.
    """
    return re.findall(r'(?<![\w-])--([\w.]+)', parser.format_help())


def _list_classes(option: str) -> list[str]:
    """List the names of classes that an option may take."""
    modules: list[Any] = [pydoc.locate(name) for name in _CLASSES.get(option, _OURS)]
    return [
        name
        for module in modules
        for name in module.__all__
        if isinstance(getattr(module, name), type)
    ]


def _list_arguments(class_path: str) -> list[str]:
    """List the arguments of a class, with those that it passes to its base classes."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(pydoc.locate(class_path), fail_untyped=False)
    return list_options(parser)


def _unknown_option(name: str, class_path: str, known: Sequence[str]) -> str:
    """Say that there is no such option, and which one is nearest."""
    owner = f' of {class_path}' if class_path else ''
    return f'unknown option {name!r}{owner}{_suggest(name.replace("-", "_"), known)}'


def _find_unknown_key(class_path: str, message: str) -> str:
    """Find the first key of the mapping for a class that is none of its arguments."""
    # jsonargparse says the innermost value first
    value = re.search(
        r"Given value: (?:NestedArg\(key=('[\w-]+')|(\{.*?\})(?: - |$))", message
    )
    if value is None:
        return ''
    # Its module may have errors of its own, and the value may not be a literal
    with contextlib.suppress(
        pydoc.ErrorDuringImport, SyntaxError, TypeError, ValueError
    ):
        known = _list_arguments(class_path)
        keys = [ast.literal_eval(value[1])] if value[1] else ast.literal_eval(value[2])
        return next((str(key) for key in keys if key not in known), '')
    return ''


def _find_causes(message: str) -> list[str]:
    """Find what jsonargparse did not expect itself, the innermost last."""
    parts = re.split(r' - |Errors: (?:- )?|Given value', message)
    parts = [
        re.sub(r'(Parser key|Problem with given class_path) \S+: ', '', p)
        for p in parts
    ]
    noise = (
        r'Expected an? (<class|typing|collections|path but|dot)|Not of type|Not a valid|'
        r'Does not validate|a class path|a dict| type: |: |Unexpected import path'
    )
    return [
        part.strip() for part in parts if part.strip() and not re.match(noise, part)
    ]


def _suggest(name: str, known: Sequence[str]) -> str:
    """Suggest the nearest known name."""
    head, dot, rest = name.partition('.')
    nearest = difflib.get_close_matches(name, known, n=1) or difflib.get_close_matches(
        head, known, n=1
    )
    if not nearest:
        return ''
    right = nearest[0] if '.' in nearest[0] else nearest[0] + dot + rest
    return f', did you mean {right!r}?'


def _cut(text: str, length: int) -> str:
    """Cut a text that is too long for a line."""
    return text if len(text) <= length else f'{text[: length - 1]}…'

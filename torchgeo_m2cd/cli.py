# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""The command ``torchgeo-m2cd``."""

import argparse
import contextlib
import itertools
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from . import __version__
from .datasets import SARSource, Source
from .datasets.paths import Paths, without_secrets
from .mistakes import explain, list_options
from .predict import predict_scene
from .released import format_weights
from .safe_yaml import guard_parsers, load_yaml

_NAME = 'torchgeo-m2cd'

_MAP = """Map the change between an optical image and a later SAR image: floods, for example.
Images are files, folders, patterns or URLs; a mapping says what files do not say of themselves:
torchgeo-m2cd map "{paths: before.tif, bands: [4]}" "{paths: after.tif, scale: power}"."""

_IMAGE = '{} image: its paths, or a mapping of settings.'

# After Ctrl-C
_GO_ON = (
    'Complete rows of patches, if any, are kept beside the map, in a folder whose name '
    'ends with .parts: the same command goes on from there'
)

_NOT_BEGUN = 'It had not begun: run the same command again'

#: Commands of Lightning, which :class:`~torchgeo_m2cd.task_cli.TaskCLI` runs.
TASK_COMMANDS = ('fit', 'validate', 'test', 'predict')

# Options that are true without a value, and what jsonargparse takes for true or false
_FLAGS = ('--compile', '--overwrite')
_BOOLEANS = ('true', 'yes', 'on', 'false', 'no', 'off')

# How the arguments of Python are typed here
_WORDS = (
    (r'overwrite=True', '--overwrite'),
    (r'check=False', '--data_args.check false'),
    (r"\b(optical|sar)\.(\w+)='?(\{[^}]*\}|[\w.-]+)'?", r'\1 "{paths: FILE, \2: \3}"'),
    (r'\b(optical|sar)\.(bands|nodata)\b', r'\1 "{paths: FILE, \2: ...}"'),
)

# What a user may have got wrong; anything else is a bug, and keeps its traceback
_MISTAKES = (argparse.ArgumentError, OSError, RuntimeError, TypeError, ValueError)


class _HelpFormatter(DefaultHelpFormatter):
    """Shows docstrings as plain text, without types."""

    def _get_help_string(self, action: argparse.Action) -> str:
        """Return the help of an argument, with its default."""
        text = re.sub(r':\w+:`~?(?:[^`]*\.)?([^`]+)`', r'\1', action.help or '')
        text = re.sub(r'``|(?<!\w)\*|\*(?!\w)', '', text)
        if action.option_strings and action.default not in (
            None,
            False,
            '==SUPPRESS==',
        ):
            text += ' (default: %(default)s)'
        return text


def make_map_parser() -> ArgumentParser:
    """Make the parser of ``map``.

    Returns:
        The parser, with the arguments of :func:`~torchgeo_m2cd.predict.predict_scene`.
    """
    parser = ArgumentParser(
        description=_MAP,
        usage=f'{_NAME} map [options] {{optical sar | --scenes FILE}}',
        exit_on_error=False,
        formatter_class=_HelpFormatter,
    )
    # Neither is needed with --scenes. As a Source, a.tif would be taken for an attribute
    # of a module a, which would be imported: see _read_image
    for name, kind in (('optical', 'Optical'), ('sar', 'SAR')):
        parser.add_argument(name, nargs='?', type=str | None, help=_IMAGE.format(kind))
    parser.add_function_arguments(
        predict_scene, as_group=False, skip={'optical', 'sar'}
    )
    parser.add_argument(
        '--debug', action='store_true', help='Show the traceback of an error.'
    )
    return parser


def make_task_parser(command: str) -> ArgumentParser:
    """Make the parser that shows the help of a command of Lightning, on one screen.

    Args:
        command: Name of the command.

    Returns:
        The parser. That of Lightning, with hundreds of options, is made when it runs.
    """
    parser = ArgumentParser(
        description=f'Run "torchgeo {command}". All keys of a config are options, such as '
        f'--data.batch_size 4: "torchgeo {command} --help" lists all of them.',
        usage=f'{_NAME} {command} --config FILE [options]',
        exit_on_error=False,
    )
    configs = (
        'YAML file; values of a second one replace those of the first. "python -m '
        'torchgeo_m2cd.configs" lists ready-made ones.'
    )
    options = (
        ('config', 'FILE', configs),
        ('ckpt_path', 'FILE', 'Checkpoint, which is looked at before any data.'),
        ('print_config', '', 'Show the values of all options, and stop.'),
        ('data.help', 'CLASS', 'Show the options of a data module.'),
        ('model.help', 'CLASS', 'Show those of a task.'),
        ('trainer.callbacks.help', 'CLASS', 'Show those of a callback.'),
        ('debug', '', 'Show the traceback of an error.'),
    )
    for option, metavar, text in options:
        parser.add_argument(f'--{option}', metavar=metavar, help=text)
    return parser


def make_parser() -> ArgumentParser:
    """Make the parser of the command line.

    Returns:
        The parser.
    """
    parser = ArgumentParser(
        prog=_NAME,
        description='Optical-SAR change maps.',
        exit_on_error=False,
        formatter_class=_HelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'{_NAME} {__version__}')
    subcommands = parser.add_subcommands()
    subcommands.add_subcommand(
        'map', make_map_parser(), help='Map the change of a scene.'
    )
    subcommands.add_subcommand(
        'weights',
        ArgumentParser(description='List the released weights.', exit_on_error=False),
        help='List the released weights, with their figures.',
    )
    for name in TASK_COMMANDS:
        subcommands.add_subcommand(
            name,
            make_task_parser(name),
            help=f'Run torchgeo {name}, and check --ckpt_path first.',
        )
    return parser


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Show warnings that concern the map, each in one line, and hide the others.

    The summary repeats them, but comes after what may be hours.
    """
    from .maps.record import concerns_map

    shown = set()

    def show(
        message: Warning | str, category: type[Warning], filename: str, *args: Any
    ) -> None:
        text = ' '.join(without_secrets(str(message)).split())
        if concerns_map(category, filename) and text not in shown:
            shown.add(text)
            print(f'{_NAME}: warning: {text}', file=sys.stderr)

    logger = logging.getLogger('lightning.pytorch')
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        try:
            yield
        finally:
            logger.setLevel(level)


def _fail(
    error: Exception, options: Sequence[str] = (), words: Sequence[tuple[str, str]] = ()
) -> NoReturn:
    """Say what was wrong, with these words in place of Python's (regular expressions)."""
    text = explain(error, options)
    for word, other in words:
        text = re.sub(word, other, text)
    print(f'{_NAME}: error: {text}', file=sys.stderr)
    raise SystemExit(2) from error


def _stop(error: KeyboardInterrupt | SystemExit, kept: str) -> NoReturn:
    """Say after Ctrl-C how to go on."""
    # Lightning turns it into an exit with status 1
    if KeyboardInterrupt not in (type(error), type(error.__context__)):
        raise error
    print(f'{_NAME}: interrupted. {kept}', file=sys.stderr)
    raise SystemExit(130) from error


def _complete_flags(words: Sequence[str]) -> list[str]:
    """Let ``--overwrite`` and ``--compile`` alone mean that they are true."""
    return [
        f'{word}=true' if word in _FLAGS and value.lower() not in _BOOLEANS else word
        for word, value in itertools.pairwise([*words, ''])
    ]


def _check_words(words: Sequence[str]) -> None:
    """Refuse options of ``map`` that jsonargparse would take for a path or a class."""
    for word, value in itertools.pairwise([*words, '']):
        if word == '--districts' and not value.startswith('{'):
            raise ValueError(
                f'districts is {value!r}: expected --districts.path FILE '
                '--districts.attribute NAME'
            )
        found = re.match(r'--(?:data\.)?(optical|sar)\.(?!help$)(\w+)', word)
        if found:
            image, setting = found.groups()
            raise ValueError(
                f'{word.partition("=")[0]} is no option of map: expected it beside the '
                f'path, {image} as "{{paths: FILE, {setting}: ...}}"'
            )


def _read_image(
    name: str, text: str | None, kind: type[Source]
) -> Source | Paths | None:
    """Read the argument of an image: a path, a YAML list of paths, or a YAML mapping."""
    brackets = '' if text is None else text[:1] + text[-1:]
    if text is None or brackets not in ('{}', '[]') or os.path.exists(text):
        return text
    if brackets == '{}' and not _is_mapping(text):
        raise ValueError(
            f'{name} is {text!r}: expected a path, or a YAML mapping such as '
            '{paths: FILE, bands: [4]}'
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument(f'--{name}', type=kind | None if brackets == '{}' else Paths)
    options = parser.instantiate(parser.parse_args([f'--{name}', text]))
    return cast(Source | Paths, options[name])


def _is_mapping(text: str) -> bool:
    """Whether a text is a YAML mapping of names to values."""
    try:
        values = load_yaml(text)
    except yaml.YAMLError:
        return False
    return isinstance(values, dict) and None not in values.values()


def _run_task(argv: list[str]) -> None:
    """Run a command of Lightning."""
    # Takes seconds, for which help must not wait
    from .task_cli import TaskCLI

    debug = '--debug' in argv
    try:
        TaskCLI([word for word in argv if word != '--debug'])
    except _MISTAKES as error:
        if debug or _is_bug(error):
            raise
        _fail(error)


def _is_bug(error: Exception) -> bool:
    """Whether a run failed with an error that this package has not raised."""
    frames = traceback.extract_tb(error.__traceback__)
    is_running = any(frame.name == '_run_subcommand' for frame in frames)
    ours = Path(__file__).parent
    return is_running and ours not in Path(frames[-1].filename).parents


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line interface.

    Args:
        argv: Arguments (defaults to those of the process).

    Raises:
        SystemExit: With status 2 after a mistake of the user, and 130 after Ctrl-C.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    guard_parsers()
    if argv[:1] and argv[0] in TASK_COMMANDS and argv[1:] not in (['-h'], ['--help']):
        try:
            _run_task(argv)
        except KeyboardInterrupt as error:
            _stop(error, str(error) or _NOT_BEGUN)
        return
    try:
        parser = make_parser()
        if argv[:1] == ['map']:
            argv = _complete_flags(argv)
            _check_words(argv)
        parsed = parser.parse_args(argv)
        args = parser.instantiate(parsed)
        if args.subcommand == 'map':
            for name, kind in (('optical', Source), ('sar', SARSource)):
                args.map[name] = _read_image(name, args.map[name], kind)
    except _MISTAKES as error:
        if '--debug' in argv:
            raise
        _fail(error, list_options(make_map_parser()))
    except KeyboardInterrupt as error:
        _stop(error, _NOT_BEGUN)
    if args.subcommand == 'weights':
        print(format_weights())
        return
    options = vars(args.map)
    debug = options.pop('debug')
    # The summary says enough of the model
    trainer = {'enable_model_summary': False, **(options.pop('trainer_args') or {})}
    try:
        with _quiet():
            predict_scene(**options, trainer_args=trainer)
    except (KeyboardInterrupt, SystemExit) as error:
        _stop(error, _GO_ON)
    except _MISTAKES as error:
        if debug:
            raise
        _fail(error, words=_WORDS)


if __name__ == '__main__':
    main()

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""The command ``torchgeo-m2cd``."""

import argparse
import contextlib
import logging
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from . import __version__
from .predict import predict_scene
from .released import format_weights

_NAME = 'torchgeo-m2cd'

_MAP = """Map the change between an optical image and a later SAR image: floods, for example.
Images are files, folders, patterns or URLs; a mapping says what files do not say of themselves:
torchgeo-m2cd map "{paths: before.tif, bands: [4]}" "{paths: after.tif, scale: power}"."""

#: Commands of Lightning, which :class:`~torchgeo_m2cd.task_cli.TaskCLI` runs.
TASK_COMMANDS = ('fit', 'validate', 'test', 'predict')

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


def make_parser() -> ArgumentParser:
    """Make the parser of the command line.

    Returns:
        The parser. ``map`` has the arguments of
        :func:`~torchgeo_m2cd.predict.predict_scene`.
    """
    parser = ArgumentParser(
        prog=_NAME,
        description='Optical-SAR change maps.',
        exit_on_error=False,
        formatter_class=_HelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'{_NAME} {__version__}')
    subcommands = parser.add_subcommands()
    map_parser = ArgumentParser(
        description=_MAP,
        usage=f'{_NAME} map [options] optical sar',
        exit_on_error=False,
        formatter_class=_HelpFormatter,
    )
    map_parser.add_function_arguments(predict_scene, as_group=False, as_positional=True)
    map_parser.add_argument(
        '--debug', action='store_true', help='Show the traceback of an error.'
    )
    subcommands.add_subcommand('map', map_parser, help='Map the change of a scene.')
    subcommands.add_subcommand(
        'weights',
        ArgumentParser(description='List the released weights.', exit_on_error=False),
        help='List the released weights, with their figures.',
    )
    for name in TASK_COMMANDS:
        subcommands.add_subcommand(
            name,
            ArgumentParser(exit_on_error=False),
            help=f'Run torchgeo {name}, and check --ckpt_path first.',
        )
    return parser


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what Lightning says of itself, and warnings, which summaries repeat."""
    logger = logging.getLogger('lightning.pytorch')
    level = logger.level
    logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.showwarning = lambda *args, **kwargs: None
        try:
            yield
        finally:
            logger.setLevel(level)


def _fail(error: Exception) -> NoReturn:
    """Say in one line what was wrong."""
    print(f'{_NAME}: error: {" ".join(str(error).split())}', file=sys.stderr)
    raise SystemExit(2) from error


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
        SystemExit: With status 2 after a mistake of the user.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] and argv[0] in TASK_COMMANDS:
        _run_task(argv)
        return
    parser = make_parser()
    try:
        args = parser.instantiate(parser.parse_args(argv))
    except _MISTAKES as error:
        _fail(error)
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
    except _MISTAKES as error:
        if debug:
            raise
        _fail(error)


if __name__ == '__main__':
    main()

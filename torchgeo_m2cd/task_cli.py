# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""The commands of Lightning, which look at checkpoints before anything else."""

import argparse
import os
import pydoc
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torchgeo.datamodules import BaseDataModule
from torchgeo.tasks import BaseTask

from .checkpoints import find_resumable, read_checkpoint
from .mistakes import explain, list_options
from .tasks import ChangeDetectionTask
from .tasks.checkpoint import LIGHTNING_KEYS, rebuild

# Words that stand for checkpoints which Lightning finds itself
_WORDS = ('best', 'last', 'hpc')


class TaskCLI(LightningCLI):
    """``torchgeo-m2cd fit|validate|test|predict``: TorchGeo's, with checks of ``--ckpt_path``.

    Parses the arguments and runs the command. A checkpoint that cannot be read, or is not
    of the task, is an error before data are read. ``fit`` goes on from ``best.ckpt`` if
    another checkpoint beside it is damaged.
    """

    def __init__(self, args: Sequence[str]) -> None:
        """Run a command.

        Args:
            args: Arguments of the command line: ``fit``, ``validate``, ``test`` or
                ``predict``, and those that follow.

        Raises:
            FileNotFoundError: If there is no such checkpoint.
            ValueError: If an argument is unknown or wrong, or the checkpoint cannot be read
                or is not of the task.
        """
        self._arguments: dict[str, Any] = {}
        loud: dict[str, Any] = {'exit_on_error': False}
        super().__init__(
            model_class=BaseTask,
            datamodule_class=BaseDataModule,
            seed_everything_default=0,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_kwargs={'overwrite': True},
            parser_kwargs={**loud, **dict.fromkeys(self.subcommands(), loud)},
            args=list(args),
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line, and look at the checkpoint.

        Args:
            parser: The parser.
            args: Arguments of the command line.
        """
        try:
            self.config = parser.parse_args(args)
        except argparse.ArgumentError as error:
            command = self._subcommand_parsers[args[0]]
            raise ValueError(explain(error, list_options(command))) from error
        command = self.config['subcommand']
        options = self.config[command]
        path = options.get('ckpt_path')
        if path is None or path in _WORDS or '://' in path:
            return
        if command == 'fit':
            path = options['ckpt_path'] = find_resumable(path)
        class_path = options['model']['class_path']
        task: Any = pydoc.locate(class_path)
        content = read_checkpoint(path, 'ckpt_path')
        arguments = content.get('hyper_parameters') if _is_mapping(content) else None
        arguments = dict(arguments or {}) if _is_mapping(arguments) else {}
        saved = arguments.get('_class_path')
        if saved not in (None, class_path, f'{task.__module__}.{task.__qualname__}'):
            raise ValueError(
                f'ckpt_path {path!r} is of the class {saved!r}: expected {class_path!r}'
            )
        if issubclass(task, ChangeDetectionTask):
            # Its objects are looked up among the known classes
            rebuild(path, 'ckpt_path', task)
        elif named := _find_class(arguments):
            raise ValueError(
                f'ckpt_path {path!r} names the class {named!r}, which would be imported: '
                'expected plain arguments'
            )
        self._arguments = {
            key: value for key, value in arguments.items() if key not in LIGHTNING_KEYS
        }

    def _run_subcommand(self, subcommand: str) -> None:
        """Run a command; after Ctrl-C, say which checkpoint is kept."""
        try:
            super()._run_subcommand(subcommand)
        except (KeyboardInterrupt, SystemExit) as error:
            # Lightning turns Ctrl-C into an exit with status 1, but not a second one
            if KeyboardInterrupt not in (type(error), type(error.__context__)):
                raise
            paths = [
                str(getattr(callback, name, ''))
                for callback in self.trainer.checkpoint_callbacks
                for name in ('last_model_path', 'best_model_path')
            ]
            kept = filter(os.path.exists, paths)
            last = max(kept, key=os.path.getmtime, default=None)
            raise KeyboardInterrupt(
                f'Go on with --ckpt_path {shlex.quote(last)}'
                if subcommand == 'fit' and last
                else 'No checkpoint was written'
                if subcommand == 'fit'
                else 'Run the same command again'
            ) from error

    def _parse_ckpt_path(self) -> None:
        """Take the arguments of the checkpoint, but never its class."""
        command = self.config['subcommand']
        if self._arguments:
            model = {
                'class_path': self.config[command]['model']['class_path'],
                'dict_kwargs': self._arguments,
            }
            self.config = self.parser.parse_object(
                {command: {'model': model}}, self.config
            )


def _is_mapping(value: Any) -> bool:
    """Whether a value is a mapping."""
    return isinstance(value, Mapping)


def _find_class(value: Any) -> Any:
    """Find the first class that plain values name, as those of a YAML file do."""
    if isinstance(value, Mapping):
        if 'class_path' in value:
            return value['class_path']
        value = list(value.values())
    if isinstance(value, list | tuple):
        return next(filter(None, map(_find_class, value)), None)
    return None

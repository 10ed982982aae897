# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Objects that configs and checkpoints describe in plain values."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, ClassVar, Self


class Configurable:
    """Base class of objects that can be written as plain values and read again.

    The description is that of a YAML file: ``class_path`` and ``init_args``. A checkpoint
    holds it instead of the object, and can therefore be loaded with
    ``weights_only=True``.

    A subclass keeps its arguments as attributes of the same names.
    """

    #: What a subclass is called in messages.
    kind: ClassVar[str] = 'object'

    _registry: ClassVar[dict[str, type['Configurable']]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Register a subclass, so that :meth:`from_dict` finds it."""
        super().__init_subclass__(**kwargs)
        cls._registry[cls.class_path()] = cls

    @classmethod
    def class_path(cls) -> str:
        """Return the path that users import the class from."""
        module = cls.__module__
        if module.startswith(f'{__package__}.'):
            # Our packages export the classes of their modules
            module = module.rpartition('.')[0]
        return f'{module}.{cls.__qualname__}'

    def to_dict(self) -> dict[str, Any]:
        """Describe the object in plain values.

        Returns:
            ``class_path`` and ``init_args``.
        """
        names = inspect.signature(type(self)).parameters
        return {
            'class_path': self.class_path(),
            'init_args': {name: plain(getattr(self, name)) for name in names},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Make an object from its description.

        Only classes that are imported already are found: a checkpoint may come from
        anywhere, and must not import code.

        Args:
            values: Output of :meth:`to_dict`.

        Returns:
            The object.

        Raises:
            ValueError: If no such class is known, or its arguments are wrong.
        """
        path = values.get('class_path')
        known = {
            name: known_class
            for name, known_class in cls._registry.items()
            if issubclass(known_class, cls) and not inspect.isabstract(known_class)
        }
        found = known.get(str(path))
        if found is None:
            raise ValueError(
                f'unknown {cls.kind} {path!r}: expected one of '
                f'{", ".join(sorted(known))}. Import the module of a class of your own '
                'first'
            )
        try:
            return found(**values.get('init_args', {}))
        except TypeError as error:
            raise ValueError(f'{cls.kind} {path}: {error}') from error

    @classmethod
    def of(cls, argument: str, value: Any) -> Self:
        """Take an argument that is an object or its description.

        Args:
            argument: Name of the argument, for the message.
            value: An object of this class, or the output of its :meth:`to_dict`.

        Returns:
            The object.

        Raises:
            TypeError: If it is neither.
            ValueError: If the description is wrong.
        """
        if isinstance(value, Mapping):
            return cls.from_dict(value)
        if not isinstance(value, cls):
            raise TypeError(
                f'{argument} is {value!r}: expected an object of {cls.class_path()}'
            )
        return value


def plain(value: Any) -> Any:
    """Turn an argument into values that YAML and ``weights_only=True`` can read.

    Args:
        value: An argument.

    Returns:
        The same, with objects as their descriptions, dataclasses as mappings, and
        tuples as lists.
    """
    if isinstance(value, Configurable):
        return value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Arguments are checked for type, range and finiteness by their type hints.

:func:`checked` reads the same hints as the ``torchgeo`` command: ``Literal`` for names,
``Annotated`` with the limits of annotated-types for ranges. Floats must be finite.
"""

import datetime
import functools
import inspect
import math
import operator
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeAliasType,
    TypeVar,
    Union,
    Unpack,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np
from annotated_types import Ge, Gt, Le, MaxLen, MinLen

from .utils import check_choice

#: How many of something: 1 or more.
type Count = Annotated[int, Ge(1)]

#: 0 or more of something.
type CountOrZero = Annotated[int, Ge(0)]

#: A finite number above 0.
type Positive = Annotated[float, Gt(0)]

#: A finite number, 0 or above.
type PositiveOrZero = Annotated[float, Ge(0)]

#: A probability, a share or a threshold, from 0 to 1.
type Share = Annotated[float, Ge(0), Le(1)]

#: Height and width in pixels, or one number for both.
type Size = Count | tuple[Count, Count]

#: One name or more.
type Names = Annotated[Sequence[str], MinLen(1)]

#: Channels of both images, or of each.
type Channels = Count | Annotated[Sequence[Count], MinLen(1), MaxLen(2)]

_ANY = 'may be NaN or infinite'
#: A number that need not be finite.
type AnyNumber = Annotated[float, _ANY]

# Numbers of numpy count; True is no number
_SCALARS: dict[Any, tuple[tuple[type, ...], str]] = {
    int: ((Integral,), 'an integer'),
    float: ((Real,), 'a finite number'),
    bool: ((bool, np.bool_), 'True or False'),
    str: ((str,), 'a string'),
    NoneType: ((NoneType,), 'None'),
}


def checked[T: Callable[..., Any]](target: T) -> T:
    """Check the arguments of each call by their type hints.

    Do not decorate ``__init__`` of a LightningModule, whose ``save_hyperparameters`` looks
    at the frames of its callers: call :func:`check_hints` there.

    Args:
        target: A function or method, or a dataclass.

    Returns:
        A function of the same signature, or the same class. A call raises TypeError or
        ValueError as :func:`check_argument` does.
    """
    function: Any = vars(target)['__init__'] if isinstance(target, type) else target
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        # Not at the top, as the help of the command line must not wait for PyTorch
        from torch.compiler import is_compiling

        if not is_compiling():
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:
                # Python says better which argument is missing or unknown
                return function(*args, **kwargs)
            check_hints(function, bound.arguments)
        return function(*args, **kwargs)

    if isinstance(target, type):
        target.__init__ = wrapper  # type: ignore[misc]
        return target
    return wrapper  # type: ignore[return-value]


def check_hints(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Check arguments of a function by their type hints.

    Args:
        function: The function.
        arguments: Arguments by name. Those that the function does not have are ignored.

    Raises:
        TypeError: See :func:`check_argument`.
        ValueError: See :func:`check_argument`.
    """
    hints, variadic = _read_hints(function)
    for name, value in arguments.items():
        kind = variadic.get(name)
        if kind is inspect.Parameter.VAR_POSITIONAL:
            check_argument(name, value, Sequence[hints[name]])  # type: ignore[valid-type]
        elif kind is inspect.Parameter.VAR_KEYWORD:
            for key in value.keys() & hints.keys():
                check_argument(key, value[key], hints[key])
        elif name in hints:
            check_argument(name, value, hints[name])


@functools.cache
def _read_hints(
    function: Callable[..., Any],
) -> tuple[dict[str, Any], dict[str, inspect._ParameterKind]]:
    """Read the type hints of a function, and which of its arguments are ``*`` and ``**``.

    Hints of ``**kwargs: Unpack[SomeTypedDict]`` are those of its keys.
    """
    # As late as the first call: hints may name what is imported after the function
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    variadic: dict[str, inspect._ParameterKind] = {
        parameter.name: parameter.kind
        for parameter in parameters
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    for name in variadic:
        if get_origin(hints.get(name)) is Unpack:
            hints |= get_type_hints(get_args(hints.pop(name))[0], include_extras=True)
    return hints, variadic


def check_argument(name: str, value: Any, hint: Any) -> None:
    """Check one argument by a type hint.

    Args:
        name: Name of the argument, for the message.
        value: Its value.
        hint: Its type hint.

    Raises:
        TypeError: If the value is of another type.
        ValueError: If it is of this type, but out of range, not finite, or no known name.
    """
    hint = _resolve(hint)
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return
    if origin is Annotated and args[1] == _ANY:
        if not _is_instance(value, args[0]):
            raise _wrong(name, value, hint, TypeError)
    elif origin is Annotated:
        check_argument(name, value, args[0])
        _check_limits(name, value, args[1:])
    elif origin in (Union, UnionType):
        _check_union(name, value, hint)
    elif origin is Literal:
        if isinstance(value, str) and isinstance(args[0], str):
            check_choice(name, value, args)
        elif (type(value), value) not in [(type(choice), choice) for choice in args]:
            known = {type(choice) for choice in args}
            raise _wrong(
                name, value, hint, ValueError if type(value) in known else TypeError
            )
    elif not _is_instance(value, origin or hint):
        raise _wrong(name, value, hint, TypeError)
    elif hint is float and not _is_finite(value):
        raise _wrong(name, value, hint, ValueError)
    else:
        _check_items(name, value, origin, args)


def _resolve(hint: Any) -> Any:
    """Find the type that an alias or a type variable stands for."""
    if isinstance(hint, TypeAliasType):
        return _resolve(hint.__value__)
    if isinstance(get_origin(hint), TypeAliasType):
        return _resolve(get_origin(hint))  # NDArray: its items are not looked at
    if isinstance(hint, TypeVar):
        return hint.__bound__ or functools.reduce(operator.or_, hint.__constraints__)
    return hint


def _check_limits(name: str, value: Any, limits: Sequence[Any]) -> None:
    """Check a number by its limits, or the length of a sequence."""
    for limit in limits:
        match limit:
            case Gt():
                fits = value > limit.gt
            case Ge():
                fits = value >= limit.ge
            case Le():
                fits = value <= limit.le
            case MinLen():
                fits = len(value) >= limit.min_length
            case MaxLen():
                fits = len(value) <= limit.max_length
            case _:
                raise TypeError(f'{name} has the limit {limit}, which is not supported')
        if not fits:
            raise ValueError(f'{name} is {_show(value)}: expected {_join(limits)}')


def _check_union(name: str, value: Any, hint: Any) -> None:
    """Check that a value fits one of several types."""
    members = [member for member in get_args(hint) if member is not NoneType]
    if value is None and len(members) < len(get_args(hint)):
        return
    errors: list[TypeError | ValueError] = []
    for member in members:
        try:
            check_argument(name, value, member)
        except (TypeError, ValueError) as error:
            errors.append(error)
        else:
            return
    # The right type out of range is clearer than the list of all types
    near = [error for error in errors if isinstance(error, ValueError)]
    if len(members) == 1 or (len(near) == 1 and not isinstance(value, str)):
        raise (near or errors)[0]
    raise _wrong(name, value, hint, ValueError if near else TypeError)


def _is_instance(value: Any, kind: Any) -> bool:
    """Whether a value is of a type, without its items."""
    if kind in _SCALARS:
        return isinstance(value, _SCALARS[kind][0]) and not (
            kind in (int, float) and isinstance(value, bool)
        )
    if kind in (Sequence, Iterable):
        is_text = isinstance(value, str | bytes)
        return isinstance(value, kind | np.ndarray) and not is_text
    if kind is tuple:
        # YAML has lists only
        return isinstance(value, tuple | list)
    return isinstance(value, kind)


def _is_finite(value: Any) -> bool:
    """Whether a number is finite, and not too large for a float."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _check_items(name: str, value: Any, origin: Any, args: Sequence[Any]) -> None:
    """Check the items of a container."""
    if origin is tuple and args[-1] is not ...:
        if len(value) != len(args):
            raise ValueError(f'{name} is {_show(value)}: expected {len(args)} values')
        for index, (item, hint) in enumerate(zip(value, args, strict=True)):
            check_argument(f'{name}[{index}]', item, hint)
    elif origin in (Sequence, list, tuple):
        for index, item in enumerate(value):
            check_argument(f'{name}[{index}]', item, args[0])
    elif origin in (Mapping, dict):
        for key, item in value.items():
            check_argument(f'key of {name}', key, args[0])
            check_argument(f'{name}[{key!r}]', item, args[1])
    elif origin is type and not issubclass(value, args[0]):
        raise _wrong(name, value, type[args[0]], TypeError)


def _wrong(
    name: str, value: Any, hint: Any, error: type[TypeError | ValueError]
) -> TypeError | ValueError:
    """Make the error of a value that does not fit a type hint."""
    expected = _describe(hint)
    if _SCALARS[str][1] in expected and isinstance(value, float | int | datetime.date):
        expected += '. In YAML, quote text that looks like a number, date or boolean'
    return error(f'{name} is {_show(value)}: expected {expected}')


def _show(value: Any) -> str:
    """Show a value in a message, in one short line."""
    if hasattr(value, 'shape'):
        return f'a {type(value).__name__} of shape {tuple(value.shape)}'
    text = ' '.join(repr(value).split())
    return text if len(text) <= 100 else f'{text[:99]}…'


def _describe(hint: Any) -> str:
    """Describe in words what a type hint expects."""
    hint = _resolve(hint)
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = '' if args[1] == _ANY else f', {_join(args[1:])}'
        return _describe(args[0]) + limits
    if origin in (Union, UnionType):
        # None last
        members = sorted(args, key=lambda member: member is NoneType)
        return ' or '.join(map(_describe, members))
    if origin is Literal:
        return ' or '.join(map(repr, args))
    if origin in (Sequence, list, tuple):
        is_fixed = origin is tuple and args[-1] is not ...
        count, kinds = (f'{len(args)} ', args) if is_fixed else ('', args[:1])
        each = ' or '.join(dict.fromkeys(map(_describe, kinds)))
        return f'a list of {count}items, each {each}'
    if origin in (Mapping, dict):
        return 'a mapping'
    if origin is type:
        return f'a subclass of {args[0].__name__}'
    if origin is Callable or hint is Callable:
        return 'a function'
    if hint is type:
        return 'a class'
    if hint in (os.PathLike, pathlib.Path) or origin is os.PathLike:
        return 'a path'
    if hint in _SCALARS:
        return _SCALARS[hint][1]
    return f'an object of {(origin or hint).__name__}'


def _join(limits: Sequence[Any]) -> str:
    """Describe limits in words."""
    match limits:
        case [Ge(ge=low), Le(le=high)]:
            return f'from {low} to {high}'
        case [MinLen(min_length=low), MaxLen(max_length=high)]:
            return f'{low} to {high} items'
        case [Gt(gt=low)]:
            return f'more than {low}'
        case [Ge(ge=low)]:
            return f'at least {low}'
    return f'at least {limits[0].min_length} item'

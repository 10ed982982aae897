# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import inspect
import math
import os
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, Unpack

import numpy as np
import numpy.typing as npt
import pytest
import torch
from annotated_types import Lt, MinLen
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from torchgeo_m2cd.checks import (
    AnyNumber,
    Channels,
    Count,
    CountOrZero,
    Names,
    Positive,
    PositiveOrZero,
    Share,
    Size,
    check_argument,
    check_hints,
    checked,
)

type Array = npt.NDArray[np.float32]


class Options(TypedDict, total=False):
    threshold: Share | None


@checked
def function(
    count: Count, *names: str, flag: bool = False, **options: Unpack[Options]
) -> str:
    """Says what it got."""
    return f'{count} {names} {flag} {options}'


@checked
def either[Kind: (Tensor, npt.NDArray[Any])](value: Kind) -> Kind:
    return value


@checked
def bound[Module: nn.Module](module: Module) -> Module:
    return module


@checked
@dataclass(frozen=True)
class Settings:
    share: Share = 0.5


@pytest.mark.parametrize(
    ('hint', 'value'),
    [
        (Any, object()),
        (Count, 1),
        (Count, np.int64(3)),
        (CountOrZero, 0),
        (Positive, 1),
        (Positive, np.float32(0.5)),
        (PositiveOrZero, 0),
        (Share, 1.0),
        (AnyNumber, math.nan),
        (AnyNumber | None, None),
        (bool, np.True_),
        (Size, 16),
        (Size, [16, 32]),
        (Channels, [3]),
        (Channels, (3, 1)),
        (Names, ['B04']),
        (tuple[str, ...], ('a', 'b')),
        (Sequence[str], ()),
        (Iterable[str], {'a'}),
        (Mapping[str, Count], {'a': 1}),
        (dict[str, Any], {'a': None}),
        (Callable[[int], int], abs),
        (type[nn.Module], nn.Linear),
        (str | os.PathLike[str], Path('a')),
        (Literal['a', 1], 1),
        (Literal['a'] | Share, 0.5),
        (Array, np.zeros(1)),
        (Sequence[Positive], np.ones(2)),
    ],
)
def test_good(hint: Any, value: Any) -> None:
    check_argument('name', value, hint)


@pytest.mark.parametrize(
    ('hint', 'value', 'error', 'message'),
    [
        (Count, 0, ValueError, 'name is 0: expected at least 1'),
        (Count, 1.5, TypeError, 'name is 1.5: expected an integer'),
        (Count, True, TypeError, 'name is True: expected an integer'),
        (Count | None, 16.0, TypeError, 'name is 16.0: expected an integer'),
        (Positive, 0, ValueError, 'name is 0: expected more than 0'),
        (Positive, math.nan, ValueError, 'name is nan: expected a finite number'),
        (Positive, 10**400, ValueError, 'expected a finite number'),
        (Share, 1.5, ValueError, 'name is 1.5: expected from 0 to 1'),
        (Share, 'x', TypeError, "name is 'x': expected a finite number"),
        (AnyNumber, 'x', TypeError, "name is 'x': expected a finite number"),
        (bool, 1, TypeError, 'name is 1: expected True or False'),
        (Size, 0, ValueError, 'name is 0: expected at least 1'),
        (Size, (16, 0), ValueError, 'name[1] is 0: expected at least 1'),
        (Size, (1, 2, 3), ValueError, 'name is (1, 2, 3): expected 2 values'),
        (
            Size,
            'x',
            TypeError,
            (
                "name is 'x': expected an integer, at least 1 or a list of 2 items, each an "
                'integer, at least 1'
            ),
        ),
        (Channels, [1, 2, 3], ValueError, 'name is [1, 2, 3]: expected 1 to 2 items'),
        (Names, [], ValueError, 'name is []: expected at least 1 item'),
        (
            Names,
            'B04',
            TypeError,
            "name is 'B04': expected a list of items, each a string",
        ),
        (Mapping[str, int], {1: 1}, TypeError, 'key of name is 1: expected a string. '),
        (Mapping[str, int], {'a': 'b'}, TypeError, "name['a'] is 'b': expected an int"),
        (Mapping[str, int], [], TypeError, 'name is []: expected a mapping'),
        (Callable[[], int], 1, TypeError, 'name is 1: expected a function'),
        (type[nn.Module], int, TypeError, 'expected a subclass of Module'),
        (type[nn.Module], 1, TypeError, 'expected a subclass of Module'),
        (Literal['cat', 'dog'], 'cow', ValueError, "unknown name 'cow'"),
        (Literal['cat'], 1, TypeError, "name is 1: expected 'cat'"),
        (Literal[1, 2], 3, ValueError, 'name is 3: expected 1 or 2'),
        (Literal[1, 2], True, TypeError, 'name is True: expected 1 or 2'),
        (
            Literal['cat'] | Share | None,
            'cow',
            ValueError,
            "name is 'cow': expected 'cat' or a finite number, from 0 to 1 or None",
        ),
        (
            str | os.PathLike[str] | None,
            2023,
            TypeError,
            (
                'name is 2023: expected a string or a path or None. In YAML, quote text that '
                'looks like a number, date or boolean'
            ),
        ),
        (Array, 1, TypeError, 'name is 1: expected an object of ndarray'),
        (nn.Module, None, TypeError, 'name is None: expected an object of Module'),
        (str, torch.zeros(2, 3), TypeError, 'name is a Tensor of shape (2, 3): '),
        (int, 'x' * 200, TypeError, f"name is '{'x' * 98}…: expected an integer"),
    ],
)
def test_bad(hint: Any, value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as info:
        check_argument('name', value, hint)
    assert str(info.value).startswith(message) or message in str(info.value)


def test_function() -> None:
    assert function(1, 'a', flag=True, threshold=0.5) == (
        "1 ('a',) True {'threshold': 0.5}"
    )
    assert 'Says' in (function.__doc__ or '')
    assert list(inspect.signature(function).parameters) == [
        'count', 'names', 'flag', 'options',
    ]  # fmt: skip
    assert pickle.loads(pickle.dumps(function)) is function
    with pytest.raises(ValueError, match='count is 0'):
        function(0)
    with pytest.raises(TypeError, match=r'names\[1\] is 2'):
        function(1, 'a', 2)
    with pytest.raises(ValueError, match='threshold is 2: expected from 0 to 1'):
        function(1, threshold=2)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'cou"):
        function()


def test_type_variables() -> None:
    either(np.zeros(1))
    with pytest.raises(TypeError, match='value is 1: expected an object of Tensor or'):
        either(1)  # type: ignore[type-var]
    bound(nn.ReLU())
    with pytest.raises(TypeError, match='module is 1: expected an object of Module'):
        bound(1)  # type: ignore[type-var]


def test_dataclass() -> None:
    assert pickle.loads(pickle.dumps(Settings(1))) == Settings(1)
    with pytest.raises(ValueError, match='share is 2'):
        Settings(2)


def test_compiled() -> None:
    """Nothing is checked in a compiled graph."""

    @checked
    def double(x: Tensor) -> Tensor:
        return 2 * x

    compiled = torch.compile(double, backend='eager', fullgraph=True)
    assert compiled(torch.ones(2)).tolist() == [2, 2]


def test_other_limits() -> None:
    """Limits that no argument of ours has are refused, not ignored."""
    with pytest.raises(TypeError, match=r'limit Lt\(lt=3\)'):
        check_argument('name', 1, Annotated[int, Lt(3)])


def test_save_hyperparameters() -> None:
    """What the hint of a base class checks, and Lightning saves for a subclass."""

    class Base(LightningModule):
        def __init__(self, count: Count = 1) -> None:
            super().__init__()
            self.save_hyperparameters()
            check_hints(Base.__init__, self.hparams)

    class Child(Base):
        def __init__(self, other: int, count: int = 1) -> None:
            super().__init__(count)

    assert dict(Child(2).hparams) == {'other': 2, 'count': 1}
    with pytest.raises(ValueError, match='count is 0: expected at least 1'):
        Child(2, 0)


def test_lengths() -> None:
    check_argument('name', [1], Annotated[Sequence[int], MinLen(1)])

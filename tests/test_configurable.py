# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import abc
import json
from dataclasses import dataclass

import pytest

from torchgeo_m2cd.configurable import Configurable, plain
from torchgeo_m2cd.losses import OHEM
from torchgeo_m2cd.models import OriginalO2SP


class Shape(Configurable, abc.ABC):
    kind = 'shape'

    @abc.abstractmethod
    def area(self) -> float: ...


class Box(Shape):
    def __init__(self, sides: tuple[float, float], lid: Shape | None = None) -> None:
        self.sides = tuple(sides)
        self.lid = None if lid is None else Shape.of('lid', lid)

    def area(self) -> float:
        return self.sides[0] * self.sides[1]


@dataclass
class Point:
    xy: tuple[int, int]


def test_round_trip() -> None:
    values = json.loads(json.dumps(Box((2, 3), Box((1, 1))).to_dict()))
    path = f'{__name__}.Box'
    lid = {'class_path': path, 'init_args': {'sides': [1, 1], 'lid': None}}
    assert values == {'class_path': path, 'init_args': {'sides': [2, 3], 'lid': lid}}
    box = Shape.from_dict(values)
    assert isinstance(box, Box)
    assert box.area() == 6
    assert box.to_dict() == values


@pytest.mark.parametrize(
    'path', [None, ['x'], 'os.system', f'{__name__}.Shape', OHEM.class_path()]
)
def test_unknown(path: object) -> None:
    """A class of another kind, or an abstract one, is refused."""
    with pytest.raises(
        ValueError, match=rf'unknown shape .*: expected .*{__name__}.Box'
    ):
        Shape.from_dict({'class_path': path})


def test_of() -> None:
    box = Box((1, 2))
    assert Shape.of('box', box) is box
    assert Shape.of('box', box.to_dict()).to_dict() == box.to_dict()
    with pytest.raises(
        TypeError, match=r"lid is 'round': expected an object of .*Shape"
    ):
        Box((1, 2), 'round')  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shape .*Box: .*argument 'side'"):
        Shape.of('box', {'class_path': f'{__name__}.Box', 'init_args': {'side': 1}})


def test_plain() -> None:
    value = plain({'a': (Point((1, 2)), OHEM(0.5, 3)), 'b': Point, 'c': 'text'})
    assert value == {
        'a': [
            {'xy': [1, 2]},
            {
                'class_path': 'torchgeo_m2cd.losses.OHEM',
                'init_args': {'threshold': 0.5, 'min_kept': 3},
            },
        ],
        'b': Point,
        'c': 'text',
    }


def test_class_path() -> None:
    """The class path is the one that users import from."""
    assert OriginalO2SP.class_path() == 'torchgeo_m2cd.models.OriginalO2SP'

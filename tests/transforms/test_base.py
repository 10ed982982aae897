# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import importlib
import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.transforms.helpers import show
from torchgeo_m2cd.transforms import (
    Darkness,
    InputStep,
    LeftOut,
    Relative,
    RelativeDarkness,
    Standardize,
    StandardizeImage,
)


class Negative(InputStep):
    """A user's step without arguments."""

    bands = channels = 1

    def forward(self, image: Tensor, reference: Tensor) -> Tensor:
        return -image


STEPS: dict[str, Callable[[], InputStep]] = {
    'standardize': lambda: Standardize((1, 2), (3, 4)),
    'image': lambda: StandardizeImage([1.5, 2], [3, 4]),
    'relative': lambda: Relative((2,), ('otsu', 0.85), decibels=0.5),
    'darkness': lambda: Darkness((0, 40)),
    'relative_darkness': lambda: RelativeDarkness((0.4, 0, 1)),
    'left_out': lambda: LeftOut(3),
    'negative': Negative,
}


class TestInputStep:
    def test_defaults(self) -> None:
        """A subclass needs no more than forward, bands, and channels."""
        step, pixels = Negative(), torch.rand(1, 5)
        assert torch.equal(show(step, pixels), -pixels)
        assert step.num_references == 0
        assert not step.is_dark(pixels, torch.empty(0)).any()
        assert step.is_dark(pixels, torch.empty(0)).shape == (5,)
        assert step.in_decibels() is step
        step.check(1e9 * pixels)
        with pytest.raises(ValueError, match=r'^Negative has no inverse: .*`source`$'):
            step.inverse(pixels[None, ..., None], torch.empty(1, 0, 1, 1))

    def test_no_forward(self) -> None:
        with pytest.raises(TypeError, match=r"abstract class InputStep.*'forward'"):
            InputStep()  # type: ignore[abstract]

    @pytest.mark.parametrize('name', STEPS)
    def test_dict(self, name: str) -> None:
        step = STEPS[name]()
        values = step.to_dict()
        assert values.keys() == {'class_path', 'init_args'}
        again = InputStep.from_dict(json.loads(json.dumps(values)))
        assert type(again) is type(step)
        assert again.to_dict() == values
        assert (again.bands, again.channels) == (step.bands, step.channels)
        pixels = 50 * torch.rand(step.bands, 100)
        assert torch.equal(show(again, pixels), show(step, pixels))

    def test_plain(self) -> None:
        """The description is that of a YAML file, with the path that users import."""
        assert STEPS['relative']().to_dict() == {
            'class_path': 'torchgeo_m2cd.transforms.Relative',
            'init_args': {'scale': [2], 'references': ['otsu', 0.85], 'decibels': 0.5},
        }
        assert Negative().to_dict() == {
            'class_path': f'{__name__}.Negative',
            'init_args': {},
        }

    def test_unknown(self) -> None:
        match = (
            "unknown input step 'torch.nn.Identity': expected one of .*"
            r'torchgeo_m2cd\.transforms\.Darkness, .*Import the module'
        )
        with pytest.raises(ValueError, match=match):
            InputStep.from_dict({'class_path': 'torch.nn.Identity'})
        with pytest.raises(ValueError, match='unknown input step None: expected'):
            InputStep.from_dict({})

    @pytest.mark.parametrize(
        ('arguments', 'match'),
        [
            ({'limit': [1]}, "unexpected keyword argument 'limit'"),
            ({}, "missing 1 required positional argument: 'limits'"),
            ({'limits': None}, 'limits is None: expected a list of items'),
            (None, 'must be a mapping'),
        ],
    )
    def test_wrong_arguments(self, arguments: Any, match: str) -> None:
        path = 'torchgeo_m2cd.transforms.Darkness'
        with pytest.raises(ValueError, match=rf'input step {path}: .*{match}'):
            InputStep.from_dict({'class_path': path, 'init_args': arguments})
        with pytest.raises(ValueError, match='limits is'):
            InputStep.from_dict({'class_path': path, 'init_args': {'limits': [0]}})

    def test_nothing_is_imported(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """from_dict finds modules that the user has imported, and imports none itself."""
        monkeypatch.setattr(InputStep, '_registry', dict(InputStep._registry))
        monkeypatch.syspath_prepend(tmp_path)
        (tmp_path / 'steps_of_a_user.py').write_text(
            'from torchgeo_m2cd.transforms import Darkness\n'
            'class Dark(Darkness):\n'
            '    pass\n'
        )
        values = {
            'class_path': 'steps_of_a_user.Dark',
            'init_args': {'limits': [7.0, 0.0]},
        }
        with pytest.raises(ValueError, match="unknown input step 'steps_of_a_user"):
            InputStep.from_dict(values)
        assert 'steps_of_a_user' not in sys.modules
        module = importlib.import_module('steps_of_a_user')
        step = InputStep.from_dict(values)
        assert type(step) is module.Dark
        assert step.to_dict() == values
        del sys.modules['steps_of_a_user']


class TestLeftOut:
    def test_values(self) -> None:
        step = LeftOut(2)
        assert (show(step, torch.rand(2, 9)) == 0).all()
        step.check(1e9 * torch.rand(2, 9))

    def test_wrong(self) -> None:
        with pytest.raises(ValueError, match='bands is 0: expected at least 1'):
            LeftOut(0)

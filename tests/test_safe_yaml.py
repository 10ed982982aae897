# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import json

import pytest
import yaml

from torchgeo_m2cd.safe_yaml import MAX_VALUES, check_yaml, load_yaml


def make_bomb(levels: int, form: str = 'list') -> str:
    """Make a YAML text with ten times as many values at each level."""
    first, more = {
        'list': ('[x, x]', '[{}]'),
        'mapping': ('{k: x}', '{{k: [{}]}}'),
        'merge': ('{k: x}', '{{<<: [{}]}}'),
    }[form]
    lines = [f'a0: &a0 {first}']
    for level in range(1, levels):
        inner = ', '.join([f'*a{level - 1}'] * 10)
        lines.append(f'a{level}: &a{level} {more.format(inner)}')
    return '\n'.join(lines) + '\n'


@pytest.mark.parametrize(
    'text',
    [
        make_bomb(12),
        make_bomb(12, 'mapping'),
        make_bomb(12, 'merge'),
        json.dumps({'text': make_bomb(12)}),  # may be parsed later
        '&a [*a]',
        '&a {k: *a}',
        '[' * 900 + ']' * 900,
        f'[{"x, " * MAX_VALUES}]',
    ],
)
def test_bomb(text: str) -> None:
    with pytest.raises(ValueError, match=r'stands for more than 100,000 values'):
        check_yaml(text)


@pytest.mark.parametrize(
    'text',
    [
        '',
        '1.5',
        make_bomb(3),
        make_bomb(3, 'merge'),
        'a: &a {b: c}\nd: {<<: *a}',
        "glob: '{a & b*'",
        f'[{"x, " * (MAX_VALUES - 10)}]',
    ],
)
def test_harmless(text: str) -> None:
    assert load_yaml(text) == yaml.safe_load(text)


def test_no_yaml() -> None:
    with pytest.raises(yaml.YAMLError):
        load_yaml('{a: [}')

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import re

import pytest

from torchgeo_m2cd.utils import check_choice, public_path


def test_check_choice() -> None:
    check_choice('split', 'val', ('train', 'val'))


@pytest.mark.parametrize(
    ('value', 'choices', 'message'),
    [
        (
            'vall',
            ['train', 'val'],
            "unknown split 'vall', did you mean 'val'? (expected one of 'train', 'val')",
        ),
        ('x', ['train', 'val'], "unknown split 'x' (expected one of 'train', 'val')"),
        ('n99x', [f'n{i}' for i in range(100)], "unknown split 'n99x', did you mean"),
    ],
)
def test_unknown_choice(value: str, choices: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        check_choice('split', value, choices)
    assert len(str(error.value)) < 100


def test_many_choices() -> None:
    match = r"unknown split 'x' \(expected one of 100: 'n0', .*'n9', …\)$"
    with pytest.raises(ValueError, match=match):
        check_choice('split', 'x', [f'n{i}' for i in range(100)])


@pytest.mark.parametrize(
    ('path', 'public'),
    [
        ('https://x.org/a.tif?sig=1&se=2', 'https://x.org/a.tif'),
        ('https://me:word@x.org:80/a@b.tif', 'https://x.org:80/a@b.tif'),
        ('/vsicurl/https://x.org/a.tif?sig=1', '/vsicurl/https://x.org/a.tif'),
        ('s3://bucket/a.tif', 's3://bucket/a.tif'),
        ('what?/a@b.tif', 'what?/a@b.tif'),  # Files may have such names
    ],
)
def test_public_path(path: str, public: str) -> None:
    assert public_path(path) == public

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Which class each value of a mask is."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

import geopandas as gpd
import pandas as pd
from lightning.pytorch.utilities import rank_zero_warn

from ..utils import check_choice
from .base import OpticalSARDataset

#: Value of a raster or of an attribute.
type Value = float | str

#: Class of pixels whose class is not known.
UNKNOWN = OpticalSARDataset.ignore_index


def to_value(value: object) -> Value:
    """Return a value as a number if it is one, also as text, and else as text.

    Args:
        value: A number, or text.

    Returns:
        The value.
    """
    try:
        return float(cast(float, value))
    except (TypeError, ValueError):
        return str(value).strip()


def assign_classes(
    found: set[Value], table: dict[Value, int] | None, name: str
) -> dict[Value, int]:
    """Give each value its class.

    Args:
        found: The values.
        table: Class of each value (defaults to the value itself, 255 if it is negative).
        name: What has the values, for messages.

    Returns:
        Class of each value.

    Raises:
        ValueError: If a value is not in *table*, or without it not a whole number.
    """
    if table is None:
        wrong = {v for v in found if isinstance(v, str) or v % 1 != 0}
        expected = 'whole numbers, or mask.classes, the class of each value'
    else:
        wrong = found - table.keys()
        expected = (
            f'all of them in mask.classes, which is {show_table(table)}. If they are not '
            f'known, set {show_setting(table | dict.fromkeys(wrong, UNKNOWN))}'
        )
    if wrong:
        raise ValueError(
            f'{name} has the values {list_values(wrong)}: expected {expected}'
        )
    if table is None:
        return {v: int(v) if float(v) >= 0 else UNKNOWN for v in found}
    return {v: table[v] for v in found}


def guess_classes(
    found: set[Value], tags: set[Value], nodata: float | None, name: str
) -> dict[Value, int]:
    """Decide which values are classes if the user does not.

    Args:
        found: Values of the files.
        tags: Those of them that stand for no data.
        nodata: That value, if it is given.
        name: What the files are, for messages.

    Returns:
        Class of each value.

    Raises:
        ValueError: If the values can be understood in several ways.
    """
    known = assign_classes(found - tags, None, name)
    classes = set(known.values()) - {UNKNOWN}
    kept = nodata is None and 0 in found & tags and classes <= {1}
    if kept:
        known[0.0] = 0
        classes.add(0)
    has = f'{name} has the values {list_values(found)}'
    if tags:
        has += f', of which {list_values(tags)} stands for no data'
    if 0 not in classes:
        others = found - set(classes)
        likely = [*sorted(others, key=float), *sorted(classes)][-2:]
        example: dict[Value, int] = {
            int(v): i for i, v in enumerate(likely, start=2 - len(likely))
        }
        raise ValueError(
            f'{has}: expected some that are 0, for unchanged, or mask.classes, the class '
            f'of each value, like {show_setting(example)}'
        )
    lost = {
        v for v in found - {nodata} if float(v) > 0 and known.get(v, UNKNOWN) == UNKNOWN
    }
    if classes == {0} and lost:
        value = int(min(map(float, lost)))
        raise ValueError(
            f'{has}: expected 1 where changed. Say {show_setting({value: 1})} if '
            f'{value} means changed, and the class {UNKNOWN} if it means not known'
        )
    if kept:
        rank_zero_warn(
            f'{has}, but then nothing would be unchanged: 0 is taken for unchanged'
        )
    return known


def make_classifier(
    attribute: str | None, table: dict[Value, int] | None
) -> Callable[[gpd.GeoDataFrame, str], Sequence[int]] | None:
    """Make the function that gives polygons their classes.

    Args:
        attribute: Attribute that holds the class, if there is one.
        table: Class of each of its values, see :func:`assign_classes`.

    Returns:
        Function that returns the classes of a table of polygons, given also the name of
        its file. It raises a ValueError if the table lacks the attribute, if that is
        empty, or if values are no classes. None without *attribute*.

    Raises:
        ValueError: If there is a *table*, but no *attribute*.
    """
    if attribute is None:
        if table is not None:
            raise ValueError(
                'mask.classes is given, but the mask is polygons: expected mask.attribute, '
                'the attribute that has these values'
            )
        return None

    def classify(polygons: gpd.GeoDataFrame, name: str) -> list[int]:
        if polygons.empty:
            return []
        check_choice(f'mask.attribute of {name}', attribute, polygons.columns)
        values = [
            None if pd.isna(value) or value == '' else to_value(value)
            for value in polygons[attribute]
        ]
        found = {value for value in values if value is not None}
        if not found:
            raise ValueError(
                f'{name} has an empty attribute {attribute!r}: expected mask.attribute '
                'to hold classes, or none if all polygons are changed'
            )
        classes = assign_classes(found, table, f'attribute {attribute!r} of {name}')
        return [UNKNOWN if value is None else classes[value] for value in values]

    return classify


def show_table(table: Mapping[Value, int]) -> str:
    """Show the class of each value in a message.

    Args:
        table: Class of each value.

    Returns:
        A mapping in YAML and Python.
    """
    items = [f'{list_values([value])}: {label}' for value, label in table.items()]
    return f'{{{", ".join(items)}}}'


def show_setting(table: Mapping[Value, int]) -> str:
    """Show how to set the class of each value, as it is typed.

    Args:
        table: Class of each value.

    Returns:
        The argument, the option of the command line, and the lines of YAML.
    """
    shown = show_table(table)
    return (
        f'mask.classes={shown} (--data.mask.classes "{shown}", or in YAML '
        f'mask: {{classes: {shown}}})'
    )


def list_values(values: Iterable[Value]) -> str:
    """List values in a message, numbers first, NaN after others.

    Args:
        values: The values.

    Returns:
        The first ten.
    """
    ordered = sorted(values, key=lambda v: (isinstance(v, str), pd.isna(v), v))
    shown = [f'{v:g}' if isinstance(v, int | float) else repr(v) for v in ordered[:10]]
    return ', '.join(shown) + (', …' if len(ordered) > 10 else '')

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Tables of results."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: Default folder of results, relative to the root of the repository.
RESULTS = Path('docs/results')


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows to a CSV file.

    Args:
        path: File to write.
        rows: Rows with the same keys.
    """
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows as a Markdown table.

    Args:
        rows: Rows with the same keys.

    Returns:
        The table, with a trailing newline.
    """
    lines = [list(rows[0]), ['---'] * len(rows[0]), *(list(r.values()) for r in rows)]
    return ''.join(f'| {" | ".join(map(str, line))} |\n' for line in lines)

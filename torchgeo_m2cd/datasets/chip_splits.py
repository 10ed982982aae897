# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Dividing chips among splits."""

import os
import pathlib
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from torchgeo.datasets.utils import Path

from ..utils import check_choice
from .chips import Chip, find_chips, read_chips
from .paths import Paths, list_paths, name_paths

#: How the chips are divided: the share, the list file, or the groups of each split.
Splits = Mapping[str, float | str | Sequence[str]]

# Chips without groups are divided into as many runs of successive names
_NUM_RUNS = 16


def load_chips(
    root: Path,
    paths: Mapping[str, Paths],
    table: Path | None,
    split: str,
    splits: Splits | None,
    seed: int,
) -> list[Chip]:
    """List the chips of a split.

    Args:
        root: See :func:`find_chips`.
        paths: See :func:`find_chips`. With *table*, their keys are the columns to read.
        table: See :func:`read_chips`.
        split: The split.
        splits: See :func:`divide`. Where patterns or table tell splits apart, the chips
            for training are divided.
        seed: See :func:`divide`.

    Returns:
        The chips, at least one.

    Raises:
        FileNotFoundError: If a file does not exist or nothing matches a pattern.
        ValueError: If the split is unknown or empty, a chip has one file twice, or an
            argument is not what these functions expect.
    """
    is_part = splits is not None and split in {*splits, 'train'}
    folder = 'train' if is_part else split
    if table is None:
        chips = find_chips(root, paths, folder)
        known = any('{split}' in path for path in list_paths(paths['optical']))
        said = '{split} in the paths'
    else:
        chips = read_chips(os.path.join(root, table), list(paths))
        known = any(chip.split for chip in chips)
        said = 'a column split'
        if known:
            check_choice('split', folder, {chip.split: None for chip in chips})
            chips = [chip for chip in chips if chip.split == folder]
    for chip in chips:
        files = [file for file in chip[:3] if file]
        if len(set(files)) < len(files):
            raise ValueError(
                f'chip {chip.name!r} has the files {name_paths(files)}: expected optical '
                'image, SAR image and mask in files of their own'
            )
    if splits is not None and is_part:
        divided = divide(chips, splits, seed, root)
        chips = [chip for chip in divided if chip.split == split]
        if not chips:
            count = Counter(chip.split or 'none' for chip in divided)
            raise ValueError(
                f'split {split!r} is empty: the {len(divided)} chips, in '
                f'{len({chip.group for chip in divided} - {""}) or _NUM_RUNS} groups, '
                f'are divided as {dict(count)}, by splits={dict(splits)}'
            )
    elif splits is not None and not known:
        check_choice('split', split, {**splits, 'train': None})
    elif split in ('train', 'val') and not known:
        raise ValueError(
            f'nothing says which chips are for split {split!r}: expected {said}, or '
            'splits, as in splits={val: 0.1, test: 0.1}'
        )
    return chips


def divide(
    chips: Sequence[Chip], splits: Splits, seed: int = 0, root: Path = ''
) -> list[Chip]:
    """Divide chips among splits.

    Chips that no split takes are for training, if *splits* do not name ``'train'``. Else
    they are left out.

    Args:
        chips: The chips. If none has a group, runs of successive chips are the groups
            ``'1'`` to ``'16'``.
        splits: What each split takes: a share of the chips, in whole groups; the path of
            a text file with a name, or group and name ``group/name``, in each line; or a
            list of groups.
        seed: Seed of the division by shares.
        root: Folder that the paths of text files are relative to.

    Returns:
        The chips with their splits.

    Raises:
        FileNotFoundError: If a text file does not exist.
        ValueError: If splits are of different kinds, shares are not within [0, 1], a
            group or a name is unknown, or a chip is in two splits.
    """
    given = chips
    if not any(chip.group for chip in chips):
        chips = [
            chip._replace(group=str(index * _NUM_RUNS // len(chips) + 1))
            for index, chip in enumerate(chips)
        ]
    values = list(splits.values())
    if all(isinstance(value, float | int) for value in values):
        taken = _take_shares(chips, splits, seed)
    elif all(isinstance(value, str) for value in values):
        taken = _take_names(chips, splits, root)
    elif not any(isinstance(value, str | float | int) for value in values):
        taken = _take_groups(chips, splits)
    else:
        raise ValueError(
            f'splits is {dict(splits)}: expected shares, list files, or lists of groups '
            'for all of them'
        )
    rest = '' if 'train' in splits else 'train'
    return [
        chip._replace(split=split or rest)
        for chip, split in zip(given, taken, strict=True)
    ]


def _take_shares(
    chips: Sequence[Chip], splits: Mapping[str, object], seed: int
) -> list[str]:
    """Give each chip the split that its group falls to, by the shares of the splits."""
    shares = {split: float(str(share)) for split, share in splits.items()}
    if not all(0 <= share <= 1 for share in shares.values()) or (
        sum(shares.values()) > 1 + 1e-6
    ):
        raise ValueError(
            f'splits is {dict(splits)}: expected shares from 0 to 1, in all at most 1'
        )
    lacking = {split: share * len(chips) for split, share in shares.items()}
    rest = '' if 'train' in shares else 'train'
    lacking[rest] = len(chips) - sum(lacking.values())
    sizes = Counter(chip.group for chip in chips)
    groups = sorted(sizes)
    random.Random(seed).shuffle(groups)
    # Large groups first: the small ones then fill the gaps
    groups.sort(key=lambda group: -sizes[group])
    empty = {split for split, count in lacking.items() if count > 0.5}
    split_of = {}
    for number, group in enumerate(groups):
        # Of few groups, each split gets one
        open_splits = empty if len(groups) - number <= len(empty) else lacking
        split_of[group] = max(open_splits, key=lambda split: lacking[split])
        lacking[split_of[group]] -= sizes[group]
        empty.discard(split_of[group])
    return [split_of[chip.group] for chip in chips]


def _take_groups(chips: Sequence[Chip], splits: Mapping[str, object]) -> list[str]:
    """Give each chip the split that names its group."""
    known = dict.fromkeys(chip.group for chip in chips)
    split_of: dict[str, str] = {}
    for split, groups in splits.items():
        assert isinstance(groups, Sequence)
        for group in groups:
            check_choice(f'group of split {split!r}', group, known)
            if split_of.setdefault(group, split) != split:
                raise ValueError(
                    f'group {group!r} is in the splits {split_of[group]!r} and '
                    f'{split!r}: expected it in one'
                )
    return [split_of.get(chip.group, '') for chip in chips]


def _take_names(
    chips: Sequence[Chip], splits: Mapping[str, object], root: Path
) -> list[str]:
    """Give each chip the split whose list has its name."""
    lines = {split: _read_lines(root, str(path)) for split, path in splits.items()}
    known = {
        name for chip in chips for name in (chip.name, f'{chip.group}/{chip.name}')
    }
    for split, names in lines.items():
        unknown = [name for name in names if name not in known]
        if unknown:
            more = f' and {len(unknown) - 1} more' if unknown[1:] else ''
            raise ValueError(
                f'{splits[split]} lists {unknown[0]!r}{more}, but no chip has this name: '
                f'expected names like {chips[0].name!r}'
            )
    taken = []
    for chip in chips:
        named = {chip.name, f'{chip.group}/{chip.name}'}
        found = [split for split, names in lines.items() if named & names.keys()]
        if len(found) > 1:
            raise ValueError(
                f'chip {chip.name!r} is in the splits {found[0]!r} and {found[1]!r}: '
                'expected it in one list'
            )
        taken.append(found[0] if found else '')
    return taken


def _read_lines(root: Path, path: str) -> dict[str, None]:
    """Read the names in a list file, in their order and without suffixes of files."""
    path = os.path.join(root, path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f'list of chips {path!r} does not exist')
    lines = pathlib.Path(path).read_text(encoding='utf-8').split('\n')
    suffix = re.compile(r'\.(tiff?|png|jpe?g|jp2|img|vrt)$', re.IGNORECASE)
    return {suffix.sub('', line.strip()): None for line in lines if line.strip()}

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Print ready-made configurations, or their names."""

import argparse

from . import list_configs, read_configs


def main() -> None:
    """Command-line interface."""
    parser = argparse.ArgumentParser(
        prog='python -m torchgeo_m2cd.configs',
        description='Print a ready-made configuration for torchgeo, or merge several.',
        epilog='Example: torchgeo fit --config "$(python -m torchgeo_m2cd.configs '
        'ombria)"',
    )
    parser.add_argument(
        'names',
        nargs='*',
        help='later names override earlier ones; without names, list all',
    )
    names = parser.parse_args().names
    if not names:
        print('\n'.join(list_configs()))
        return
    try:
        print(read_configs(*names), end='')
    except ValueError as error:
        parser.error(str(error))


if __name__ == '__main__':
    main()

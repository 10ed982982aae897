# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Print the path of a ready-made configuration, or the names of all of them."""

import argparse

from . import config_path, list_configs


def main() -> None:
    """Command-line interface."""
    parser = argparse.ArgumentParser(
        prog='python -m torchgeo_m2cd.configs',
        description='Print the path of a ready-made configuration for torchgeo.',
        epilog='Example: torchgeo fit --config "$(python -m torchgeo_m2cd.configs '
        'ombria)"',
    )
    parser.add_argument('name', nargs='?', help='name of it; lists all if left out')
    name = parser.parse_args().name
    if name is None:
        print('\n'.join(list_configs()))
        return
    try:
        print(config_path(name))
    except ValueError as error:
        parser.error(str(error))


if __name__ == '__main__':
    main()

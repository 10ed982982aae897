# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Convert a checkpoint of the original implementation to this package's format."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .models.weights import ORIGINAL_ENCODERS, load_original


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line interface.

    Args:
        argv: Arguments (defaults to those of the process).
    """
    parser = argparse.ArgumentParser(
        prog='python -m torchgeo_m2cd.convert',
        description='Convert a checkpoint of the original M2CD implementation to a folder '
        'that M2CD.from_pretrained reads.',
    )
    parser.add_argument('checkpoint', type=Path, help='checkpoint of the original')
    parser.add_argument('encoder', choices=ORIGINAL_ENCODERS, help='its encoder')
    parser.add_argument('folder', type=Path, help='folder to write; must not exist')
    args = parser.parse_args(argv)
    if args.folder.exists():
        parser.error(f'{args.folder} exists')
    try:
        model = load_original(args.checkpoint, args.encoder)
        args.folder.parent.mkdir(parents=True, exist_ok=True)
        # Write beside it and rename: an error leaves nothing half-written
        with tempfile.TemporaryDirectory(dir=args.folder.parent) as temporary:
            part = Path(temporary) / args.folder.name
            model.save_pretrained(part)
            part.rename(args.folder)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(f'wrote {args.folder}')


if __name__ == '__main__':
    main()

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Run the tutorials before Sphinx shows them: python docs/run_tutorials.py.

A tutorial runs if it is new or has changed, and all of them do if the package has changed.
Sphinx, which runs notebooks one after the other, then takes the outputs from the same cache.
One process per core: at the size of the tutorials, more threads are no faster.
"""

import hashlib
import logging
import os
import sys
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.executors import load_executor

DOCS = Path(__file__).parent
PACKAGE = DOCS.parent / 'torchgeo_m2cd'


def hash_package(folder: Path = PACKAGE) -> str:
    """Hash names and contents of all files: configs and weights change outputs, too."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob('*')):
        if file.is_file() and '__pycache__' not in file.parts:
            name = file.relative_to(folder).as_posix()
            digest.update(hashlib.sha256(name.encode()).digest())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def main(
    tutorials: Path = DOCS / 'tutorials',
    folder: Path = DOCS / '_build' / '.jupyter_cache',
) -> None:
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    digest = hash_package()
    stamp = folder.parent / '.package.sha256'
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists() and (not stamp.exists() or stamp.read_text() != digest):
        get_cache(folder).clear_cache()
    stamp.write_text(digest)

    cache = get_cache(folder)
    paths = sorted(str(path.resolve()) for path in tutorials.glob('*.ipynb'))
    for path in paths:
        cache.add_nb_to_project(path)
    logger = logging.getLogger('jupyter_cache')
    logger.setLevel(logging.INFO)  # Each start and end of a tutorial
    executor = load_executor('local-parallel', cache, logger)
    result = executor.run_and_cache(filter_uris=paths, timeout=600)
    failed = [*result.excepted, *result.errored]
    if failed:
        texts = (f'{f}: {cache.get_project_record(f).traceback}' for f in failed)
        sys.exit('\n'.join(texts))


if __name__ == '__main__':
    main()

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""The folder in which a map is made."""

import contextlib
import json
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence

from lightning.pytorch.strategies import Strategy

from ..checks import checked
from ..samplers import SceneSampler
from ..utils import list_beside, naming, write_beside
from .finished import FinishedMap
from .lock import RunLock, remove_empty
from .mosaic import Mosaic
from .outputs import Outputs
from .plan import MapPlan

_PLAN_FOLDER = re.compile('[0-9a-f]{16}')
_STAGE_FOLDER = re.compile(r'new\.\w{8}')
# What a folder of a plan holds, complete or not
_FILE = re.compile(r'(plan\.json|renames\.json|\d{6,}\.npy)(\.[0-9a-f]{16}\.part)?')


class Parts:
    """The folder ``OUTPUT.parts``, where a map is made.

    It holds a folder per plan, with ``plan.json`` and one file per row of patches; folders
    ``new.*``, where the files of the map are made; and the files of
    :class:`~torchgeo_m2cd.maps.lock.RunLock`. One run at a time owns it. What a killed run
    has left is used if it is whole, and else removed. Files of other names are somebody
    else's, and stay.
    """

    @checked
    def __init__(
        self,
        outputs: Outputs,
        plan: MapPlan,
        sampler: SceneSampler,
        lock: RunLock | None = None,
    ) -> None:
        """Initialize a new Parts instance.

        Args:
            outputs: The files of the map.
            plan: The plan of the map.
            sampler: The scene and its patches.
            lock: The lock of the run, shared by its maps (default: a new one).
        """
        self.outputs = outputs
        self.plan = plan
        #: Folder of the rows of patches. Those of two plans never meet.
        self.folder = outputs.parts / plan.digest()[:16]
        #: The rows of patches.
        self.mosaic = Mosaic(sampler, self.folder, plan.water)
        self._lock = lock or RunLock()

    def start(self) -> set[int]:
        """Take the folder, unless the map is complete.

        Returns:
            Numbers of the rows of patches that need not be predicted.

        Raises:
            FileExistsError: If a file of another map exists, and is not to be
                overwritten.
            OSError: If the folder cannot be written.
            RuntimeError: If another run writes the same map.
        """
        everything = set(range(len(self.mosaic.tops)))
        is_new = not self.outputs.parts.exists()
        if is_new and self.outputs.is_complete(self.plan):
            return everything
        self._claim()
        try:
            # Now it can be that another run has just completed it
            if self.outputs.is_complete(self.plan):
                self.clear()
                self.release()
                return everything
            ours = self._list_renamed() | self.outputs.list_made(self.plan)
            self.outputs.check_new(ours, self.plan)
            if not is_new:
                self._sweep()
            self.folder.mkdir(exist_ok=True)
            write_beside(self.folder / 'plan.json', self.plan.write)
            return everything if self.is_mapped else self.mosaic.find()
        except BaseException:
            self.release()
            raise

    @property
    def is_pending(self) -> bool:
        """Whether the map is not made yet: its plan is still there."""
        return (self.folder / 'plan.json').exists()

    @property
    def is_mapped(self) -> bool:
        """Whether the probabilities are those of a finished map that is there."""
        return self.outputs.has_probabilities(self.plan)

    @property
    def probabilities(self) -> Mosaic | FinishedMap:
        """The rows of patches, or the finished map of the same plan."""
        if self.is_mapped:
            return FinishedMap(self.outputs.probability, self.mosaic.dataset)
        return self.mosaic

    @contextlib.contextmanager
    def stage(self) -> Iterator[pathlib.Path]:
        """Make a folder in which to make the files of the map.

        Yields:
            The folder, which is removed in the end.
        """
        with tempfile.TemporaryDirectory(
            prefix='new.', dir=self.outputs.parts
        ) as folder:
            yield pathlib.Path(folder)

    def announce(self, new: Iterable[tuple[pathlib.Path, pathlib.Path]]) -> None:
        """Note which files are going to be renamed.

        A run that is killed in the middle leaves some of them in their places. The next
        one knows by this note that it may replace them.

        Args:
            new: Places of the files of the map, and where each of them is now.
        """
        note = json.dumps({str(path): _identify(file) for path, file in new})
        write_beside(
            self.folder / 'renames.json', lambda file: file.write(note.encode())
        )

    def clear(self) -> None:
        """Remove the rows of patches of all plans, and nothing else."""
        for folder in list(self.outputs.parts.iterdir()):
            if _PLAN_FOLDER.fullmatch(folder.name):
                # The plan last: as long as it is there, so is what belongs to it
                for file in sorted(folder.iterdir(), key=lambda f: f.suffix == '.json'):
                    if _FILE.fullmatch(file.name):
                        file.unlink()
                remove_empty(folder)
            elif _STAGE_FOLDER.fullmatch(folder.name):
                shutil.rmtree(folder, ignore_errors=True)

    def release(self) -> None:
        """Let other runs have the folder, and remove it if it is empty."""
        if self._lock.owns(self.outputs.parts):
            remove_empty(self.folder)
            self._lock.release(self.outputs.parts)

    def _claim(self) -> None:
        """Keep other runs away."""
        root = self.outputs.parts
        with naming(root):
            is_ours = self._lock.claim(root)
        if not is_ours:
            raise RuntimeError(
                f'{self.outputs.probability} is being written by another process: '
                'expected one run at a time. Wait until it ends, or choose another output'
            )

    def _list_renamed(self) -> set[pathlib.Path]:
        """List the files that a killed run of this plan has put in their places."""
        try:
            note = json.loads((self.folder / 'renames.json').read_bytes())
        except (FileNotFoundError, ValueError):
            return set()
        paths = [path for path in self.outputs.paths if path.exists()]
        return {path for path in paths if note.get(str(path)) == _identify(path)}

    def _sweep(self) -> None:
        """Remove the incomplete files of killed runs."""
        for path in self.outputs.paths:
            for file in list_beside(path):
                file.unlink()
        for folder in list(self.outputs.parts.iterdir()):
            if _STAGE_FOLDER.fullmatch(folder.name):
                shutil.rmtree(folder, ignore_errors=True)
        for file in self.folder.iterdir() if self.folder.exists() else ():
            if (match := _FILE.fullmatch(file.name)) and match[2]:
                file.unlink()


@checked
def start_maps(parts: Sequence[Parts], strategy: Strategy) -> set[tuple[int, int]]:
    """Take the folders of all maps. The first process does so for all processes of a run.

    Args:
        parts: The folder of each map.
        strategy: Strategy of the trainer.

    Returns:
        Number of the scene and of the row of patches, of each row that need not be
        predicted.

    Raises:
        FileExistsError: If a file of another map exists, and is not to be overwritten.
        OSError: If a folder cannot be written.
        RuntimeError: If another run writes one of the maps.
    """
    done: set[tuple[int, int]] | Exception = set()
    if strategy.is_global_zero:
        try:
            done = {(i, row) for i, part in enumerate(parts) for row in part.start()}
            unfinished = {i for i, part in enumerate(parts) if part.is_pending}
            complete = len(parts) - len(unfinished)
            if complete:
                print(
                    f'{complete} of {len(parts)} maps are complete already, and left as '
                    'they are',
                    flush=True,
                )
            mapped = {i for i in unfinished if parts[i].is_mapped}
            if mapped:
                print(
                    f'{len(mapped)} of {len(parts)} maps: new files of the probabilities '
                    'that are there',
                    flush=True,
                )
            unfinished -= mapped
            there = sum(i in unfinished for i, _ in done)
            if there:
                total = sum(len(parts[i].mosaic.tops) for i in unfinished)
                print(
                    f'Going on: {there} of {total} rows of patches are there',
                    flush=True,
                )
        except Exception as error:  # noqa: BLE001 - the others must not wait for it
            for part in parts:
                part.release()
            done = error
    # Or else the others would wait for a process that has failed
    done = strategy.broadcast(done)
    if isinstance(done, Exception):
        raise done
    return done


def _identify(file: pathlib.Path) -> list[int]:
    """Tell a file from others; renaming changes none of it."""
    stat = file.stat()
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns]

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from lightning.pytorch.strategies import Strategy

from tests.maps.helpers import make_plan, make_scene
from torchgeo_m2cd.datasets import SceneDataset
from torchgeo_m2cd.maps import Outputs, Parts, Run, make_map, start_maps
from torchgeo_m2cd.samplers import SceneSampler
from torchgeo_m2cd.utils import create_beside

VALUES = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 1, 64)


@pytest.fixture
def scene(tmp_path: Path) -> SceneDataset:
    return make_scene(tmp_path / 'in')


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return Outputs(tmp_path / 'a.tif', tmp_path / 'b' / 'classes.tif')


def make_parts(scene: SceneDataset, outputs: Outputs) -> Parts:
    sampler = SceneSampler(scene, scene.shape, scene.shape)
    return Parts(outputs, make_plan(scene), sampler)


def make(scene: SceneDataset, outputs: Outputs) -> Parts:
    """Predict the only row of patches, and make the map."""
    parts = make_parts(scene, outputs)
    if not parts.start():
        np.save(parts.folder / '000000.npy', VALUES)
    if parts.is_pending:
        make_map(parts, Run())
    return parts


def list_names(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file()}


class Killed(BaseException):
    """Stands for SIGKILL, which no code can handle."""


def kill(*args: object, **kwargs: object) -> None:
    raise Killed


class TestParts:
    def test_life(self, scene: SceneDataset, outputs: Outputs) -> None:
        """The plan is written first and removed last; no file remains."""
        parts = make_parts(scene, outputs)
        assert parts.start() == set()
        names = {'lock', 'owner', f'{parts.folder.name}/plan.json'}
        assert list_names(outputs.parts) == names
        assert parts.is_pending
        np.save(parts.folder / '000000.npy', VALUES)
        make_map(parts, Run())
        assert not parts.is_pending
        parts.release()
        assert not outputs.parts.exists()
        # Another run has nothing to do, and makes no folder
        again = make_parts(scene, outputs)
        assert again.start() == {0}
        assert not outputs.parts.exists()

    def test_another_run(self, scene: SceneDataset, outputs: Outputs) -> None:
        parts = make_parts(scene, outputs)
        parts.start()
        with pytest.raises(RuntimeError, match=r'a\.tif is being written by another'):
            make_parts(scene, outputs).start()
        parts.release()
        parts.release()
        make_parts(scene, outputs).start()

    @pytest.mark.slow
    def test_another_process(self, scene: SceneDataset, outputs: Outputs) -> None:
        """The lock of a killed process is free."""
        outputs.parts.mkdir()
        code = (
            'import sys, filelock; lock = filelock.FileLock(sys.argv[1]); '
            'lock.acquire(); print("ready", flush=True); sys.stdin.read()'
        )
        with subprocess.Popen(
            [sys.executable, '-c', code, outputs.parts / 'lock'],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            with pytest.raises(RuntimeError, match='expected one run at a time'):
                make_parts(scene, outputs).start()
            process.kill()
        make(scene, outputs).release()
        assert not outputs.parts.exists()

    @pytest.mark.parametrize(
        'by', ['nothing', 'cut', 'other shape', 'other type', 'text']
    )
    def test_broken_row(self, by: str, scene: SceneDataset, outputs: Outputs) -> None:
        """At the start, a broken row is predicted again; later, it is an error."""
        parts = make_parts(scene, outputs)
        parts.start()
        part = parts.folder / '000000.npy'
        np.save(part, VALUES)
        assert parts.mosaic.find() == {0}
        content = part.read_bytes()
        match by:
            case 'other shape':
                np.save(part, VALUES[:-1])
            case 'other type':
                np.save(part, VALUES.astype(np.float64))
            case _:
                new = {'nothing': b'', 'cut': content[:-9], 'text': b'precious'}
                part.write_bytes(new[by])
        with pytest.raises(RuntimeError, match=r'000000\.npy is not a row of patches'):
            make_map(parts, Run())
        parts.release()
        assert make_parts(scene, outputs).start() == set()
        assert not part.exists()

    def test_incomplete_row(self, scene: SceneDataset, outputs: Outputs) -> None:
        """The partial files of a killed run are removed, also for another plan."""
        parts = make_parts(scene, outputs)
        parts.start()
        with create_beside(parts.folder / '000000.npy') as file:
            part = Path(file.name)
        parts.release()
        again = make_parts(scene, outputs)
        assert again.start() == set()
        assert not part.exists()
        again.release()
        part.touch()
        other = Parts(
            outputs,
            make_plan(scene, version='2'),
            SceneSampler(scene, scene.shape, scene.shape),
        )
        other.start()
        np.save(other.folder / '000000.npy', VALUES)
        make_map(other, Run())
        other.release()
        assert not outputs.parts.exists()

    def test_missing_row(self, scene: SceneDataset, outputs: Outputs) -> None:
        parts = make_parts(scene, outputs)
        parts.start()
        with pytest.raises(RuntimeError, match=r'1 of 1 rows of patches are missing'):
            make_map(parts, Run())

    def test_somebody_else(self, scene: SceneDataset, outputs: Outputs) -> None:
        """Files with other names stay, also if they resemble rows of patches."""
        folder = make_parts(scene, outputs).folder
        folder.mkdir(parents=True)
        files = [outputs.parts / 'a.txt', folder / 'copy.npy', folder / 'b.txt']
        for file in files:
            file.touch()
        make(scene, outputs).release()
        assert outputs.probability.exists()
        assert sorted(p for p in outputs.parts.rglob('*') if p.is_file()) == sorted(
            files
        )

    @pytest.mark.parametrize(
        'where',
        [
            'torchgeo_m2cd.maps.parts.write_beside',  # Of the plan
            'torchgeo_m2cd.maps.products.write_cog',
            'shutil.move',
            'torchgeo_m2cd.maps.products.Parts.announce',
            'torchgeo_m2cd.maps.products.Parts.clear',
        ],
    )
    def test_killed(
        self,
        where: str,
        scene: SceneDataset,
        outputs: Outputs,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A new run uses or removes the files of a killed run."""
        make(scene, outputs).release()
        expected = {
            name: (tmp_path / name).read_bytes() for name in list_names(tmp_path)
        }
        for path in outputs.paths:
            path.unlink()
        with monkeypatch.context() as patch:
            # A killed process removes no files
            patch.setattr('pathlib.Path.unlink', lambda *args, **kwargs: None)
            patch.setattr('shutil.rmtree', lambda *args, **kwargs: None)
            patch.setattr(where, kill)
            with pytest.raises(Killed):
                make(scene, outputs)
        gc.collect()  # The lock goes with the process
        make(scene, outputs).release()
        names = list_names(tmp_path)
        assert names == set(expected)
        for name in names - {'a.json'}:
            assert (tmp_path / name).read_bytes() == expected[name]

    @pytest.mark.parametrize('count', range(1, 5))
    def test_killed_while_renaming(
        self,
        count: int,
        scene: SceneDataset,
        outputs: Outputs,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Files that were renamed before a kill are recognised as the same map."""
        replace_file: Callable[[Path, Path], Path] = Path.replace
        renamed = []

        def rename(self: Path, target: Path) -> Path:
            if target in outputs.paths:
                renamed.append(target)
                if len(renamed) == count:
                    raise Killed
            return replace_file(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, 'replace', rename)
            with pytest.raises(Killed):
                make(scene, outputs)
        gc.collect()  # The lock goes with the process
        assert sum(path.exists() for path in outputs.paths) == count - 1
        if count > 1:
            # Unless somebody has changed one of them
            changed = renamed[0]
            before = changed.read_bytes()
            changed.write_text('precious')
            with pytest.raises(FileExistsError, match=changed.name):
                make(scene, outputs)
            assert changed.read_text() == 'precious'
            changed.unlink()
            changed.write_bytes(before)
            os.utime(changed)
            with pytest.raises(FileExistsError, match=changed.name):
                make(scene, outputs)
            changed.unlink()
        make(scene, outputs).release()
        assert all(path.exists() for path in outputs.paths)
        assert not outputs.parts.exists()

    def test_completed_by_another_run(
        self, scene: SceneDataset, outputs: Outputs
    ) -> None:
        """A run that was killed before it cleared the folder has made the map."""
        make(scene, outputs).release()
        outputs.parts.mkdir()
        again = make_parts(scene, outputs)
        assert again.start() == {0}
        assert not outputs.parts.exists()

    def test_picture(
        self, scene: SceneDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A failing picture does not fail the map, and is not required later."""
        outputs = Outputs(tmp_path / 'a.tif', quicklook=tmp_path / 'a.png')
        error = Mock(side_effect=OSError(24, 'Too many open files'))
        monkeypatch.setattr('torchgeo_m2cd.maps.products.plot_quicklook', error)
        with pytest.warns(UserWarning, match=r'a\.png could not be drawn: .*Too many'):
            make(scene, outputs).release()
        summary = json.loads(outputs.summary.read_text())
        assert summary['files']['quicklook'] is None
        assert any('could not be drawn' in text for text in summary['warnings'])
        assert make_parts(scene, outputs).start() == {0}
        # Another file that is missing is made anew
        outputs.files['style'].unlink()
        make(scene, outputs).release()
        assert outputs.files['style'].exists()


class TestStartMaps:
    def make_strategy(self, is_first: bool = True, found: object = None) -> Mock:
        """Make a strategy that broadcasts what was found, or what it gets."""
        broadcast = Mock(side_effect=lambda value: value if is_first else found)
        return Mock(spec=Strategy, is_global_zero=is_first, broadcast=broadcast)

    def test_several(
        self, scene: SceneDataset, outputs: Outputs, tmp_path: Path
    ) -> None:
        make(scene, outputs).release()
        other = make_parts(scene, Outputs(tmp_path / 'new.tif'))
        parts = [other, make_parts(scene, outputs)]
        assert start_maps(parts, self.make_strategy()) == {(1, 0)}
        assert other.is_pending

    def test_resumed(
        self, scene: SceneDataset, outputs: Outputs, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A resumed run says where it continues."""
        parts = make_parts(scene, outputs)
        parts.start()
        np.save(parts.folder / '000000.npy', VALUES)
        parts.release()
        again = [make_parts(scene, outputs)]
        assert start_maps(again, self.make_strategy()) == {(0, 0)}
        assert capsys.readouterr().out == (
            'Going on: 1 of 1 rows of patches are there\n'
        )

    def test_failure(
        self, scene: SceneDataset, outputs: Outputs, tmp_path: Path
    ) -> None:
        """If one process fails, all fail and release the lock."""
        outputs.probability.write_text('precious')
        other = make_parts(scene, Outputs(tmp_path / 'new.tif'))
        parts = [other, make_parts(scene, outputs)]
        with pytest.raises(FileExistsError, match=r'a\.tif exists'):
            start_maps(parts, self.make_strategy())
        assert make_parts(scene, replace(other.outputs)).start() == set()

    def test_other_process(self, scene: SceneDataset, outputs: Outputs) -> None:
        """Other processes take the result or error of the first, and touch no files."""
        parts = [make_parts(scene, outputs)]
        assert start_maps(parts, self.make_strategy(False, {(0, 0)})) == {(0, 0)}
        error = RuntimeError('being written')
        with pytest.raises(RuntimeError, match='being written'):
            start_maps(parts, self.make_strategy(False, error))
        assert not outputs.parts.exists()

    def test_read_only(
        self, scene: SceneDataset, outputs: Outputs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A read-only folder is an error before anything is predicted."""
        error = Mock(side_effect=PermissionError(13, 'Permission denied'))
        monkeypatch.setattr('pathlib.Path.mkdir', error)
        match = r"Permission denied: '.*a\.tif\.parts'"
        with pytest.raises(PermissionError, match=match):
            start_maps([make_parts(scene, outputs)], self.make_strategy())

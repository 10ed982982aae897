# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Kill prediction at random moments, run it again, and compare the maps.

python -m benchmarks.kills

Maps a synthetic scene undisturbed, by the rule that needs no weights. Then it starts the same
command, kills it (SIGKILL) at a random moment, three times on the same output, and lets the fourth
run end. All files have to be those of the undisturbed run, byte by byte, but the run time in the
summary. With two processes, it kills both at once or one of them, in turns.
"""

import argparse
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.tables import RESULTS, write_csv
from torchgeo_m2cd.datasets import SceneDataset, SyntheticFlood
from torchgeo_m2cd.predict import predict_scene
from torchgeo_m2cd.samplers import SceneSampler

_KILLS_PER_MAP, _PATCH = 3, 32


def run(scene: dict[str, Path], output: Path, environment: dict[str, str]) -> None:
    """Map the scene in this process, which is one of those of the environment."""
    os.environ |= environment
    trainer: dict[str, Any] = {'accelerator': 'cpu', 'enable_progress_bar': False}
    if environment:
        trainer |= {'strategy': 'ddp', 'devices': int(environment['WORLD_SIZE'])}
    predict_scene(
        scene['optical'],
        scene['sar'],
        output / 'change.tif',
        'threshold',
        {'patch_size': _PATCH, 'batch_size': 4},
        trainer,
        classes=output / 'classes.tif',
        quicklook=output / 'change.png',
    )


def start(scene: dict[str, Path], output: Path, processes: int, log: Path) -> list[int]:
    """Start to map a scene; return the process IDs.

    Processes are forked, as they would else spend most of their time with imports.
    """
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in map(str, range(processes)):
        environment = {
            'MASTER_ADDR': 'localhost', 'MASTER_PORT': port, 'RANK': rank,
            'LOCAL_RANK': rank, 'WORLD_SIZE': str(processes), 'GROUP_RANK': '0',
            'LOCAL_WORLD_SIZE': str(processes), 'TORCHELASTIC_RUN_ID': 'kills',
        }  # fmt: skip
        process = os.fork()
        if process == 0:
            status = 1
            try:
                with log.open('a') as file:
                    os.dup2(file.fileno(), 1)
                    os.dup2(file.fileno(), 2)
                    run(scene, output, environment if processes > 1 else {})
                    status = 0
            except (OSError, RuntimeError, TypeError, ValueError) as error:
                print(repr(error), file=sys.stderr, flush=True)
            finally:
                os._exit(status)
        started.append(process)
    return started


def wait(processes: Sequence[int]) -> list[int]:
    """Wait for processes; return the status of each, negative for a signal."""
    return [os.waitstatus_to_exitcode(os.waitpid(p, 0)[1]) for p in processes]


def describe(output: Path, rows: int) -> str:
    """Say how far a run had come."""
    if (output / 'change.tif').exists():
        return 'after the map was there'
    done = len(list(output.glob('change.tif.parts/*/*.npy')))
    if done == 0:
        return 'before the first row'
    return 'between rows' if done < rows else 'while files were made'


def read(folder: Path) -> dict[str, bytes]:
    """Read all files of a folder, without the time that the run took."""
    contents = {}
    for path in folder.rglob('*'):
        contents[str(path.relative_to(folder))] = (
            path.read_bytes() if path.is_file() else b''
        )
    summary = json.loads(contents['change.json'])
    summary['seconds'] = None
    text = json.dumps(summary).replace(str(folder), 'FOLDER')
    return contents | {'change.json': text.encode()}


def count_rows(scene: dict[str, Path]) -> int:
    """Count the rows of patches of the scene."""
    dataset = SceneDataset(scene['optical'], scene['sar'])
    return len(SceneSampler(dataset, (_PATCH, _PATCH), (_PATCH // 2,) * 2).tops)


def measure(
    scene: dict[str, Path], folder: Path, processes: int, kills: int
) -> dict[str, Any]:
    """Kill runs of one or more processes; return a row of the table."""
    whole, log = folder / f'whole{processes}', folder / f'log{processes}.txt'
    whole.mkdir()
    begin = time.monotonic()
    if any(wait(start(scene, whole, processes, log))):
        raise RuntimeError(log.read_text())
    duration = time.monotonic() - begin
    expected = read(whole)
    rows = count_rows(scene)
    moments: Counter[str] = Counter()
    maps = identical = 0
    while sum(moments.values()) < kills:
        output = folder / f'{processes}-{maps}'
        output.mkdir()
        for _ in range(_KILLS_PER_MAP):
            running = start(scene, output, processes, log)
            time.sleep(random.uniform(0.05, 1) * duration)
            for process in (
                running if random.random() < 0.5 else [random.choice(running)]
            ):
                os.kill(process, signal.SIGKILL)
            time.sleep(0.2 if len(running) > 1 else 0)
            for process in running:  # One whose partner is dead may wait for long
                os.kill(process, signal.SIGKILL)
            if -signal.SIGKILL in wait(running):
                moments[describe(output, rows)] += 1
        statuses = wait(start(scene, output, processes, log))
        maps += 1
        same = not any(statuses) and read(output) == expected
        identical += same
        print(processes, output.name, dict(moments), statuses, same, flush=True)
        if not same:
            print(log.read_text()[-2000:], flush=True)
    names = (
        'before the first row', 'between rows', 'while files were made',
        'after the map was there',
    )  # fmt: skip
    return {
        'processes': processes,
        'kills': sum(moments.values()),
        **{name: moments[name] for name in names},
        'maps': maps,
        'identical maps': identical,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Command-line interface."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--output', type=Path, default=RESULTS / 'kills.csv')
    parser.add_argument('--kills', type=int, default=30, help='per number of processes')
    parser.add_argument('--processes', type=int, nargs='+', default=[1, 2])
    parser.add_argument('--size', type=int, default=256)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(argv)
    random.seed(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene = SyntheticFlood().write_scene(folder / 'scene', size=args.size)
        table = [measure(scene, folder, count, args.kills) for count in args.processes]
    write_csv(args.output, table)


if __name__ == '__main__':
    main()

# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import ctypes
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from torchgeo_m2cd.models import keep_memory

# Prints the page faults of ten tensors of 64 MiB, one after the other, after a first one:
# before and after the call. In a process of its own, as the setting stays
FAULTS = """
import resource
import torch
from torchgeo_m2cd.models import keep_memory

def count():
    torch.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(count())
assert keep_memory()
print(count())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='needs glibc')
def test_no_new_memory() -> None:
    command = [sys.executable, '-c', FAULTS]
    process = subprocess.run(command, check=True, capture_output=True, text=True)
    before, after = map(int, process.stdout.split())
    assert after < 0.2 * before


@pytest.mark.parametrize('error', [AttributeError, OSError, TypeError])
def test_other_libraries(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: None) -> None:
        raise error

    monkeypatch.setattr(ctypes, 'CDLL', load)
    assert not keep_memory()


@pytest.mark.parametrize(
    ('largest', 'kept'), [(0, {}), (2**25, {-3: 2**25, -1: 2**30}), (2**30, None)]
)
def test_versions(
    largest: int, kept: dict[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """glibc before 2.35 refuses large values; nothing is set without this one."""
    found: dict[int, int] = {}

    def mallopt(parameter: int, value: int) -> int:
        if parameter == -3 and value > largest:
            return 0
        found[parameter] = value
        return 1

    monkeypatch.setattr(ctypes, 'CDLL', lambda name: SimpleNamespace(mallopt=mallopt))
    assert keep_memory() == (largest > 0)
    assert found == ({-3: 2**30, -1: 2**30} if kept is None else kept)

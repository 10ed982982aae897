# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

import ctypes
import platform
import subprocess
import sys

import pytest

from torchgeo_m2cd.models import keep_memory

# Prints the page faults of ten tensors of 64 MiB, one after the other, after a first one
FAULTS = """
import resource
import torch
from torchgeo_m2cd.models import keep_memory
if {keep}:
    assert keep_memory()
torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_faults(keep: bool) -> int:
    command = [sys.executable, '-c', FAULTS.format(keep=keep)]
    process = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(process.stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='needs glibc')
def test_no_new_memory() -> None:
    assert count_faults(keep=True) < 0.1 * count_faults(keep=False)


@pytest.mark.parametrize('error', [AttributeError, OSError, TypeError])
def test_other_libraries(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: None) -> None:
        raise error

    monkeypatch.setattr(ctypes, 'CDLL', load)
    assert not keep_memory()

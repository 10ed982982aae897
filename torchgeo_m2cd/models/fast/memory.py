# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""Memory of tensors on a CPU, which PyTorch does not cache."""

import ctypes

# Parameters of mallopt(3), and the number of bytes that they are set to
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_LARGEST = 2**30


def keep_memory() -> bool:
    """Let the process keep the memory of tensors that are gone, for the next ones.

    By default, glibc maps new memory from the system for each tensor above 32 MiB, and
    returns memory at the end of its heap. The first write to new memory costs more than
    the arithmetic of most layers. This changes the allocation of the whole process from
    now on. It does nothing where there is no glibc, that is, elsewhere than on most Linux.

    Returns:
        Whether the process keeps memory.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    parameters = (_TRIM_THRESHOLD, _MMAP_THRESHOLD)
    return all(mallopt(parameter, _LARGEST) == 1 for parameter in parameters)

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
    now on. Only its main thread gains from it. It does nothing where there is no glibc,
    that is, elsewhere than on most Linux.

    Returns:
        Whether the process keeps memory.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # glibc before 2.35 takes no more than 32 MiB. The other parameter alone would stop it
    # from raising this one by itself, and cost time
    if not any(mallopt(_MMAP_THRESHOLD, size) == 1 for size in (_LARGEST, 2**25)):
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _LARGEST) == 1)

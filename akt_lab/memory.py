"""Keep freed memory in the process, where the next training step needs it again."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc not to give freed tensors back to the kernel; elsewhere do nothing.

    A step frees and takes hundreds of blocks of megabytes. Given back, each comes again as empty
    pages that the kernel has to map and clear: a tenth of a step on two cores.

    Returns:
        Whether it took effect.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1))

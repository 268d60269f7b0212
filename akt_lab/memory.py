"""Memory as a training step needs it: kept in the process, and laid out alike."""

import ctypes
import functools
import sys

import torch
from torch import Tensor

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
NEVER = 2**31 - 1  # bytes


@functools.cache  # once a process: it holds until its end
def keep_freed_memory() -> bool:
    """Tell glibc not to give freed tensors back to the kernel; elsewhere do nothing.

    A step frees and takes hundreds of blocks of megabytes. Given back, each comes again as empty
    pages that the kernel has to map and clear: a tenth of a step on two cores.

    Returns:
        Whether it took effect.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):  # musl has none
        return False
    return bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, NEVER))


def laid_out_as(weight: Tensor, tensor: Tensor) -> Tensor:
    """`tensor`, of `weight`'s shape, with its elements in the same places of memory.

    PyTorch's fused optimisers walk through weight, gradient and momentum as they lie in memory,
    and do not check that these agree: a contiguous gradient of a channels-last weight would
    update the wrong elements.
    """
    if tensor.stride() == weight.stride():
        return tensor
    return torch.empty_like(weight, dtype=tensor.dtype).copy_(tensor)

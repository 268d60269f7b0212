"""Memory as a training step needs it: kept in the process, in large pages, and laid out alike."""

import ctypes
import functools
import os
import sys
from typing import Any

import torch
from torch import Tensor

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
NEVER = -1  # any number of bytes is less than the marked stretch may have: it would go at once
MADV_HUGEPAGE, HUGE_PAGE = 14, 2 << 20  # of Linux's mman.h; bytes
RESERVED = 4 << 30  # bytes of addresses, not of memory: what a step of batch 200 fits into


@functools.cache  # once a process: it holds until its end
def keep_freed_memory() -> bool:
    """Tell glibc not to give freed tensors back to the kernel; elsewhere do nothing.

    A step frees and takes hundreds of blocks of megabytes. Given back, each comes again as empty
    pages that the kernel has to map and clear: a tenth of a step on two cores. Pages of 2 MB in
    place of 4 kB save the processor's address look-ups: another tenth.

    Returns:
        Whether it took effect.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):  # musl has none
        return False
    kept = bool(libc.mallopt(M_MMAP_MAX, 0) and libc.mallopt(M_TRIM_THRESHOLD, NEVER))
    if kept:
        _ask_for_huge_pages(libc)
    return kept


def _ask_for_huge_pages(libc: Any) -> None:
    """Take a stretch of the heap, mark it, and free it: later tensors come to lie in it."""
    libc.malloc.restype = ctypes.c_void_p
    size = min(RESERVED, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
    block = libc.malloc(ctypes.c_size_t(size))
    if block:
        start = -(-block // HUGE_PAGE) * HUGE_PAGE
        length = ctypes.c_size_t((block + size - start) // HUGE_PAGE * HUGE_PAGE)
        libc.madvise(ctypes.c_void_p(start), length, MADV_HUGEPAGE)  # advice: may be declined
        libc.free(ctypes.c_void_p(block))


def laid_out_as(weight: Tensor, tensor: Tensor) -> Tensor:
    """`tensor`, of `weight`'s shape, with its elements in the same places of memory.

    PyTorch's fused optimisers walk through weight, gradient and momentum as they lie in memory,
    and do not check that these agree: a contiguous gradient of a channels-last weight would
    update the wrong elements.
    """
    if tensor.stride() == weight.stride():
        return tensor
    return torch.empty_like(weight, dtype=tensor.dtype).copy_(tensor)

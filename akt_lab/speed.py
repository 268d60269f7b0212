"""What changes no number beyond rounding: delete it, and all still works.

Freed memory kept in the process, tensors laid out alike, batch norms and ReLUs with fewer passes
over memory, and how a GPU adds.
"""

import ctypes
import functools
import operator
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
NEVER = 2**31 - 1  # bytes


@functools.cache  # once a process: it holds until its end
def keep_freed_memory() -> bool:
    """Tell glibc not to give freed tensors back to the kernel; elsewhere do nothing.

    For a process that trains: memory once taken stays taken, so one that looks at a student now
    and then, as a notebook's, is better off without.

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


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether a GPU may round the factors of its products to TF32's 10 bits inside the block."""
    kinds: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [kind.allow_tf32 for kind in kinds]
    for kind in kinds:
        kind.allow_tf32 = allowed
    try:
        yield
    finally:
        for kind, was in zip(kinds, before, strict=True):
            kind.allow_tf32 = was


@contextmanager
def one_order(wanted: bool) -> Iterator[None]:
    """If `wanted`, a GPU adds in an order that is always the same inside the block.

    What PyTorch can do in no such order, it does with a warning.
    """
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fills = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False  # nothing of ours reads it
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        memory.fill_uninitialized_memory = fills


def laid_out_as(weight: Tensor, tensor: Tensor) -> Tensor:
    """`tensor`, of `weight`'s shape, with its elements in the same places of memory.

    PyTorch's fused optimisers walk through weight, gradient and momentum as they lie in memory,
    and do not check that these agree: a contiguous gradient of a channels-last weight would
    update the wrong elements.
    """
    if tensor.stride() == weight.stride():
        return tensor
    return torch.empty_like(weight, dtype=tensor.dtype).copy_(tensor)


class EvalBatchNorm2d(nn.BatchNorm2d):
    """A batch norm in eval mode as what it is then: a scale and a shift of each channel.

    Its gradient at the input is one pass over memory; PyTorch's kernel takes eight times as long.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape."""
        mean, variance = self.running_mean, self.running_var
        if self.training or mean is None or variance is None or x.dtype != variance.dtype:
            return super().forward(x)
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return torch.addcmul(shift.view(-1, 1, 1), x, scale.view(-1, 1, 1))


def speed_up(network: fx.GraphModule, keep: Collection[str] = ()) -> None:
    """The same values and gradients to rounding, with fewer passes over memory.

    Frozen batch norms become `EvalBatchNorm2d` (where the weights learn, PyTorch's kernel is the
    faster one), and ReLUs overwrite their input where nothing else reads it.

    Args:
        network: from `trace` or `quantize_model`; changed in place.
        keep: layers whose outputs must survive, because they will be captured.
    """
    for module in network.modules():
        if type(module) is nn.BatchNorm2d and module.affine and not module.weight.requires_grad:
            module.__class__ = EvalBatchNorm2d

    def may_overwrite(node: fx.Node) -> bool:
        """Its input is a sum or a batch norm's output, which no backward pass reads, nor a user."""
        source = node.all_input_nodes[0]
        if len(source.users) > 1 or source.target in keep:
            return False
        if source.op == "call_module":
            return isinstance(network.get_submodule(str(source.target)), nn.BatchNorm2d)
        return source.op == "call_function" and source.target is operator.add

    safe: dict[nn.Module, bool] = {}
    for node in network.graph.nodes:
        relu = network.get_submodule(node.target) if node.op == "call_module" else None
        if type(relu) is nn.ReLU:  # every use of it must be
            safe[relu] = safe.get(relu, True) and may_overwrite(node)
    for relu, is_safe in safe.items():
        relu.inplace = is_safe  # type: ignore[assignment]

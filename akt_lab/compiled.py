"""A training step as one graph that Inductor fuses: fewer passes over memory, and no overhead."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx


def as_one_graph(step: Callable[..., Any], *example: Tensor) -> Callable[..., Any]:
    """`step`, its backward passes included, as one compiled graph of what it does with `example`.

    The same values up to rounding. Tracing takes seconds and compiling up to three minutes on
    two cores, so it pays for runs of some thousand steps.

    Args:
        step: of tensors; whatever else it reads is fixed now, except that weights and buffers
            are read, and buffers written, where they lie.
        example: its arguments, of the shapes that all later ones have.
    """
    traced = make_fx(step, tracing_mode="fake", _allow_non_fake_inputs=True)(*example)
    fast = torch.compile(traced, dynamic=False)

    def run(*args: Tensor) -> Any:
        with torch.no_grad():  # the backward passes are in the graph
            return fast(*args)

    return run


@contextmanager
def unchanged_buffers(module: nn.Module) -> Iterator[None]:
    """What a batch norm counted inside the block, a tracing's mock batch, does not count."""
    before = [buffer.clone() for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, value in zip(module.buffers(), before, strict=True):
            buffer.copy_(value)

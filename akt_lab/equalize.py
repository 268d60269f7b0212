"""Channels of one scale before rounding, without data (Nagel et al., DFQ, ICCV 2019, section 4.1).

What a ReLU, a pooling or a sum makes of a channel scales with it: f(x / s) = f(x) / s for s > 0. So
what writes a channel may be divided by s, and what reads it multiplied, and the logits stay.
"""

from typing import Any

import torch
from torch import Tensor, fx, nn

from akt_lab.errors import AktError
from akt_lab.graph import Stream, streams, trace

LARGEST = 2.0**20  # of a factor, and its inverse


@torch.no_grad()
def equalize(teacher: nn.Module) -> fx.GraphModule:
    """A new traced network with the same logits, the ranges of its channels brought together.

    Channel c of a stream is divided by DFQ's s_c = sqrt(r1_c / r2_c), over the stream's median, so
    that weights and maps keep their scale: r1_c and r2_c then have one ratio in all channels. r1 is
    what is written: |beta| + 3 |gamma| of a batch norm, |b| + 3 ||w_c||_2 of a layer without one
    (as if what it reads had mean 0 and variance 1); the largest over all writers. r2 is the largest
    absolute weight that reads the channel. DFQ takes weights on both sides, as it folds the norms
    in and rounds a layer's weight in one range. Here norms stay and each output channel has a range
    of its own: what gains is the range that a stream's channels share, and the readers' rows.

    Batch norms read what they did before: their running statistics hold. What `graph.streams` does
    not give is left as it is, and a dead channel has factor 1.

    Args:
        teacher: any network that `graph.trace` can trace; it is left as it is.

    Returns:
        The network, from `trace`; its `meta["equalized"]` counts the streams that were.

    Raises:
        AktError: what `trace` raises, or if no stream can be equalized.
    """
    network = trace(teacher)
    found = streams(network)
    factors = [_factors(stream) for stream in found]  # all of them from weights as they were
    network.meta["equalized"] = sum(bool((s != 1).any()) for s in factors)
    if not network.meta["equalized"]:
        raise AktError(
            f"no channels of {type(teacher).__name__} to equalize: none go from a batch norm, "
            "convolution or linear layer through ReLUs, poolings and sums alone to another layer; "
            "drop --equalize"
        )
    for stream, s in zip(found, factors, strict=True):
        for writer in stream.writers:
            for weight in (writer.weight, writer.bias):
                if weight is not None:  # output channels first
                    weight.div_(s.view(-1, *(1,) * (weight.ndim - 1)))
        for reader in stream.readers:
            by_input = _by_input(reader, stream.width)
            scaled = by_input * s.view(len(by_input), 1, -1, 1)
            reader.weight.copy_(scaled.reshape(reader.weight.shape))
    return network


def _by_input(reader: nn.Module, width: int) -> Tensor:
    """A layer's weights as (groups, outputs of a group, input channels of a group, k)."""
    weight: Any = reader.weight
    groups = getattr(reader, "groups", 1)
    return weight.reshape(groups, len(weight) // groups, width // groups, -1)


def _factors(stream: Stream) -> Tensor:
    """What each channel is divided by, (C,); see `equalize`."""
    written = torch.stack([_reach(writer) for writer in stream.writers]).amax(0)
    read = torch.stack([_by_input(r, stream.width).abs().amax((1, 3)).flatten().float()
                        for r in stream.readers]).amax(0)  # fmt: skip
    s = (written / read).sqrt()
    alive = s.isfinite() & (s > 0)
    return torch.where(alive, (s / s[alive].median()).clamp(1 / LARGEST, LARGEST), 1)


def _reach(writer: Any) -> Tensor:
    """How far from zero its output goes in each channel, (C,), without data; see `equalize`."""
    bias = 0 if writer.bias is None else writer.bias.float().abs()
    return bias + 3 * writer.weight.float().reshape(len(writer.weight), -1).norm(dim=1)

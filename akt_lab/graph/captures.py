"""What a network shows while it runs: feature maps, and statistics at its batch norms.

The context managers leave no hook behind, whatever happens inside them.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from akt_lab.errors import AktError, unknown
from akt_lab.graph.operations import layer, operation


@contextmanager
def capture_maps(network: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """The outputs of the named layers, filled in by the forward pass inside the block.

    The dictionary's order is that of `layers`, so that a teacher's and a student's pair up.

    Raises:
        UsageError: if `network` has no layer of that name.
        AktError: if a layer did not run, ran twice, or its output was changed in place afterwards.
    """
    modules = dict(network.named_modules())
    for name in layers:
        if name not in modules:
            raise unknown("layer", name, modules)
    found: dict[str, tuple[Tensor, int]] = {}
    maps: dict[str, Any] = dict.fromkeys(layers)  # the order to pair them up in

    def keep(name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        if name in found:
            raise AktError(f"layer {name!r} ran twice: which of its outputs is meant?")
        found[name], maps[name] = (output, _version(output)), output

    handles = [modules[n].register_forward_hook(functools.partial(keep, n)) for n in layers]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()
    for name in layers:
        if name not in found:
            raise AktError(f"layer {name!r} did not run inside the block: nothing was captured")
        if _version(found[name][0]) != found[name][1]:
            raise AktError(
                f"the output of {name!r} was changed in place: trace the network by `graph.trace`, "
                "or write the change out of place"
            )


def _version(x: Tensor) -> int:
    """How often x was changed in place; tensors made in inference mode do not count."""
    return 0 if x.is_inference() else x._version


class _ChannelStatistics(torch.autograd.Function):
    """Mean and biased variance of each channel; its gradient is one pass, in x's memory format.

    Left to autograd it is five passes, and out of the channels-last format: half of a step.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, variance = torch.batch_norm_update_stats(x, None, None, 0.0)  # a tenth of var_mean
        ctx.save_for_backward(x, mean)
        return mean, variance  # (C,) each

    @staticmethod
    def backward(ctx: Any, mean_grad: Tensor, variance_grad: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        count = x.numel() // x.shape[1]
        slope = 2 * variance_grad / count
        offset = mean_grad / count - slope * mean
        shape = (1, -1, *(1,) * (x.ndim - 2))
        return torch.addcmul(offset.view(shape), slope.view(shape), x)  # (g_m + 2 g_v (x - m)) / n


INPUT = "batch_norm_input"


class BatchNormInput(nn.Identity):
    """Stands before a batch norm that is no layer of torch.nn, and shows what it reads."""

    def __init__(self, running_mean: Tensor, running_var: Tensor) -> None:
        """Running mean and variance of the batch norm behind it, (C,) each."""
        super().__init__()
        self.eval().register_buffer("running_mean", running_mean, persistent=False)
        self.register_buffer("running_var", running_var, persistent=False)


def has_statistics(module: nn.Module) -> bool:
    """Whether it is a batch norm, of whatever class, with a running mean and variance."""
    own = (module._buffers.get("running_mean"), module._buffers.get("running_var"))
    norm = not isinstance(module, nn.modules.instancenorm._InstanceNorm)
    return norm and all(isinstance(buffer, Tensor) for buffer in own)


def batch_norms(network: fx.GraphModule) -> tuple[int, int]:
    """How many batch norms' statistics `capture_bn_inputs` finds, and how many there are.

    Those without a running mean and variance have nothing that images could match.
    """
    matched = total = 0
    for node in network.graph.nodes:
        module = layer(network, node)
        if module is not None and has_statistics(module):
            matched, total = matched + 1, total + 1
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            total += 1
        elif operation(network, node) == "batchnorm":
            total += not isinstance(layer(network, node.all_input_nodes[0]), BatchNormInput)
    return matched, total


@contextmanager
def capture_bn_inputs(network: nn.Module) -> Iterator[list[tuple[Tensor, Tensor, Tensor, Tensor]]]:
    """Statistics of every batch norm's input, filled in by the forward pass inside the block.

    For each layer, in the order in which they run: mean and biased variance over batch and
    positions, then the layer's running mean and variance, (C,) each: what `bns_loss` takes.
    """
    statistics: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def keep(module: nn.Module, args: tuple[Tensor]) -> None:
        mean, variance = _ChannelStatistics.apply(args[0])
        statistics.append((mean, variance, module.running_mean, module.running_var))  # type: ignore

    norms = [module for module in network.modules() if has_statistics(module)]
    handles = [norm.register_forward_pre_hook(keep) for norm in norms]
    try:
        yield statistics
    finally:
        for handle in handles:
            handle.remove()

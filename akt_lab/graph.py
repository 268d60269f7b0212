"""A network as a graph: traced, nothing changed in place, and what it shows while it runs.

Feature maps by layer name, batch-norm statistics, and which maps AKT distils. The context managers
leave no hook behind, whatever happens inside them.
"""

import copy
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from akt_lab.errors import AktError, UsageError, unknown

# ---- whole networks -----------------------------------------------------------------------------

# fmt: off
ACTIVATION_MODULES = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.SELU, nn.CELU, nn.SiLU,
    nn.GELU, nn.Mish, nn.Hardswish, nn.Hardtanh, nn.Tanh, nn.Sigmoid, nn.Hardsigmoid, nn.Softplus,
)

ACTIVATION_FUNCTIONS = (
    F.relu, torch.relu, F.relu6, F.leaky_relu, F.prelu, F.elu, F.selu, F.celu, F.silu, F.gelu,
    F.mish, F.hardswish, F.hardtanh, F.tanh, torch.tanh, F.sigmoid, torch.sigmoid, F.hardsigmoid,
    F.softplus,
)

ACTIVATION_METHODS = ("relu", "tanh", "sigmoid")


def is_activation(student: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node of a traced network is an activation, in whatever form it is called."""
    if node.op == "call_module":
        return isinstance(student.get_submodule(str(node.target)), ACTIVATION_MODULES)
    return (node.op == "call_function" and node.target in ACTIVATION_FUNCTIONS) or (
        node.op == "call_method" and node.target in ACTIVATION_METHODS
    )

PLACES = ("body", "sum", "relu")
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

CONVOLUTION = nn.modules.conv._ConvNd

ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")


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

    def hook(name: str) -> Any:
        def keep(module: nn.Module, args: Any, output: Tensor) -> None:
            if name in found:
                raise AktError(f"layer {name!r} ran twice: which of its outputs is meant?")
            found[name], maps[name] = (output, _version(output)), output

        return keep

    handles = [modules[name].register_forward_hook(hook(name)) for name in layers]
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
                f"the output of {name!r} was changed in place: use quantizer.trace first"
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
        return mean, variance

    @staticmethod
    def backward(ctx: Any, mean_grad: Tensor, variance_grad: Tensor) -> Tensor:
        x, mean = ctx.saved_tensors
        count = x.numel() // x.shape[1]
        slope = 2 * variance_grad / count
        offset = mean_grad / count - slope * mean
        shape = (1, -1, *(1,) * (x.ndim - 2))
        return torch.addcmul(offset.view(shape), slope.view(shape), x)  # (g_m + 2 g_v (x - m)) / n


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

    norms = [m for m in network.modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats]
    handles = [norm.register_forward_pre_hook(keep) for norm in norms]
    try:
        yield statistics
    finally:
        for handle in handles:
            handle.remove()


def residual_bodies(network: fx.GraphModule) -> list[str]:
    """Names of the layers whose outputs AKT distils: the end of each residual unit's body.

    At each sum of two branches, the body is the branch with more convolutions before it; its map
    is taken before the sum and the ReLU: 9 in ResNet-20. In a network without sums, the layers
    that feed the activations stand in.

    Args:
        network: from `quantizer.trace` or `quantizer.quantize_model`.

    Raises:
        AktError: if there is neither.
    """
    chosen = [body for _, body in residual_sums(network)] or _plain_ends(network)
    if not chosen:
        raise AktError("no convolutional feature map to distil: the network has no convolution")
    return [str(node.target) for node in chosen]


def _layer(network: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None


def residual_sums(network: fx.GraphModule) -> list[tuple[fx.Node, fx.Node]]:
    """Each sum of two branches, with the end of its body: the one with more convolutions."""
    depth: dict[fx.Node, int] = {}
    found = []
    for node in network.graph.nodes:
        inputs = node.all_input_nodes
        is_conv = isinstance(_layer(network, node), CONVOLUTION)
        depth[node] = max((depth[i] for i in inputs), default=0) + is_conv
        is_sum = node.op in ("call_function", "call_method") and node.target in ADDITIONS
        if is_sum and len(inputs) == 2:
            found.append((node, max(inputs, key=depth.__getitem__)))
    return [(node, body) for node, body in found if body.op == "call_module"]


def _plain_ends(network: fx.GraphModule) -> list[fx.Node]:
    """The convolutions and batch norms that do not feed another one directly."""
    kinds = (CONVOLUTION, *BATCH_NORMS)
    nodes = [node for node in network.graph.nodes if isinstance(_layer(network, node), kinds)]
    return [node for node in nodes if not any(user in nodes for user in node.users)]


def map_layers(network: fx.GraphModule, place: str = "body", last: int = 0) -> list[str]:
    """Names of the layers whose outputs are distilled: `residual_bodies`, or others to compare.

    Args:
        network: from `quantizer.trace` or `quantizer.quantize_model`; where the place is no
            layer's output, one that does nothing is put there.
        place: `body`, the paper's; `sum`, after the residual sum; `relu`, after the activation
            that follows it, before its rounding.
        last: how many of them, from the end; all where 0.

    Raises:
        UsageError: for an unknown place, or where the network has none of that kind.
    """
    if place not in PLACES:
        raise unknown("maps", place, PLACES)
    if place == "body":
        return residual_bodies(network)[-last:]
    sums = [node for node, _ in residual_sums(network)]
    if not sums:
        raise UsageError(f"maps {place!r}: the network has no residual sum; use body")
    nodes = sums if place == "sum" else [_activation(network, node) for node in sums]
    names = [_mark(network, node, f"{place}_{number}") for number, node in enumerate(nodes)]
    network.recompile()
    return names[-last:]


def _activation(network: fx.GraphModule, node: fx.Node) -> fx.Node:
    for user in node.users:
        if is_activation(network, user):
            return user
    raise UsageError("maps 'relu': no activation follows a residual sum; use body or sum")


def _mark(network: fx.GraphModule, node: fx.Node, name: str) -> str:
    """Put a layer that does nothing after the node, so that its output has a name."""
    network.add_submodule(name, nn.Identity())
    with network.graph.inserting_after(node):
        mark = network.graph.call_module(name, (node,))
    node.replace_all_uses_with(mark, delete_user_cb=lambda user: user is not mark)
    return name

OUT_OF_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    torch.relu_: torch.relu,
    "relu_": "relu",
    "add_": "add",
    "mul_": "mul",
}


def trace(network: nn.Module) -> fx.GraphModule:
    """A copy of `network` in eval mode as a graph in which nothing is changed in place.

    A feature map that is captured then keeps its value: torchvision's ResNet adds the skip to its
    body's output in place. Names of layers and weights stay.

    Raises:
        AktError: if torch.fx cannot trace it (a branch on a tensor's value, say).
    """
    network = copy.deepcopy(network).eval()
    try:
        graph = fx.symbolic_trace(network)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise AktError(
            f"torch.fx cannot trace {type(network).__name__} ({reason}): its forward must not "
            "branch or loop on the values of tensors"
        ) from error
    for module in graph.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    for node in graph.graph.nodes:
        if node.op in ("call_function", "call_method"):
            node.target = OUT_OF_PLACE.get(node.target, node.target)
        if node.kwargs.get("inplace"):
            node.kwargs = {**node.kwargs, "inplace": False}
    graph.recompile()
    return graph.eval()

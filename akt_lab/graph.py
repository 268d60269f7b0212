"""A network as a graph: traced, nothing changed in place, and what it shows while it runs.

From the ground up: what a node does, tracing, feature maps and batch-norm statistics captured
from a pass, and which maps AKT distils. The context managers leave no hook behind, whatever
happens inside them.
"""

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from akt_lab.errors import AktError, UsageError, unknown

# ---- what a node does ---------------------------------------------------------------------------

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CONVOLUTION = nn.modules.conv._ConvNd

ACTIVATIONS = frozenset(
    "relu relu6 leakyrelu prelu rrelu elu selu celu silu gelu mish hardswish hardtanh tanh "
    "sigmoid hardsigmoid softplus".split()
)

# What may give back its input's memory; of modules, while they evaluate.
VIEWS = frozenset(
    "identity dropout dropout1d dropout2d dropout3d alphadropout featurealphadropout flatten "
    "unflatten view viewas reshape reshapeas ravel transpose permute t movedim moveaxis swapaxes "
    "swapdims squeeze unsqueeze expand expandas broadcastto chunk tensorsplit split hsplit vsplit "
    "unbind narrow select diagonal unfold getitem getattr contiguous detach to float typeas".split()
)

SIZES = ("size", "dim", "ndimension", "numel", "nelement", "get_device", "stride")


def operation(network: fx.GraphModule, node: fx.Node) -> str:
    """What a node does, in one word: `relu` of nn.ReLU, F.relu, torch.relu, x.relu and x.relu_."""
    if node.op == "call_module":
        name = type(network.get_submodule(str(node.target))).__name__
    elif node.op in ("call_function", "call_method"):
        name = getattr(node.target, "__name__", str(node.target))
    else:
        return ""
    return name.replace("_", "").lower()


def is_activation(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node of a traced network is an activation, in whatever form it is called."""
    return operation(network, node) in ACTIVATIONS


def is_size(node: fx.Node) -> bool:
    """Whether a node is a tensor's shape or device, or a number that was computed from them."""
    if node.op == "call_method":
        return node.target in SIZES
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return node.args[1] in ("shape", "ndim", "dtype", "device")
    numbers = node.all_input_nodes
    own = getattr(node.target, "__module__", "") in ("_operator", "builtins", "math")
    return own and bool(numbers) and all(map(is_size, numbers))


# ---- tracing ------------------------------------------------------------------------------------


def trace(network: nn.Module) -> fx.GraphModule:
    """A copy of `network` in eval mode as a graph in which nothing is changed in place.

    A feature map that is captured then keeps its value: torchvision's ResNet adds the skip to its
    body's output in place. Names of layers and weights stay.

    Raises:
        AktError: if torch.fx cannot trace it (a branch on a tensor's value, say), or a change in
            place is read through a view.
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
    order = {node: number for number, node in enumerate(graph.graph.nodes)}
    for node, number in order.items():
        changed = next(iter(node.args or node.kwargs.values()), None)
        if _put_out_of_place(graph, node) and isinstance(changed, fx.Node) and not is_size(changed):
            _check_views(graph, changed, node, order)
            for user in [user for user in changed.users if order[user] > number]:
                user.replace_input_with(changed, node)  # it reads the result
    for module in graph.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    graph.recompile()
    return graph.eval()


def overwritten(x: Tensor, values: Tensor) -> Tensor:
    """What `x.copy_(values)` leaves in x."""
    return values.to(x).expand_as(x)


# Methods that overwrite all of a tensor: no method of the same name computes what they leave.
WHOLE: dict[Any, Callable[..., Tensor]] = {
    "zero_": torch.zeros_like, "fill_": torch.full_like, "copy_": overwritten,
}  # fmt: skip
RANDOM = tuple(f"{name}_" for name in "bernoulli cauchy exponential geometric log_normal normal "
               "random uniform".split())  # fmt: skip


def _put_out_of_place(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node overwrote its first argument; no longer, if it is a call."""
    if node.op == "call_module":
        return getattr(network.get_submodule(str(node.target)), "inplace", False)
    if node.op not in ("call_function", "call_method"):
        return False
    if node.target in RANDOM:
        raise AktError(f"{node.name} fills a tensor at random at every pass: leave it out")
    if node.target in WHOLE:
        node.op, node.target = "call_function", WHOLE[node.target]
        return True
    if twin := _twin(node.target):
        node.target = twin
        return True
    try:
        names = list(inspect.signature(node.target).parameters)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # a method's name; a function in C: these have no such flag
        return False
    if not ({**dict(zip(names, node.args, strict=False)), **node.kwargs}).get("inplace"):
        return False
    if "inplace" in node.kwargs:
        node.update_kwarg("inplace", False)
    else:
        node.update_arg(names.index("inplace"), False)
    return True


def _twin(target: Any) -> Any:
    """The function or method that computes what `target` does in place; None if there is none.

    torch.fx itself records x += y as x + y.
    """
    name = getattr(target, "__name__", target)
    if not name.endswith("_") or name.endswith("__"):
        return None
    if isinstance(target, str):  # requires_grad is no method
        return name[:-1] if callable(getattr(Tensor, name[:-1], None)) else None
    return getattr(F, name[:-1], None) or getattr(torch, name[:-1], None)


def _check_views(
    network: fx.GraphModule, changed: fx.Node, node: fx.Node, order: dict[fx.Node, int]
) -> None:
    """Refuse a change in place by `node` that a later one would see through a view."""

    def is_view(other: fx.Node) -> bool:
        return operation(network, other) in VIEWS and not is_size(other)

    root = changed
    while is_view(root):
        root = root.all_input_nodes[0]
    sharing = [root]
    for other in sharing:  # grows as it is read
        sharing += [user for user in other.users if is_view(user) and order[user] < order[node]]
    for other in sharing:
        if other is not changed and any(order[user] > order[node] for user in other.users):
            raise AktError(
                f"{node.name} changes in place what {other.name} may share: write it out of place"
            )


# ---- captures -----------------------------------------------------------------------------------


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


# ---- which maps are distilled -------------------------------------------------------------------

PLACES = ("body", "sum", "relu")


def residual_sums(network: fx.GraphModule) -> list[tuple[fx.Node, fx.Node]]:
    """Each sum of two branches, with the end of its body: the one with more convolutions."""
    depth: dict[fx.Node, int] = {}
    found = []
    for node in network.graph.nodes:
        inputs = node.all_input_nodes
        is_conv = isinstance(_layer(network, node), CONVOLUTION)
        depth[node] = max((depth[i] for i in inputs), default=0) + is_conv
        if operation(network, node) == "add" and len(inputs) == 2:
            found.append((node, max(inputs, key=depth.__getitem__)))
    return [(node, body) for node, body in found if body.op == "call_module"]


def residual_bodies(network: fx.GraphModule) -> list[str]:
    """Names of the layers whose outputs AKT distils: the end of each residual unit's body.

    At each sum of two branches, the body is the branch with more convolutions before it; its map
    is taken before the sum and the ReLU: 9 in ResNet-20. In a network without sums, the layers
    that feed the activations stand in: convolutions and batch norms that feed no other directly.

    Args:
        network: from `trace` or `quantizer.quantize_model`.

    Raises:
        AktError: if there is neither.
    """
    chosen = [body for _, body in residual_sums(network)]
    if not chosen:
        kinds = (CONVOLUTION, *BATCH_NORMS)
        nodes = [node for node in network.graph.nodes if isinstance(_layer(network, node), kinds)]
        chosen = [node for node in nodes if not any(user in nodes for user in node.users)]
    if not chosen:
        raise AktError("no convolutional feature map to distil: the network has no convolution")
    return [str(node.target) for node in chosen]


def map_layers(network: fx.GraphModule, place: str = "body", last: int = 0) -> list[str]:
    """Names of the layers whose outputs are distilled: `residual_bodies`, or others to compare.

    Args:
        network: from `trace` or `quantizer.quantize_model`; where the place is no layer's output,
            one that does nothing is put there.
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
    nodes = [node for node, _ in residual_sums(network)]
    if not nodes:
        raise UsageError(f"maps {place!r}: the network has no residual sum; use body")
    names = []
    for number, node in enumerate(nodes):
        if place == "relu":
            after = [user for user in node.users if is_activation(network, user)]
            if not after:
                raise UsageError(
                    "maps 'relu': no activation follows a residual sum; use body or sum"
                )
            node = after[0]
        names.append(f"{place}_{number}")
        insert_after(network, node, names[-1], nn.Identity())
    network.recompile()
    return names[-last:]


def insert_after(network: fx.GraphModule, node: fx.Node, name: str, layer: nn.Module) -> None:
    """Put a layer of that name behind a node: all that read the node read the layer then."""
    network.add_submodule(name, layer)
    with network.graph.inserting_after(node):
        inserted = network.graph.call_module(name, (node,))
    node.replace_all_uses_with(inserted, delete_user_cb=lambda user: user is not inserted)


def _layer(network: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return network.get_submodule(str(node.target)) if node.op == "call_module" else None

"""A network as a graph: traced, nothing changed in place, and what it shows while it runs.

From the ground up: tracing, feature maps and batch-norm statistics captured from a pass, and
which maps AKT distils. The context managers leave no hook behind, whatever happens inside them.
"""

import copy
import functools
import inspect
import keyword
import operator
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from akt_lab.errors import AktError, UsageError, unknown
from akt_lab.operations import (
    AFFINE,
    AXES,
    CONVOLUTION,
    QUANTIZERS,
    REDUCTIONS,
    SEVERAL,
    SUMS,
    VIEWS,
    activations,
    from_images,
    is_activation,
    is_size,
    layer,
    operation,
)

__all__ = [
    "capture_bn_inputs",
    "capture_maps",
    "insert_after",
    "is_activation",
    "map_layers",
    "operation",
    "residual_bodies",
    "residual_sums",
    "trace",
]

# ---- tracing ------------------------------------------------------------------------------------

WRAPPERS = {
    "DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod",
}  # fmt: skip


def trace(network: nn.Module) -> fx.GraphModule:
    """A copy of `network` in eval mode as a graph in which nothing is changed in place.

    A feature map that is captured then keeps its value: torchvision's ResNet adds the skip to its
    body's output in place. Names of layers and weights stay; `view` becomes `reshape`, which asks
    for no memory layout; and each map that may be distilled is the output of a layer that runs
    once: where it is an operation's, or a shared layer's, one that does nothing is put behind it.

    Raises:
        AktError: if torch.fx cannot trace it (a branch on a tensor's value, say), it gives more
            than logits, or what it computes hangs on the memory layout: a change in place that is
            read through a view.
    """
    network = _copy(network).eval()
    graph = _as_graph(network)
    order = {node: number for number, node in enumerate(graph.graph.nodes)}
    for node, number in order.items():
        if node.op == "call_method" and node.target in ("view", "view_as"):
            if not any(isinstance(size, torch.dtype) for size in node.args):
                node.target = node.target.replace("view", "reshape")
        elif (
            operation(graph, node) in ("asstrided", "resize") or node.kwargs.get("out") is not None
        ):
            raise AktError(
                f"{node.name} reads or writes memory as it lies (as_strided, resize_, out=): use "
                "reshape, unfold or what it returns"
            )
        changed = next(iter(node.args or node.kwargs.values()), None)
        if _put_out_of_place(graph, node) and isinstance(changed, fx.Node) and not is_size(changed):
            _check_views(graph, changed, node, order)
            for user in [user for user in changed.users if order[user] > number]:
                user.replace_input_with(changed, node)  # it reads the result
    for module in graph.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    graph.graph.eliminate_dead_code()
    _show_batch_norms(graph)
    for number, node in enumerate(_body_ends(graph)):
        if not _runs_once(graph, node):
            _put_behind(graph, node, f"body_{number}")
    graph.recompile()
    return graph.eval()


def _copy(network: nn.Module) -> nn.Module:
    """A copy to be traced, out of its wrappers."""
    while attribute := WRAPPERS.get(type(network).__name__):
        network = getattr(network, attribute)
    if any(isinstance(module, torch.jit.ScriptModule) for module in network.modules()):
        raise AktError("a ScriptModule shows no layers: bring the Python class, and its weights")
    kept: dict[int, Any] = {}  # what refuses to be copied: a lock; weight_norm's weight as it is
    for module in network.modules():
        own = {k: v for k, v in vars(module).items() if k not in ("_parameters", "_modules")}
        for value in (*own.pop("_buffers").values(), *own.values()):
            try:
                copy.deepcopy(value)
            except Exception:
                kept[id(value)] = value.detach().clone() if isinstance(value, Tensor) else value
    copied = copy.deepcopy(network, kept)
    for module in list(copied.modules()):
        for name, child in module.named_children():
            if attribute := WRAPPERS.get(type(child).__name__):
                setattr(module, name, getattr(child, attribute))
        for name, weight in list(module._parameters.items()):
            if (
                weight is not None
                and not weight.dtype.is_floating_point
                and not weight.is_complex()
            ):
                del module._parameters[name]  # whole numbers do not learn
                module.register_buffer(name, weight.detach())
        for name, buffer in module._buffers.items():
            if buffer is not None and 0 in buffer.stride():  # expanded: it could not be loaded
                module._buffers[name] = buffer.clone(memory_format=torch.contiguous_format)
    return copied


def _as_graph(network: nn.Module) -> fx.GraphModule:
    """A network as torch.fx traces it, as it is called: hooks, defaults and all."""
    for module in list(network.modules()):
        if _has_statistics(module) and torch_class(module) is None:
            module.add_module(INPUT, BatchNormInput(module.running_mean, module.running_var))
            module._check_input_dim = _anything  # torch's looks at a shape, which has no value yet
    for name, _ in network.named_modules():
        if set(name) & set('"\\\n\r') or any(map(keyword.iskeyword, name.split("."))):
            raise AktError(f"the layer {name!r}: torch.fx writes names into code: rename it")
    if training := [name for name, module in network.named_modules() if module.training]:
        raise AktError(f"{training[0] or 'the network'} stays in training mode after .eval()")
    name = type(network).__name__
    try:
        graph = _Tracer().trace(network)
        traced = fx.GraphModule(network, graph, name)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise AktError(
            f"torch.fx cannot trace {name} ({_where(error)}{reason}): its forward must take a "
            "batch of images and must not branch or loop on values or shapes of tensors, nor "
            "write into a part of one"
        ) from error
    (output,) = (node for node in graph.nodes if node.op == "output")
    if not isinstance(output.args[0], fx.Node):
        kind = type(output.args[0]).__name__.removeprefix("immutable_")
        raise AktError(f"{name} returns a {kind}: wrap it so that it returns the logits alone")
    return traced


def _anything(x: Tensor) -> None:
    """Stands where a layer checks its input."""


def _where(error: Exception) -> str:
    """The last line of the user's own that an error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        f
        for f in frames
        if "/torch/" not in f.filename.replace("\\", "/") and f.filename != __file__
    ]
    return (
        f"{own[-1].filename.replace(chr(92), '/').split('/')[-1]}, line {own[-1].lineno}: "
        if own
        else ""
    )


class _Tracer(fx.Tracer):
    """Calls the network as its user does; a layer is what computes as one of torch.nn."""

    trace_asserts = True  # of shapes, too

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        names = [*inspect.signature(root_fn).parameters][1:]
        images = self.create_proxy("placeholder", names[0] if names else "x", (), {})
        return lambda network, x: network(x), [self.root, images]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m is not self.root and torch_class(m) is not None

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if place := m._modules.get(INPUT):
            args = (
                self.create_proxy("call_module", self.path_of_module(place), args[:1], {}),
                *args[1:],
            )
        return super().call_module(m, forward, args, kwargs)


def torch_class(module: nn.Module) -> type[nn.Module] | None:
    """The class of torch.nn as which a module computes, subclasses that add nothing included."""
    own = {"forward"}.intersection(vars(module))  # put in its place by the user
    for cls in type(module).__mro__:
        if cls.__module__.startswith(("torch.nn.", "torch.ao.nn.")):
            changed = {name for name in own if hasattr(cls, name) and not name.startswith("__")}
            plain = cls is not nn.Module and not issubclass(cls, nn.Sequential)
            return cls if plain and changed <= {"reset_parameters", "extra_repr"} else None
        own |= set(vars(cls))
    return None


def overwritten(x: Tensor, values: Tensor) -> Tensor:
    """What `x.copy_(values)` leaves in x."""
    return values.to(x).expand_as(x)


# Methods that overwrite all of a tensor: no method of the same name computes what they leave.
WHOLE: dict[Any, Callable[..., Tensor]] = {
    "zero_": torch.zeros_like, "fill_": torch.full_like, "copy_": overwritten,
}  # fmt: skip
AUGMENTED = frozenset("iadd isub imul itruediv ifloordiv imod ipow imatmul iand ior ixor".split())
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
    if name.strip("_") in AUGMENTED:  # x.__iadd__(y), operator.iadd(x, y)
        plain = name.strip("_")[1:]
        return f"__{plain}__" if isinstance(target, str) else getattr(operator, plain)
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


INPUT = "batch_norm_input"


class BatchNormInput(nn.Identity):
    """Stands before a batch norm that is no layer of torch.nn, and shows what it reads."""

    def __init__(self, running_mean: Tensor, running_var: Tensor) -> None:
        """Running mean and variance of the batch norm behind it, (C,) each."""
        super().__init__()
        self.eval().register_buffer("running_mean", running_mean, persistent=False)
        self.register_buffer("running_var", running_var, persistent=False)


def _has_statistics(module: nn.Module) -> bool:
    """Whether it is a batch norm, of whatever class, with a running mean and variance."""
    own = (module._buffers.get("running_mean"), module._buffers.get("running_var"))
    norm = not isinstance(module, nn.modules.instancenorm._InstanceNorm)
    return norm and all(isinstance(buffer, Tensor) for buffer in own)


def _show_batch_norms(network: fx.GraphModule) -> None:
    """Put a `BatchNormInput` before each `F.batch_norm` that applies statistics of its own."""
    for node in [n for n in network.graph.nodes if n.target is F.batch_norm]:
        given = (
            dict(
                zip(
                    ("input", "running_mean", "running_var", "w", "b", "training"),
                    node.args,
                    strict=False,
                )
            )
            | node.kwargs
        )
        x, *names = (given.get(k) for k in ("input", "running_mean", "running_var"))
        if isinstance(layer(network, x), BatchNormInput) or given.get("training"):
            continue
        if all(isinstance(n, fx.Node) and n.op == "get_attr" for n in names):
            network.add_submodule(
                f"{node.name}_input",
                BatchNormInput(*(operator.attrgetter(n.target)(network) for n in names)),
            )
            with network.graph.inserting_before(node):
                node.replace_input_with(x, network.graph.call_module(f"{node.name}_input", (x,)))


def batch_norms(network: fx.GraphModule) -> tuple[int, int]:
    """How many batch norms' statistics `capture_bn_inputs` finds, and how many there are.

    Those without a running mean and variance have nothing that images could match.
    """
    matched = total = 0
    for node in network.graph.nodes:
        module = layer(network, node)
        if module is not None and _has_statistics(module):
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

    norms = [module for module in network.modules() if _has_statistics(module)]
    handles = [norm.register_forward_pre_hook(keep) for norm in norms]
    try:
        yield statistics
    finally:
        for handle in handles:
            handle.remove()


# ---- which maps are distilled -------------------------------------------------------------------

PLACES = ("body", "sum", "relu")


def _maps(network: fx.GraphModule) -> set[fx.Node]:
    """The nodes that give a map (B, C, H, W) of more than one place: no pooled vector, no gate."""
    images = from_images(network)
    axes: dict[fx.Node, int] = {}
    pooled: set[fx.Node] = set()
    for node in (node for node in network.graph.nodes if node in images):
        name, module = operation(network, node), layer(network, node)
        inputs = images.intersection(_addends(network, node) or node.all_input_nodes)
        rest = [*node.args[1:], *node.kwargs.values()]
        first = rest[0] if rest else None
        size = getattr(module, "output_size", first)
        over = first if isinstance(first, tuple | list) else [first] * (first is not None)
        keeps = any(a is True for a in rest)
        to_one = name.startswith("adaptive") and size in (1, (1, 1), [1, 1])
        in_all = name in REDUCTIONS and (keeps or {*over} in ({2, 3}, {-1, -2}))
        if to_one or in_all or (inputs and inputs <= pooled):
            pooled.add(node)
        axes[node] = max((axes[i] for i in inputs), default=4)
        if isinstance(module, CONVOLUTION):
            axes[node] = module.weight.ndim
        elif name == "reshape":
            axes[node] = len(first if isinstance(first, tuple | list) else rest)
        elif name == "flatten":
            axes[node] = 1 + getattr(module, "start_dim", first or 0)
        elif name in REDUCTIONS and not _addends(network, node):
            axes[node] -= 0 if keeps else len(over) or axes[node]
        elif name in AXES:
            axes[node] += AXES[name]
        elif name == "getitem" and operation(network, node.all_input_nodes[0]) not in SEVERAL:
            index = first if isinstance(first, tuple) else (first,)
            axes[node] -= sum(isinstance(i, int | fx.Node) for i in index)
        elif name == "einsum" or (name in ("max", "min") and len(node.all_input_nodes) < 2):
            axes[node] = 0  # nobody knows
    return {node for node, count in axes.items() if count == 4} - pooled


def _addends(network: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """What a node adds up."""
    name = operation(network, node)
    if name == "sum" and operation(network, node.all_input_nodes[0]) == "stack":  # sum over maps
        return (
            node.all_input_nodes[0].all_input_nodes
            if 0 in (*node.args[1:], *node.kwargs.values())
            else []
        )
    return node.all_input_nodes if name in SUMS else []


def residual_sums(network: fx.GraphModule) -> list[tuple[fx.Node, fx.Node]]:
    """Each sum of maps, with the end of its body: the branch with most convolutions.

    A sum of sums is one. Where its shallowest branch, the skip, was added last, the sum of the
    others is the body.
    """
    maps, depth, sums = _maps(network), {}, {}
    for node in network.graph.nodes:
        is_conv = isinstance(layer(network, node), CONVOLUTION)
        depth[node] = max((depth[i] for i in node.all_input_nodes), default=0) + is_conv
        addends = [i for i in _addends(network, node) if i in maps]
        if len(addends) > 1 and len(addends) == len(_addends(network, node)):
            sums[node] = addends

    def does_nothing(node: fx.Node) -> bool:  # to speak of: it may scale
        name = operation(network, node)
        scales = name in AFFINE - SUMS and len(maps.intersection(node.all_input_nodes)) == 1
        return scales or _is_quantizer(node)

    def origin(node: fx.Node) -> fx.Node:
        (scaled, *_) = maps.intersection(node.all_input_nodes) or [node]
        return origin(scaled) if does_nothing(node) else node

    def readers(node: fx.Node) -> list[fx.Node]:
        return [r for u in node.users for r in (readers(u) if does_nothing(u) else [u])]

    def branches(node: fx.Node) -> list[fx.Node]:
        found = []
        for addend in sums[node]:
            inner = origin(addend)
            found += branches(inner) if inner in partial else [addend]
        return found

    def is_function_of(node: fx.Node, skip: fx.Node) -> bool:
        """Without a convolution between them: a function, a token's mixer, and no unit's body."""
        inputs = [] if isinstance(layer(network, node), CONVOLUTION) else node.all_input_nodes
        return node is skip or any(is_function_of(i, skip) for i in inputs if i in maps)

    partial = {node for node in sums if len(readers(node)) == 1 and readers(node)[0] in sums}
    found = []
    for node in [node for node in sums if node not in partial]:
        body = max(branches(node), key=depth.__getitem__)
        skip = min(branches(node), key=depth.__getitem__)
        if depth[body] == depth[skip] and is_function_of(body, skip):
            continue
        for addend in sums[node]:
            parts = branches(origin(addend)) if origin(addend) in partial else []
            body = addend if body in parts and skip not in parts else body
        while _is_quantizer(body):  # its map is taken before the rounding
            body = body.all_input_nodes[0]
        found.append((node, body))
    return found


def _is_quantizer(node: fx.Node) -> bool:
    return node.op == "call_module" and str(node.target).startswith(f"{QUANTIZERS}.")


def _body_ends(network: fx.GraphModule) -> list[fx.Node]:
    """The nodes whose outputs `residual_bodies` names."""
    if sums := residual_sums(network):
        return list(dict.fromkeys(body for _, body in sums))
    maps, kinds = _maps(network), (CONVOLUTION, nn.modules.batchnorm._BatchNorm, BatchNormInput)
    nodes = [
        node
        for node in network.graph.nodes
        if node in maps
        and (isinstance(layer(network, node), kinds) or operation(network, node) == "batchnorm")
    ]
    return [node for node in nodes if not any(user in nodes for user in node.users)]


def _runs_once(network: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is a layer's only run, so that the layer's name names the node's output."""
    uses = [n for n in network.graph.nodes if n.op == "call_module" and n.target == node.target]
    return uses == [node]


def residual_bodies(network: fx.GraphModule) -> list[str]:
    """Names of the layers whose outputs AKT distils: the end of each residual unit's body.

    At each sum of two maps, the body is the branch with more convolutions before it; its map
    is taken before the sum and the ReLU: 9 in ResNet-20. In a network without sums, the layers
    that feed the activations stand in: convolutions and batch norms that feed no other directly.

    Args:
        network: from `trace` or `quantizer.quantize_model`.

    Raises:
        AktError: if there is neither.
    """
    names = []
    for node in _body_ends(network):
        if not _runs_once(network, node):  # `trace` has put a layer there
            places = (u for u in node.users if type(layer(network, u)) is nn.Identity)
            node = next(places, node)
        names += [str(node.target)] * (node.op == "call_module")
    if not names:
        raise AktError("no convolutional feature map (B, C, H, W) to distil: the network has none")
    return names


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
    names, ends = [], activations(network)
    for number, node in enumerate(nodes):
        if place == "relu":
            after = [user for user in node.users if user in ends]
            if not after:
                raise UsageError(
                    "maps 'relu': no activation follows a residual sum; use body or sum"
                )
            node = after[0]
        names.append(_put_behind(network, node, f"{place}_{number}"))
    network.recompile()
    return names[-last:]


def _put_behind(network: fx.GraphModule, node: fx.Node, name: str) -> str:
    """Put a layer that does nothing behind a node; its name, which no other layer has."""
    while hasattr(network, name):
        name += "_"
    insert_after(network, node, name, nn.Identity())
    return name


def behind(network: fx.GraphModule, node: fx.Node) -> fx.Node:
    """The last of the layers that do nothing and are all that reads a node; or the node itself."""
    (user, *others) = node.users
    does_nothing = not others and isinstance(layer(network, user), nn.Identity)
    return behind(network, user) if does_nothing else node


def insert_after(network: fx.GraphModule, node: fx.Node, name: str, layer: nn.Module) -> None:
    """Put a layer of that name behind a node: all that read the node read the layer then."""
    network.add_submodule(name, layer)
    with network.graph.inserting_after(node):
        inserted = network.graph.call_module(name, (node,))
    node.replace_all_uses_with(inserted, delete_user_cb=lambda user: user is not inserted)

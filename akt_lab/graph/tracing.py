"""A network as a graph of torch.fx, as its user calls it, in which nothing is changed in place."""

import copy
import inspect
import keyword
import operator
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from akt_lab.errors import AktError
from akt_lab.graph.captures import INPUT, BatchNormInput, has_statistics
from akt_lab.graph.maps import body_ends, put_behind, runs_once
from akt_lab.graph.operations import VIEWS, from_images, is_size, layer, operation, torch_class

WRAPPERS = {
    "DataParallel": "module", "DistributedDataParallel": "module", "OptimizedModule": "_orig_mod",
}  # fmt: skip
MADE = re.compile(r"(zeros|ones|full|empty|arange|eye|rand|randn)\(\)")  # of whom PyTorch complains


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
    if not any(node.op == "output" for node in from_images(graph)):
        raise AktError(
            f"{type(network).__name__} computes its logits from what an earlier pass left in "
            "Python, or from nothing, and not from the images"
        )
    _show_batch_norms(graph)
    for number, node in enumerate(body_ends(graph)):
        if not runs_once(graph, node):
            put_behind(graph, node, f"body_{number}")
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
        if has_statistics(module) and torch_class(module) is None:
            statistics: Any = module.running_mean, module.running_var
            module.add_module(INPUT, BatchNormInput(*statistics))
            vars(module)["_check_input_dim"] = _anything  # it looks at a shape, which has no value
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
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
        then = (
            "its forward must take a batch of images and must not branch or loop on values or "
            "shapes of tensors, nor write into a part of one"
        )
        if MADE.match(reason):
            then = "its sizes are a tensor's: make it by x.new_zeros(...), or F.pad what is there"
        raise AktError(f"torch.fx cannot trace {name} ({_where(error)}{reason}): {then}") from error
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
    paths = [(Path(frame.filename), frame.lineno) for frame in frames]
    own = [
        f"{p.name}, line {n}: " for p, n in paths if "torch" not in p.parts and str(p) != __file__
    ]
    return own[-1] if own else ""


class _Proxy(fx.Proxy):
    """Records x += y as what it is; torch.fx's own makes it x = x + y, whoever else holds x."""


def _augmented(change: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: _Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", change, (self, other), {})

    return method


AUGMENTED = frozenset("iadd isub imul itruediv ifloordiv imod ipow imatmul iand ior ixor".split())
for name in AUGMENTED:
    setattr(_Proxy, f"__{name}__", _augmented(getattr(operator, name)))


class _Tracer(fx.Tracer):
    """Calls the network as its user does; a layer is what computes as one of torch.nn."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        line = traceback.extract_stack(limit=3)[0].line or ""
        return line.startswith("assert ") or super().to_bool(obj)  # the images were seen to fit

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
    """The function or method that computes what `target` does in place; None if there is none."""
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

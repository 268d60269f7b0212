"""Channels that can be scaled: what writes them, what reads them, and what only passes them on."""

from collections import Counter
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from torch import fx, nn

from akt_lab.graph.captures import has_statistics
from akt_lab.graph.operations import (
    CONVOLUTION,
    SUMS,
    from_images,
    is_size,
    layer,
    operation,
    torch_class,
)

# f(x / s) = f(x) / s, element by element; and pools, by the axes of what they pool.
ELEMENTWISE = frozenset(
    "relu leakyrelu prelu identity dropout dropout1d dropout2d dropout3d clone contiguous detach"
    "".split()
)
POOLS = {f"{k}pool{n}d": n + 2 for k in ("max", "avg", "adaptivemax", "adaptiveavg")
         for n in (1, 2, 3)}  # fmt: skip
NORMS: dict[type[nn.Module] | None, int | None] = {  # axes of what they give; None: of their input
    nn.BatchNorm1d: None, nn.BatchNorm2d: 4, nn.BatchNorm3d: 5, nn.SyncBatchNorm: None,
}  # fmt: skip
WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass
class Stream:
    """Tensors of a network whose channels can only be scaled together: all sums of a stage, say.

    Attributes:
        writers: batch norms, and convolutions and linear layers without one behind them.
        readers: convolutions and linear layers.
    """

    writers: list[Any] = field(default_factory=list)
    readers: list[Any] = field(default_factory=list)

    @property
    def width(self) -> int:
        """0 where there is none that all writers and readers share."""
        widths = {len(writer.weight) for writer in self.writers}
        width = widths.pop() if len(widths) == 1 and self.readers else 0
        inputs = [getattr(r, "groups", 1) * r.weight.shape[1] for r in self.readers]
        return 0 if any(n % width for n in inputs if width) else width


def streams(network: fx.GraphModule) -> list[Stream]:
    """Those of a network whose channels may be scaled, in the order in which they run.

    f(x / s) = f(x) / s holds channel by channel, s > 0, for all between writers and readers: ReLUs,
    leaky ones included, poolings, dropout, flattening, sums of tensors of one kind. A stream that
    anything else touches is none: images and logits, a sigmoid, a clamp (ReLU6), a product, a
    concatenation, a norm that reads it, a layer that runs twice, has hooks or tied weights.

    Args:
        network: from `trace`.
    """
    images = from_images(network)
    nodes = [node for node in network.graph.nodes if node in images]
    parent = {node: node for node in nodes}
    axes: dict[fx.Node, int | None] = {}  # channels are the second; None: the last of any number
    closed: set[fx.Node] = set()
    ends: list[tuple[fx.Node, nn.Module, str]] = []

    def root(node: fx.Node) -> fx.Node:
        while parent[node] is not node:
            parent[node] = node = parent[parent[node]]
        return node

    own = _with_weights_of_their_own(network)
    for node in nodes:
        inputs = [i for i in node.all_input_nodes if i in images]
        module, before = layer(network, node), axes[inputs[0]] if inputs else None
        axes[node] = before
        passes = not _has_hooks(module)
        if module in own and isinstance(module, CONVOLUTION):
            axes[node] = module.weight.ndim
            ends += [(node, module, "writers"), (inputs[0], module, "readers")]
            closed |= {*inputs} if before != axes[node] else set()
        elif module in own and isinstance(module, nn.Linear):
            axes[node] = 2 if before == 2 else None
            ends += [(node, module, "writers"), (inputs[0], module, "readers")]
            closed |= {*inputs} if before not in (2, None) else set()
        elif module in own:
            axes[node] = NORMS[torch_class(module)] or before
            ends.append((node, module, "writers"))
            closed |= {*inputs} if axes[node] else {node, *inputs}
        elif passes and (flat := _axes_of_flat(network, node, before)):
            axes[node], parent[root(node)] = flat, root(inputs[0])
        elif passes and _passes(network, node, inputs, axes):
            for i in inputs:
                parent[root(i)] = root(node)
        else:
            axes[node] = None
            closed |= {node, *inputs}
    found = {root(node): Stream() for node in nodes}
    for node in closed:
        found.pop(root(node), None)
    for node, module, side in ends:
        if root(node) in found:
            getattr(found[root(node)], side).append(module)
    return [stream for stream in found.values() if stream.width]


def _with_weights_of_their_own(network: fx.GraphModule) -> set[nn.Module]:
    """The layers whose weights may be scaled: nothing else reads them, and all are there."""
    runs = Counter(node.target for node in network.graph.nodes if node.op == "call_module")
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    names += [node.target for node in network.graph.nodes if node.op == "get_attr"]
    readers = Counter(id(attrgetter(name)(network)) for name in names)

    def is_own(module: nn.Module) -> bool:
        kind, weights = torch_class(module), [*module.parameters()]
        return (
            (kind in WEIGHTED or (kind in NORMS and has_statistics(module)))
            and module._parameters.get("weight") is not None  # neither computed nor without one
            and all(p.numel() and readers[id(p)] == 1 for p in weights)
            and not _has_hooks(module)
        )

    once = (network.get_submodule(str(name)) for name, count in runs.items() if count == 1)
    return {module for module in once if is_own(module)}


def _has_hooks(module: nn.Module | None) -> bool:
    return module is not None and bool(module._forward_hooks or module._forward_pre_hooks)


def _passes(
    network: fx.GraphModule, node: fx.Node, inputs: list[fx.Node], axes: dict[fx.Node, int | None]
) -> bool:
    """Whether a node scales as each of its inputs does, all of one kind, and keeps their axes."""
    name = operation(network, node)
    if len({axes[i] for i in inputs}) != 1:
        return False
    if name in SUMS:
        terms = (*node.args, *(v for k, v in node.kwargs.items() if k != "alpha"))
        return all(term in inputs or term == 0 for term in terms)
    if len(inputs) != 1 or inputs[0] not in (*node.args[:1], node.kwargs.get("input")):
        return False
    return name in ELEMENTWISE or POOLS.get(name, 0) == axes[inputs[0]]


def _axes_of_flat(network: fx.GraphModule, node: fx.Node, before: int | None) -> int | None:
    """Axes of what flattens or averages the positions of maps (B, C, ...); None if it does not.

    Flattened, the k values of a channel stand side by side: (B, C * k).
    """
    name, module, rest = operation(network, node), layer(network, node), node.args[1:]

    def given(key: str, place: int, usual: Any) -> Any:
        value = rest[place] if len(rest) > place else node.kwargs.get(key, usual)
        return getattr(module, key, value)

    if before is None:
        return None
    if name == "flatten":
        whole = given("start_dim", 0, 0) == 1 and given("end_dim", 1, -1) in (-1, before - 1)
        return 2 if whole else None
    if name == "reshape":
        sizes = rest[0] if rest and isinstance(rest[0], tuple | list) else rest
        return 2 if len(sizes) == 2 and _is_batch_size(sizes[0]) and sizes[1] == -1 else None
    if name == "mean":
        dims = given("dim", 0, ())
        dims = dims if isinstance(dims, tuple | list) else [dims]
        over = {d % before for d in dims if isinstance(d, int)}
        left = before if given("keepdim", 1, False) else before - len(over)
        return left if over and min(over) > 1 else None
    return None


def _is_batch_size(size: Any) -> bool:
    """Whether it is the first of a tensor's sizes: `x.size(0)`, `x.shape[0]`."""
    return isinstance(size, fx.Node) and is_size(size) and size.args[1:] == (0,)

"""Which feature maps are distilled: the ends of residual bodies, or others to compare."""

from torch import fx, nn

from akt_lab.errors import AktError, UsageError, unknown
from akt_lab.graph.captures import BatchNormInput
from akt_lab.graph.operations import (
    AFFINE,
    AXES,
    CONVOLUTION,
    QUANTIZERS,
    REDUCTIONS,
    SEVERAL,
    SUMS,
    activations,
    from_images,
    layer,
    operation,
)

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
            start, end = (*rest, 0)[0], (*rest, -1, -1)[1]
            start, end = getattr(module, "start_dim", start), getattr(module, "end_dim", end)
            axes[node] -= end % axes[node] - start % axes[node]
        elif name == "unflatten":
            axes[node] += len(getattr(module, "unflattened_size", rest[-1:] and rest[-1])) - 1
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
    maps = _maps(network)
    depth: dict[fx.Node, int] = {}
    sums: dict[fx.Node, list[fx.Node]] = {}
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
        reached = [node]
        for each in reached:  # grows as it is read
            if not isinstance(layer(network, each), CONVOLUTION):
                reached += [i for i in each.all_input_nodes if i not in reached]
        return skip in reached

    partial = {node for node in sums if len(readers(node)) == 1 and readers(node)[0] in sums}
    found = []
    for node in [node for node in sums if node not in partial]:
        body = max(branches(node), key=depth.__getitem__)
        skip = min((b for b in branches(node) if b is not body), key=depth.__getitem__)
        pair = (body, skip), (skip, body)
        if depth[body] == depth[skip] and any(is_function_of(*each) for each in pair):
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


def body_ends(network: fx.GraphModule) -> list[fx.Node]:
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


def runs_once(network: fx.GraphModule, node: fx.Node) -> bool:
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
    for node in body_ends(network):
        if not runs_once(network, node):  # `trace` has put a layer there
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
        names.append(put_behind(network, node, f"{place}_{number}"))
    network.recompile()
    return names[-last:]


def put_behind(network: fx.GraphModule, node: fx.Node, name: str) -> str:
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

"""Which feature maps are distilled: the paper's, or others to compare them with."""

from torch import fx, nn

from akt_lab.capture import residual_bodies, residual_sums
from akt_lab.errors import UsageError, unknown
from akt_lab.quantizer import is_activation

PLACES = ("body", "sum", "relu")


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

"""A student whose layers' outputs and residual sums are rounded to 8 bits, too.

Some runtimes compute in integers only where what a layer gives is rounded as well as what it reads
(ONNX Runtime's QLinearConv). That is another network than the student: it is made here, in PyTorch,
so that a file can be compared with it, and it can be evaluated.
"""

import copy
from collections import Counter
from collections.abc import Collection

import torch
from torch import Tensor, fx, nn

from akt_lab.errors import AktError
from akt_lab.export.weights import codes_of
from akt_lab.graph import insert_after, operation
from akt_lab.graph.operations import SUMS, layer
from akt_lab.quantizer import ActivationQuantizer
from akt_lab.quantizer.layers import QuantizedWeight

QUANTIZERS = "sum_quantizers"  # where such a student keeps them
LARGEST = 2**31 - 1  # a shift in whole numbers


class SumQuantizer(ActivationQuantizer):
    """Rounds what a layer gives, or a residual sum, to 8 bits."""


def scale_and_shift(norm: nn.Module | None) -> tuple[Tensor, Tensor] | None:
    """A batch norm's in eval mode, (C,) each; None of what is none, or has no statistics."""
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm.running_mean is None:
        return None
    assert norm.running_var is not None
    return affine(norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)


def affine(
    mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """A batch norm's scale and shift of each channel, (C,), in eval mode."""
    mean, variance = mean.detach().cpu(), variance.detach().cpu()
    scale = (variance + eps).rsqrt()
    scale = scale if weight is None else weight.detach().cpu() * scale
    shift = -mean * scale
    return scale, shift if bias is None else bias.detach().cpu() + shift


def norm_behind(network: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The batch norm that can go into a layer: all that reads what the layer gives."""
    if len(node.users) != 1:
        return None
    (user,) = node.users
    return user if scale_and_shift(layer(network, user)) else None


def reads(network: fx.GraphModule, node: fx.Node) -> ActivationQuantizer | None:
    """The quantizer of an activation that is all that a layer reads, if it is one."""
    source = layer(network, node.all_input_nodes[0]) if node.all_input_nodes else None
    rounds = isinstance(source, ActivationQuantizer) and not isinstance(source, SumQuantizer)
    return source if rounds else None  # type: ignore[return-value]


@torch.no_grad()
def with_rounded_sums(
    student: fx.GraphModule, images: Tensor, keep: Collection[str] = ()
) -> fx.GraphModule:
    """A copy of `student` that rounds to 8 bits what its layers give, and its residual sums.

    Of layers those that read a rounded activation; with the batch norm behind them, which is a
    scale and a shift; but not the one that gives the logits. Their shifts become multiples of the
    product's step, as 32-bit integers are. Of sums those of two terms that are rounded. Ranges are
    the extremes on `images`.

    Args:
        student: from `quantize_model`, its ranges frozen.
        images: (B, channels, H, W), in the teacher's normalised input space.
        keep: layers whose outputs stay as they are, because they are looked at.

    Raises:
        AktError: if there is nothing to round.
    """
    network = copy.deepcopy(student)
    runs = Counter(n.target for n in network.graph.nodes if n.op == "call_module")
    ends: dict[fx.Node, None] = {}
    rounded: set[fx.Node] = set()
    for node in list(network.graph.nodes):
        module, inputs = layer(network, node), node.all_input_nodes
        if isinstance(module, ActivationQuantizer):
            rounded.add(node)
        elif isinstance(module, QuantizedWeight) and runs[node.target] == 1:
            quantizer, norm = reads(network, node), norm_behind(network, node)
            end = norm or node
            last = any(user.op == "output" for user in end.users)
            if quantizer is None or last or node.target in keep:
                continue
            _round_shift(module, quantizer, layer(network, norm) if norm else None)
            ends[end] = None
            rounded.add(end)
        elif operation(network, node) in SUMS and len(inputs) == 2:
            if {*inputs} <= rounded and not node.kwargs:
                ends[node] = None
                rounded.add(node)
        elif operation(network, node) == "identity" and inputs[0] in rounded:
            rounded.add(node)
    if not ends:
        raise AktError("no layer reads a rounded activation: there are no sums to round to 8 bits")
    for node in ends:
        insert_after(network, node, f"{QUANTIZERS}.{node.name}", SumQuantizer(8, "minmax"))
    network.recompile()
    network(images)
    for module in network.modules():
        if isinstance(module, SumQuantizer):
            module.observing = False
    return network.eval().requires_grad_(False)


def step_of(module: nn.Module, quantizer: ActivationQuantizer, norm: nn.Module | None) -> Tensor:
    """What 1 stands for in a layer's sum of products of whole numbers, (C_out,)."""
    weight = codes_of(module)
    if found := scale_and_shift(norm):
        weight = weight.times(found[0])
    return weight.scale * quantizer.grid()[0].detach().cpu()


def _round_shift(module: nn.Module, quantizer: ActivationQuantizer, norm: nn.Module | None) -> None:
    """Move the norm's bias, or the layer's own, so that the shift is a multiple of the step."""
    step, place = step_of(module, quantizer, norm), module if norm is None else norm
    found = scale_and_shift(norm)
    scale, shift = found or (torch.ones(()), torch.zeros(len(step)))
    if isinstance(module.bias, Tensor):
        shift = shift + module.bias.detach().cpu() * scale
    moved = (shift / step).round().clamp(-LARGEST, LARGEST) * step - shift
    moved = moved.to(quantizer.low.device)
    if isinstance(place.bias, Tensor):
        place.bias.add_(moved)
    elif found:
        place.bias = nn.Parameter(moved)

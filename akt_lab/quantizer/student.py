"""`quantize_model`: a student from a teacher; its ranges frozen, and what it takes."""

import math
import operator
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from akt_lab import graph
from akt_lab.errors import AktError, UsageError, unknown
from akt_lab.graph import (
    QUANTIZERS,
    behind,
    from_images,
    insert_after,
    operation,
    torch_class,
    trace,
)
from akt_lab.quantizer.grid import check_bits
from akt_lab.quantizer.layers import (
    CHOSEN,
    QUANTIZED,
    WEIGHT_RANGES,
    ActivationQuantizer,
    QuantizedWeight,
)

SCALE_BITS = 32
LEARNED = "log_scale"  # a parameter's name in `Ranged`
Bits = int | Mapping[str, int]
IN_FLOAT = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.RMSNorm)  # `stays_in_float` names them

WEIGHTED_FUNCTIONS = frozenset(
    "conv1d conv2d conv3d convtranspose1d convtranspose2d convtranspose3d convtbc convolution "
    "linear bilinear multiheadattentionforward grucell lstmcell rnntanhcell rnnrelucell gru lstm "
    "rnntanh rnnrelu".split()
)

PRODUCTS = frozenset(
    "matmul rmatmul mm bmm mv dot vdot inner outer ger addmm addbmm baddbmm addmv einsum tensordot "
    "chainmatmul linalgmultidot scaleddotproductattention".split()
)


def quantize_model(
    teacher: nn.Module,
    weight_bits: Bits = 3,
    act_bits: Bits = 3,
    *,
    first_bits: int | None = None,
    last_bits: int | None = None,
    ranges: str = "ema",
    weight_ranges: str = "minmax",
    gradient: str = "identity",
) -> fx.GraphModule:
    """A fake-quantized student: a new network, in eval mode, with the teacher's weights.

    Every convolution and linear layer gets a fake-quantized weight; every *use* of an activation,
    however it is spelt (`graph.activations`), an `ActivationQuantizer` of its own. The images,
    norms, residual sums, pooled features and biases stay in floating point; what else does is named
    by `stays_in_float` and `activations_in_float`. Ranges are observed at every forward pass until
    `freeze_ranges`.

    Args:
        teacher: any network that torch.fx can trace; it is left as it is.
        weight_bits: 2 to 8, or a mapping from layer name to bits, `"*"` standing for the rest.
        act_bits: the same for activations: by the layer's name (all its uses) or by the use's
            name in the graph (`relu_1`).
        first_bits: weight bits of the weighted layer that runs first, in place of `weight_bits`.
        last_bits: the same for the one that runs last.
        ranges: how activation ranges are found, one of `RANGES`.
        weight_ranges: how those of weights are, one of `WEIGHT_RANGES`.
        gradient: straight-through rule, one of `GRADIENTS`.

    Raises:
        UsageError: bits outside 2 to 8, unknown names.
        AktError: a network that cannot be traced, holds nothing to quantize, or multiplies by a
            matrix that would stay in floating point: attention, recurrent cells, `x @ self.weight`.
    """
    if quantized_layers(teacher):
        raise AktError("the network is a student already: give its teacher")
    if weight_ranges not in WEIGHT_RANGES:
        raise unknown("range rule of weights", weight_ranges, WEIGHT_RANGES)
    student = trace(teacher)
    runs = _weighted_layers(student)
    ends = graph.activations(student)
    by_layer = _resolve(weight_bits, {name: (name,) for name in runs}, "layer")
    for name, bits in ((runs[0], first_bits), (runs[-1], last_bits)):
        by_layer[name] = by_layer[name] if bits is None else check_bits(bits)
    uses = {node.name: (node.name, str(node.target)) for node in ends}
    by_use = _resolve(act_bits, uses, "activation")
    for name, bits in by_layer.items():
        layer = student.get_submodule(name)
        layer.__class__ = QUANTIZED[torch_class(layer)]  # our own copy: weights and names stay
        layer.quantize_by(bits, weight_ranges, gradient)  # type: ignore[operator]
    for node in ends:
        quantizer = ActivationQuantizer(by_use[node.name], ranges, gradient)
        place = behind(student, node)  # a map is taken before the rounding
        insert_after(student, place, f"{QUANTIZERS}.{node.name}", quantizer)
    student.recompile()
    return student.eval()


def _weighted_layers(student: fx.GraphModule) -> list[str]:
    """Names of the layers to quantize, once for each time that they run, in that order.

    Raises:
        AktError: if a matrix of the network's would stay in floating point, or there is no layer.
    """
    names = []
    images = from_images(student)
    weights: dict[fx.Node, int] = {}  # what is made of parameters and buffers alone; their axes
    for node in student.graph.nodes:
        inputs, kind = node.all_input_nodes, operation(student, node)
        held = [weights[i] for i in inputs if i in weights]
        if node.op == "get_attr":
            weights[node] = getattr(operator.attrgetter(node.target)(student), "ndim", 0)
        elif held and node not in images:
            weights[node] = max(held)
        if node.op == "call_module":
            layer = student.get_submodule(node.target)
            matrix = any(p.ndim > 1 or nn.parameter.is_lazy(p) for p in layer.parameters())
            if torch_class(layer) in QUANTIZED and not parametrize.is_parametrized(layer):
                names.append(node.target)
            elif matrix and not isinstance(layer, IN_FLOAT):
                raise AktError(
                    f"{node.target}: a {type(layer).__name__} cannot be quantized (yet): "
                    + (
                        "fold it in first, by torch.nn.utils.parametrize.remove_parametrizations"
                        if parametrize.is_parametrized(layer)
                        else "build it of nn.Conv1d, nn.Conv2d and nn.Linear"
                    )
                )
            continue
        module = getattr(node.target, "__module__", None) or "torch"  # torch.fx looks not inside
        opaque = module.split(".")[0] not in ("torch", "_operator", "builtins")
        takes_weight = node in images and held and (kind in PRODUCTS or (opaque and max(held) > 1))
        if kind in WEIGHTED_FUNCTIONS or takes_weight:
            raise AktError(
                f"{node.name} applies a weight by a function call, which would stay in floating "
                "point: make it a layer, nn.Linear say"
            )
    for name, weight in student.named_parameters():
        if weight.is_complex():
            raise AktError(f"{name} is complex: only real weights can be quantized")
        if weight.numel() and not (weight.detach().amax().float() - weight.amin()).isfinite():
            raise AktError(f"{name} holds a NaN, or values too large for a range: mend the weights")
    if not names:
        raise AktError(
            f"{student._get_name()} has nothing to quantize: no convolution and no linear layer"
        )
    return names


def _resolve(bits: Bits, places: Mapping[str, tuple[str, ...]], kind: str) -> dict[str, int]:
    """Bits of each place, from one number or from a mapping by any of the place's names."""
    if not isinstance(bits, Mapping):
        return dict.fromkeys(places, check_bits(bits))
    names = {name for aliases in places.values() for name in aliases}
    for name in bits:
        if name != "*" and name not in names:
            raise unknown(kind, name, sorted(names))
    found = {}
    for place, aliases in places.items():
        key = next((name for name in (*aliases, "*") if name in bits), None)
        if key is None:
            raise UsageError(
                f"no bits given for {kind} {place!r}: name it, or give '*' for the rest"
            )
        found[place] = check_bits(bits[key])
    return found


def freeze_ranges(student: nn.Module, images: Tensor | None = None) -> None:
    """Stop every activation quantizer of `student` from updating its range.

    Before that, weights whose rule is `pnorm` or `learned` choose theirs, once.

    Args:
        student: from `quantize_model`.
        images: (B, channels, S, S) in the teacher's normalised input space, by which the rules
            `pnorm` and `learned` choose, layer by layer, each on what reaches it from those before,
            rounded already. The other rules have observed theirs, and do not need any.

    Raises:
        AktError: if one of them has seen no batch yet, or a NaN, which no later batch mends.
    """
    layers = [layer for layer in student.modules() if isinstance(layer, QuantizedWeight)]
    for layer in layers:
        if layer.ranges in CHOSEN and layer.weight.numel() and not layer.chosen:
            layer.choose()
    activations = {n: m for n, m in student.named_modules() if isinstance(m, ActivationQuantizer)}
    if images is not None:
        _choose_ranges(student, [m for m in activations.values() if m.ranges in CHOSEN], images)
    for name, module in activations.items():
        if module.ranges == "per_channel_dynamic":
            continue
        if module.ranges in CHOSEN and not module.chosen:
            raise AktError(
                f"{name} has chosen no range yet: give freeze_ranges images to choose by"
            )
        if module.ranges not in CHOSEN and not module.updates:
            raise AktError(f"{name} has observed no batch: run images through the student first")
        if not (module.high - module.low).isfinite():
            raise AktError(f"{name} has observed a NaN, or values too large for a range")
        module.observing = False


def _choose_ranges(
    student: nn.Module, quantizers: Sequence[ActivationQuantizer], images: Tensor
) -> None:
    """One pass: each chooses when its input comes, and rounds it."""

    def choose(quantizer: ActivationQuantizer, inputs: tuple[Tensor]) -> None:
        quantizer.observing = False
        quantizer.choose(inputs[0])

    handles = [quantizer.register_forward_pre_hook(choose) for quantizer in quantizers]
    try:
        if quantizers:
            with torch.no_grad():
                student(images)
    finally:
        for handle in handles:
            handle.remove()


# ---- what a student takes -----------------------------------------------------------------------


def quantized_layers(student: nn.Module) -> list[str]:
    """Names of the layers of `student` whose weights are quantized."""
    return [name for name, layer in student.named_modules() if isinstance(layer, QuantizedWeight)]


def quantized_activations(student: nn.Module) -> list[str]:
    """Names of the quantized uses of activations of `student`, as `act_bits` takes them."""
    found = (n for n, m in student.named_modules() if isinstance(m, ActivationQuantizer))
    return [name.removeprefix(f"{QUANTIZERS}.") for name in found]


def learned_scales(student: nn.Module) -> list[nn.Parameter]:
    """What `student` learns beside its weights: the scales' logarithms, of the rule `learned`."""
    return [
        p
        for m in student.modules()
        for n, p in m._parameters.items()
        if n == LEARNED and p is not None
    ]


def settle_scales(student: nn.Module) -> None:
    """Learned scales learn no more: `student` has the parameters of its teacher again."""
    for module in student.modules():
        if LEARNED in module._parameters:
            value = module._parameters.pop(LEARNED)
            module.register_buffer(LEARNED, value.detach())  # type: ignore[union-attr]


def stays_in_float(student: nn.Module) -> list[str]:
    """Names of the parameters of more than one axis that `student` keeps in floating point.

    Embeddings, tables of positions, scales of more than one axis: whatever is neither a quantized
    layer's nor a vector, as biases and batch norms are. Empty for ordinary convolutional networks.
    """
    return [
        f"{name}.{parameter}".lstrip(".")
        for name, layer in student.named_modules()
        if not isinstance(layer, QuantizedWeight)
        for parameter, weight in layer.named_parameters(recurse=False)
        if weight.ndim > 1
    ]


def activations_in_float(student: fx.GraphModule) -> list[str]:
    """Where new values reach a quantized layer of `student` unrounded: `mul into layer1.conv`.

    Empty for ordinary convolutional networks. What is no activation is not named: the images,
    sums, pooled features and what a batch norm or another norm makes.
    """
    return [f"{node.name} into {layer}" for node, layer in graph.unrounded(student).items()]


def effective_bits(student: nn.Module, images: Tensor) -> tuple[float, float]:
    """Bits that a weight and an activation of `student` really take, their ranges counted.

    A range costs a scale of 32 bits and a zero point of the grid's; it is shared by the values
    that it covers: an output channel's weights, all of an activation's batch, or, with live
    ranges (GranQ), one channel of one sample. Frozen ranges cost a single image nothing to speak
    of: they are counted once for the network, not for each image.

    Args:
        student: from `quantize_model`; its ranges must have been observed.
        images: (B, channels, S, S) in the teacher's normalised input space; one is enough, for
            every image takes the same.
    """
    groups: dict[type, list[tuple[int, int, int]]] = {QuantizedWeight: [], ActivationQuantizer: []}

    def keep(module: ActivationQuantizer, inputs: tuple[Tensor], output: Tensor) -> None:
        live = module.ranges == "per_channel_dynamic"
        ranges = math.prod(output.shape[: 2 if output.ndim > 2 else 1]) if live else 0
        groups[ActivationQuantizer].append((output.numel(), module.bits, ranges))

    handles = []
    for module in student.modules():
        if isinstance(module, QuantizedWeight):
            weight = module.weight
            groups[QuantizedWeight].append((weight.numel(), module.weight_bits, len(weight)))
        elif isinstance(module, ActivationQuantizer):
            handles.append(module.register_forward_hook(keep))
    try:
        with torch.no_grad():
            student(images)
    finally:
        for handle in handles:
            handle.remove()
    weights, activations = (
        sum(values * bits + ranges * (SCALE_BITS + bits) for values, bits, ranges in group)
        / max(1, sum(values for values, _, _ in group))
        for group in groups.values()
    )
    return weights, activations

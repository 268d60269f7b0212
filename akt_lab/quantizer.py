"""Uniform affine fake quantization, range observers, and `quantize_model`.

    q     = clamp(round(x / scale) + zero_point, 0, 2^bits - 1)
    x_hat = (q - zero_point) * scale

Weights have one range per output channel, recomputed at every forward pass; activations have one
range per tensor, observed first and then frozen (Xu et al., GDFQ, arXiv 2003.03603). Zero always
lies on the grid, as in PyTorch's own observers, so a ReLU's zeros and a convolution's padding
stay exact.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from akt_lab.errors import AktError, UsageError, unknown
from akt_lab.graph import is_activation, trace

GRADIENTS = ("identity", "clipped")
RANGES = ("ema", "ema_legacy", "minmax", "per_channel_dynamic")
MIN_BITS, MAX_BITS = 2, 8

EMA_DECAY = 0.9

SCALE_BITS = 32

Bits = int | Mapping[str, int]


# ---- arithmetic ---------------------------------------------------------------------------------


def affine_parameters(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point of the `bits`-bit grid that spans [low, high] and zero.

    Args:
        low: smallest value, one per range, any shape.
        high: largest value, same shape.
        bits: 2 to 8.

    Returns:
        scale (float, at least machine epsilon) and zero_point (int32), both of `low`'s shape.

    Raises:
        UsageError: if `bits` is not a whole number from 2 to 8.

    >>> affine_parameters(torch.tensor(-1.0), torch.tensor(2.0), bits=2)
    (tensor(1.), tensor(1, dtype=torch.int32))
    """
    levels = 2 ** check_bits(bits) - 1
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / levels).clamp(min=torch.finfo(torch.float32).eps)
    zero_point = (-low / scale).round().clamp(0, levels)
    return scale, zero_point.to(torch.int32)


def check_bits(bits: Any) -> int:
    """`bits` itself, if it is a whole number from 2 to 8; else a UsageError."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not MIN_BITS <= bits <= MAX_BITS:
        raise UsageError(f"bits must be a whole number from {MIN_BITS} to {MAX_BITS}, not {bits!r}")
    return bits


class _IdentityGradient(torch.autograd.Function):
    """Forward: the quantized values. Backward: 1, clipped values included (Bengio et al., 2013).

    Saves what `y.detach() + (x - x.detach())` costs in passes over memory, and works under
    torch.func just as well.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, x_hat: Tensor) -> Tensor:
        return x_hat.view_as(x_hat)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: Any) -> Tensor:
        return tangent.view_as(tangent)


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    bits: int,
    gradient: str = "identity",
) -> Tensor:
    """Quantize and dequantize `x`, with a straight-through gradient.

    Args:
        x: any shape for one range; (C, ...) for C of them.
        scale: () for one range over all of `x`, or (C,) for one per first index of `x`.
        zero_point: int32, `scale`'s shape.
        bits: 2 to 8.
        gradient: `identity` passes the gradient everywhere (GDFQ and its kin); `clipped` passes
            it only where the value was inside the grid (PACT, LSQ).

    Returns:
        x_hat, of `x`'s shape; equal bit for bit to `torch.fake_quantize_per_*_affine`.

    Raises:
        UsageError: for an unknown gradient rule, or bits outside 2 to 8.
    """
    if gradient not in GRADIENTS:
        raise unknown("gradient rule", gradient, GRADIENTS)
    levels = 2 ** check_bits(bits) - 1
    if gradient == "clipped":  # PyTorch's own gradient
        if scale.ndim == 0:
            return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, levels)
        return torch.fake_quantize_per_channel_affine(x, scale, zero_point, 0, 0, levels)
    if scale.ndim:
        scale, zero_point = (p.view(-1, *(1,) * (x.ndim - 1)) for p in (scale, zero_point))
    return _IdentityGradient.apply(x, _on_grid(x.detach(), scale, zero_point, levels))


def _on_grid(x: Tensor, scale: Tensor, zero_point: Tensor, levels: int) -> Tensor:
    """In place after the first operation: a tenth of the time of PyTorch's own kernel."""
    q = (x * (1 / scale)).round_().add_(zero_point).clamp_(0, levels)
    return q.sub_(zero_point).mul_(scale)


def fake_quantize_rows(x: Tensor, bits: int, gradient: str = "identity") -> Tensor:
    """Fake-quantize with one live range per first index of `x` (R, ...): a layer's weights."""
    low, high = x.detach().flatten(1).aminmax(dim=1)
    return fake_quantize(x, *affine_parameters(low, high, bits), bits, gradient)


# ---- layers -------------------------------------------------------------------------------------


class _QuantizedWeight:
    """Mixed into a layer: its weight, fake-quantized per output channel at every forward pass."""

    weight: Tensor
    weight_bits: int
    gradient: str

    def quantized_weight(self) -> Tensor:
        return fake_quantize_rows(self.weight, self.weight_bits, self.gradient)


class QuantizedConv2d(_QuantizedWeight, nn.Conv2d):
    """A convolution (grouped and depthwise too) with a fake-quantized weight."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W')."""
        return self._conv_forward(x, self.quantized_weight(), self.bias)


class QuantizedConv1d(_QuantizedWeight, nn.Conv1d):
    """A one-dimensional convolution with a fake-quantized weight."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, L) -> (B, C_out, L')."""
        return self._conv_forward(x, self.quantized_weight(), self.bias)


class QuantizedLinear(_QuantizedWeight, nn.Linear):
    """A linear layer with a fake-quantized weight; its bias stays in floating point."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C_in) -> (..., C_out)."""
        return F.linear(x, self.quantized_weight(), self.bias)


QUANTIZED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: QuantizedConv1d,
    nn.Conv2d: QuantizedConv2d,
    nn.Linear: QuantizedLinear,
}


class ActivationQuantizer(nn.Module):
    """Fake-quantizes one use of an activation, with the range that it has observed there.

    Ranges: `ema`, an exponential moving average (decay 0.9) with Adam's bias correction;
    `ema_legacy`, the same as released by GDFQ and its descendants, which applies the correction
    to its own corrected value: a constant 1 reads 3903.7 after 20 updates; `minmax`, the extremes
    so far; `per_channel_dynamic`, one live range per sample and channel (GranQ), never frozen.

    Attributes:
        low, high: the range observed so far, scalars.
        updates: how many batches were observed.
        observing: whether a forward pass updates the range.
    """

    low: Tensor
    high: Tensor
    updates: Tensor

    def __init__(self, bits: int, ranges: str = "ema", gradient: str = "identity") -> None:
        """Raises UsageError for bits outside 2 to 8 or unknown names."""
        super().__init__()
        if ranges not in RANGES:
            raise unknown("range rule", ranges, RANGES)
        if gradient not in GRADIENTS:
            raise unknown("gradient rule", gradient, GRADIENTS)
        self.bits, self.ranges, self.gradient = check_bits(bits), ranges, gradient
        self.observing = ranges != "per_channel_dynamic"
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("updates", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape, on the grid."""
        if self.ranges == "per_channel_dynamic":
            rows = x.flatten(0, 1) if x.ndim > 2 else x  # (B*C, ...), or (B, C) as it is
            return fake_quantize_rows(rows, self.bits, self.gradient).view_as(x)
        if self.observing:
            self.observe(x)
        scale, zero_point = affine_parameters(self.low, self.high, self.bits)
        return fake_quantize(x, scale, zero_point, self.bits, self.gradient)

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Update the range with one batch's smallest and largest value."""
        self.updates += 1
        kept, seen = torch.stack([self.low, self.high]), torch.stack(x.aminmax()).to(self.low.dtype)
        if self.ranges == "minmax":
            later = torch.stack([torch.minimum(kept[0], seen[0]), torch.maximum(kept[1], seen[1])])
        else:
            later = self._average(kept, seen)
        low, high = torch.where(self.updates == 1, seen, later)
        self.low.copy_(low)
        self.high.copy_(high)

    def _average(self, kept: Tensor, seen: Tensor) -> Tensor:
        weight = 1 - EMA_DECAY**self.updates
        if self.ranges == "ema_legacy":
            return (EMA_DECAY * kept + (1 - EMA_DECAY) * seen) / weight
        return kept + (1 - EMA_DECAY) / weight * (seen - kept)

    def extra_repr(self) -> str:
        """What `print(student)` shows of it."""
        return f"bits={self.bits}, ranges={self.ranges}, gradient={self.gradient}"


def freeze_ranges(student: nn.Module) -> None:
    """Stop every activation quantizer of `student` from updating its range.

    Raises:
        AktError: if one of them has seen no batch yet.
    """
    for name, module in student.named_modules():
        if isinstance(module, ActivationQuantizer) and module.ranges != "per_channel_dynamic":
            if not module.updates:
                raise AktError(
                    f"{name} has observed no batch: run images through the student first"
                )
            module.observing = False


def effective_bits(student: nn.Module, images: Tensor) -> tuple[float, float]:
    """Bits that a weight and an activation of `student` really take, their ranges counted.

    A range costs a scale of 32 bits and a zero point of the grid's; it is shared by the values
    that it covers: an output channel's weights, all of an activation's batch, or, with live
    ranges (GranQ), one channel of one sample. Frozen ranges cost a single image nothing to speak
    of: they are counted once for the network, not for each image.

    Args:
        student: from `quantize_model`; its ranges must have been observed.
        images: a batch (B, channels, S, S) in the teacher's normalised input space.
    """
    layers = [m for m in student.modules() if isinstance(m, _QuantizedWeight)]
    weights = [(m.weight.numel(), m.weight_bits, len(m.weight)) for m in layers]
    activations: list[tuple[int, int, int]] = []

    def keep(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        live = isinstance(module, ActivationQuantizer) and module.ranges == "per_channel_dynamic"
        ranges = math.prod(output.shape[: 2 if output.ndim > 2 else 1]) if live else 0
        activations.append((output.numel(), module.bits, ranges))  # type: ignore[arg-type]

    quantizers = [m for m in student.modules() if isinstance(m, ActivationQuantizer)]
    handles = [quantizer.register_forward_hook(keep) for quantizer in quantizers]
    with torch.no_grad():
        student(images)
    for handle in handles:
        handle.remove()
    return _mean_bits(weights), _mean_bits(activations)


def _mean_bits(groups: list[tuple[int, int, int]]) -> float:
    """Of groups of (values, bits, ranges)."""
    bits = sum(values * k + ranges * (SCALE_BITS + k) for values, k, ranges in groups)
    return bits / max(1, sum(values for values, _, _ in groups))


# fmt: on
WEIGHTED_MODULES = (nn.modules.conv._ConvNd, nn.Linear, nn.Bilinear, nn.RNNBase)

WEIGHTED_FUNCTIONS = (F.conv1d, F.conv2d, F.conv3d, F.conv_transpose2d, F.linear)


def quantize_model(
    teacher: nn.Module,
    weight_bits: Bits = 3,
    act_bits: Bits = 3,
    *,
    first_bits: int | None = None,
    last_bits: int | None = None,
    ranges: str = "ema",
    gradient: str = "identity",
) -> fx.GraphModule:
    """A fake-quantized student: a new network, in eval mode, with the teacher's weights.

    Every convolution and linear layer gets a fake-quantized weight; every *use* of an activation
    (module, function or method) gets an `ActivationQuantizer` of its own. The input, batch norms,
    residual sums, pooled features and biases stay in floating point. Ranges are observed at every
    forward pass until `freeze_ranges`.

    Args:
        teacher: any network that torch.fx can trace; it is left as it is.
        weight_bits: 2 to 8, or a mapping from layer name to bits, `"*"` standing for the rest.
        act_bits: the same for activations: by the layer's name (all its uses) or by the use's
            name in the graph (`relu_1`).
        first_bits: weight bits of the first weighted layer, in place of `weight_bits`.
        last_bits: the same for the last.
        ranges: how activation ranges are found, one of `RANGES`.
        gradient: straight-through rule, one of `GRADIENTS`.

    Raises:
        UsageError: bits outside 2 to 8, unknown names.
        AktError: a network that cannot be traced, or holds nothing to quantize.
    """
    student = trace(teacher)
    weighted = _weighted_layers(student)
    activations = [node for node in student.graph.nodes if is_activation(student, node)]
    by_layer = _resolve(weight_bits, {name: (name,) for name in weighted}, "layer")
    for name, bits in ((weighted[0], first_bits), (weighted[-1], last_bits)):
        by_layer[name] = by_layer[name] if bits is None else check_bits(bits)
    by_use = _resolve(
        act_bits, {n.name: (n.name, str(n.target)) for n in activations}, "activation"
    )
    for name in weighted:
        layer = student.get_submodule(name)
        layer.__class__ = QUANTIZED[type(layer)]  # our own copy: weights and names stay
        layer.weight_bits, layer.gradient = by_layer[name], gradient  # type: ignore[assignment]
    for node in activations:
        _insert_after(student, node, ActivationQuantizer(by_use[node.name], ranges, gradient))
    student.recompile()
    return student.eval()


def _weighted_layers(student: fx.GraphModule) -> list[str]:
    """Names of the layers to quantize, in the order in which they first run."""
    names = []
    for node in student.graph.nodes:
        if node.op == "call_function" and node.target in WEIGHTED_FUNCTIONS:
            raise AktError(f"{node.name} applies a weight by a function call: make it a layer")
        if node.op != "call_module":
            continue
        layer = student.get_submodule(node.target)
        if type(layer) in QUANTIZED:
            names.append(node.target)
        elif isinstance(layer, WEIGHTED_MODULES):
            raise AktError(f"{node.target}: a {type(layer).__name__} cannot be quantized (yet)")
    if not names:
        raise AktError(
            f"{student._get_name()} has nothing to quantize: no convolution and no linear layer"
        )
    return list(dict.fromkeys(names))


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


def _insert_after(student: fx.GraphModule, node: fx.Node, quantizer: nn.Module) -> None:
    name = f"activation_quantizers.{node.name}"
    student.add_submodule(name, quantizer)
    with student.graph.inserting_after(node):
        quantized = student.graph.call_module(name, (node,))
    node.replace_all_uses_with(quantized, delete_user_cb=lambda user: user is not quantized)

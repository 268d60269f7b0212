"""Uniform affine fake quantization, range observers, and `quantize_model`.

    q     = clamp(round(x / scale) + zero_point, 0, 2^bits - 1)
    x_hat = (q - zero_point) * scale

Weights have one range per output channel, recomputed at every forward pass; activations have one
range per tensor, observed first and then frozen (Xu et al., GDFQ, arXiv 2003.03603). Either can
be chosen instead, narrower than the values, by the error of what it rounds; and learned from there.
Zero always lies on the grid, as in PyTorch's own observers, so a ReLU's zeros and a convolution's
padding stay exact.
"""

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
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

GRADIENTS = ("identity", "clipped")
RANGES = ("ema", "ema_legacy", "minmax", "pnorm", "learned", "per_channel_dynamic")
WEIGHT_RANGES = ("minmax", "pnorm", "learned")
CHOSEN = ("pnorm", "learned")  # of both, those that begin with a choice by the p-norm
MIN_BITS, MAX_BITS = 2, 8
EMA_DECAY = 0.9
SCALE_BITS = 32
HALF_MAX = torch.finfo(torch.float16).max
LEAST_SCALE = torch.finfo(torch.float32).eps
PNORM = 2.4  # GENIE's (CVPR 2023): between the mean's 2 and the extremes' infinity
BINS = 4096  # of a histogram that stands for an activation's values
Bits = int | Mapping[str, int]

# ---- arithmetic ---------------------------------------------------------------------------------


def affine_parameters(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scale and zero point of the `bits`-bit grid that spans [low, high] and zero.

    Args:
        low: smallest value, one per range, any shape.
        high: largest value, same shape.
        bits: 2 to 8.

    Returns:
        scale (float, at least machine epsilon) and zero_point (int32), both of `low`'s shape. The
        scale of a range that holds a NaN, or is infinite, makes all a NaN that is rounded by it.

    Raises:
        UsageError: if `bits` is not a whole number from 2 to 8.

    >>> affine_parameters(torch.tensor(-1.0), torch.tensor(2.0), bits=2)
    (tensor(1.), tensor(1, dtype=torch.int32))
    """
    levels = 2 ** check_bits(bits) - 1
    if low.dtype == torch.float16:  # too narrow for a range of its own values
        low, high = low.float(), high.float()
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / levels).clamp(min=LEAST_SCALE)
    zero_point = (-low / scale).round().clamp(0, levels).nan_to_num()  # of a NaN, any: all is NaN
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
    half = x.dtype == torch.float16
    if gradient == "clipped" and scale.dtype == torch.float32 and not half:  # PyTorch's own
        if scale.ndim == 0:
            return torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, levels)
        return torch.fake_quantize_per_channel_affine(x, scale, zero_point, 0, 0, levels)
    if scale.ndim:
        scale, zero_point = (p.view(-1, *(1,) * (x.ndim - 1)) for p in (scale, zero_point))
    values = x.detach().float() if half else x.detach()
    q = (values * (1 / scale)).round_()  # in place: a tenth of the time of PyTorch's kernel
    q.add_(zero_point)
    if gradient == "clipped":
        x = torch.where((q >= 0) & (q <= levels), x, values.to(x.dtype))
    x_hat = q.clamp_(0, levels).sub_(zero_point).mul_(scale)
    if half:  # an end of the grid may lie beyond the type's
        x_hat = x_hat.clamp_(-HALF_MAX, HALF_MAX).half()
    return _IdentityGradient.apply(x, x_hat)


def fake_quantize_rows(x: Tensor, bits: int, gradient: str = "identity") -> Tensor:
    """Fake-quantize with one live range per first index of `x` (R, ...): a layer's weights."""
    if not x.numel():
        return x
    low, high = x.detach().flatten(1).aminmax(dim=1)
    return fake_quantize(x, *affine_parameters(low, high, bits), bits, gradient)


def fake_quantize_learned(
    x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, gradient: str = "identity"
) -> Tensor:
    """`fake_quantize`, with a gradient for the scale, too (LSQ, Esser et al., ICLR 2020, eq. 3, 5).

    With v = x / scale + zero_point, d x_hat / d scale is round(v) - v inside the grid and the
    grid's own end, less the zero point, outside. It is scaled by 1 / sqrt(n (2^bits - 1)), n being
    how many values share a scale, so that scales and weights move in proportion: of weights those
    of an output channel, of activations those of one image.

    Args:
        x: activations (B, ...) for one scale; weights (C_out, ...) for several.
        scale: () or (C_out,), positive; gets a gradient.
        zero_point: int32, `scale`'s shape.
        bits: 2 to 8.
        gradient: of x, as in `fake_quantize`; LSQ's own is `clipped`.
    """
    levels = 2 ** check_bits(bits) - 1
    slowed = scale / math.sqrt(max(1, x[0].numel() * levels))
    x_hat = fake_quantize(x.detach(), scale.detach(), zero_point, bits)
    if scale.ndim:
        shape = (-1, *(1,) * (x.ndim - 1))
        scale, slowed, zero_point = (p.view(shape) for p in (scale, slowed, zero_point))
    v = x.detach() / scale.detach()
    inside = (v >= -zero_point) & (v <= levels - zero_point)
    share = x_hat / scale.detach() - torch.where(inside, v, 0)
    if gradient == "clipped":
        x = torch.where(inside, x, x.detach())
    return _IdentityGradient.apply(x + share * slowed, x_hat)


# ---- the range with the least error ----------------------------------------------------------


def pnorm_range(
    rows: Tensor, counts: Tensor | None, bits: int, p: float = PNORM
) -> tuple[Tensor, Tensor]:
    """The range of each row on whose grid sum |x_hat - x|^p is least.

    All that is searched are shares of the values' own range, zero included: of both ends at once
    and, where values lie on both sides of zero, of each end alone; coarsely, then finely around
    the best.

    Args:
        rows: (R, N).
        counts: (R, N), how often each value occurs; once where None.
        bits: 2 to 8.
        p: 2 weighs an error by its square; large p keeps the extremes.

    Returns:
        low and high, (R,). NaN where a row holds one; its ends where it is infinite.
    """
    low, high = rows.aminmax(dim=1)
    low, high = low.clamp(max=0), high.clamp(min=0)

    def error(low: Tensor, high: Tensor) -> Tensor:
        x_hat = fake_quantize(rows, *affine_parameters(low, high, bits), bits)
        errors = (x_hat - rows).abs().pow(p)
        return (errors if counts is None else errors * counts).sum(1)

    least = error(low, high)
    two_sided = bool(((low < 0) & (high > 0)).any())
    ends = ((True, True), (True, False), (False, True)) if two_sided else ((True, True),)
    for shares in (COARSE, FINE):
        for moves_low, moves_high in ends:
            from_low, from_high = low, high
            for share in shares:
                tried = (
                    from_low * (share if moves_low else 1),
                    from_high * (share if moves_high else 1),
                )
                errors = error(*tried)
                better = errors < least
                least = torch.where(better, errors, least)
                low, high = (
                    torch.where(better, t, e) for t, e in zip(tried, (low, high), strict=True)
                )
    return low, high


COARSE = [0.96**n for n in range(1, 96)]  # down to a fiftieth
FINE = [1 + n / 200 for n in range(-8, 9) if n]


def histogram(x: Tensor) -> tuple[Tensor, Tensor]:
    """What stands for the values of `x`, finite, any shape, where their order does not matter.

    Returns:
        The mean of the values in each of `BINS` bins, (1, BINS), and how many there are.
    """
    x = x.flatten().double()
    low, high = x.aminmax()
    width = ((high - low) / BINS).clamp(min=torch.finfo(x.dtype).tiny)
    bins = ((x - low) / width).long().clamp_(max=BINS - 1)
    counts = bins.bincount(minlength=BINS)
    means = bins.bincount(x, minlength=BINS) / counts.clamp(min=1)
    return means.float()[None], counts.float()[None]


# ---- layers -------------------------------------------------------------------------------------


class _Ranged(nn.Module):
    """Mixed into what quantizes: one range, or one for each row, and the grid that it spans.

    Attributes:
        low, high: the range, () or (R,).
        scale: of the rule `learned`, what is learned; the zero point stays that of the range.
    """

    low: Tensor
    high: Tensor
    bits: int
    ranges: str
    gradient: str

    def _make_room(self, *shape: int) -> None:
        self.register_buffer("low", torch.zeros(shape))
        self.register_buffer("high", torch.zeros(shape))
        if self.ranges == "learned":
            self.scale = nn.Parameter(torch.ones(shape))

    @torch.no_grad()
    def _span(self, low: Tensor, high: Tensor) -> None:
        self.low.copy_(low)
        self.high.copy_(high)
        if self.ranges == "learned":
            self.scale.copy_(affine_parameters(self.low, self.high, self.bits)[0])

    def grid(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point, as `fake_quantize` takes them."""
        scale, zero_point = affine_parameters(self.low, self.high, self.bits)
        return (
            self.scale.clamp(min=LEAST_SCALE) if self.ranges == "learned" else scale
        ), zero_point

    def _round(self, x: Tensor) -> Tensor:
        rule = fake_quantize_learned if self.ranges == "learned" else fake_quantize
        return rule(x, *self.grid(), self.bits, self.gradient)


class _QuantizedWeight(_Ranged):
    """Mixed into a layer: its weight, fake-quantized per output channel at every forward pass.

    Ranges: `minmax`, the weight's extremes at that pass; `pnorm`, those with the least error at
    the beginning; `learned`, the same, and learned from there.
    """

    weight: Tensor
    weight_bits: int

    @property
    def bits(self) -> int:  # type: ignore[override]
        """Of the weight."""
        return self.weight_bits

    def _quantize(self, bits: int, ranges: str, gradient: str) -> None:
        self.weight_bits, self.ranges, self.gradient = bits, ranges, gradient
        if ranges != "minmax" and self.weight.numel():
            self._make_room(len(self.weight))
            self._span(*pnorm_range(self.weight.detach().flatten(1), None, bits))

    def grid(self) -> tuple[Tensor, Tensor]:
        """Scales and zero points, (C_out,)."""
        if self.ranges == "minmax":
            low, high = self.weight.detach().flatten(1).aminmax(dim=1)
            return affine_parameters(low, high, self.weight_bits)
        return super().grid()

    def quantized_weight(self) -> Tensor:
        return self._round(self.weight) if self.weight.numel() else self.weight


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


QUANTIZED: dict[type[nn.Module] | None, type[nn.Module]] = {
    nn.Conv1d: QuantizedConv1d,
    nn.Conv2d: QuantizedConv2d,
    nn.Linear: QuantizedLinear,
}


class ActivationQuantizer(_Ranged):
    """Fake-quantizes one use of an activation, with the range that it has observed there.

    Ranges: `ema`, an exponential moving average (decay 0.9) with Adam's bias correction;
    `ema_legacy`, the same as released by GDFQ and its descendants, which applies the correction
    to its own corrected value: a constant 1 reads 3903.7 after 20 updates; `minmax`, the extremes
    so far; `pnorm`, as `ema` until `choose` takes the range with the least error; `learned`, the
    same, and its scale learns from there (LSQ); `per_channel_dynamic`, one live range per sample
    and channel (GranQ), never frozen.

    Attributes:
        low, high: the range observed so far, scalars.
        updates: how many batches were observed.
        observing: whether a forward pass updates the range.
        chosen: of `pnorm` and `learned`, whether the range was chosen.
    """

    updates: Tensor
    chosen: Tensor

    def __init__(self, bits: int, ranges: str = "ema", gradient: str = "identity") -> None:
        """Raises UsageError for bits outside 2 to 8 or unknown names."""
        super().__init__()
        if ranges not in RANGES:
            raise unknown("range rule", ranges, RANGES)
        if gradient not in GRADIENTS:
            raise unknown("gradient rule", gradient, GRADIENTS)
        self.bits, self.ranges, self.gradient = check_bits(bits), ranges, gradient
        self.observing = ranges != "per_channel_dynamic"
        self._make_room()
        self.register_buffer("updates", torch.zeros(()))
        if ranges in CHOSEN:
            self.register_buffer("chosen", torch.zeros((), dtype=torch.bool))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape, on the grid."""
        if not x.numel():
            return x
        if self.ranges == "per_channel_dynamic":
            rows = x.flatten(0, 1) if x.ndim > 2 else x  # (B*C, ...), or (B, C) as it is
            return fake_quantize_rows(rows, self.bits, self.gradient).view_as(x)
        if self.observing:
            self.observe(x)
        return self._round(x)

    @torch.no_grad()
    def choose(self, x: Tensor) -> None:
        """Take the range whose grid has the least p-norm error on `x`, of any shape."""
        ends = torch.stack(x.aminmax()) if x.numel() else x.new_zeros(2)
        if ends.isfinite().all():  # or `freeze_ranges` says so
            ends = torch.cat(pnorm_range(*histogram(x), self.bits))
        self._span(*ends)
        self.chosen.fill_(True)

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Update the range with one batch's smallest and largest value."""
        self.updates += 1
        kept, seen = torch.stack([self.low, self.high]), torch.stack(x.aminmax()).to(self.low.dtype)
        weight = 1 - EMA_DECAY**self.updates
        if self.ranges == "minmax":
            later = torch.stack([torch.minimum(kept[0], seen[0]), torch.maximum(kept[1], seen[1])])
        elif self.ranges == "ema_legacy":
            later = (EMA_DECAY * kept + (1 - EMA_DECAY) * seen) / weight
        else:
            later = kept + (1 - EMA_DECAY) / weight * (seen - kept)
        self._span(*torch.where(self.updates == 1, seen, later))

    def extra_repr(self) -> str:
        """What `print(student)` shows of it."""
        return f"bits={self.bits}, ranges={self.ranges}, gradient={self.gradient}"


# ---- whole networks -----------------------------------------------------------------------------

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
        layer._quantize(bits, weight_ranges, gradient)  # type: ignore[operator]
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

    Args:
        student: from `quantize_model`.
        images: (B, channels, S, S) in the teacher's normalised input space, by which the rules
            `pnorm` and `learned` choose, layer by layer, each on what reaches it from those before,
            rounded already. The other rules have observed theirs, and do not need any.

    Raises:
        AktError: if one of them has seen no batch yet, or a NaN, which no later batch mends.
    """
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
    return [name for name, layer in student.named_modules() if isinstance(layer, _QuantizedWeight)]


def quantized_activations(student: nn.Module) -> list[str]:
    """Names of the quantized uses of activations of `student`, as `act_bits` takes them."""
    found = (n for n, m in student.named_modules() if isinstance(m, ActivationQuantizer))
    return [name.removeprefix(f"{QUANTIZERS}.") for name in found]


def learned_scales(student: nn.Module) -> list[nn.Parameter]:
    """The scales that `student` learns beside its weights, of the rule `learned`."""
    ranged = (m for m in student.modules() if isinstance(m, _Ranged) and m.ranges == "learned")
    return [module.scale for module in ranged if "scale" in module._parameters]


def stays_in_float(student: nn.Module) -> list[str]:
    """Names of the parameters of more than one axis that `student` keeps in floating point.

    Embeddings, tables of positions, scales of more than one axis: whatever is neither a quantized
    layer's nor a vector, as biases and batch norms are. Empty for ordinary convolutional networks.
    """
    return [
        f"{name}.{parameter}".lstrip(".")
        for name, layer in student.named_modules()
        if not isinstance(layer, _QuantizedWeight)
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
    groups: dict[type, list[tuple[int, int, int]]] = {_QuantizedWeight: [], ActivationQuantizer: []}

    def keep(module: ActivationQuantizer, inputs: tuple[Tensor], output: Tensor) -> None:
        live = module.ranges == "per_channel_dynamic"
        ranges = math.prod(output.shape[: 2 if output.ndim > 2 else 1]) if live else 0
        groups[ActivationQuantizer].append((output.numel(), module.bits, ranges))

    handles = []
    for module in student.modules():
        if isinstance(module, _QuantizedWeight):
            weight = module.weight
            groups[_QuantizedWeight].append((weight.numel(), module.weight_bits, len(weight)))
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

"""Numbers on a uniform grid: scale, zero point, fake quantization, and which grid errs least.

    q     = clamp(round(x / scale) + zero_point, 0, 2**bits - 1)
    x_hat = (q - zero_point) * scale

Zero always lies on the grid, as in PyTorch's own observers, so a ReLU's zeros and a convolution's
padding stay exact.
"""

import math
from typing import Any

import torch
from torch import Tensor

from akt_lab.errors import UsageError, unknown

GRADIENTS = ("identity", "clipped")
MIN_BITS, MAX_BITS = 2, 8
HALF_MAX = torch.finfo(torch.float16).max
LEAST_SCALE = torch.finfo(torch.float32).eps
PNORM = 2.4  # GENIE's (CVPR 2023): between the mean's 2 and the extremes' infinity
BINS = 4096  # of a histogram that stands for an activation's values
COARSE = [0.96**n for n in range(1, 96)]  # shares of a range, down to a fiftieth
FINE = [1 + n / 200 for n in range(-8, 9) if n]

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
    waits = x.is_cuda and scale.ndim > 0  # PyTorch's kernel looks at the zero points on the host
    if gradient == "clipped" and scale.dtype == torch.float32 and not (half or waits):
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
    grid's own end, less the zero point, outside. It is scaled by 1 / sqrt(n (2**bits - 1)), n being
    how many values share a scale, so that scales and weights move in proportion: of weights those
    of an output channel, of activations those of one image.

    Args:
        x: activations (B, ...) for one scale; weights (C_out, ...) for several.
        scale: () or (C_out,), positive; gets a gradient.
        zero_point: int32, `scale`'s shape.
        bits: 2 to 8.
        gradient: of x, `identity` or LSQ's own, `clipped`: nothing passes from beyond the grid's
            ends, where `fake_quantize` still lets half a step through.
    """
    levels = 2 ** check_bits(bits) - 1
    slowed = scale / math.sqrt(max(1, x[0].numel() * levels))
    x_hat = fake_quantize(x.detach(), scale.detach(), zero_point, bits)
    if scale.ndim:
        shape = (-1, *(1,) * (x.ndim - 1))
        scale, slowed, zero_point = (p.view(shape) for p in (scale, slowed, zero_point))
    v = x.detach() / scale.detach()
    inside = (v >= -zero_point) & (v <= levels - zero_point)
    share = x_hat / scale.detach() - v.masked_fill(~inside, 0)
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

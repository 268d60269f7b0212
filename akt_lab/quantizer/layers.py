"""What quantizes inside a student: layers by their weights, activations by what they observed.

Weights have one range per output channel, recomputed at every forward pass; activations have one
range per tensor, observed first and then frozen (Xu et al., GDFQ, arXiv 2003.03603). Either can be
chosen instead, narrower than the values, by the error of what it rounds, and be learned from there.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from akt_lab.errors import unknown
from akt_lab.quantizer.grid import (
    GRADIENTS,
    affine_parameters,
    check_bits,
    fake_quantize,
    fake_quantize_learned,
    fake_quantize_rows,
    histogram,
    pnorm_range,
)

RANGES = ("ema", "ema_legacy", "minmax", "pnorm", "learned", "per_channel_dynamic")
WEIGHT_RANGES = ("minmax", "pnorm", "learned")
CHOSEN = ("pnorm", "learned")  # of both, those that begin with a choice by the p-norm
EMA_DECAY = 0.9
NARROW = 8  # input channels of a convolution


class Ranged(nn.Module):
    """Mixed into what quantizes: one range, or one for each row, and the grid that it spans.

    Attributes:
        low, high: the range, () or (R,).
        log_scale: of the rule `learned`, what is learned: so a step is a share of the scale, and
            none ends below zero (TQT, arXiv 1903.08066). The zero point stays that of the range.
        chosen: of `pnorm` and `learned`, whether the range was chosen.
    """

    low: Tensor
    high: Tensor
    chosen: Tensor
    bits: int
    ranges: str
    gradient: str

    def _make_room(self, *shape: int) -> None:
        self.register_buffer("low", torch.zeros(shape))
        self.register_buffer("high", torch.zeros(shape))
        if self.ranges in CHOSEN:
            self.register_buffer("chosen", torch.zeros((), dtype=torch.bool))
        if self.ranges == "learned":
            self.log_scale = nn.Parameter(torch.zeros(shape))

    @torch.no_grad()
    def _span(self, low: Tensor, high: Tensor) -> None:
        self.low.copy_(low)
        self.high.copy_(high)
        if self.ranges == "learned":
            self.log_scale.copy_(affine_parameters(self.low, self.high, self.bits)[0].log())

    def grid(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point, as `fake_quantize` takes them."""
        scale, zero_point = affine_parameters(self.low, self.high, self.bits)
        return (self.log_scale.exp() if self.ranges == "learned" else scale), zero_point

    def _round(self, x: Tensor) -> Tensor:
        rule = fake_quantize_learned if self.ranges == "learned" else fake_quantize
        return rule(x, *self.grid(), self.bits, self.gradient)


class QuantizedWeight(Ranged):
    """Mixed into a layer: its weight, fake-quantized per output channel at every forward pass.

    Ranges: `minmax`, the weight's extremes at that pass; `pnorm`, its extremes at the beginning
    until `choose` takes those with the least error; `learned`, the same, and learned from there.
    """

    weight: Tensor
    weight_bits: int

    @property
    def bits(self) -> int:  # type: ignore[override]
        """Of the weight."""
        return self.weight_bits

    def quantize_by(self, bits: int, ranges: str, gradient: str) -> None:
        """Begin: the layer's class was changed to this one, and it had no `__init__`."""
        self.weight_bits, self.ranges, self.gradient = bits, ranges, gradient
        if ranges != "minmax" and self.weight.numel():
            self._make_room(len(self.weight))
            self._span(*self.weight.detach().flatten(1).aminmax(dim=1))

    @torch.no_grad()
    def choose(self) -> None:
        """Take each channel's range with the least p-norm error on the weight as it is now."""
        self._span(*pnorm_range(self.weight.flatten(1), None, self.bits))
        self.chosen.fill_(True)

    def grid(self) -> tuple[Tensor, Tensor]:
        """Scales and zero points, (C_out,)."""
        if self.ranges == "minmax":
            low, high = self.weight.detach().flatten(1).aminmax(dim=1)
            return affine_parameters(low, high, self.weight_bits)
        return super().grid()

    def quantized_weight(self) -> Tensor:
        """(C_out, ...), on the grid."""
        return self._round(self.weight) if self.weight.numel() else self.weight


class QuantizedConv2d(QuantizedWeight, nn.Conv2d):
    """A convolution (grouped and depthwise too) with a fake-quantized weight."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C_out, H', W')."""
        weight = self.quantized_weight()
        if self.in_channels < NARROW and self.kernel_size == (1, 1) != self.stride:
            # Channels-last, oneDNN's gradient of such a weight writes beyond its memory (PyTorch
            # 2.14), and the process dies or goes on with other numbers. (A weight of one pixel is
            # called contiguous whatever its strides, so `contiguous` would not change them.)
            x, weight = x.contiguous(), weight.flatten(1)[..., None, None]
        return self._conv_forward(x, weight, self.bias)


class QuantizedConv1d(QuantizedWeight, nn.Conv1d):
    """A one-dimensional convolution with a fake-quantized weight."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, L) -> (B, C_out, L')."""
        return self._conv_forward(x, self.quantized_weight(), self.bias)


class QuantizedLinear(QuantizedWeight, nn.Linear):
    """A linear layer with a fake-quantized weight; its bias stays in floating point."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., C_in) -> (..., C_out)."""
        return F.linear(x, self.quantized_weight(), self.bias)


QUANTIZED: dict[type[nn.Module] | None, type[nn.Module]] = {
    nn.Conv1d: QuantizedConv1d,
    nn.Conv2d: QuantizedConv2d,
    nn.Linear: QuantizedLinear,
}


class ActivationQuantizer(Ranged):
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
    """

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
        self._make_room()
        self.register_buffer("updates", torch.zeros(()))

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

"""A student whose rounding is smooth, for what needs second derivatives.

The straight-through gradient is the gradient of no function (`curvature.asymmetry` measures it),
and true rounding is flat almost everywhere: neither has a Hessian that says anything. The
stand-in's does, but its own corners are in it too, and prevail as the sharpness grows: report
every result for more than one sharpness.
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor, fx, nn

from akt_lab.errors import AktError, UsageError
from akt_lab.graph import trace
from akt_lab.quantizer import QUANTIZED, ActivationQuantizer


def soft_round(x: Tensor, sharpness: float) -> Tensor:
    """Rounding without corners: x - atan2(k sin 2πx, 1 + k cos 2πx) / π.

    The Fourier series of x - round(x) with its n-th term times k^n (Abel's summation; Stein and
    Shakarchi, Fourier Analysis, chapter 2). Its slope is the Poisson kernel
    (1 - k²) / (1 + 2k cos 2πx + k²): positive, smooth everywhere, steepest between two integers.

    Args:
        x: any shape.
        sharpness: k, from 0 (x itself) to below 1 (rounding, in the limit).

    Raises:
        UsageError: for any other sharpness.

    >>> soft_round(torch.tensor([0.25, 1.0, 1.75]), 0.5)
    tensor([0.1024, 1.0000, 1.8976])
    """
    if not 0 <= sharpness < 1:
        raise UsageError(f"sharpness must be from 0 to below 1, not {sharpness}")
    angle = 2 * math.pi * x
    return x - torch.atan2(sharpness * angle.sin(), 1 + sharpness * angle.cos()) / math.pi


def soft_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor, bits: int, sharpness: float
) -> Tensor:
    """`quantizer.fake_quantize` with `soft_round`; clipping keeps its two kinks, as ReLU its one.

    Takes and returns what `fake_quantize` does, and raises as `soft_round`.
    """
    if scale.ndim:
        scale, zero_point = (p.view(-1, *(1,) * (x.ndim - 1)) for p in (scale, zero_point))
    q = soft_round((x / scale + zero_point).clamp(0, 2**bits - 1), sharpness)
    return (q - zero_point) * scale


class _SmoothWeight:
    """Mixed into a quantized layer: its weight on a frozen grid, rounded softly."""

    def quantized_weight(self: Any) -> Tensor:
        grid = self.fixed_scale, self.fixed_zero, self.weight_bits
        return soft_quantize(self.weight, *grid, self.sharpness)


class _SmoothActivation(ActivationQuantizer):
    sharpness: float

    def forward(self, x: Tensor) -> Tensor:
        return soft_quantize(x, *self.grid(), self.bits, self.sharpness)


SMOOTH: dict[type, type] = {
    layer: type(f"Smooth{layer.__name__}", (_SmoothWeight, layer), {})
    for layer in QUANTIZED.values()
}


def smooth_student(student: nn.Module, sharpness: float = 0.5) -> fx.GraphModule:
    """A copy of a student in which `soft_round` rounds, on grids that no longer move.

    The weights' grids are those of the weights as they are now: left live, their ranges would be
    a second thing that the straight-through gradient takes for constant and that is not.

    Args:
        student: from `quantize_model`, its ranges frozen.
        sharpness: see `soft_round`.

    Raises:
        UsageError: for a sharpness outside [0, 1).
        AktError: if the student still observes its ranges, or they are live.
    """
    soft_round(torch.zeros(()), sharpness)  # checks it
    check_frozen(student)
    smooth = private_copy(student)
    for module in smooth.modules():
        if isinstance(module, ActivationQuantizer):
            module.__class__, module.sharpness = _SmoothActivation, sharpness  # type: ignore
        elif type(module) in SMOOTH:
            _freeze_grid(module, sharpness)
    return smooth


def _freeze_grid(layer: Any, sharpness: float) -> None:
    scale, zero_point = layer.grid()
    layer.register_buffer("fixed_scale", scale.detach(), persistent=False)
    layer.register_buffer("fixed_zero", zero_point, persistent=False)
    layer.__class__, layer.sharpness = SMOOTH[type(layer)], sharpness


def is_rough(network: nn.Module) -> bool:
    """Whether anything in it rounds with a straight-through gradient."""
    return any(type(m) in (ActivationQuantizer, *SMOOTH) for m in network.modules())


def check_frozen(network: nn.Module) -> None:
    """Raise an AktError if a forward pass would move an activation's range."""
    for name, module in network.named_modules():
        if isinstance(module, ActivationQuantizer):
            if module.ranges == "per_channel_dynamic":
                raise AktError(f"{name} has live ranges, which move with what they round")
            if module.observing:
                raise AktError(f"{name} still observes its range: freeze_ranges first")


def private_copy(network: nn.Module, dtype: torch.dtype | None = None) -> fx.GraphModule:
    """A graph in eval mode, contiguous, nothing changed in place, every weight learning.

    Raises:
        AktError: if torch.fx cannot trace it.
    """
    graph = copy.deepcopy(network) if isinstance(network, fx.GraphModule) else trace(network)
    for module in graph.modules():
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    graph.to(dtype=dtype, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return graph.eval().requires_grad_()

"""Checks of notebook 1, quantization from scratch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from akt_course.checks.answers import close, exercise, expect, expect_number, expect_tensor
from akt_lab.quantizer import affine_parameters
from akt_lab.quantizer import fake_quantize as ours


@exercise
def affine_quantize(answer: Callable[..., Any]) -> None:
    """On the grid, zero exact, at most half a step of error, and equal to PyTorch's own."""
    for bits in (2, 3, 4, 8):
        for x in (torch.randn(1000), torch.randn(7, 30) * 3 + 1, torch.rand(500) + 0.5):
            _on_grid(answer(x, bits), x, bits)
    _on_grid(answer(-torch.rand(500) - 0.5, 3), None, 3)


def _on_grid(x_hat: Any, x: Tensor | None, bits: int) -> None:
    if x is None:  # all negative: only zero's place on the grid is asked
        expect(x_hat.max() <= 1e-6, "negative values came back positive: clamp to 0 .. 2^bits - 1")
        return
    expect_tensor(x_hat, tuple(x.shape), "the answer")
    scale, zero_point = affine_parameters(x.min(), x.max(), bits)
    levels = len(x_hat.unique())
    expect(
        x_hat.min() < 0 or x.min() > -scale or not close(x_hat, x_hat.round()),
        "these are the whole numbers q from 0 up: come back with (q - zero_point) * scale",
    )
    expect(
        levels <= 2**bits,
        "{} bits gave {} different values: levels are counted from 0, so the highest is 2^bits - 1",
        bits, levels,
    )  # fmt: skip
    steps = (x_hat / scale).double()
    if float(x.min()) > 0:
        expect(
            x_hat.max() > 0.4 * x.max() and close(steps, steps.round(), 1e-3),
            "for values that are all positive the grid misses 0: the range runs from "
            "min(low, 0) to max(high, 0)",
        )
    expect(
        (steps - steps.round()).abs().max() < 1e-2,
        "the levels miss zero, so a ReLU's zeros and a convolution's padding would shift: "
        "round the zero point to a whole number (and the scale is (high - low) / (2^bits - 1))",
    )
    inside = (x >= -zero_point * scale) & (x <= (2**bits - 1 - zero_point) * scale)
    error = ((x_hat - x).abs() / scale)[inside].max()
    expect(
        error <= 0.501,
        "inside the range the error reaches {:.2f} of a step; rounding to the *nearest* level "
        "leaves at most 0.5 (truncation leaves 1)",
        float(error),
    )
    wanted = ours(x, scale, zero_point, bits)
    expect(close(x_hat, wanted, 1e-4), "close to PyTorch's fake quantization, but not equal")


@exercise
def best_clip(answer: Callable[..., Any]) -> None:
    """The candidate with the smallest mean squared error, in three kinds of activations."""
    for x in (torch.randn(4000).relu(), torch.randn(4000).exp(), torch.rand(4000)):
        candidates = torch.linspace(0.05, 1, 20) * x.max()
        errors = torch.stack([_error(x, clip, 3) for clip in candidates])
        got = expect_number(answer(x, 3, candidates), "the answer")
        index = int((candidates - got).abs().argmin())
        expect(
            close(candidates[index], got, 1e-4),
            "{:.3f} is none of the candidates: return the clip itself, not its place or its error",
            got,
        )
        best = int(errors.argmin())
        expect(
            errors[index] <= errors[best] * 1.0001,
            "the clip {:.3f} has a mean squared error of {:.5f}, but {:.3f} has {:.5f}: count the "
            "error of what is clipped as well as of what is rounded, squared",
            got, float(errors[index]), float(candidates[best]), float(errors[best]),
        )  # fmt: skip


def _error(x: Tensor, clip: Tensor, bits: int) -> Tensor:
    scale, zero_point = affine_parameters(torch.zeros(()), clip, bits)
    return (ours(x, scale, zero_point, bits) - x).square().mean()

"""Checks of notebook 1, quantization from scratch."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from akt_course.checks.answers import (
    Wrong,
    close,
    exercise,
    expect,
    expect_number,
    expect_tensor,
    expect_unchanged,
    first_that_fits,
)
from akt_course.checks.draws import Draws
from akt_lab.quantizer import affine_parameters
from akt_lab.quantizer import fake_quantize as ours

# ---- the grid -----------------------------------------------------------------------------------


@exercise
def affine_quantize(answer: Callable[..., Any], draws: Draws) -> None:
    """On the grid, zero exact, at most half a step of error, and equal to PyTorch's own."""
    for bits in (2, 3, 4, 8):
        for x in _tensors(draws):
            given = x.clone()
            x_hat = _ask(answer, given, bits)
            expect_tensor(x_hat, tuple(x.shape), "the answer")
            if not _right(x_hat.detach(), x, bits):
                _which_mistake(x_hat.detach(), x, bits)
            expect_unchanged("x", given, x)


POWER = "in Python ^ is an exclusive or, and 2^3 is 1: the power is 2**bits"


def _ask(answer: Callable[..., Any], x: Tensor, bits: int) -> Any:
    """The answer, unless it divides by the 0 that 2^bits gives in Python."""
    try:
        x_hat = answer(x, bits)
    except ZeroDivisionError:
        raise Wrong(f"at {bits} bits it divides by 0: {POWER}") from None
    if isinstance(x_hat, Tensor):
        expect(
            x_hat.isfinite().all(),
            "at {} bits some values are not finite: is the scale, or what it is divided by, 0? {}",
            bits, POWER[0].upper() + POWER[1:],
        )  # fmt: skip
    return x_hat


def _tensors(draws: Draws) -> Iterator[Tensor]:
    """With extremes that leave no zero point near a half, where rightly rounded ones differ."""
    for x, low, high in (
        (draws.normal(1000), -2.9, 3.3),
        (3 * draws.normal(7, 30) + 1, -6.3, 10.4),
        (draws.uniform(500) + 0.5, 0.5, 1.5),
        (-draws.uniform(500) - 0.5, -1.5, -0.5),
    ):
        x = x.clamp(low, high)
        x.view(-1)[:2] = torch.tensor([low, high])
        yield x


def _right(x_hat: Tensor, x: Tensor, bits: int) -> bool:
    """Equal to PyTorch's own, but for values so near the middle of two levels that both will do."""
    scale, zero_point = affine_parameters(x.min(), x.max(), bits)
    clear = ((x / scale) % 1 - 0.5).abs() > 1e-3
    same = close(x_hat[clear], ours(x, scale, zero_point, bits)[clear], 1e-4)
    return same and bool(((x_hat - x).abs() <= 0.51 * scale)[~clear].all())


def _which_mistake(x_hat: Tensor, x: Tensor, bits: int) -> None:
    scale, zero_point = affine_parameters(x.min(), x.max(), bits)
    clear = ((x / scale) % 1 - 0.5).abs() > 1e-3
    levels = 2**bits - 1
    steps = x / scale
    q = (steps.round() + zero_point).clamp(0, levels)
    turned = (steps.round() - zero_point).clamp(0, levels)
    sign = (
        "the zero point has the wrong sign: it is round(-low / scale), added on the way to the "
        "grid, x / scale + zero_point, and subtracted on the way back, (q - zero_point) * scale"
    )
    truncated = "this is truncation, which leaves up to a whole step: round to the *nearest* level"
    mistakes = [
        ((q + zero_point) * scale, sign),
        ((turned + zero_point) * scale, sign),
        ((turned - zero_point) * scale, sign),
        (((steps.floor() + zero_point).clamp(0, levels) - zero_point) * scale, truncated),
        (((steps.trunc() + zero_point).clamp(0, levels) - zero_point) * scale, truncated),
        (q, "these are the whole numbers q from 0 up: come back with (q - zero_point) * scale"),
    ]
    for wrong in ((2 ^ bits) - 1, 2 ^ (bits - 1)):  # what `2^bits - 1` is with brackets, without
        mistakes.append((_with(x, wrong), POWER))
    if zero_point:  # without one, these are the same
        first_that_fits(x_hat[clear], ((v[clear], says) for v, says in mistakes), 1e-4)
    _properties(x_hat, x, bits)


def _with(x: Tensor, levels: int) -> Tensor:
    """The formulas with another number in place of 2**bits - 1."""
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    scale = (high - low) / levels
    zero_point = (-low / scale).round()
    return (((x / scale).round() + zero_point).clamp(0, levels) - zero_point) * scale


def _properties(x_hat: Tensor, x: Tensor, bits: int) -> None:
    scale, zero_point = affine_parameters(x.min(), x.max(), bits)
    count = len(x_hat.unique())
    steps = (x_hat / scale).double()
    expect(
        x_hat.min() < 0 or x.min() > -scale or not close(x_hat, x_hat.round()),
        "these are the whole numbers q from 0 up: come back with (q - zero_point) * scale",
    )
    expect(
        count <= 2**bits,
        "{} bits gave {} different values: levels are counted from 0, so the highest is "
        "2**bits - 1",
        bits, count,
    )  # fmt: skip
    if float(x.min()) > 0 or float(x.max()) < 0:
        expect(
            x_hat.abs().max() > 0.4 * x.abs().max() and close(steps, steps.round(), 1e-3),
            "for values that are all of one sign the grid misses 0: the range runs from "
            "min(low, 0) to max(high, 0)",
        )
        expect(
            float(x.min()) > 0 or x_hat.max() <= 1e-6,
            "negative values came back positive: clamp to 0 .. 2**bits - 1",
        )
    expect(
        (steps - steps.round()).abs().max() < 1e-2,
        "the levels miss zero, so a ReLU's zeros and a convolution's padding would shift: "
        "round the zero point to a whole number (and the scale is (high - low) / (2**bits - 1))",
    )
    inside = (x >= -zero_point * scale) & (x <= (2**bits - 1 - zero_point) * scale)
    error = ((x_hat - x).abs() / scale)[inside].max()
    expect(
        error <= 0.501,
        "inside the range the error reaches {:.2f} of a step; rounding to the *nearest* level "
        "leaves at most 0.5",
        float(error),
    )
    expect(False, "close to PyTorch's fake quantization, but not equal")


# ---- the range ----------------------------------------------------------------------------------


@exercise
def best_clip(answer: Callable[..., Any], draws: Draws) -> None:
    """The candidate with the smallest mean squared error, in three kinds of activations."""
    for x in (draws.normal(4000).relu(), draws.normal(4000).exp(), draws.uniform(4000)):
        candidates = torch.linspace(0.05, 1, 20) * x.max()
        for bits in (3, 2, 5):
            given = x.clone(), candidates.clone()
            _is_best(answer(given[0], bits, given[1]), x, bits, candidates)
            expect_unchanged("x", given[0], x)
            expect_unchanged("candidates", given[1], candidates)


def _is_best(answer: Any, x: Tensor, bits: int, candidates: Tensor) -> None:
    got = expect_number(answer, "the answer")
    errors = _errors(x, bits, candidates)
    index, best = int((candidates - got).abs().argmin()), int(errors.argmin())
    one_of_them = close(candidates[index], got, 1e-4)
    if one_of_them and errors[index] <= errors[best] * 1.0001:
        return
    expect(
        one_of_them,
        "{:.3f} is none of the candidates: return the clip itself, not its place or its error",
        got,
    )
    expect(
        index != int(_errors(x, 3, candidates).argmin()),
        "at {} bits you give {:.3f}, which is best at 3 bits: the function is told its bits",
        bits, got,
    )  # fmt: skip
    expect(
        False,
        "at {} bits the clip {:.3f} has a mean squared error of {:.5f}, but {:.3f} has {:.5f}: "
        "count the error of what is clipped as well as of what is rounded, squared",
        bits, got, float(errors[index]), float(candidates[best]), float(errors[best]),
    )  # fmt: skip


def _errors(x: Tensor, bits: int, candidates: Tensor) -> Tensor:
    """The mean squared error with each candidate for a clip."""
    grids = [affine_parameters(torch.zeros(()), clip, bits) for clip in candidates]
    return torch.stack([(ours(x, *grid, bits) - x).square().mean() for grid in grids])

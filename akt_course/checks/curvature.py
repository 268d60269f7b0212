"""Checks of notebook 7, the shape of the loss."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from akt_course.checks.answers import Wrong, close, exercise, expect, expect_number

Answer = Callable[..., Any]


class _Product:
    """v -> Hv, which counts its calls and looks at what it is called with."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self.calls = matrix, 0

    def __call__(self, v: Any) -> Tensor:
        size = len(self.matrix)
        expect(
            isinstance(v, Tensor), "product was called with a {}, not a tensor", type(v).__name__
        )
        expect(v.shape == (size,), "product was called with shape {}, it takes one vector ({},)",
               tuple(v.shape), size)  # fmt: skip
        self.calls += 1
        return self.matrix.to(v.dtype) @ v if v.is_floating_point() else self.matrix @ v.float()


def _symmetric(size: int) -> Tensor:
    half = torch.randn(size, size)
    return half + half.T + torch.diag(torch.rand(size) * 8 + 4)


# ---- Hutchinson ----------------------------------------------------------------------------------


@exercise
def hutchinson_trace(answer: Answer) -> None:
    """Within three standard errors, exact on a diagonal; four times the probes halve the error."""
    diagonal = torch.linspace(-1, 5, 12)
    value, error = _estimate(answer, torch.diag(diagonal), 20)
    _not_scaled(value, float(diagonal.sum()), 12, 20)
    expect(
        error < 1e-4 and close(value, diagonal.sum(), 1e-4),
        "on a diagonal matrix the estimate is {:.4g} ± {:.2g}, the trace {:.4g} ± 0: signs +1 and "
        "-1 square to 1, so every probe is exact there; neither normal numbers nor 0 and 1 do that",
        value, error, float(diagonal.sum()),
    )  # fmt: skip
    _right_size_of_error(answer)
    far = []
    for _ in range(30):
        matrix = _symmetric(15)
        value, error = _estimate(answer, matrix, 50)
        far.append(abs(value - float(matrix.trace())) / error)
    expect(
        sorted(far)[-3] < 3,
        "{} of 30 estimates are more than 3 standard errors from the exact trace: a probe gives "
        "v · Hv, and the estimate is the mean over the probes",
        sum(f >= 3 for f in far),
    )


def _estimate(answer: Answer, matrix: Tensor, probes: int) -> tuple[float, float]:
    product = _Product(matrix)
    got = answer(product, len(matrix), probes)
    expect(got is not None, "the answer is None: does the function end in a return?")
    expect(
        isinstance(got, (tuple, list)) and len(got) == 2,
        "the answer is no pair: return the estimate and its standard error",
    )
    expect(
        product.calls == probes,
        "{} products for {} probes: each probe takes one, v · Hv",
        product.calls, probes,
    )  # fmt: skip
    return expect_number(got[0], "the estimate"), expect_number(got[1], "the standard error")


def _not_scaled(value: float, wanted: float, size: int, probes: int) -> None:
    expect(
        not close(value, wanted * probes, 1e-3),
        "the estimate is {} times too large: the mean of the probes, not their sum",
        probes,
    )
    expect(
        not close(value, wanted / size, 1e-3),
        "the estimate is {} times too small: a probe of signs has |v|² = size, do not normalise it",
        size,
    )


def _right_size_of_error(answer: Answer) -> None:
    """Its square is the variance 2 Σ H_ij² (i ≠ j) over the probes, on average."""
    for probes in (200, 50, 3):
        matrix = _symmetric(15)
        off = matrix - torch.diag(matrix.diagonal())
        variance = 2 * float(off.square().sum())
        runs = [_estimate(answer, matrix, probes)[1] for _ in range(4 if probes > 3 else 600)]
        found = math.sqrt(sum(e**2 for e in runs) / len(runs))
        wanted = math.sqrt(variance / probes)
        _size_of_error(found, wanted, variance, probes)


def _size_of_error(found: float, wanted: float, variance: float, probes: int) -> None:
    if probes == 3:
        expect(
            found > 0.9 * wanted,
            "with 3 probes the standard error is too small, by a factor of {:.2f} on average: the "
            "mean was estimated too, so the variance divides by probes - 1 (torch.std does)",
            found / wanted,
        )
        return
    expect(
        found > 1e-3 * wanted,
        "the standard error is 0 where it should not be: draw a new v for every probe",
    )
    expect(
        not 0.75 < found / math.sqrt(variance) < 1.25,
        "with {} probes the error is {:.3g}: that is the spread of one probe; the error of their "
        "mean is that over the root of their number",
        probes, found,
    )  # fmt: skip
    expect(
        not 0.5 < found / (variance / probes) < 1.5,
        "with {} probes the error is {:.3g}: that is a variance, take its root",
        probes, found,
    )  # fmt: skip
    expect(
        0.75 < found / wanted < 1.25,
        "with {} probes the standard error is {:.3g}, expected about {:.3g}: standard deviation of "
        "the probes' v · Hv, over the root of their number",
        probes, found, wanted,
    )  # fmt: skip


# ---- power iteration -----------------------------------------------------------------------------


@exercise
def top_eigenvalue(answer: Answer) -> None:
    """The eigenvalue of largest size, with its sign, wherever the start happened to be."""
    for values in ([5.0, 4, 1, 0.5, -2, -3], [4.0, 3, 2, -1, -2, -5], [500.0, 4, 3, 2, 1, 0]):
        basis = torch.linalg.qr(torch.randn(6, 6)).Q
        _is_top(answer, basis @ torch.diag(torch.tensor(values)) @ basis.T, values)
    basis = torch.linalg.qr(torch.cat([torch.ones(6, 1), torch.randn(6, 5)], dim=1)).Q
    values = [4.0, 5, 1, 0.5, -2, -3]  # the top one's vector is orthogonal to (1, ..., 1)
    got = _top(answer, basis @ torch.diag(torch.tensor(values)) @ basis.T)
    expect(
        close(got, 5, 2e-3),
        "the answer is {:.4g}, the top eigenvalue is 5: a fixed start, such as all ones, can "
        "miss the top direction; start from a random vector",
        got,
    )


STEPS = 60


def _top(answer: Answer, matrix: Tensor) -> float:
    product = _Product(matrix)
    got = answer(product, len(matrix), STEPS)
    if isinstance(got, Tensor):
        expect(
            got.numel() == 1,
            "the answer has shape {}: the eigenvalue is asked for, not its vector",
            tuple(got.shape),
        )
    expect(
        not isinstance(got, (Tensor, float)) or math.isfinite(float(got)),
        "after {} steps the answer is {}: the vector grew beyond all numbers; divide it by its "
        "norm in every step",
        STEPS, got,
    )  # fmt: skip
    return expect_number(got, "the answer")


def _is_top(answer: Answer, matrix: Tensor, values: list[float]) -> None:
    got, wanted = _top(answer, matrix), max(values, key=abs)
    if close(got, wanted, 2e-3):
        return
    expect(
        not close(got, -wanted, 2e-3),
        "the answer is {:.4g}, but the eigenvalue is {:.4g}: a norm has no sign, v · Hv has",
        got, wanted,
    )  # fmt: skip
    expect(
        not close(got, wanted**2, 2e-3),
        "the answer is {:.4g}, the square of the eigenvalue: v · Hv with |v| = 1",
        got,
    )
    expect(
        not close(got, max(values), 2e-3),
        "the answer is {:.4g}, the most positive one; by size it is {:.4g}",
        got, wanted,
    )  # fmt: skip
    raise Wrong(
        f"after {STEPS} steps the answer is {got:.5g}, the eigenvalue {wanted:.5g}: multiply, "
        "divide by the norm, again and again, and at the end v · Hv for a v of norm 1"
    )

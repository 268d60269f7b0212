"""Checks of notebook 7, the shape of the loss."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from akt_course.checks.answers import (
    Wrong,
    close,
    exercise,
    expect,
    expect_number,
)
from akt_course.checks.draws import Draws

Answer = Callable[..., Any]


class _Product:
    """v -> Hv, which keeps what it is called with, and what it gave."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.probes: list[Tensor] = []

    def __call__(self, v: Any) -> Tensor:
        size = len(self.matrix)
        expect(
            isinstance(v, Tensor),
            "product was called with a {}, not a tensor: torch.from_numpy makes one of an array",
            type(v).__name__,
        )
        expect(v.shape == (size,), "product was called with shape {}, it takes one vector ({},)",
               tuple(v.shape), size)  # fmt: skip
        self.probes.append(v.detach().clone().double())
        return self.matrix.to(v.dtype) @ v if v.is_floating_point() else self.matrix @ v.float()

    def values(self) -> Tensor:
        """Of every call, v · Hv."""
        return torch.stack([v @ (self.matrix.double() @ v) for v in self.probes])


def _symmetric(size: int, draws: Draws) -> Tensor:
    half = draws.normal(size, size)
    return half + half.T + torch.diag(draws.uniform(size) * 8 + 4)


# ---- Hutchinson ----------------------------------------------------------------------------------


@exercise
def hutchinson_trace(answer: Answer, draws: Draws) -> None:
    """Within three standard errors of the exact trace, and exact on a diagonal matrix."""
    for probes in (20, 3, 2, 50):
        matrix = _symmetric(12, draws)
        value, error, product = _estimate(answer, matrix, probes)
        values = product.values()
        _are_signs(product.probes)
        if not (_same(value, values.mean(), values) and _same(error, _spread(values), values)):
            _which_mistake(value, error, values, matrix)
    _are_independent(_estimate(answer, _symmetric(12, draws), 400)[2].probes)
    value, error, _ = _estimate(answer, torch.diag(torch.linspace(-1, 5, 12)), 20)
    expect(
        error < 1e-3 and close(value, 24.0, 1e-4),
        "on a diagonal matrix the estimate is {:.4g} ± {:.2g}, the trace 24 ± 0",
        value, error,
    )  # fmt: skip


def _estimate(answer: Answer, matrix: Tensor, probes: int) -> tuple[float, float, _Product]:
    product = _Product(matrix)
    got = answer(product, len(matrix), probes)
    expect(got is not None, "the answer is None: does the function end in a return?")
    expect(
        isinstance(got, (tuple, list)) and len(got) == 2,
        "the answer is no pair: return the estimate and its standard error",
    )
    expect(
        len(product.probes) == probes,
        "{} products for {} probes: each probe takes one, v · Hv",
        len(product.probes), probes,
    )  # fmt: skip
    value, error = expect_number(got[0], "the estimate"), expect_number(got[1], "the error")
    return value, error, product


def _same(got: float, wanted: Tensor | float, values: Tensor) -> bool:
    """Equal, as far as float32 carries sums of such values."""
    return abs(got - float(wanted)) <= 1e-4 * float(values.abs().max())


def _spread(values: Tensor) -> Tensor:
    return values.std() / math.sqrt(len(values))


def _are_signs(probes: list[Tensor]) -> None:
    every = torch.stack(probes)
    size = every.shape[1]
    if torch.equal(every.abs(), torch.ones_like(every)):
        expect(
            len(every.unique(dim=0)) > 1 or len(every) < 20,
            "every probe is the same: draw a new v for every probe (and if the generator is made, "
            "or seeded, inside the loop, it begins anew each time: make it once, before)",
        )
        return
    length = every.square().sum(dim=1)
    expect(
        not close(length, torch.ones_like(length)),
        "the probes have length 1, and the estimate comes out {} times too small: a probe of "
        "signs has |v|² = size, do not normalise it",
        size,
    )
    kinds = every.unique().tolist()
    expect(
        kinds != [0, 1],
        "the entries of v are 0 and 1: twice that minus 1 gives signs",
    )
    shown = " and ".join(f"{k:g}" for k in kinds) if len(kinds) < 4 else f"{kinds[-1]:.3g}"
    expect(
        False,
        "the entries of v should be +1 or -1, as likely one as the other, and are such as {}: "
        "signs square to 1, so on a diagonal every probe is exact, which normal numbers are not",
        shown,
    )


def _are_independent(probes: list[Tensor]) -> None:
    """Each two entries of v must agree as often as not, or the trace is not what is estimated."""
    every = torch.stack(probes)
    together = every.T @ every / len(every)
    expect(
        bool((every != every[:, :1]).any()),
        "all entries of a probe have one sign: draw a sign for each of the `size` entries",
    )
    off = float((together - torch.eye(len(together))).abs().max())
    expect(
        off < 8 / math.sqrt(len(every)),
        "two entries of v go together too often: draw a sign for each on its own",
    )


def _which_mistake(value: float, error: float, values: Tensor, matrix: Tensor) -> None:
    probes, size, spread = len(values), len(matrix), values.std()
    for wrong, says in (
        (values.sum(), f"the estimate is {probes} times too large: the mean of the probes, not "
         "their sum"),
        (values.mean() / size, f"the estimate is {size} times too small: it is the mean over the "
         "probes, not over the entries as well"),
        (values.median(), "the estimate is the median of the probes: their mean is asked for"),
        (values[-1], "the estimate is the last probe alone: the mean of all"),
    ):  # fmt: skip
        expect(_same(value, values.mean(), values) or not _same(value, wrong, values), says)
    expect(
        _same(value, values.mean(), values),
        "the estimate is {:.4g}, but the mean of these probes' v · Hv is {:.4g}",
        value, float(values.mean()),
    )  # fmt: skip
    for wrong, says in (
        (0 * spread, "the standard error is 0 where it should not be"),
        (spread, "that is the spread of one probe; the error of their mean is that over the root "
         "of their number"),
        (values.var() / probes, "that is a variance, take its root"),
        (values.var(), "that is a variance, of one probe: take its root, over the root of their "
         "number"),
        (spread / probes, "the spread is divided by the number of probes: by its root"),
        (values.std(correction=0) / math.sqrt(probes), "the mean was estimated too, so the "
         "variance divides by probes - 1 (torch.std does; np.std with ddof=1)"),
        (spread / math.sqrt(probes - 1) if probes > 1 else spread, "the probes - 1 is there twice: "
         "torch.std divides by it already, so divide by the root of probes"),
    ):  # fmt: skip
        expect(not _same(error, wrong, values), "with {} probes the standard error is {:.3g}: {}",
               probes, error, says)  # fmt: skip
    expect(
        False,
        "with {} probes the standard error is {:.3g}, expected {:.3g}: standard deviation of "
        "the probes' v · Hv, over the root of their number",
        probes, error, float(_spread(values)),
    )  # fmt: skip


# ---- power iteration -----------------------------------------------------------------------------


@exercise
def top_eigenvalue(answer: Answer, draws: Draws) -> None:
    """The eigenvalue of largest size, with its sign, wherever the start happened to be."""
    for values in ([5.0, 4, 1, 0.5, -2, -3], [4.0, 3, 2, -1, -2, -5], [500.0, 4, 3, 2, 1, 0]):
        basis = torch.linalg.qr(draws.normal(6, 6)).Q
        _is_top(answer, basis @ torch.diag(torch.tensor(values)) @ basis.T, values)
    basis = torch.linalg.qr(torch.cat([torch.ones(6, 1), draws.normal(6, 5)], dim=1)).Q
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

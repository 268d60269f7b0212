"""Checks of notebook 2, why low bits break training."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from akt_course.checks.answers import (
    Wrong,
    close,
    exercise,
    expect,
    expect_number,
    first_that_fits,
)
from akt_course.checks.draws import Draws

Answer = Callable[..., Any]


@exercise
def gradient_norms(answer: Answer, draws: Draws) -> None:
    """Equal to autograd's, by weight, 0 where the loss does not reach, and no trace is left."""
    plain = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    images = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    for network, x in ((plain, draws.normal(6, 5)), (images, draws.normal(6, 2, 4, 4))):
        _equals(answer, draws.fill(network), network(x).square().sum())
    _equals(answer, plain, plain[0](draws.normal(6, 5)).square().sum())  # plain[2] is not reached


def _equals(answer: Answer, network: nn.Module, loss: Tensor) -> None:
    weights = {name: w for name, w in network.named_parameters() if w.ndim > 1}
    found = torch.autograd.grad(loss, list(weights.values()), retain_graph=True, allow_unused=True)
    wanted = {
        name: torch.zeros_like(w) if g is None else g
        for (name, w), g in zip(weights.items(), found, strict=True)
    }
    for w in network.parameters():
        w.grad = torch.ones_like(w)
    before = {name: w.detach().clone() for name, w in network.named_parameters()}
    got = _ask(answer, network, loss)
    for name, w in network.named_parameters():
        expect(torch.equal(w, before[name]), "{} itself was changed: only look", name)
        expect(
            w.grad is not None and torch.equal(w.grad, torch.ones_like(w)),
            "the .grad of {} was changed, and the next optimizer step would use it: "
            "torch.autograd.grad returns gradients and leaves .grad alone",
            name,
        )
    _same_names(got, wanted, list(before))
    for name, gradient in wanted.items():
        norm = expect_number(got[name], f"the norm of {name}")
        _is_norm(name, norm, gradient, weights[name])
    _ask(answer, network, loss)


def _ask(answer: Answer, network: nn.Module, loss: Tensor) -> Any:
    """The answer; the three ways in which autograd stops it, explained."""
    try:
        return answer(network, loss)
    except RuntimeError as error:
        expect(
            "second time" not in str(error),
            "the loss cannot be differentiated again after the first call, for its graph is gone: "
            "retain_graph=True keeps it",
        )
        expect(
            "not have been used" not in str(error),
            "it stops where the loss does not reach a weight: with allow_unused=True autograd "
            "gives None there, which you count as 0",
        )
        raise
    except (AttributeError, TypeError) as error:
        expect(
            "NoneType" not in str(error),
            "a weight that the loss does not reach has the gradient None: count it as 0",
        )
        raise


def _same_names(got: Any, wanted: dict[str, Tensor], every: list[str]) -> None:
    expect(got is not None, "the answer is None: does the function end in a return?")
    expect(
        isinstance(got, dict),
        "the answer is a {}, not a dict from each weight's name to its norm",
        type(got).__name__,
    )
    extra = [name for name in got if name not in wanted]
    expect(
        not extra or extra[0] not in every,
        "{} is in the answer, but has one dimension: take the weights only, ndim >= 2",
        *extra[:1],
    )
    expect(not extra, "no parameter is called {!r}: use named_parameters()", *extra[:1])
    missing = [name for name in wanted if name not in got]
    unreached = missing and not wanted[missing[0]].any()
    expect(
        not unreached, "{} is missing: the loss does not reach it, so its norm is 0", *missing[:1]
    )
    expect(not missing, "{} is missing", *missing[:1])


def _is_norm(name: str, got: float, gradient: Tensor, weight: Tensor) -> None:
    norm = float(gradient.norm())
    if close(got, norm):
        return
    mistakes = (
        (norm**2, "its square: take the root of the sum of squares"),
        (norm / math.sqrt(gradient.numel()), "the root of the *mean* square: sum, do not average"),
        (float(gradient.abs().max()), "the largest entry: the L2 norm is over all of them"),
        (float(gradient.abs().sum()), "the sum of sizes: L2 is the root of the sum of squares"),
        (float(weight.detach().norm()), "the norm of the weight itself: take its gradient's"),
    )
    for value, what in mistakes:
        expect(not close(got, value), "for {} this is {}", name, what)
    expect(False, "the norm of {} is {:.5g}, autograd's is {:.5g}", name, got, norm)


@exercise
def explosion_ratio(answer: Answer, draws: Draws) -> None:
    """Largest over median, the same in any order and unit, and infinite for a broken norm."""
    for norms in (
        _training(41, draws), _training(40, draws), [3.0, 1.0, 2.0], [1.0, 2.0, 1.0, 30.0],
    ):  # fmt: skip
        _is_ratio(answer, norms)
        _is_ratio(answer, [1000 * n for n in norms])
    for place in (0, 3, 7):
        for broken in ("nan", "inf"):
            norms = _training(8, draws)
            norms[place] = float(broken)  # no `math.nan`, which `in` would find by being the same
            got = answer(norms)
            expect(got is not None, "the answer is None: does the function end in a return?")
            expect(
                _is_infinite(got),
                "with a norm of {} at step {} the answer is {}, expected inf: a comparison with "
                "nan is always false (and `math.nan in norms` finds that one object alone), so ask "
                "math.isfinite of every norm first",
                broken, place, got,
            )  # fmt: skip


def _is_infinite(got: Any) -> bool:
    try:
        return float(got) == math.inf
    except (TypeError, ValueError):
        raise Wrong(f"the answer is a {type(got).__name__}, not a number") from None


def _training(steps: int, draws: Draws) -> list[float]:
    norms = draws.normal(steps).double().exp()
    norms[steps // 3] = 50
    return [float(norm) for norm in norms]


def _is_ratio(answer: Answer, norms: list[float]) -> None:
    given = list(norms)
    got = expect_number(answer(given), "the answer")
    expect(given == norms, "the list that was given has changed: sorted() makes a new one")
    ordered, n = sorted(norms), len(norms)
    low, high = ordered[(n - 1) // 2], ordered[n // 2]
    wanted = 2 * ordered[-1] / (low + high)
    if close(got, wanted):
        return
    first_that_fits(got, ((value, f"this {what}") for value, what in (
        (ordered[-1] * n / sum(norms), "divides by the mean, which the burst itself lifts: the "
         "median hardly moves"),
        (norms[-1] * 2 / (low + high), "takes the last norm: the largest may come earlier"),
        (ordered[-1] / norms[0], "divides by the first norm: one step is not the usual"),
        (ordered[-1] / ordered[0], "divides by the smallest norm: the usual one is the median"),
        (ordered[-1] - (low + high) / 2, "is a difference: a ratio does not depend on the unit"),
        (ordered[-1] / norms[n // 2], "divides by the norm in the middle of training: the median "
         "is in the middle of the *sorted* norms"),
    )), 1e-5)  # fmt: skip
    expect(
        not (close(got, ordered[-1] / low) or close(got, ordered[-1] / high)),
        "of {} norms two are in the middle: the median is halfway between them (statistics.median "
        "does so, torch.median takes the lower)",
        n,
    )
    expect(False, "the answer is {:.5g}, expected {:.5g}", got, wanted)

"""Checks of notebook 5, advanced knowledge transfer."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from akt_course.checks.answers import close, exercise, expect, expect_number, expect_unchanged
from akt_course.checks.draws import Draws
from akt_lab.attention import TINY, attention_divergences, channel_attention, spatial_attention
from akt_lab.losses import kd_loss

# ---- the loss -----------------------------------------------------------------------------------

T = 5.0
Maps = list[Tensor]
Pair = tuple[Maps, Maps, Tensor, Tensor]


@exercise
def akt_loss(answer: Callable[..., Any], draws: Draws) -> None:
    """0 with no gradient at agreement, every term alive, and equal to the paper's equation."""
    pair = _pair(draws)
    before = [[m.detach().clone() for m in maps] for maps in pair[:2]]
    value = answer(*pair, 0.5, 2.0, T)
    _number(value)
    expect_unchanged("a map", [[m.detach() for m in maps] for maps in pair[:2]], before)
    if not (isinstance(value, Tensor) and _right(answer, pair)):
        _which_mistake(answer, value, pair)
    _at_agreement(answer, pair)


def _right(answer: Callable[..., Any], pair: Pair) -> bool:
    """Value and gradient of the paper's equation, whatever alpha, lambda and the temperature."""
    student_maps, teacher_maps, s, t = pair
    for alpha, lam, temperature in ((0.5, 2.0, T), (0.3, 1.0, 2.0), (1.0, 3.0, T), (0.0, 1.0, T)):
        value = answer(*pair, alpha, lam, temperature)
        wanted = _equation(pair, alpha, lam, temperature)
        if not (isinstance(value, Tensor) and value.requires_grad and close(value, wanted, 1e-3)):
            return False
        inputs = [*student_maps, *teacher_maps, s, t]
        for got, right in zip(_gradients(value, inputs), _gradients(wanted, inputs), strict=True):
            zero = torch.zeros(())
            if not close(zero if got is None else got, zero if right is None else right, 1e-2):
                return False
    return True


def _equation(pair: Pair, alpha: float, lam: float, temperature: float) -> Tensor:
    student_maps, teacher_maps, s, t = pair
    spatial, channel = attention_divergences(student_maps, teacher_maps)
    features = alpha * lam * (spatial + channel)
    return features + (1 - alpha) * kd_loss(s, t.detach(), temperature)


def _which_mistake(answer: Callable[..., Any], value: Any, pair: Pair) -> None:
    _, teacher_maps, _, t = pair
    expect(
        isinstance(value, Tensor) and value.requires_grad,
        "the answer has no gradient: keep tensors (no .item()), and detach the teacher's side only",
    )
    undivided = _undivided(pair)
    expect(
        not close(_number(answer(*pair, 1.0, 1.0, T)), undivided, 1e-3),
        "the spatial map is not divided by its sum: it has unit length, and a KL compares "
        "distributions, which sum to 1",
    )
    _at_agreement(answer, pair)
    reached = _gradients(value, [*teacher_maps, t])
    expect(
        not any(_some(g) for g in reached),
        "a gradient reaches the teacher: detach its maps and its logits, they are the target",
    )
    _shares(answer, pair)
    _features_alive(answer, pair)
    _logits(answer, pair)
    _features(answer, pair)
    expect(
        close(_number(answer(*pair, 0.3, 2.0, T)), _equation(pair, 0.3, 2.0, T), 1e-3),
        "each part is right alone, but their sum is not: alpha * lam * features "
        "+ (1 - alpha) * logits",
    )
    expect(
        close(_number(answer(*pair, 0.0, 2.0, 2.0)), _equation(pair, 0.0, 2.0, 2.0), 1e-3),
        "right at temperature {:g}, and not at 2: the function is told its temperature",
        T,
    )
    expect(False, "right, but its gradient is not: part of the student's side is cut off (.detach, "
           ".data or torch.no_grad somewhere?)")  # fmt: skip


def _undivided(pair: Pair) -> Tensor:
    """The features' part where spatial maps of unit length stand in the KL as they are."""
    found = []
    for a, b in zip(*pair[:2], strict=True):
        for attention in (spatial_attention, channel_attention):
            p, q = attention(b.detach()), attention(a.detach())
            found.append((p * ((p + TINY).log() - (q + TINY).log())).sum(dim=1).mean())
    return torch.stack(found).sum() / len(pair[0])


def _number(value: Any) -> float:
    return expect_number(value.detach() if isinstance(value, Tensor) else value, "the answer")


def _pair(draws: Draws) -> Pair:
    shapes = ((6, 4, 8, 8), (6, 8, 4, 4), (6, 8, 2, 2))
    teacher = [draws.uniform(*shape).requires_grad_() for shape in shapes]
    student = [(m.detach() + 0.5 * draws.uniform(*m.shape)).requires_grad_() for m in teacher]
    s, t = ((3 * draws.normal(6, 10)).requires_grad_() for _ in range(2))
    return student, teacher, s, t


def _gradients(value: Tensor, inputs: list[Tensor]) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(value, inputs, retain_graph=True, allow_unused=True)


def _some(gradient: Tensor | None) -> bool:
    return gradient is not None and bool(gradient.abs().max() > 0)


def _at_agreement(answer: Callable[..., Any], pair: Pair) -> None:
    _, maps, _, t = pair
    same = [m.detach().clone().requires_grad_() for m in maps]
    logits = t.detach().clone().requires_grad_()
    value = answer(same, maps, logits, t, 0.5, 2.0, T)
    got = _number(value)
    expect(
        abs(got) < 1e-4,
        "where the student equals the teacher the loss is {:.4f}, not 0: a KL subtracts the "
        "teacher's own entropy, which a cross-entropy leaves in",
        got,
    )
    if not value.requires_grad:
        return  # a constant 0 is told by the terms that are dead
    found = [g.abs().max() for g in _gradients(value, [*same, logits]) if g is not None]
    expect(
        not found or max(found) < 1e-4,
        "where the student equals the teacher the gradient reaches {:.4f}, not 0: something other "
        "than their difference pulls",
        float(max(found, default=torch.zeros(()))),
    )


def _shares(answer: Callable[..., Any], pair: Pair) -> None:
    """Which of the two parts alpha turns off."""
    maps, _, s, _ = pair
    at_one, at_zero = (_parts(answer(*pair, alpha, 2.0, T), maps, s) for alpha in (1.0, 0.0))
    expect(
        not (at_one[1] and not at_one[0] and at_zero[0]),
        "alpha and 1 - alpha are swapped: alpha = 1 must leave the features only",
    )
    expect(not at_one[1], "at alpha = 1 the logits still pull: their weight is 1 - alpha")
    expect(not at_zero[0], "at alpha = 0 the features still pull: their weight is alpha * lam")
    expect(at_zero[1], "the logits' term is dead: at alpha = 0 no gradient reaches the student")


def _parts(value: Any, maps: Maps, s: Tensor) -> tuple[bool, bool]:
    """Whether maps and logits get a gradient."""
    if not (isinstance(value, Tensor) and value.requires_grad):
        return False, False
    return any(_some(g) for g in _gradients(value, maps)), _some(_gradients(value, [s])[0])


def _features_alive(answer: Callable[..., Any], pair: Pair) -> None:
    maps, of_teacher, s, t = pair
    value = answer(*pair, 1.0, 2.0, T)
    expect(
        isinstance(value, Tensor) and value.requires_grad and bool(value != 0),
        "the features' term is dead: exactly 0 or without a gradient, for maps that differ",
    )
    for number, gradient in enumerate(_gradients(value, maps)):
        expect(
            _some(gradient),
            "the student's map {} of {} gets no gradient: every pair of maps counts",
            number + 1, len(maps),
        )  # fmt: skip
    elsewhere = [m.detach().flip(2, 3).requires_grad_() for m in of_teacher]  # channels as before
    others = [m.detach().flip(1).requires_grad_() for m in of_teacher]  # places as before
    for name, moved in (("spatial", elsewhere), ("channel", others)):
        got = _number(answer(moved, of_teacher, s, t, 1.0, 1.0, T))
        expect(
            abs(got) > 1e-6,
            "the {} term is dead: maps that differ only in it give a loss of 0",
            name,
        )


def _logits(answer: Callable[..., Any], pair: Pair) -> None:
    *_, s, t = pair
    got = _number(answer(*pair, 0.0, 2.0, T))
    wanted = kd_loss(s, t, T)
    expect(
        not close(got * T**2, wanted, 1e-3),
        "the logits' part is T^2 times too small: multiply their KL by temperature squared",
    )
    expect(
        not close(got, kd_loss(t, s, T), 1e-3) and not close(got * T**2, kd_loss(t, s, T), 1e-3),
        "the logits' KL points the wrong way: it is KL(teacher || student)",
    )
    expect(
        not close(got * s.shape[1], wanted, 1e-3),
        "the logits' part is divided by the classes too: sum over them, mean over the batch",
    )
    expect(
        close(got, wanted, 1e-3),
        "at alpha = 0 the loss is {:.5f}, expected {:.5f}: T^2 KL of softmax(t/T) and "
        "softmax(s/T), summed over classes, mean over the batch",
        got, _number(wanted),
    )  # fmt: skip


def _features(answer: Callable[..., Any], pair: Pair) -> None:
    maps, of_teacher, *_ = pair
    got = _number(answer(*pair, 1.0, 1.0, T))
    wanted = _number(sum(attention_divergences(maps, of_teacher)))
    backwards = _number(sum(attention_divergences(of_teacher, maps)))
    expect(
        not close(got, len(maps) * wanted, 1e-3),
        "the features' part is {} times too large: take the mean over the maps, not their sum",
        len(maps),
    )
    expect(
        not close(got, len(maps[0]) * wanted, 1e-3),
        "the features' part grows with the batch: take the mean over its images",
    )
    expect(
        not close(got, backwards, 1e-3),
        "the features' KL points the wrong way: it is KL(teacher || student)",
    )
    expect(
        close(got, wanted, 1e-3),
        "at alpha = 1 and lam = 1 the loss is {:.5f}, expected {:.5f}: is the spatial map divided "
        "by its sum, and is there no softmax beyond channel_attention's own?",
        got, wanted,
    )  # fmt: skip
    weighted = _number(answer(*pair, 1.0, 3.0, T))
    expect(
        close(weighted, 3 * wanted, 1e-3),
        "lam = 3 makes the features' part {:.2f} times as large, not 3 times",
        weighted / wanted,
    )


# ---- dead terms ---------------------------------------------------------------------------------

DEAD = {
    "a constant": "a term without a graph moves nothing",
    "detached": "its value is not 0, but it was detached, so no weight feels it",
    "saturated": "it has a graph, but the gradient that comes through it is all zeros",
    "of others": "its graph reaches other tensors, none of these weights",
}
ALIVE = {
    "plain": "it has a gradient",
    "squared": "it has a gradient",
    "negative": "a loss may be below 0 and pull all the same",
    "zero today": "its value is 0, but its gradient is not: ask the gradient, not the value",
    "balanced": "its gradient's entries add up to 0, but none of them is 0: ask g.abs().max()",
    "downwards": "its gradient has no entry above 0, but all are below: ask g.abs().max()",
    "last weight": "it reaches one of the weights: one is enough",
}


@exercise
def dead_terms(answer: Callable[..., Any], draws: Draws) -> None:
    """Exactly the terms that no weight feels, without a trace in the weights."""
    weights, terms = _terms(draws)
    before = [w.detach().clone() for w in weights]
    try:
        got = answer(terms, weights)
    except RuntimeError as error:
        expect("second time" not in str(error), "the terms share a graph: retain_graph=True")
        expect("does not require grad" not in str(error), "ask requires_grad first: {}", error)
        expect("not have been used" not in str(error), "{}: allow_unused=True", error)
        raise
    expect(got is not None, "the answer is None: does the function end in a return?")
    expect(isinstance(got, Iterable) and not isinstance(got, (str, Tensor)),
           "the answer should be a list of names, not {!r}", got)  # fmt: skip
    got = list(got)
    expect(all(isinstance(name, str) for name in got),
           "the answer should be a list of names, not {!r}", got)  # fmt: skip
    for name, why in DEAD.items():
        expect(name in got, "the term {!r} is dead and was not found: {}", name, why)
    for name, why in ALIVE.items():
        expect(name not in got, "the term {!r} is alive: {}", name, why)
    expect(len(got) == len(DEAD), "a term is in the list twice, or is none of them: {}", got)
    expect(
        all(w.grad is None for w in weights),
        "the weights' .grad is filled now, and the next step would add to it: use "
        "torch.autograd.grad in place of backward",
    )
    expect_unchanged("a weight", [w.detach() for w in weights], before)


def _terms(draws: Draws) -> tuple[list[Tensor], dict[str, Tensor]]:
    a, b, c, other = (draws.normal(4).requires_grad_() for _ in range(4))
    shared = (a * b).exp()  # keeps what its backward pass needs: once
    terms = {
        "plain": shared.sum(),
        "a constant": torch.zeros(()),
        "squared": shared.square().sum(),
        "detached": shared.sum().detach(),
        "negative": -a.square().sum(),
        "saturated": (a - 100).relu().sum(),
        "zero today": (b - b.detach()).sum(),
        "of others": other.square().sum(),
        "balanced": a @ torch.tensor([1.0, -1.0, 2.0, -2.0]),
        "downwards": -b.sum(),
        "last weight": c.square().sum(),
    }
    return [a, b, c], terms

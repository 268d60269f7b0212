"""Checks of notebook 4, what a network looks at."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from akt_course.checks.answers import (
    close,
    exercise,
    expect,
    expect_tensor,
    expect_unchanged,
    first_that_fits,
)
from akt_course.checks.draws import Draws

# ---- both maps ----------------------------------------------------------------------------------


@exercise
def attention_maps(answer: Callable[..., Any], draws: Draws) -> None:
    """Unit length and a sum of one for each image; blind to what a permutation changes."""
    for shape in ((3, 4, 5, 6), (5, 8, 2, 2), (1, 3, 4, 4)):
        x = draws.normal(*shape)
        given = x.clone()
        spatial, channel = _two(answer(given), shape)
        _spatial(spatial, x)
        _channel(channel, x)
        expect_unchanged("x", given, x)
        _invariances(answer, x, draws)
    spatial, _ = answer(torch.zeros(2, 3, 4, 4))
    expect(
        spatial.isfinite().all(),
        "where a map is all zero, 0 is divided by 0: use F.normalize, or clamp the length from "
        "below",
    )


def _two(got: Any, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    expect(got is not None, "the answer is None: does the function end in a return?")
    expect(
        isinstance(got, (tuple, list)) and len(got) == 2,
        "expected two tensors, (spatial, channel); got a {}",
        type(got).__name__,
    )
    batch, channels, height, width = shape
    spatial, channel = got
    places = height * width
    if isinstance(spatial, Tensor) and isinstance(channel, Tensor):
        expect(
            spatial.shape != (batch, channels) or channel.shape != (batch, places),
            "the two are swapped: the spatial map comes first",
        )
        expect(
            spatial.shape != (batch, height, width) and spatial.shape != (batch, 1, height, width),
            "the spatial map still has height and width: flatten it, (B, H*W)",
        )
    expect_tensor(spatial, (batch, places), "the spatial map")
    expect_tensor(channel, (batch, channels), "the channel map")
    return spatial, channel


def _spatial(spatial: Tensor, x: Tensor) -> None:
    energy = x.square().mean(1).flatten(1)
    root = energy.square().sum(1, keepdim=True).sqrt()
    wanted = energy / root
    if close(spatial, wanted, 1e-4):
        return
    mean = x.mean(1).flatten(1).square()
    size = x.abs().mean(1).flatten(1)
    first_that_fits(spatial, (
        (energy, "the spatial map is not normalised: divide each row by its L2 norm"),
        (energy / energy.sum(1, keepdim=True), "the spatial rows sum to one: the paper divides by "
         "the L2 norm, the root of the sum of squares"),
        (energy.softmax(1), "the spatial map went through a softmax: only the channel map does"),
        (energy / energy.norm(), "the whole batch has length 1: normalise each row on its own, "
         "dim=1"),
        (energy / energy.norm(dim=0), "the length is taken over the batch: normalise each row, "
         "dim=1"),
        (mean / mean.norm(dim=1, keepdim=True), "this is the square of the mean over channels, in "
         "which signs cancel: take the mean of the squares"),
        (size / size.norm(dim=1, keepdim=True), "these are absolute values: take squares"),
    ), 1e-4)  # fmt: skip
    length = spatial.norm(dim=1)
    expect(
        close(length, torch.ones_like(length), 1e-4),
        "a spatial row has length {:.3f}, expected 1",
        float(length[0]),
    )
    expect(False, "the spatial rows have length 1, but are not mean_c(x^2): is it the mean over "
           "the channels, dim=1, of x squared?")  # fmt: skip


def _channel(channel: Tensor, x: Tensor) -> None:
    energy = x.square().mean((2, 3))
    if close(channel, energy.softmax(1), 1e-4):
        return
    first_that_fits(channel, (
        (energy, "the channel map is not normalised: end with a softmax over the channels"),
        (energy.softmax(0), "the softmax runs over the batch: over the channels, dim=1"),
        (energy / energy.sum(1, keepdim=True), "the channel rows are divided by their sum: the "
         "paper takes a softmax"),
        (x.square().sum((2, 3)).softmax(1), "this is the sum over positions, which makes the "
         "softmax sharper the larger the map: take the mean"),
        (x.mean((2, 3)).square().softmax(1), "this is the square of the mean over positions, in "
         "which signs cancel: take the mean of the squares"),
        (x.mean((2, 3)).softmax(1), "the channel map forgets the square"),
        (x.abs().mean((2, 3)).softmax(1), "the channel map takes absolute values: take squares"),
        (energy.norm(dim=1, keepdim=True).reciprocal() * energy, "the channel map has length 1: "
         "it ends with a softmax"),
        (energy.softmax(1).softmax(1), "the channel map went through two softmaxes"),
    ), 1e-4)  # fmt: skip
    total = channel.sum(1)
    expect(
        close(total, torch.ones_like(total), 1e-4),
        "a channel row sums to {:.3f}, expected 1",
        float(total[0]),
    )
    expect(False, "the channel rows sum to 1, but are not softmax(mean_hw(x^2)): is it the mean "
           "over height and width, dim=(2, 3)?")  # fmt: skip


def _invariances(answer: Callable[..., Any], x: Tensor, draws: Draws) -> None:
    """Which channel is which leaves the spatial map; which place is which the channel map."""
    channels, places = draws.order(x.shape[1]), draws.order(x.shape[2] * x.shape[3])
    moved = x.flatten(2)[:, :, places].view_as(x)
    spatial, channel = answer(x)
    expect(
        close(answer(x[:, channels])[0], spatial, 1e-4),
        "permuting the channels changes the spatial map: it may depend on no single channel",
    )
    expect(
        close(answer(moved)[1], channel, 1e-4),
        "permuting the positions changes the channel map: it may depend on no single position",
    )


# ---- the distance -------------------------------------------------------------------------------


@exercise
def divergence(answer: Callable[..., Any], draws: Draws) -> None:
    """KL(teacher || student) of each row: 0 for equal maps, finite at zeros, never negative."""
    for batch, size in ((4, 6), (3, 16)):
        maps = [draws.uniform(batch, size) ** 3 + 0.01 for _ in range(2)]
        teacher, student = (v / v.norm(dim=1, keepdim=True) for v in maps)
        given = teacher.clone(), student.clone()
        got = answer(*given)
        _one_a_row(got, batch, teacher, student)
        _name(got, teacher, student)
        expect_unchanged("one of the maps", given, (teacher, student))
        same = answer(teacher.clone(), teacher.clone())
        expect(close(same + 1, torch.ones(batch), 1e-4), "two equal maps are not 0 apart")
    _at_zeros(answer)


def _at_zeros(answer: Callable[..., Any]) -> None:
    zeros = torch.tensor([[0.6, 0.8, 0.0, 0.0]]), torch.tensor([[0.6, 0.0, 0.8, 0.0]])
    got = answer(*zeros)
    expect(
        torch.as_tensor(got).isfinite().all(),
        "a map that is 0 somewhere gives {}: keep the logarithms finite, for example by adding "
        "1e-12 inside",
        torch.as_tensor(got).tolist(),
    )
    expect(
        torch.as_tensor(got).min() > 1,
        "the student is 0 where the teacher is not, the worst there is, and the answer is {:.3g}: "
        "do not skip the student's zeros, and keep the logarithm finite by adding 1e-12 inside",
        float(torch.as_tensor(got).min()),
    )


def _one_a_row(got: Any, batch: int, teacher: Tensor, student: Tensor) -> None:
    if isinstance(got, Tensor) and got.ndim == 0:
        wanted = _kl(*(v / v.sum(1, keepdim=True) for v in (teacher, student)))
        expect(not close(got, wanted.sum(), 1e-3), "this is one sum over the batch: give one "
               "number for each row, .sum(dim=1)")  # fmt: skip
        expect(False, "the answer is one number: give one for each row of the batch, (B,)")
    expect_tensor(got, (batch,), "the answer")


def _name(got: Tensor, teacher: Tensor, student: Tensor) -> None:
    p, q = (v / v.sum(1, keepdim=True) for v in (teacher, student))
    wanted = _kl(p, q)
    if close(got, wanted, 1e-3):
        return
    middle = (p + q) / 2
    first_that_fits(got, (
        (_kl(q, p), "this is KL(student || teacher): weigh by the teacher's distribution"),
        (_kl(teacher, student), "the maps are no distributions yet: a row of unit L2 norm must be "
         "divided by its sum first"),
        (_kl(student, teacher), "the maps are no distributions yet (divide each row by its sum), "
         "and the direction is KL(student || teacher)"),
        (_kl(teacher.softmax(1), student.softmax(1)), "a softmax is not the division by the sum "
         "that is asked for: it flattens the maps"),
        (wanted / p.shape[1], "this is the mean over the positions: KL is their sum"),
        (_kl(p, q) / torch.log(torch.tensor(2.0)), "these are bits: use the natural logarithm"),
        (-wanted, "the sign is wrong: KL is never negative, log p - log q"),
        (-(p * q.log()).sum(1), "this is the cross-entropy: subtract the teacher's own entropy, "
         "so that equal maps give 0"),
        ((_kl(p, q) + _kl(q, p)) / 2, "this is symmetric: KL(teacher || student) has a direction"),
        ((_kl(p, middle) + _kl(q, middle)) / 2, "this is the Jensen-Shannon divergence, which has "
         "no direction"),
        ((p - q).abs().sum(1), "this is the sum of absolute differences, not KL"),
        ((p - q).square().sum(1), "this is the sum of squared differences, not KL"),
    ), 1e-3)  # fmt: skip
    expect(got.min() > -1e-5, "a divergence of {:.4f}: KL is never negative, so are both rows "
           "divided by their sum?", float(got.min()))  # fmt: skip
    expect(False, "the first row gives {:.4f}, expected {:.4f}", float(got[0]), float(wanted[0]))


def _kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p.log() - q.log())).sum(dim=1)

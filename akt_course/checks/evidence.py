"""Checks of notebook 6, does it help?"""

from collections.abc import Callable
from typing import Any

import numpy as np

from akt_course.checks.answers import close, exercise, expect, expect_number, expect_unchanged
from akt_course.checks.draws import Draws
from akt_lab.analysis.intervals import bootstrap_intervals
from akt_lab.analysis.intervals import seeds_needed as ours

DRAWS = 4000
TOLERANCE = 0.06  # of the interval's width: two seeds' resamples differ by less


@exercise
def bootstrap_difference(answer: Callable[..., Any], draws: Draws) -> None:
    """Pairs kept together, drawn with replacement, and the middle 95% of their means."""
    b = 80 + 0.01 * draws.normal(30).double().numpy()
    a = b - 2 * np.log(1 - draws.uniform(30).double().numpy())  # skewed: mean and median differ
    a[[0, -1]] = b[[0, -1]] + 2  # as the mean: whether they are drawn is asked below
    given = a.copy(), b.copy()
    got = _ends(answer(*given, DRAWS, 0))
    expect_unchanged("a", given[0], a)
    expect_unchanged("b", given[1], b)
    near = _like_the_reference(got, a, b)
    once = _ends(answer(a, b, 1, 0))
    expect(
        close(once[0], once[1], 1e-9),
        "with draws=1 there is one mean, so both ends must be that mean; yours are {:.2f} and "
        "{:.2f}: no formula with a standard deviation is needed",
        *once,
    )
    expect(
        near,
        "for 30 pairs you give {:.3f} to {:.3f}, the reference gives {:.3f} to {:.3f}: resample "
        "all 30 differences, take the mean, do so `draws` times, then percentiles 2.5 and 97.5",
        *got, *_reference(a - b),
    )  # fmt: skip
    _keeps_pairs(answer, draws)
    _draws_all(answer)
    expect(
        close(once, _ends(answer(a, b, 1, 0)), 1e-9),
        "two calls with the same seed differ: draw from np.random.default_rng(seed)",
    )
    expect(
        any(not close(once, _ends(answer(a, b, 1, seed)), 1e-9) for seed in (1, 2)),
        "another seed changes nothing: hand `seed` to np.random.default_rng",
    )


def _keeps_pairs(answer: Callable[..., Any], draws: Draws) -> None:
    seeds = 80 + 8 * draws.normal(12).double().numpy()  # the seed decides far more than the method
    gain = 1 + 0.1 * draws.normal(12).double().numpy()
    paired = _ends(answer(seeds + gain, seeds.copy(), 500, 0))
    expect(
        paired[1] - paired[0] < 1,
        "seed by seed these runs differ by 1 ± 0.1 points, but your interval is {:.1f} points "
        "wide: keep the pairs together, with one set of places for a and b",
        paired[1] - paired[0],
    )


def _draws_all(answer: Callable[..., Any]) -> None:
    """Of six differences one is 1, the others 0: a resample's mean counts how often it came."""
    for place, which, says in ((5, "last", "n - 1"), (0, "first", "1, n")):
        b = np.zeros(6)
        a = b.copy()
        a[place] = 1
        high = _ends(answer(a, b, 1000, 0))[1]
        expect(
            high > 0,
            "the {} pair is never drawn, as with integers({}): NumPy's integers(n) runs from 0 to "
            "n - 1 already",
            which, says,
        )  # fmt: skip
        expect(
            close(6 * high, round(6 * high), 1e-6),
            "a resample has not as many pairs as there are: of 6 differences draw 6",
        )


def _like_the_reference(got: tuple[float, float], a: np.ndarray, b: np.ndarray) -> bool:
    """Whether it is. The likely mistakes each have an interval of their own, and are named."""
    differences = a - b
    low, high = _reference(differences)
    width = high - low
    if _apart(got, (low, high)) <= TOLERANCE * width:
        return True
    mean = float(differences.mean())
    expect(
        got[1] - got[0] > 0.02 * width or not close(got[0], mean, 1e-6),
        "your interval has no width: all resamples have the same mean. Draw *with* replacement, "
        "so that a pair can come twice and another not at all",
    )
    expect(
        got[1] - got[0] > 0.02 * width,
        "your interval has no width: all resamples are the same one. Is the generator made, or "
        "seeded, anew at each draw? Make it once, before the loop",
    )
    expect(
        got[1] - got[0] < 2.5 * width,
        "{:.1f} points is far too wide. Are these percentiles of single differences? Take the "
        "*mean* of each resample (as many pairs as there are), and percentiles of those means",
        got[1] - got[0],
    )
    for wrong, message in (
        ((-high, -low), "that is b - a: positive must mean that `a` is better"),
        (
            _reference(differences, ends=(5, 95)),
            "the middle 90%, not 95%: cut off 2.5% at each end, so percentiles 2.5 and 97.5",
        ),
        (_medians(differences), "these fit the median of each resample; the *mean* is asked for"),
    ):
        expect(_apart(got, wrong) > TOLERANCE * width, message)
    return False


def _apart(got: tuple[float, ...], wanted: tuple[float, ...]) -> float:
    return max(abs(g - w) for g, w in zip(got, wanted, strict=True))


def _reference(
    differences: np.ndarray, ends: tuple[float, float] = (2.5, 97.5)
) -> tuple[float, ...]:
    return tuple(bootstrap_intervals(differences[None], 20_000, 0, ends)[0])


def _medians(differences: np.ndarray) -> tuple[float, ...]:
    places = np.random.default_rng(0).integers(len(differences), size=(DRAWS, len(differences)))
    return tuple(np.percentile(np.median(differences[places], axis=1), (2.5, 97.5)))


def _ends(got: Any) -> tuple[float, float]:
    expect(got is not None, "the answer is None: does the function end in a return?")
    expect(
        hasattr(got, "__len__") and len(got) == 2,
        "the answer is a {}, not two numbers: return low, high",
        type(got).__name__,
    )
    low, high = expect_number(got[0], "low"), expect_number(got[1], "high")
    expect(low <= high, "low is {:.2f} and high is {:.2f}: return them in that order", low, high)
    return low, high


@exercise
def seeds_needed(answer: Callable[..., Any], _: Draws) -> None:
    """The fewest seeds whose t-interval is as narrow as wished, from 2 seeds to hundreds."""
    for spread, resolution in ((1.0, 0.2), (1.0, 1.0), (0.7, 0.5), (0.1, 0.9), (3.0, 0.25)):
        got = expect_number(answer(spread, resolution), "the answer")
        expect(
            got == int(got), "{} is no number of seeds: return the first whole one that does", got
        )
        _explain(int(got), spread, resolution)


def _explain(got: int, spread: float, resolution: float) -> None:
    right = ours(spread, resolution)
    if got == right:
        return
    where = f"for a spread of {spread:g} and a resolution of {resolution:g}"
    expect(got >= 2, "{} gives {}: one seed has no spread at all, so begin at 2", where, got)
    normal = int(np.ceil((1.96 * spread / resolution) ** 2))
    for wrong, message in (
        (max(normal, 2), "that is 1.96, the normal's: with few seeds Student's t is larger"),
        (right - 1, "one too few; n seeds have n - 1 degrees of freedom"),
        (right + 1, "one too many: the first n that does is enough"),
        (ours(spread, resolution / 2), "that makes the *whole* interval so narrow: half is meant"),
        (ours(spread, 2 * resolution), "resolution is half the interval's width, not the whole"),
    ):
        expect(
            got != wrong,
            "{} you give {} seeds, the answer is {}. {}",
            where, got, right, message,
        )  # fmt: skip
    expect(
        False,
        "{} you give {} seeds, the answer is {}: the first n from 2 up for which "
        "t * spread / sqrt(n) is at most the resolution",
        where, got, right,
    )  # fmt: skip

"""A training as curves, while it goes on: losses, gradient norm, accuracy."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from akt_lab import losses
from akt_lab.explorers.history import History, Row
from akt_lab.explorers.picture import Picture, Shown
from akt_lab.figures.style import COLOURS
from akt_lab.settings import Settings

POINTS = 100  # of a curve
DECADES = 4  # of a logarithmic axis, at most
NORM = "student/gradient_norm"

BOXES = ((0.06, 0.57, 0.36, 0.35), (0.06, 0.13, 0.36, 0.35),
         (0.675, 0.57, 0.31, 0.35), (0.675, 0.13, 0.31, 0.35))  # fmt: skip
DASHES: Any = ("-", "--", ":", "-.", (0, (6, 1, 1, 1, 1, 1)))
TERM_COLOURS = (0, 1, 2, 3, 4, 7, 9, 5)


# ---- numbers -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """What the panel draws: medians of as many steps as make at most 100 points of a whole run.

    Attributes:
        steps: steps done at each point's end, counted through all epochs (N,).
        terms: of the losses, by name (`generator/bns`), (N,); NaN where there was none. A term
            whose least value is not 0 is given above that.
        norm: of the student's weight gradient: median, smallest and largest, (3, N).
        evaluated: steps done and accuracy in percent, (2, M).
        teacher: the teacher's accuracy, once it is known.
        total, warmup: steps of the whole run, and of its warm-up.
    """

    steps: np.ndarray
    terms: Mapping[str, np.ndarray]
    norm: np.ndarray
    evaluated: np.ndarray
    teacher: float | None
    total: int
    warmup: int


def rows_a_point(record: Mapping[str, Any]) -> int:
    """How many steps of a run make one point, so that the whole has at most 100."""
    return math.ceil(record["settings"]["epochs"] * record["settings"]["steps"] / POINTS)


def look(history: History, record: Mapping[str, Any]) -> View:
    """A history as curves.

    Args:
        history: in blocks of `rows_a_point`.
        record: of the run; `settings` must be there.
    """
    settings = Settings.from_dict(record["settings"])
    points, nothing = history.points, (math.nan,) * 3
    floor = partial(losses.floor, classes=record.get("classes", 1),
                    temperature=settings.temperature, weight=settings.logit_weight)  # fmt: skip

    def of(name: str) -> np.ndarray:  # (N, 3)
        spread = [point.spread.get(name, nothing) for point in points]
        return np.reshape(spread, (-1, 3)) - floor(name.removeprefix("student/"))

    def done(rows: Iterable[Row]) -> np.ndarray:
        return np.array([row["epoch"] * settings.steps + row["step"] + 1 for row in rows])

    drawn = [n for n in history.last or () if "/" in n and n != NORM]  # a term that came, stays
    return View(
        done(point.last for point in points),
        {name: of(name)[:, 0] for name in drawn},
        of(NORM).T,
        np.stack([done(history.scored), np.array([row["accuracy"] for row in history.scored])]),
        record.get("teacher_accuracy"),
        settings.epochs * settings.steps,
        settings.warmup_epochs * settings.steps,
    )


# ---- picture -------------------------------------------------------------------------------------


def frame(figure: Figure, view: View) -> None:
    """Four panels over the same steps: both losses, gradient norm, accuracy."""
    titles = ("generator's loss, by term", "student's loss, by term",
              "norm of the student's gradient", "student's accuracy (%)")  # fmt: skip
    for box, title, limits in zip(BOXES, titles, _limits(view), strict=True):
        axes = figure.add_axes(box)
        axes.set(xlim=(0, view.total), title=title, yscale="log", ylim=limits)
        axes.set_xticks(np.linspace(0, view.total, 5))
        first, last = (round(math.log10(end)) for end in limits)
        axes.set_yticks(ticks := 10.0 ** np.arange(first, last + 1), [f"{t:g}" for t in ticks])
        axes.yaxis.set_minor_locator(NullLocator())
        axes.axvspan(0, view.warmup, color="0.94", linewidth=0)
        if box[1] > 0.5:  # the upper row
            axes.tick_params(labelbottom=False)
        else:
            axes.set_xlabel("step (grey: warm-up)")
    accuracy = figure.axes[-1]
    accuracy.set(yscale="linear", ylim=(0, 120), yticks=(0, 25, 50, 75, 100))
    if view.teacher is not None:
        accuracy.axhline(view.teacher, color="0.3", linewidth=1)
        at = 0.02 * view.total, view.teacher + 3
        accuracy.text(*at, f"teacher {view.teacher:.1f}%", color="0.3", fontsize=9)


def _limits(view: View) -> Iterator[tuple[float, float]]:
    for side, usual in (("generator/", (1e-3, 1e1)), ("student/", (1e-2, 1e1))):
        values = [v for name, v in view.terms.items() if name.startswith(side)]
        yield decades(np.concatenate([np.empty(0), *values]), *usual)
    yield decades(view.norm, 1e0, 1e2)
    yield 1, 100


def decades(values: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """Whole decades around all positive values and `low` to `high`: four from the top at most."""
    values = values[np.isfinite(values) & (values > 0)]
    top = math.floor(np.log10(values.max(initial=high / 2))) + 1
    bottom = math.floor(np.log10(values.min(initial=low)))
    return 10.0 ** max(bottom, top - DECADES), 10.0**top


def fill(figure: Figure, view: View) -> Iterable[Artist]:
    """The curves, each with its name beside the panel."""
    generator, student, norm, accuracy = figure.axes
    for axes, side in ((generator, "generator/"), (student, "student/")):
        terms = {n.removeprefix(side): v for n, v in view.terms.items() if n.startswith(side)}
        yield from _terms(axes, view.steps, terms)
    middle, low, high = _inside(norm, view.norm)
    yield norm.fill_between(view.steps, low, high, color=COLOURS[0], alpha=0.25, linewidth=0)
    yield from norm.plot(view.steps, middle, color=COLOURS[0])
    yield from accuracy.plot(*view.evaluated, "o-", color=COLOURS[0], markersize=4)


def _terms(axes: Axes, steps: np.ndarray, terms: Mapping[str, np.ndarray]) -> Iterator[Artist]:
    heights = _heights(axes, list(terms.values()))
    beside: Any = {"transform": axes.transAxes, "clip_on": False}
    styles = zip(TERM_COLOURS, cycle(DASHES), strict=False)
    for (name, values), height, (c, dash) in zip(terms.items(), heights, styles, strict=False):
        style: Any = {"color": COLOURS[c], "linestyle": dash}
        yield from axes.plot(steps, _inside(axes, values), **style)
        yield from axes.plot((1.02, 1.10), (height, height), **style, **beside)
        text = name.replace("_", " ")
        yield axes.text(1.12, height, text, va="center", fontsize=9, color="0.2", **beside)


def _inside(axes: Axes, values: np.ndarray) -> np.ndarray:
    """What is below the lower edge, and could not be seen, lies on it."""
    return np.clip(values, 1.1 * axes.get_ylim()[0], None)


def _heights(axes: Axes, curves: Sequence[np.ndarray], gap: float = 0.17) -> np.ndarray:
    """Where in the panel, 0 to 1, each curve's name stands: beside its end, none on another."""
    low, high = axes.get_ylim()
    ends = np.clip([np.nan_to_num(values[-1]) for values in curves], low, high)
    wanted = np.log(ends / low) / np.log(high / low)
    order, heights = np.argsort(wanted, kind="stable"), np.empty(len(curves))
    room = np.arange(len(curves)) * gap
    heights[order] = np.maximum.accumulate(wanted[order] - room) + room
    return heights - max(0.0, heights.max(initial=0) - 1)


PICTURE = Picture(
    (9.4, 3.9), frame, fill, key=lambda v: (v.total, v.warmup, v.teacher, *_limits(v))
)
draw = PICTURE.draw


def show(view: View) -> Shown:
    """The picture, and what it says in words."""
    done = int(view.steps.max(initial=0))
    scores, norms = view.evaluated[1], view.norm[0][np.isfinite(view.norm[0])]
    accuracy = f"{scores[-1]:.2f}%, {scores.max():.2f}% at best" if len(scores) else "none yet"
    norm = f"{norms[-1]:.3g}" if len(norms) else "none yet"
    alt = (
        f"Curves of {done} of {view.total} steps: loss terms, gradient norm, accuracy. "
        f"Last gradient norm: {norm}. Last accuracy: {accuracy}."
    )
    reading = (
        f"Accuracy: {accuracy}. Gradient norm: {norm}; shaded: smallest to largest. A curve that "
        "is smaller than its panel shows runs along the lower edge; the difference entropy is "
        "drawn above its least value."
    )
    return Shown(PICTURE.png(view), alt, reading)

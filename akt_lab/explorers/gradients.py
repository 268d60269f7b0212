"""Explorer 3: gradient norms by layer and step, two runs side by side, and where they explode."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from akt_lab.analysis.gradients import Case, Explosion, explosion
from akt_lab.errors import AktError
from akt_lab.explorers.explorer import Explorer, menu, offer, slider
from akt_lab.explorers.picture import Picture, Shown
from akt_lab.explorers.students import by_name
from akt_lab.figures.style import COLOURS, plain
from akt_lab.runs.folder import HISTORY, Run

ALL, PREFIX = "all together", "gradient/"
COLUMNS = 400  # of a heat map, and of a line over the steps, at most


class Line(NamedTuple):
    """Norms over the steps as they are drawn, (M,) both; and their explosion, at a height."""

    steps: np.ndarray
    norms: np.ndarray
    burst: Explosion
    height: float


@dataclass(frozen=True, eq=False)
class Norms:
    """A run's gradient norms; what is drawn of them is made once, and is no longer than a picture.

    Attributes:
        name: what a menu calls it.
        bits: of weights and activations; 0 for full precision.
        layers: names, from input to output.
        first: number of the first step.
        values: (L, N), of each layer's weight gradient at each step; NaN where it broke off.
    """

    name: str
    bits: int
    layers: tuple[str, ...]
    first: int
    values: np.ndarray

    def of(self, layer: str) -> np.ndarray:
        """Norm at each step (N,): of one layer, or of all together."""
        if layer == ALL:
            return np.sqrt((self.values**2).sum(axis=0))
        return self.values[self.layers.index(layer)]

    @cached_property
    def line(self) -> Callable[[str], Line]:
        """Of one layer, or of all together."""
        return cache(partial(_line, self))

    @cached_property
    def map(self) -> np.ndarray:
        """Logarithms to the base 10, (L, M)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.log10(_thinned(self.values))


def _line(norms: Norms, layer: str) -> Line:
    values = norms.of(layer)
    burst, steps = explosion(values), norms.first + np.arange(len(values))
    height = float(values[burst.step])
    if len(values) > COLUMNS:  # then of each column the least and the largest
        ends = [_thinned(values, rule) for rule in (np.fmin, np.fmax)]
        steps, values = np.repeat(_thinned(steps, np.fmin), 2), np.stack(ends, axis=1).ravel()
    return Line(steps, values, burst, height)


def _thinned(values: np.ndarray, of_neighbours: np.ufunc = np.fmax) -> np.ndarray:
    """At most COLUMNS: the largest, say, of neighbouring steps, so that none is lost."""
    count = values.shape[-1]
    starts = np.arange(0, count, max(1, -(-count // COLUMNS)))
    return of_neighbours.reduceat(values, starts, axis=-1)


@dataclass(frozen=True)
class View:
    """What the gradient explorer draws.

    Attributes:
        pair: left and right.
        layer: whose norm is a line over the steps, or `ALL`.
        step: where the scrubber is.
        limits: of all norms that there are, and so of every axis and colour.
        span: from the earliest step to the latest of all runs.
    """

    pair: tuple[Norms, Norms]
    layer: str
    step: int
    limits: tuple[float, float]
    span: tuple[int, int]

    def bursts(self) -> list[Explosion]:
        """Of both, in the chosen layer."""
        return [norms.line(self.layer).burst for norms in self.pair]


# ---- numbers -------------------------------------------------------------------------------------


def of_runs(runs: Sequence[Run]) -> tuple[list[Norms], list[str]]:
    """The norms that watched runs kept, and a sentence for each run that cannot be read.

    Raises:
        AktError: if none kept any.
    """
    found, broken = [], []
    for name, group in by_name(runs).items():
        for bits, run in group.items():
            try:
                if norms := _of_run(name, bits, run):
                    found.append(norms)
            except AktError as error:
                broken.append(f"left out: {error}")
    if not found:
        none = "no run here kept its gradient norms: akt-lab quantize --watch does"
        raise AktError("; ".join(broken) or none)
    return found, broken


def _of_run(name: str, bits: int, run: Run) -> Norms | None:
    if not (path := run / HISTORY).exists():
        return None
    about = path.stat()
    rows = _read(run.folder.absolute(), (about.st_ino, about.st_size, about.st_mtime_ns))
    layers = tuple(c.removeprefix(PREFIX).removesuffix(".weight") for c in rows)
    return Norms(name, bits, layers, int(rows.index[0]), rows.to_numpy().T) if layers else None


@lru_cache(maxsize=32)
def _read(folder: Path, stamp: object) -> pd.DataFrame:
    """The norms in a run's history, a row a step after the warm-up; `stamp`: anew if another."""
    run = Run(folder)
    settings, rows = run.settings, run.history()
    if rows.empty:
        return rows
    rows = rows[rows["epoch"] >= settings.warmup_epochs]
    rows = rows.set_index(rows["epoch"] * settings.steps + rows["step"])
    return rows[[name for name in rows if name.startswith(PREFIX)]].astype(float)


def of_study(found: pd.DataFrame) -> list[Norms]:
    """The norms that `gradients.study` measured, a case each."""
    usual = (found["ranges"] == "ema") & (found["observed"] == Case.observed)
    counted = found["ranges"] + " " + found["observed"].astype(str)
    found = found.assign(ranges=found["ranges"].where(usual, counted))
    cases = found.groupby(["loss", "gradient", "ranges", "seed", "bits"], sort=False)
    norms = []
    for (*rules, seed, bits), rows in cases:
        parts = [str(rule) for rule in rules if rule not in ("identity", "ema")]
        name = ", ".join(parts + ([f"seed {seed}"] if seed else []))
        table = rows.pivot_table("norm", "layer", "step", sort=False, dropna=False)
        layers = tuple(str(layer).removesuffix(".weight") for layer in table.index)
        norms.append(Norms(name, int(bits), layers, int(table.columns[0]), table.to_numpy(float)))
    return norms


def limits(all_norms: Iterable[Norms]) -> tuple[float, float]:
    """Whole decades around every norm that is finite and not zero."""
    values = np.concatenate([norms.values.ravel() for norms in all_norms])
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        return 1e-3, 1.0
    low, high = np.quantile(values, 0.01), values.max()
    return 10.0 ** np.floor(np.log10(low)), 10.0 ** np.ceil(np.log10(1.5 * high))


# ---- picture -------------------------------------------------------------------------------------

STYLES = ({"color": COLOURS[0], "linestyle": "-"}, {"color": COLOURS[1], "linestyle": "--"})


def frame(figure: Figure, view: View) -> None:
    """Two heat maps above, lines over the steps and over the layers below."""
    for left, norms in zip((0.06, 0.545), view.pair, strict=True):
        axes = figure.add_axes((left, 0.56, 0.435, 0.36))
        count = len(norms.layers)
        axes.set(xlim=_edges(view.span), ylim=(count + 0.5, 0.5))
        axes.set_yticks(sorted({1, (count + 1) // 2, count}))
        axes.grid(False)
    figure.axes[0].set_ylabel("layer")
    lines = figure.add_axes((0.075, 0.11, 0.56, 0.33))
    lines.set(xlim=_edges(view.span), ylim=view.limits, yscale="log", xlabel="step")
    lines.set_title("gradient norm at each step")
    layers = figure.add_axes((0.70, 0.11, 0.28, 0.33))
    most = max(len(norms.layers) for norms in view.pair)
    layers.set(xlim=(0.5, most + 0.5), ylim=view.limits, yscale="log", xlabel="layer")
    layers.set_title("at this step")


def _edges(span: tuple[int, int]) -> tuple[float, float]:
    return span[0] - 0.5, span[1] + 0.5


def fill(figure: Figure, view: View) -> Iterable[Artist]:
    """Both runs, and the scrubber."""
    *maps, lines, layers = figure.axes
    low, high = np.log10(view.limits)
    for axes, norms, style in zip(maps, view.pair, STYLES, strict=True):
        count, length = norms.values.shape
        extent = (norms.first - 0.5, norms.first + length - 0.5, count + 0.5, 0.5)
        yield axes.imshow(norms.map, cmap="cividis", vmin=low, vmax=high, extent=extent,
                          interpolation="nearest", aspect="auto")  # fmt: skip
        yield axes.axvline(view.step, color="white", linewidth=1.5)
        yield axes.text(0.5, 1.03, f"{plain(norms.name)}, {_bits(norms.bits)}", ha="center",
                        transform=axes.transAxes, color=style["color"])  # fmt: skip
        steps, over, burst, largest = norms.line(view.layer)
        yield from lines.plot(steps, over, linewidth=1.2, **style)
        mark = "X" if burst.exploded else "o"
        height = largest if np.isfinite(largest) else view.limits[1]
        yield from lines.plot(norms.first + burst.step, height, mark, markersize=9, clip_on=False,
                              markeredgecolor="black", color=style["color"])  # fmt: skip
        at = _column(norms, view.step)
        yield from layers.plot(np.arange(1, count + 1), at, marker="o", markersize=4, **style)
    yield lines.axvline(view.step, color="0.4", linewidth=1)


def _column(norms: Norms, step: int) -> np.ndarray:
    place = step - norms.first
    inside = 0 <= place < norms.values.shape[1]
    return norms.values[:, place] if inside else np.full(len(norms.layers), np.nan)


PICTURE = Picture(
    (9.4, 4.6), frame, fill,
    key=lambda view: (view.limits, view.span, *(len(norms.layers) for norms in view.pair)),
)  # fmt: skip
draw = PICTURE.draw


def show(view: View) -> Shown:
    """The picture, and what it says in words."""
    said = [
        f"{side}, {norms.name}, {_bits(norms.bits)}: {_largest(burst)} "
        f"at step {norms.first + burst.step}{', an explosion' if burst.exploded else ''}"
        for side, norms, burst in zip(("Left", "Right"), view.pair, view.bursts(), strict=True)
    ]
    alt = f"Gradient norms, {view.layer}. {'. '.join(said)}. The scrubber is at step {view.step}."
    low, high = view.limits
    reading = (
        f"{'. '.join(said)}. Blue, solid: left; orange, dashed: right. A cross marks an explosion "
        f"(above ten times the median), a dot the largest step of a run without. Dark to bright: "
        f"{low:g} to {high:g}, the same on both sides."
    )
    return Shown(PICTURE.png(view), alt, reading)


def _largest(burst: Explosion) -> str:
    if math.isinf(burst.ratio):
        return "not finite"
    if math.isnan(burst.ratio):  # the median is 0
        return "zero at most steps, largest"
    return f"largest {burst.ratio:.1f} times the median,"


def _widths(by_bits: Iterable[int]) -> list[tuple[str, int]]:
    """For a slider: few bits first, full precision last."""
    return [(_bits(bits), bits) for bits in sorted(by_bits, key=lambda b: b or 99)]


def _bits(bits: int) -> str:
    return f"{bits} bits" if bits else "full"


# ---- explorer ------------------------------------------------------------------------------------


def gradient_explorer(
    runs: Sequence[Run] | None = None, table: pd.DataFrame | None = None
) -> Explorer:
    """Run x bits x layer x step: two heat maps with a scrubber, lines, explosion marks.

    Args:
        runs: watched ones (`--watch`).
        table: what `gradients.study` returns, in place of them.

    Raises:
        AktError: if there is nothing to show.
    """
    everything, broken = (of_study(table), []) if table is not None else of_runs(runs or ())
    found: dict[str, dict[int, Norms]] = {}
    for norms in everything:
        found.setdefault(norms.name, {})[norms.bits] = norms
    ends = limits(everything)
    last = max(norms.first + norms.values.shape[1] for norms in everything) - 1
    span = min(norms.first for norms in everything), last
    first = next(iter(found))
    c: dict[str, Any] = {}
    for side, tip, bits in (
        ("left", "a run", _widths(found[first])[0][1]),
        ("right", "the run to compare it with", max(found[first])),
    ):
        c[side] = menu(side, list(found), first, tip)
        about = "of weights and activations"
        c[f"{side}_bits"] = slider("bits", _widths(found[first]), bits, about)
    c["layer"] = menu("layer", [ALL], ALL, "whose norm is drawn over the steps")
    c["step"] = slider("step", range(span[0], last + 1), span[0], "of training: the scrubber")

    def follow() -> None:
        for side in ("left", "right"):
            there = _widths(found[c[side].value])
            offer(c[f"{side}_bits"], there, there[0][1])
        pair = [found[c[side].value][c[f"{side}_bits"].value] for side in ("left", "right")]
        offer(c["layer"], [ALL, *(n for n in pair[0].layers if n in pair[1].layers)], ALL)

    def view(left: str, left_bits: int, right: str, right_bits: int, layer: str, step: int) -> View:
        return View((found[left][left_bits], found[right][right_bits]), layer, step, ends, span)

    rows = [[c["left"], c["left_bits"]], [c["right"], c["right_bits"]], [c["layer"], c["step"]]]
    explorer = Explorer(lambda **values: show(view(**values)), c, rows, follow)
    if broken:
        explorer.say("; ".join(broken))
    return explorer

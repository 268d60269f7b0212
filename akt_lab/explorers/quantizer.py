"""Explorer 1, the quantizer playground: a layer's numbers, a grid, and what the grid costs."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from torch import Tensor

from akt_lab.benches import Bench, BenchSpec, load_bench
from akt_lab.errors import unknown
from akt_lab.explorers.explorer import Explorer, menu, slider
from akt_lab.explorers.picture import Picture, Shown
from akt_lab.figures.style import COLOURS, plain
from akt_lab.graph import CONVOLUTION, trace
from akt_lab.quantizer import (
    GRADIENTS,
    MAX_BITS,
    MIN_BITS,
    RANGES,
    SCALE_BITS,
    ActivationQuantizer,
    affine_parameters,
    fake_quantize,
    histogram,
    pnorm_range,
)

LIVE, CHOSEN = "per_channel_dynamic", "pnorm"
RULES = tuple(rule for rule in RANGES if rule != "learned")  # which begins as `pnorm`
BATCHES, IMAGES = 20, 32  # that the ranges are observed on; fewer of a small bench
ROWS, EACH = 64, 128  # of the values that are shown: channels, and numbers of each
CLIPS = np.round(np.linspace(0.05, 1.2, 24), 2)
LOWEST, HIGHEST = 1e-3, 300  # percent of error


@dataclass(frozen=True)
class Values:
    """Numbers of one layer, and the range that each rule finds for them.

    Attributes:
        name: what they are.
        rows: (R, n), a row a channel.
        ranges: by rule, (20, 2): low and high after each batch; (R, 2) for live ranges; not those
            of `pnorm`, which depend on the bits.
        size: how many numbers one range covers; a row's for live ranges.
    """

    name: str
    rows: Tensor
    ranges: Mapping[str, Tensor]
    size: Mapping[str, int]


@dataclass(frozen=True)
class View:
    """What the playground draws.

    Attributes:
        name: what the numbers are.
        x, x_hat: the numbers (N,), before and after.
        span: of the axis that they are drawn on.
        stairs: (2, M): a range of x, and where it goes; the widest channel's where each has a grid.
        levels: the grid's values inside the span.
        passes: the part of the axis where the gradient gets through.
        clip: what the range is multiplied by.
        errors: mean squared error at each of CLIPS, in percent of the numbers' mean square.
        error: the same, at `clip`.
        beyond: percent of the numbers outside the range.
        bits, effective, used: as asked for; with the ranges' own cost; entropy of a grid's levels.
    """

    name: str
    x: np.ndarray
    x_hat: np.ndarray
    span: tuple[float, float]
    stairs: np.ndarray
    levels: np.ndarray
    passes: tuple[float, float]
    clip: float
    errors: np.ndarray
    error: float
    beyond: float
    bits: int
    effective: float
    used: float


# ---- numbers -------------------------------------------------------------------------------------


@torch.no_grad()
def layer_values(bench: Bench, layer: str, kind: str) -> Values:
    """A layer's `weights`, or the `activations` that flow into it.

    Raises:
        UsageError: if the teacher has no such layer.
    """
    network = trace(bench.teacher)
    if layer not in (layers := _convolutions(network)):
        raise unknown("layer", layer, layers)
    if kind == "weights":
        weight = network.get_parameter(f"{layer}.weight").flatten(1)
        return _values(f"weights of {layer}", [weight] * BATCHES)
    maps = [_input(network, layer, x) for x in _batches(bench)]
    return _values(f"activations into {layer}", [m.flatten(2).flatten(0, 1) for m in maps])


def _convolutions(network: torch.nn.Module) -> list[str]:
    return [name for name, m in network.named_modules() if isinstance(m, CONVOLUTION)]


def _batches(bench: Bench) -> Iterator[Tensor]:
    """Batches of evaluation images, each spread over all of them, which may be sorted by class."""
    count = len(bench.images)
    chosen = torch.linspace(0, count - 1, BATCHES * min(IMAGES, max(1, count // BATCHES))).long()
    for number in range(BATCHES):
        yield bench.normalise(bench.images[chosen[number::BATCHES].tolist()])


def _input(network: torch.nn.Module, layer: str, x: Tensor) -> Tensor:
    found: list[Tensor] = []
    module = network.get_submodule(layer)
    with module.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].clone())):
        network(x)
    return found[0]


def _values(name: str, batches: list[Tensor]) -> Values:
    last = batches[-1]
    chosen = torch.linspace(0, len(last) - 1, min(ROWS, len(last))).long()
    step = max(1, last.shape[1] // EACH)
    found = {rule: _observed(rule, batches) for rule in RULES if rule not in (LIVE, CHOSEN)}
    found[LIVE] = torch.stack(last.aminmax(dim=1), dim=1)[chosen]
    size = dict.fromkeys(RULES, last.numel()) | {LIVE: last.shape[1]}
    return Values(name, last[chosen, ::step], found, size)


def _observed(rule: str, batches: list[Tensor]) -> Tensor:
    observer = ActivationQuantizer(MAX_BITS, rule)
    found = []
    for batch in batches:
        observer.observe(batch)
        found.append(torch.stack((observer.low, observer.high)))
    return torch.stack(found)


def look(values: Values, bits: int, rule: str, seen: int, clip: float, gradient: str) -> View:
    """What a grid does to the values.

    Args:
        values: from `layer_values`.
        bits: 2 to 8.
        rule: how the range is found, one of `RULES`.
        seen: after how many batches, 1 to 20; `pnorm` chooses by the numbers that are shown.
        clip: what the range is then multiplied by.
        gradient: straight-through rule, one of `GRADIENTS`.
    """
    live = rule == LIVE
    if rule == CHOSEN:
        ends = torch.cat(pnorm_range(*histogram(values.rows), bits))
    else:
        ends = values.ranges[rule] if live else values.ranges[rule][seen - 1]
    rounded = partial(_rounded, values.rows, ends, bits)
    x_hat = rounded(clip)
    one = ends[int((ends[:, 1] - ends[:, 0]).argmax())] if live else ends  # whose grid is drawn
    span = _span(values.rows)
    axis = torch.linspace(*span, 400)
    stairs = torch.stack((axis, _rounded(axis[None], one, bits, clip)[0])).numpy()
    scale, zero_point = affine_parameters(clip * one[0], clip * one[1], bits)
    levels = ((torch.arange(2**bits) - zero_point) * scale).numpy()
    half = (levels[1] - levels[0]) / 2  # what rounds to an outermost level is inside the grid
    lows, highs = (clip * ends[..., i, None] for i in (0, 1))
    outside = (values.rows < lows.clamp(max=0)) | (values.rows > highs.clamp(min=0))
    return View(
        values.name, values.rows.flatten().numpy(), x_hat.flatten().numpy(), span, stairs,
        levels[(levels >= span[0]) & (levels <= span[1])],
        span if gradient == "identity" else (levels[0] - half, levels[-1] + half),
        clip,
        np.array([_error(values.rows, rounded(c)) for c in CLIPS]),
        _error(values.rows, x_hat),
        100 * float(outside.float().mean()),
        bits,
        bits + (SCALE_BITS + bits) / values.size[rule],
        _entropy(x_hat if live else x_hat.view(1, -1)),
    )  # fmt: skip


def _rounded(rows: Tensor, ends: Tensor, bits: int, clip: float) -> Tensor:
    scale, zero_point = affine_parameters(clip * ends[..., 0], clip * ends[..., 1], bits)
    return fake_quantize(rows, scale, zero_point, bits)


def _error(rows: Tensor, rounded: Tensor) -> float:
    return 100 * float((rounded - rows).square().mean() / rows.square().mean())


def _entropy(grids: Tensor) -> float:
    """Bits that a number's level carries: the mean over grids, a row each."""
    found = [row.unique(return_counts=True)[1].double() / len(row) for row in grids]
    return float(np.mean([-(shares * shares.log2()).sum() for shares in found])) + 0.0


def _span(rows: Tensor) -> tuple[float, float]:
    low, high = min(0.0, float(rows.min())), max(0.0, float(rows.max()))
    margin = 0.15 * (high - low) or 1.0
    return low - margin, high + margin


# ---- picture -------------------------------------------------------------------------------------


def frame(figure: Figure, view: View) -> None:
    """Three panels: the staircase, the numbers with the levels, the error at each clip."""
    boxes = ((0.075, 0.17, 0.24, 0.70), (0.385, 0.17, 0.265, 0.70), (0.735, 0.17, 0.25, 0.70))
    stairs, counts, errors = (figure.add_axes(box) for box in boxes)
    stairs.set(xlim=view.span, ylim=view.span, title="where each number goes")
    stairs.set(xlabel="before", ylabel="after")
    counts.set(xlim=view.span, ylim=(0.7, 1.3 * len(view.x)), yscale="log")
    counts.set(title=plain(view.name, 36), xlabel="value", ylabel="how many")
    errors.set(xlim=(0, CLIPS[-1] + 0.05), ylim=(LOWEST, HIGHEST), yscale="log")
    errors.set(title="squared error (%)", xlabel="clip: share of the range")
    stairs.plot(view.span, view.span, "--", color="0.75", linewidth=1)
    counts.hist(view.x, bins=np.linspace(*view.span, 80).tolist(), color="0.75")


def fill(figure: Figure, view: View) -> Iterable[Artist]:
    """The grid's part of the picture."""
    stairs, counts, errors = figure.axes
    yield stairs.axvspan(*view.passes, color=COLOURS[2], alpha=0.18, linewidth=0)
    yield from stairs.plot(*view.stairs, color=COLOURS[0])
    yield counts.vlines(view.levels, 0.7, 1.3 * len(view.x), color=COLOURS[0], linewidth=0.8)
    yield from errors.plot(CLIPS, np.clip(view.errors, LOWEST, HIGHEST), color=COLOURS[3])
    dot = np.clip(view.error, LOWEST, HIGHEST)
    yield from errors.plot(view.clip, dot, "o", color=COLOURS[3], markersize=8)


PICTURE = Picture((9.4, 3.1), frame, fill, key=lambda view: (view.name, view.span))
draw = PICTURE.draw


def show(view: View) -> Shown:
    """The picture, and what it says in words."""
    best = int(view.errors.argmin())
    alt = (
        f"{view.name} at {view.bits} bits: {len(view.levels)} levels in sight. Squared error "
        f"{view.error:.3g}% at clip {view.clip:g}; smallest {view.errors[best]:.3g}% at "
        f"{CLIPS[best]:g}. {view.beyond:.2g}% lie beyond the range."
    )
    reading = (
        f"{view.error:.3g}% squared error; {view.beyond:.2g}% beyond the range. "
        f"{view.bits} bits a number are {view.effective:.3f} with the ranges' own, and the levels "
        f"carry {view.used:.2f}. Blue: the grid. Green: where a gradient gets through. "
        "Red: the error at every clip, the dot at this one."
    )
    return Shown(PICTURE.png(view), alt, reading)


# ---- explorer ------------------------------------------------------------------------------------


def quantizer_playground(bench: Bench | None = None) -> Explorer:
    """Bits, range rule, clipping and gradient rule against a staircase, levels and the error.

    Args:
        bench: whose teacher's numbers are shown; digits where None.
    """
    bench = bench or load_bench(BenchSpec())
    layers = _convolutions(trace(bench.teacher))
    values = cache(partial(layer_values, bench))
    controls: dict[str, Any] = {
        "kind": menu("numbers", ["weights", "activations"], "weights", "which numbers of a layer"),
        "layer": menu("layer", layers, layers[len(layers) // 2], "which convolution"),
        "bits": slider("bits", range(MIN_BITS, MAX_BITS + 1), 3, "of each number"),
        "clip": slider("clip", [float(c) for c in CLIPS], 1.0, "the range is multiplied by it"),
        "rule": menu("range rule", RULES, "ema", "how the range is found"),
        "seen": slider("batches seen", range(1, BATCHES + 1), 10, "how many the rule has observed"),
        "gradient": menu("gradient rule", GRADIENTS, "identity", "straight-through"),
    }

    def follow() -> None:
        # These are of each image anew, or of the numbers that are shown.
        controls["seen"].disabled = controls["rule"].value in (LIVE, CHOSEN)

    def shown(kind: str, layer: str, **grid: Any) -> Shown:
        return show(look(values(layer, kind), **grid))

    c = controls
    rows = ([c["kind"], c["layer"]], [c["bits"], c["clip"], c["seen"]], [c["rule"], c["gradient"]])
    return Explorer(shown, controls, rows, follow)

"""Figures of attention and of the second order, from the tables of `studies`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from akt_lab.plots import COLOURS, METHOD_STYLE, STYLE, Drawing, seeds

PART_STYLE: Mapping[str, dict[str, Any]] = {
    "spatial": {"color": COLOURS[0], "marker": "o", "linestyle": "-", "label": "spatial part"},
    "channel": {"color": COLOURS[1], "marker": "D", "linestyle": "-", "label": "channel part"},
    "rest": {"color": COLOURS[7], "marker": "s", "linestyle": "--", "label": "the rest"},
}


def bit_name(bits: int) -> str:
    """As on an axis; 0 stands for full precision."""
    return str(bits) if bits else "full"


def bit_axis(axes: Axes, bits: Sequence[int]) -> dict[int, int]:
    """From full precision down to 2; returns each bit-width's place."""
    order = sorted(bits, key=lambda b: -b if b else -99)
    axes.set_xticks(range(len(order)), [bit_name(b) for b in order])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("bits of weights and activations")
    return {b: place for place, b in enumerate(order)}


def lines(axes: Axes, table: pd.DataFrame, value: str, by: Any, styles: Mapping[Any, Any]) -> None:
    """A line a style: the seeds' median by bits, with bars from the least to the largest."""
    places = bit_axis(axes, table["bits"].unique().tolist())
    for key, style in styles.items():
        rows = table[(table[by] == key) if isinstance(by, str) else all_equal(table, by, key)]
        seeds = rows.dropna(subset=value).groupby("bits")[value]
        middle = seeds.median().sort_index(key=lambda b: b.map(places))
        reach = [middle - seeds.min(), seeds.max() - middle]
        where = middle.index.map(places)
        axes.errorbar(where, middle, [r.loc[middle.index] for r in reach], capsize=2, **style)


def all_equal(table: pd.DataFrame, names: Sequence[str], values: Sequence[Any]) -> pd.Series:
    """Which rows have these values in these columns."""
    return (table[list(names)] == list(values)).all(axis=1)


# ---- attention ----------------------------------------------------------------------------------


def attention_by_bits(found: pd.DataFrame, about: str) -> Drawing:
    """How far the student's attention is from the teacher's, before and after training.

    Args:
        found: what `studies.attention` returns.
        about: the bench, for the caption.
    """
    table = found.groupby(["method", "bits", "trained"], sort=False, as_index=False)[
        ["spatial", "channel"]
    ].mean()
    methods = [m for m in dict.fromkeys(table["method"]) if m not in ("ptq", "zeroq")]
    bits = sorted(table["bits"].unique())
    before = {"color": "0.35", "linestyle": ":", "marker": "s"}
    lines = [("before training", False, methods[0], before)]
    lines += [(f"after {m}", True, m, METHOD_STYLE.get(m, {})) for m in sorted(methods)]
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(1, 2, figsize=(8.6, 3.8), layout="constrained")
        for axes, part in zip(grid, ("spatial", "channel"), strict=True):
            for label, trained, method, style in lines:
                rows = table[(table["method"] == method) & (table["trained"] == trained)]
                rows = rows.sort_values("bits")
                axes.plot(rows["bits"], rows[part], label=label, **style)
            axes.set(title=f"{part} attention", yscale="log", xlabel="bits")
            axes.set_xticks(bits, [str(b) for b in bits])
            axes.xaxis.set_minor_locator(NullLocator())
        grid[0].set_ylabel("KL(teacher ‖ student),\nnats, mean over layers")
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    at = table[(table["bits"] == bits[0])]
    listed = "; ".join(
        f"{r.method} {'after' if r.trained else 'before'}: {r.spatial:.2g} and {r.channel:.2g}"
        for r in at.itertuples()
        if r.method in methods
    )
    return Drawing(
        figure,
        table,
        alt=f"Divergence of spatial and channel attention by bits. At {bits[0]} bits: {listed}.",
        caption=(
            f"How far the student's attention maps lie from the teacher's, mean over "
            f"{found['layer'].nunique()} layers, {seeds(found)}. {about} "
            "`before training`: only rounded."
        ),
    )


# ---- second order -------------------------------------------------------------------------------


def error_cost(found: pd.DataFrame, about: str) -> Drawing:
    """Which part of a feature map's rounding error is the costly one?

    Args:
        found: what `studies.error_cost` returns.
        about: bench and images, for the caption.
    """
    parts = found[found["part"].isin(PART_STYLE)]
    table = parts.assign(against_random=parts["cost_per_square"] / parts["random"])
    mean = table.groupby(["part", "bits"], as_index=False)[["share", "against_random"]].agg(
        {"share": "mean", "against_random": lambda r: float(np.exp(np.log(r).mean()))}
    )
    panels = (
        ("share", "its share of the squared error", "linear"),
        ("against_random", "its cost per square,\nan error of random direction = 1", "log"),
    )
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(1, 2, figsize=(8.8, 3.9), layout="constrained")
        for axes, (value, label, scale) in zip(grid, panels, strict=True):
            lines(axes, mean, value, "part", PART_STYLE)
            for part, style in PART_STYLE.items():
                rows = table[table["part"] == part]
                places = {b: n for n, b in enumerate(sorted(rows["bits"].unique(), reverse=True))}
                faint = {**style, "label": None, "linestyle": "", "alpha": 0.25}
                axes.plot(rows["bits"].map(places), rows[value], markersize=4, **faint)
            axes.set(yscale=scale, title=label)
        grid[1].axhline(1, color="0.4", linewidth=1)
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles[:3], labels[:3], loc="outside lower center", ncols=3, frameon=False)
    at = mean.set_index(["part", "bits"])
    listed = "; ".join(
        f"{part}: {100 * at.share[part, 3]:.0f}% of the square, {at.against_random[part, 3]:.2g} "
        "times a random error's cost"
        for part in PART_STYLE
    )
    return Drawing(
        figure,
        table,
        alt=f"Share and cost of the parts of a feature map's rounding error. At 3 bits {listed}.",
        caption=(
            f"A feature map's own rounding error, split into what changes its spatial attention, "
            "what changes its channel attention (they overlap), and the rest; its cost ½ e'He to "
            f"the distillation loss, per square. {about} Lines: mean over layers (geometric on the "
            "right); faint: each layer."
        ),
    )


def curvature(found: pd.DataFrame, about: str) -> Drawing:
    """Trace and largest eigenvalue of the distillation loss by bits.

    Args:
        found: what `studies.curvature` returns.
        about: bench and images, for the caption.
    """
    full = found[found["bits"] == 0].iloc[0]
    students = found[found["bits"] > 0]
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(1, 2, figsize=(8.6, 3.9), layout="constrained")
        for axes, value, label in zip(
            grid, ("trace", "eigenvalue"), ("trace", "largest eigenvalue"), strict=True
        ):
            places = bit_axis(axes, students["bits"].unique().tolist())
            for n, (sharpness, rows) in enumerate(students.groupby("sharpness")):
                rows = rows.sort_values("bits", ascending=False)
                errors = 2 * rows["trace_error"] if value == "trace" else rows["residual"]
                axes.errorbar(
                    rows["bits"].map(places), rows[value], errors, color=COLOURS[n],
                    marker="oD"[n % 2], linestyle=("--", "-")[n % 2], capsize=3,
                    label=f"student, sharpness {sharpness:g}",
                )  # fmt: skip
            axes.axhline(full[value], color="0.3", linewidth=1, label="teacher, full precision")
            if value == "trace":
                reach = 2 * full["trace_error"]
                axes.axhspan(full[value] - reach, full[value] + reach, color="0.3", alpha=0.12)
            axes.set(title=f"{label} of the Hessian")
            axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    worst = students.loc[students["trace"].idxmax()]
    return Drawing(
        figure,
        found,
        alt=(
            f"Trace and largest eigenvalue by bits. Teacher: trace {full.trace:.3g}, eigenvalue "
            f"{full.eigenvalue:.3g}. Largest trace of a student: {worst.trace:.3g} at "
            f"{worst.bits:.0f} bits and sharpness {worst.sharpness:g}."
        ),
        caption=(
            f"The Hessian of the distillation loss in the weights. {about} Rounding has no second "
            "derivative: a smooth function of the sharpness shown stands in for it (0: no "
            "rounding, only the clipping; 1 would be rounding). Even the trace's sign can depend "
            "on it: a student's figure says as much about the stand-in as about the student. The "
            "eigenvalue is the largest, not the largest in size: where the trace is negative, "
            "there are larger ones below zero. Bars and band: two standard errors of "
            "Hutchinson's estimate; the eigenvalue's residual, smaller than its mark."
        ),
    )


def loss_surface(found: pd.DataFrame, about: str) -> Drawing:
    """The distillation loss in two directions, on one scale for all networks.

    Args:
        found: what `studies.surface` returns.
        about: bench and images, for the caption.
    """
    networks = list(dict.fromkeys(found["network"]))
    logs = np.log10(found["loss"].clip(lower=found.loc[found["loss"] > 1e-3, "loss"].min()))
    levels = np.linspace(logs.min(), logs.max(), 13)
    with plt.rc_context({**STYLE, "axes.grid": False}):
        columns = min(3, len(networks))
        rows = math.ceil(len(networks) / columns)
        figure, grid = plt.subplots(
            rows, columns, figsize=(3.2 * columns + 1, 3.2 * rows + 0.5), sharex=True, sharey=True,
            squeeze=False, layout="constrained",
        )  # fmt: skip
        for empty in grid.flat[len(networks) :]:
            empty.axis("off")
        for axes, name in zip(grid.flat, networks, strict=False):
            square = found[found["network"] == name].assign(log=logs).pivot(
                index="b", columns="a", values="log"
            )  # fmt: skip
            drawn = axes.contourf(square.columns, square.index, square, levels, cmap="cividis")
            axes.contour(square.columns, square.index, square, levels, colors="w", linewidths=0.4)
            axes.plot(0, 0, "+", color="w", markersize=9)
            axes.set(title=name, aspect="equal")
        figure.supxlabel("first direction", fontsize=10)
        figure.supylabel("second direction", fontsize=10)
        bar = figure.colorbar(drawn, ax=grid, label="log10 of the distillation loss (nats × T²)")
        bar.locator = MaxNLocator(integer=True)
        bar.update_ticks()
    middle = found[(found["a"].abs() < 1e-9) & (found["b"].abs() < 1e-9)]
    listed = "; ".join(f"{r.network} {r.loss:.2g}" for r in middle.itertuples())
    return Drawing(
        figure,
        found,
        alt=f"Contours of the loss around {', '.join(networks)}. In the middle: {listed}.",
        caption=(
            f"The distillation loss around each network's weights (+), in the same two random "
            "directions, each filter of the length of the teacher's own (Li et al., 2018), on one "
            f"scale. {about}"
        ),
    )

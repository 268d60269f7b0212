"""The second order: curvature by bits, loss surfaces, and whether there is a gradient at all."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from akt_lab.figures.gradients import LOSS_STYLE
from akt_lab.figures.style import COLOURS, STYLE, Drawing, bit_axis


def draw_curvature(found: pd.DataFrame, about: str) -> Drawing:
    """Trace and largest eigenvalue of the distillation loss by bits: of `studies.curvature`."""
    full = found[found["bits"] == 0].iloc[0]
    students = found[found["bits"] > 0]
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(1, 2, figsize=(8.6, 3.9), layout="constrained")
        shown = {"trace": "trace", "eigenvalue": "largest eigenvalue"}
        for axes, (value, label) in zip(grid, shown.items(), strict=True):
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


def draw_loss_surface(found: pd.DataFrame, about: str) -> Drawing:
    """The distillation loss in two directions, on one scale: of `studies.surface`."""
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


def draw_straight_through(found: pd.DataFrame, about: str) -> Drawing:
    """How far from any function's gradient backward() is, by bits: of `studies.asymmetry`."""
    full, students = found[found["bits"] == 0].iloc[0], found[found["bits"] > 0]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
        places = bit_axis(axes, students["bits"].unique().tolist())
        style = {**LOSS_STYLE["kd"], "label": "student: straight-through"}
        x = students["bits"].map(places)
        axes.errorbar(x, students["ratio"], 2 * students["error"], capsize=3, **style)
        axes.axhline(
            math.sqrt(0.5), color="0.4", linestyle=":", linewidth=1, label="J and Jᵀ unrelated"
        )
        axes.axhline(full["ratio"], color="0.3", linewidth=1, label="teacher: a real gradient")
        axes.set(ylabel="asymmetry |J − Jᵀ| / 2|J|", ylim=(-0.04, 1.06))
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
    listed = ", ".join(f"{r.ratio:.2f} at {r.bits:.0f}" for r in students.itertuples())
    return Drawing(
        figure,
        found,
        alt=f"Asymmetry by bits. Teacher: {full.ratio:.1e}. Students: {listed} bits.",
        caption=(
            "What backward() returns for the distillation loss, tested: a gradient's Jacobian J "
            "is symmetric, v'(Ju) = u'(Jv) for all u and v. The straight-through estimator "
            "returns a field that no function has as its gradient, so a student has no Hessian, "
            "and `curvature` and `loss_surface` speak of a stand-in or of the loss alone. "
            f"{about} Central differences in float64 over {full.pairs:.0f} random pairs; bars: two "
            "standard errors over the pairs (jackknife). Half the step changes a student's value "
            f"by at most {students['step_error'].max():.0e}."
        ),
    )

"""Figures of the analysis, from the tables of `studies`; no network runs here."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from akt_lab.plots import COLOURS, METHOD_STYLE, STYLE, Drawing

LOSS_STYLE: Mapping[str, dict[str, Any]] = {
    "ce": {"color": COLOURS[7], "marker": "s", "linestyle": ":", "label": "cross-entropy"},
    "kd": {"color": COLOURS[0], "marker": "o", "linestyle": "--", "label": "distillation"},
    "paper": {"color": COLOURS[1], "marker": "D", "linestyle": "-", "label": "AKT, paper"},
    "code": {"color": COLOURS[4], "marker": "v", "linestyle": "-.", "label": "AKT, code"},
}
RULE_STYLE: Mapping[tuple[str, str, int], dict[str, Any]] = {
    ("identity", "ema", 10): {**LOSS_STYLE["kd"], "label": "identity gradient, ema ranges"},
    ("clipped", "ema", 10): {
        "color": COLOURS[2], "marker": "^", "linestyle": ":",
        "label": "clipped gradient, ema ranges",
    },
    ("identity", "ema_legacy", 20): {
        "color": COLOURS[3], "marker": "X", "linestyle": "-",
        "label": "identity gradient, released ranges (ema_legacy) after 20 batches",
    },
    ("identity", "ema_legacy", 800): {
        "color": COLOURS[4], "marker": "P", "linestyle": "--",
        "label": "identity gradient, released ranges (ema_legacy) after the papers' 800 batches",
    },
}  # fmt: skip
PART_STYLE: Mapping[str, dict[str, Any]] = {
    "spatial": {"color": COLOURS[0], "marker": "o", "linestyle": "-", "label": "spatial part"},
    "channel": {"color": COLOURS[1], "marker": "D", "linestyle": "-", "label": "channel part"},
    "rest": {"color": COLOURS[7], "marker": "s", "linestyle": "--", "label": "the rest"},
}
LIMIT = 10.0  # largest over median norm: above, we call it an explosion


def bit_name(bits: int) -> str:
    """As on an axis; 0 stands for full precision."""
    return str(bits) if bits else "full"


def _bit_axis(axes: Axes, bits: Sequence[int]) -> dict[int, int]:
    """From full precision down to 2; returns each bit-width's place."""
    order = sorted(bits, key=lambda b: -b if b else -99)
    axes.set_xticks(range(len(order)), [bit_name(b) for b in order])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("bits of weights and activations")
    return {b: place for place, b in enumerate(order)}


def _lines(axes: Axes, table: pd.DataFrame, value: str, by: Any, styles: Mapping[Any, Any]) -> None:
    places = _bit_axis(axes, table["bits"].unique().tolist())
    for key, style in styles.items():
        rows = table[(table[by] == key) if isinstance(by, str) else _all_equal(table, by, key)]
        seeds = rows.dropna(subset=value).groupby("bits")[value]
        middle = seeds.median().sort_index(key=lambda b: b.map(places))
        reach = [middle - seeds.min(), seeds.max() - middle]
        where = middle.index.map(places)
        axes.errorbar(where, middle, [r.loc[middle.index] for r in reach], capsize=2, **style)


def _all_equal(table: pd.DataFrame, names: Sequence[str], values: Sequence[Any]) -> pd.Series:
    return (table[list(names)] == list(values)).all(axis=1)


# ---- gradients ----------------------------------------------------------------------------------


def gradients_by_bits(summary: pd.DataFrame, about: str) -> Drawing:
    """Do gradients explode? Size, bursts and direction by bits, one line a loss.

    Args:
        summary: what `gradients.summarise` returns.
        about: bench, steps and images, for the caption.
    """
    plain = ["identity", "ema", 10]
    table = summary[_all_equal(summary, ["gradient", "ranges", "observed"], plain)]
    table = table.assign(
        relative_norm=table["relative_norm"].where(table["relative_norm"] > 1e-3)
    )  # full precision has nothing to distil
    panels = (
        ("relative_norm", "norm of the gradient / norm of the weights", "log"),
        ("explosion", "largest norm / median norm of a run", "log"),
        ("cosine", "cosine with the gradient in full precision", "linear"),
    )
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(1, 3, figsize=(11.4, 3.9), layout="constrained")
        for axes, (value, label, scale) in zip(grid, panels, strict=True):
            _lines(axes, table, value, "loss", LOSS_STYLE)
            axes.set(yscale=scale, title=label)
        for ticks in (grid[1].yaxis.set_major_formatter, grid[1].yaxis.set_minor_formatter):
            ticks(FuncFormatter(lambda value, _: f"{value:g}"))
        grid[1].axhline(LIMIT, color="0.4", linewidth=1, linestyle=":")
        grid[1].text(0.02, LIMIT, "called an explosion", color="0.3", fontsize=8.5, va="bottom",
                     transform=grid[1].get_yaxis_transform())  # fmt: skip
        grid[2].axhline(0, color="0.4", linewidth=1)
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    kd = table[table["loss"] == "kd"].groupby("bits")[["relative_norm", "explosion"]].median()
    return Drawing(
        figure,
        table,
        alt=(
            "Three line charts against bits, one line a loss. Distillation's gradient, relative to "
            f"the weights, is {kd.relative_norm.get(8, float('nan')):.3g} at 8 bits and "
            f"{kd.relative_norm.get(2, float('nan')):.3g} at 2; its largest norm is "
            f"{kd.explosion.get(8, float('nan')):.1f} and {kd.explosion.get(2, float('nan')):.1f} "
            "times the median."
        ),
        caption=(
            f"The student's weight gradient, all layers together. {about} Left: median over steps. "
            "Middle: how far the worst step stands out. Right: median cosine with the gradient of "
            "the same loss of the full-precision network with the same weights; near its minimum "
            "(distillation at many bits) that gradient is little but noise, so look at "
            "cross-entropy there. Losses are weighted differently: compare bit-widths along a "
            "line, not lines, on the left."
        ),
    )


def gradients_by_layer(found: pd.DataFrame, about: str) -> Drawing:
    """Where gradients grow: layers against bits, one panel a loss.

    Args:
        found: what `gradients.study` returns.
        about: bench, steps and images, for the caption.
    """
    plain = _all_equal(found, ["gradient", "ranges", "observed"], ["identity", "ema", 10])
    rows = found[plain & (found["bits"] > 0)]
    table = (
        rows.assign(relative=rows["norm"] / rows["weight_norm"])
        .groupby(["loss", "layer", "bits"], sort=False)["relative"].median().reset_index()
    )  # fmt: skip
    shown = [loss for loss in ("ce", "kd", "paper") if loss in set(table["loss"])]
    values = np.log10(table.loc[table["loss"].isin(shown), "relative"])
    with plt.rc_context({**STYLE, "axes.grid": False}):
        layers = list(dict.fromkeys(table["layer"]))
        figure, grid = plt.subplots(
            1, len(shown), figsize=(3.4 * len(shown) + 1.6, 0.24 * len(layers) + 1.9),
            sharey=True, layout="constrained", squeeze=False,
        )  # fmt: skip
        for axes, loss in zip(grid[0], shown, strict=True):
            cells = table[table["loss"] == loss].pivot(
                index="layer", columns="bits", values="relative"
            )
            cells = np.log10(cells.loc[layers, sorted(cells.columns, reverse=True)])
            image = axes.imshow(
                cells, aspect="auto", cmap="cividis", vmin=values.min(), vmax=values.max()
            )
            axes.set_title(LOSS_STYLE[loss]["label"])
            axes.set_xticks(range(cells.shape[1]), [str(b) for b in cells.columns])
            axes.set_xlabel("bits")
        grid[0, 0].set_yticks(range(len(layers)), layers, fontsize=8)
        figure.colorbar(
            image, ax=grid, label="log10 of gradient norm / weight norm (median over steps)"
        )
    worst = table[table["loss"] == "kd"].sort_values("relative").iloc[-1]
    return Drawing(
        figure,
        table,
        alt=(
            f"Heat maps of gradient norm by layer and bits for {', '.join(shown)}. For "
            f"distillation the largest, relative to its weights, is {worst.relative:.2g} in layer "
            f"{worst.layer} at {worst.bits} bits."
        ),
        caption=(
            f"The gradient's norm over its weight's, by layer (in the network's order) and bits. "
            f"{about}"
        ),
    )


def gradient_suspects(summary: pd.DataFrame, about: str) -> Drawing:
    """How much of a large gradient is the straight-through rule's, or the faulty ranges'?

    Args:
        summary: what `gradients.summarise` returns.
        about: bench, steps and images, for the caption.
    """
    table = summary[(summary["loss"] == "kd") & (summary["bits"] > 0)]
    table = table.drop(columns=["ratio", "cosine"])  # not taken under every rule
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.6, 4.2), layout="constrained")
        _lines(axes, table, "norm", ["gradient", "ranges", "observed"], RULE_STYLE)
        axes.set(yscale="log", ylabel="norm of the gradient, median over steps")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", frameon=False)
    norms = table.groupby(["gradient", "ranges", "observed", "bits"])["norm"].median()
    rules = [
        ("identity", "ema", 10),
        ("identity", "ema_legacy", 20),
        ("identity", "ema_legacy", 800),
    ]
    listed = "; ".join(
        f"at {b} bits " + ", ".join(f"{norms[(*rule, b)]:.3g}" for rule in rules) for b in (8, 3)
    )
    return Drawing(
        figure,
        table,
        alt=(
            "Gradient norm of plain distillation against bits, four rules. With correct ranges, "
            f"with the released ones after 20 and after 800 batches: {listed}."
        ),
        caption=(
            f"Plain distillation under other rules. {about} The ranges of GDFQ's released code and "
            "its descendants correct their moving average for its start again and again: after 20 "
            "batches a constant 1 reads 3904, all activations round to zero, and every bit-width "
            "has the gradient of none; after the papers' 800 the error is gone."
        ),
    )


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
            f"How far the student's attention maps lie from the teacher's on real images, mean "
            f"over {found['layer'].nunique()} layers. {about} `before training`: only rounded."
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
            _lines(axes, mean, value, "part", PART_STYLE)
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
            places = _bit_axis(axes, students["bits"].unique().tolist())
            for n, (sharpness, rows) in enumerate(students.groupby("sharpness")):
                rows = rows.sort_values("bits", ascending=False)
                errors = rows["trace_error"] if value == "trace" else rows["residual"]
                axes.errorbar(
                    rows["bits"].map(places), rows[value], 1.96 * errors, color=COLOURS[n],
                    marker="oD"[n % 2], linestyle=("--", "-")[n % 2], capsize=3,
                    label=f"student, sharpness {sharpness:g}",
                )  # fmt: skip
            axes.axhline(full[value], color="0.3", linewidth=1, label="teacher, full precision")
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
            "rounding, only the clipping; 1 would be rounding). The larger the sharpness, the "
            "larger the curvature, so a student's figure says as much about the stand-in as about "
            "the student. Bars: 95% of Hutchinson's estimate; the eigenvalue's residual."
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
        figure, grid = plt.subplots(
            1, len(networks), figsize=(3.5 * len(networks) + 1, 3.7), sharey=True,
            squeeze=False, layout="constrained",
        )  # fmt: skip
        for axes, name in zip(grid[0], networks, strict=True):
            square = found[found["network"] == name].assign(log=logs).pivot(
                index="b", columns="a", values="log"
            )  # fmt: skip
            drawn = axes.contourf(square.columns, square.index, square, levels, cmap="cividis")
            axes.contour(square.columns, square.index, square, levels, colors="w", linewidths=0.4)
            axes.plot(0, 0, "+", color="w", markersize=9)
            axes.set(title=name, xlabel="first direction", aspect="equal")
        grid[0, 0].set_ylabel("second direction")
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

"""Figures of gradients: by bits, by layer, and under other rules."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import NullLocator

from akt_lab.analysis.gradients import FIRST_STEPS, LIMIT
from akt_lab.figures.labels import seeds
from akt_lab.figures.style import COLOURS, STYLE, Drawing, all_equal, lines, plain

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
TICKS = (1, 2, 5, 10, 20, 50)


def draw_gradients_by_bits(summary: pd.DataFrame, about: str) -> Drawing:
    """Do gradients explode? Size, bursts and direction by bits: of `gradients.summarise`."""
    plain = ["identity", "ema", 10]
    table = summary[all_equal(summary, ["gradient", "ranges", "observed"], plain)]
    norm = table["relative_norm"].where(lambda n: n > 1e-3)  # full precision has nothing to distil
    table = table.assign(relative_norm=norm)
    panels = (
        ("relative_norm", "norm of the gradient / norm of the weights", "log"),
        ("explosion", "largest norm / median norm of a run", "log"),
        ("explosion_later", f"the same, largest after the first {FIRST_STEPS} steps", "log"),
        ("cosine", "cosine with the gradient in full precision", "linear"),
    )
    with plt.rc_context(STYLE):
        figure, panes = plt.subplots(2, 2, figsize=(8.8, 7.0), layout="constrained")
        grid = panes.ravel()
        grid[2].sharey(grid[1])
        for axes, (value, label, scale) in zip(grid, panels, strict=True):
            lines(axes, table, value, "loss", LOSS_STYLE)
            axes.set(yscale=scale, title=label)
        for axes in grid[1:3]:
            ticks = [tick for tick in TICKS if tick <= grid[1].get_ylim()[1]]
            axes.set_yticks(ticks, [str(tick) for tick in ticks])
            axes.yaxis.set_minor_locator(NullLocator())
            axes.axhline(LIMIT, color="0.4", linewidth=1, linestyle=":")
            axes.text(0.02, LIMIT, "called an explosion", color="0.3", fontsize=8.5, va="bottom",
                      transform=axes.get_yaxis_transform())  # fmt: skip
        grid[3].axhline(0, color="0.4", linewidth=1)
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    bursts = ["relative_norm", "explosion", "explosion_later"]
    kd = table[table["loss"] == "kd"].groupby("bits")[bursts].median().reindex([8, 2])
    return Drawing(
        figure,
        table,
        alt=(
            "Four line charts against bits, one line a loss. Distillation's gradient, relative to "
            f"the weights, is {kd.relative_norm[8]:.3g} at 8 bits and {kd.relative_norm[2]:.3g} at "
            f"2; its largest norm is {kd.explosion[8]:.1f} and {kd.explosion[2]:.1f} times the "
            f"median; after the first {FIRST_STEPS} steps at 2 bits {kd.explosion_later[2]:.1f} "
            "times."
        ),
        caption=(
            f"The student's weight gradient, all layers together. {about} Above: median over "
            "steps; how far the worst step stands out. Below: the same without the first "
            f"{FIRST_STEPS} steps, those of a student that was rounded just now; median cosine "
            "with the gradient of the same loss of the full-precision network with the same "
            "weights; near its minimum (distillation at many bits) that is little but noise: see "
            "cross-entropy there. Losses are weighted differently: compare bit-widths along a "
            "line, not lines, in the first panel."
        ),
    )


def draw_gradients_by_layer(found: pd.DataFrame, about: str) -> Drawing:
    """Where gradients grow: layers against bits, a panel a loss: of `gradients.study`."""
    usual = all_equal(found, ["gradient", "ranges", "observed"], ["identity", "ema", 10])
    rows = found[usual & (found["bits"] > 0)]
    each = (
        rows.assign(relative=rows["norm"] / rows["weight_norm"])
        .groupby(["loss", "layer", "bits", "seed"], sort=False)["relative"].median().reset_index()
    )  # fmt: skip
    at = ["loss", "layer", "bits"]
    table = each.groupby(at, sort=False)["relative"].median().reset_index()
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
            sns.heatmap(cells, ax=axes, cmap="cividis", vmin=values.min(), vmax=values.max(),
                        cbar=False, yticklabels=[plain(layer) for layer in layers])  # fmt: skip
            axes.set(title=LOSS_STYLE[loss]["label"], ylabel="")
            axes.tick_params(axis="y", labelsize=8)
        figure.colorbar(
            grid[0, 0].collections[0], ax=grid,
            label="log10 of gradient norm / weight norm (median over steps)",
        )  # fmt: skip
    worst = table[table["loss"] == "kd"].sort_values("relative").iloc[-1]
    return Drawing(
        figure,
        each,
        alt=(
            f"Heat maps of gradient norm by layer and bits for {', '.join(shown)}. For "
            f"distillation the largest, relative to its weights, is {worst.relative:.2g} in layer "
            f"{worst.layer} at {worst.bits} bits."
        ),
        caption=(
            f"The gradient's norm over its weight's, by layer (in the network's order) and bits. "
            f"{about} CSV: each seed."
        ),
    )


def draw_gradient_suspects(summary: pd.DataFrame, about: str) -> Drawing:
    """How much of a large gradient is the straight-through rule's, or the faulty ranges'?

    Of `gradients.summarise`.
    """
    table = summary[(summary["loss"] == "kd") & (summary["bits"] > 0)]
    table = table.drop(columns=["ratio", "cosine"])  # not taken under every rule
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.6, 4.2), layout="constrained")
        lines(axes, table, "norm", ["gradient", "ranges", "observed"], RULE_STYLE)
        axes.set(yscale="log", ylabel="norm of the gradient, median over steps")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", frameon=False)
    norms = table.groupby(["gradient", "ranges", "observed", "bits"])["norm"].median()
    rules = [rule for rule in RULE_STYLE if rule[0] == "identity"]
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


def how_found(table: pd.DataFrame) -> str:
    """For a caption: how gradients were found, and what is shown of them: all steps, or a summary.

    Args:
        table: what `gradients.study` returns, or `gradients.summarise`.
    """
    several = table["seed"].nunique() > 1
    bars = "median and, as bars, the least and the largest of " if several else ""
    steps, shown = (
        (table["step"].nunique(), "Median over steps, ") if "step" in table
        else (table["steps"].max(), f"Shown: {bars}")
    )  # fmt: skip
    taken = f"every student starts as its teacher and takes {steps} steps"
    return f": {taken} on the same synthetic images. {shown}{seeds(table)}."

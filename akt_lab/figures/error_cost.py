"""What the parts of a feature map's rounding error cost."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from akt_lab.figures.style import COLOURS, STYLE, Drawing, lines

PART_STYLE: Mapping[str, dict[str, Any]] = {
    "spatial": {"color": COLOURS[0], "marker": "o", "linestyle": "-", "label": "spatial part"},
    "channel": {"color": COLOURS[1], "marker": "D", "linestyle": "-", "label": "channel part"},
    "rest": {"color": COLOURS[7], "marker": "s", "linestyle": "--", "label": "the rest"},
}


def draw_error_cost(found: pd.DataFrame, about: str) -> Drawing:
    """Which part of a feature map's rounding error is the costly one? Of `studies.error_cost`."""
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

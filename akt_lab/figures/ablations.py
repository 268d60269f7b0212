"""What each piece of AKT does, as a picture."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from akt_lab.analysis.ablations import CHANGES, table
from akt_lab.analysis.intervals import mean_interval
from akt_lab.figures.style import METHOD_STYLE, STYLE, Drawing
from akt_lab.runs.folder import Run


def drawing(runs: Sequence[Run]) -> Drawing:
    """Accuracy of each change, and what it gains over the student without features."""
    found = table(runs)
    changes = [name for name in CHANGES if name in set(found["change"])]
    bits, seeds = found["bits"].iloc[0], found["seed"].nunique()
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            1, 2, figsize=(9, 0.9 + 0.32 * len(changes)), sharey=True, layout="constrained"
        )
        for axes, value in zip(panels, ("accuracy", "gain"), strict=True):
            _panel(axes, found, changes, value)
        panels[0].set_yticks(range(len(changes)), changes)
        panels[0].set_ylim(len(changes) - 0.5, -0.5)
        panels[0].set_xlim(right=min(100.5, panels[0].get_xlim()[1]))  # an interval may reach past
        panels[0].set_xlabel("top-1 accuracy after the last epoch (%)")
        panels[1].axvline(0, color="0.4", linestyle="--", linewidth=1)
        panels[1].set_xlabel("minus the same without features (points)")
    means = found.groupby("change", sort=False)["accuracy"].mean()
    listed = "; ".join(f"{name} {means[name]:.1f}%" for name in changes)
    return Drawing(
        figure,
        found,
        alt=f"Dot plot of accuracy at {bits} bits, one thing changed at a time. {listed}.",
        caption=(
            f"AdaDFQ+AKT (`paper`) on `digits` at {bits} bits with one thing changed: mean over "
            f"{seeds} seeds and its 95% t-interval, cut where it leaves the frame; small dots: "
            "each seed. `neither` is AdaDFQ without features. Right: against the student without "
            "features at the same temperature, seed by seed. Alpha is 0.5, lambda found at the "
            "first step, the temperature 20, and the maps are all bodies' where nothing else is "
            "said. Many changes are compared: some interval misses 0 by chance."
        ),
    )


def _panel(axes: Axes, found: pd.DataFrame, changes: Sequence[str], value: str) -> None:
    for place, name in enumerate(changes):
        values = found.loc[found["change"] == name, value].dropna()
        if values.empty or (value == "gain" and "neither" in name):
            continue
        style = METHOD_STYLE["adadfq" if "neither" in name else "adadfq+akt"]
        mean, _, high = mean_interval(list(values))
        bar = None if high != high else high - mean
        marks = {"color": style["color"], "marker": style["marker"], "linestyle": "none"}
        axes.errorbar(mean, place, xerr=bar, capsize=3, **marks)
        axes.plot(values, [place + 0.25] * len(values), ".", color="0.45", markersize=4)
    axes.grid(axis="y", visible=False)

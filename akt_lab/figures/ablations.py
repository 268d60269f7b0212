"""What each piece of AKT does, as a picture."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import seaborn as sns

from akt_lab.analysis.ablations import CHANGES, table
from akt_lab.analysis.intervals import mean_interval
from akt_lab.figures.style import STYLE, Drawing, style_of
from akt_lab.runs import results
from akt_lab.runs.folder import Run


def ablations(runs: Sequence[Run]) -> Drawing:
    """A dot and its 95% interval for each change: its accuracy, and its gain over no features."""
    found, images = table(runs), int(results.table(runs)["images"].dropna().iloc[0])
    changes = [name for name in CHANGES if name in set(found["change"])]
    bits, seeds = found["bits"].iloc[0], found["seed"].nunique()
    without = found["change"].str.contains("neither")
    shown = found.assign(gain=found["gain"].mask(without), label="adadfq+akt")
    shown.loc[without, "label"] = "adadfq"
    look = {label: style_of(label) for label in dict.fromkeys(shown["label"])}
    marks: Any = {
        "hue": "label", "palette": {label: style["color"] for label, style in look.items()},
        "markers": [style["marker"] for style in look.values()], "linestyle": "none",
    }  # fmt: skip
    with plt.rc_context(STYLE):
        figure, panels = plt.subplots(
            1, 2, figsize=(9, 0.9 + 0.32 * len(changes)), sharey=True, layout="constrained"
        )
        for axes, value, grain in zip(panels, ("accuracy", "gain"), (1, math.sqrt(2)), strict=True):
            sns.pointplot(
                shown, x=value, y="change", order=changes, ax=axes, legend=False, markersize=6,
                errorbar=lambda v, grain=grain: mean_interval([*v], 100 * grain / images)[1:],
                capsize=0.25, err_kws={"linewidth": 1.5}, **marks,
            )  # fmt: skip
            below = shown["change"].map(changes.index) + 0.25
            axes.plot(shown[value], below, ".", color="0.45", markersize=4)
            axes.grid(axis="y", visible=False)
            axes.set_ylabel("")
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

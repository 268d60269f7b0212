"""What each piece of AKT does: one thing changed at a time, the demo's runs, several seeds."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from akt_lab import demo
from akt_lab.benches import BenchSpec
from akt_lab.errors import AktError
from akt_lab.grid import Job
from akt_lab.intervals import mean_interval
from akt_lab.plots import METHOD_STYLE, STYLE, Drawing
from akt_lab.runs import Run

AKT: dict[str, Any] = {"method": "adadfq+akt"}
PLAIN: dict[str, Any] = {"method": "adadfq"}
CHANGES: dict[str, dict[str, Any]] = {
    "neither": PLAIN,
    "both": AKT,
    "spatial": {**AKT, "parts": "spatial"},
    "channel": {**AKT, "parts": "channel"},
    "code": {**AKT, "variant": "code"},
    "alpha 0.25": {**AKT, "alpha": 0.25},
    "alpha 0.75": {**AKT, "alpha": 0.75},
    "lambda 0.5": {**AKT, "lam": 0.5},
    "lambda 50": {**AKT, "lam": 50.0},
    "maps after the sum": {**AKT, "maps": "sum"},
    "maps after the relu": {**AKT, "maps": "relu"},
    "last map only": {**AKT, "last_maps": 1},
    "temperature 4": {**AKT, "temperature": 4.0},
    "temperature 4, neither": {**PLAIN, "temperature": 4.0},
}


def jobs(folder: Path, bits: int, seeds: Sequence[int]) -> list[Job]:
    """Every change with every seed, seed by seed."""
    found = []
    for seed, (name, change) in itertools.product(seeds, CHANGES.items()):
        settings = replace(demo.settings(change["method"], bits, seed), **change)
        found.append(Job(settings, BenchSpec(), folder / f"{_slug(name)}-{bits}-{seed}"))
    return found


def _slug(name: str) -> str:
    return name.replace(" ", "-").replace(",", "")


def table(runs: Sequence[Run]) -> pd.DataFrame:
    """A row a run that ended: change, bits, seed, accuracy in percent, and `gain` in points.

    `gain` is the accuracy minus that of `neither` with the same bits and seed (and temperature).

    Raises:
        AktError: if none of the runs is one of `jobs`.
    """
    names = {_slug(name): name for name in CHANGES}
    rows = []
    for run in runs:
        change = names.get(run.folder.name.rsplit("-", 2)[0])
        if change and run.record.get("status") == "done":
            s = run.record["settings"]
            about = {"change": change, "bits": s["weight_bits"], "seed": s["seed"]}
            rows.append(
                {**about, "accuracy": run.record["accuracy"]["last"], "lam": run.record["lam"]}
            )
    if not rows:
        raise AktError("no ablations among these runs: python benchmarks/ablations.py makes them")
    found = pd.DataFrame(rows)
    found["against"] = [c if c.startswith("temp") else "neither" for c in found["change"]]
    found.loc[found["change"] == "temperature 4", "against"] = "temperature 4, neither"
    plain = found[["change", "bits", "seed", "accuracy"]].rename(
        columns={"change": "against", "accuracy": "plain"}
    )
    found = found.merge(plain, on=["against", "bits", "seed"], how="left")
    return found.assign(gain=found["accuracy"] - found["plain"]).drop(columns="plain")


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

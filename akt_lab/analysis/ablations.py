"""What each piece of AKT does: one thing changed at a time, the demo's runs, several seeds."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from akt_lab.benches import BenchSpec
from akt_lab.errors import AktError
from akt_lab.runs.folder import Run
from akt_lab.runs.jobs import Job, demo_settings

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
        settings = replace(demo_settings(change["method"], bits, seed), **change)
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

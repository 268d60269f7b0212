"""What each piece of AKT does: one thing changed at a time, the demo's runs, several seeds."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from akt_lab.analysis.kept import check_one_bench
from akt_lab.benches import BenchSpec
from akt_lab.errors import AktError
from akt_lab.runs.folder import Run, differences
from akt_lab.runs.jobs import Job, demo_settings
from akt_lab.runs.results import OF_AKT, line_of, row
from akt_lab.settings import Settings

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


OF_A_CHANGE = ("method", "temperature", *OF_AKT)  # the settings that changes set


def table(runs: Sequence[Run]) -> pd.DataFrame:
    """A row a run that ended: change, bits, seed, accuracy in percent, and `gain` in points.

    `gain` is the accuracy minus that of `neither` with the same seed (and temperature).

    Raises:
        AktError: if none of the runs is one of `jobs`; if one is not what its folder's name says;
            or if they differ in more than their change and seed: says in what.
    """
    names = {_slug(name): name for name in CHANGES}
    found = {}
    for run in runs:
        change = names.get(run.folder.name.rsplit("-", 2)[0])
        if change and run.done:
            found[run] = {"change": change, **row(line_of(run))}
    if not found:
        raise AktError("no ablations among these runs: python benchmarks/ablations.py makes them")
    check_one_bench(list(found))
    shared: dict[str, Any] = {}
    for run, r in found.items():
        asked, rest = Settings(**CHANGES[r["change"]]), dict(r["settings"])
        own = {name: rest.pop(name) for name in OF_A_CHANGE}
        for name, value, other in differences(own, asked.to_dict()):
            raise AktError(
                f"{run.folder} is named for {r['change']!r}, but its {name} is {value}, "
                f"not {other}: move it out of the ablations"
            )
        rest |= {"seed": 0, "teacher": r["teacher"], "images": r["images"]}
        for name, value, other in differences(shared := shared or rest, rest):
            raise AktError(
                f"these ablations differ in more than their change and seed ({name}: "
                f"{value}, and {other} of {run.folder}): name a folder of one kind"
            )
    cells = pd.DataFrame(
        {"change": r["change"], "bits": r["settings"]["weight_bits"], "seed": r["seed"],
         "accuracy": r["last"], "lam": r["lam"]} for r in found.values()
    ).drop_duplicates(["change", "seed"], keep="last", ignore_index=True)  # fmt: skip
    cells["against"] = [
        "temperature 4, neither" if c.startswith("temp") else "neither" for c in cells["change"]
    ]
    plain = cells.set_index(["change", "seed"])["accuracy"]
    pairs = pd.MultiIndex.from_frame(cells[["against", "seed"]])
    return cells.assign(gain=cells["accuracy"] - plain.reindex(pairs).to_numpy())

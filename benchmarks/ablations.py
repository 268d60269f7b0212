"""What each piece of AKT does: one thing changed at a time, on digits at 3 bits, several seeds.

    python benchmarks/ablations.py --out results/ablations_digits.jsonl
    akt-lab table --results results/ablations_digits.jsonl

The runs are those of the demo. What has ended is not done again.
"""

import argparse
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

from akt_lab import demo
from akt_lab.benches import BenchSpec
from akt_lab.grid import Job
from akt_lab.sweep import run_grid

AKT: dict[str, Any] = {"method": "adadfq+akt"}
CHANGES: dict[str, dict[str, Any]] = {
    "neither": {"method": "adadfq"},
    "both": AKT,
    "spatial": {**AKT, "parts": "spatial"},
    "channel": {**AKT, "parts": "channel"},
    "code": {**AKT, "variant": "code"},
    "alpha 0.25": {**AKT, "alpha": 0.25},
    "alpha 0.75": {**AKT, "alpha": 0.75},
    "lambda 0.5": {**AKT, "lam": 0.5},
    "lambda 50": {**AKT, "lam": 50.0},
    "temperature 4": {**AKT, "temperature": 4.0},
    "temperature 4, neither": {"method": "adadfq", "temperature": 4.0},
}


def jobs(folder: Path, bits: int, seeds: list[int]) -> list[Job]:
    """Every change with every seed, seed by seed."""
    found = []
    for seed, (name, change) in itertools.product(seeds, CHANGES.items()):
        settings = replace(demo.settings(change["method"], bits, seed), **change)
        place = folder / f"{name.replace(' ', '-').replace(',', '')}-{bits}-{seed}"
        found.append(Job(settings, BenchSpec(), place))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/ablations_digits.jsonl"))
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--bits", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    chosen = parser.parse_args()
    run_grid(jobs(chosen.runs, chosen.bits, chosen.seeds), results_file=chosen.out)

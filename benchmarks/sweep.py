"""How much faster two single-thread workers do a sweep on digits than one.

    python benchmarks/sweep.py --out results/sweep_speed.json

The same grid with one worker and with two, in turns. Throughput is the student's and generator's
steps of all runs divided by the time from the first run's start to the last one's end; the whole
time, with the start of the workers, is beside it.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from akt_lab.benches import BenchSpec
from akt_lab.runs.folder import STUDENT, provenance
from akt_lab.runs.jobs import jobs_of
from akt_lab.runs.sweep import run_grid


def measure(workers: int, seeds: int, epochs: int, steps: int) -> dict[str, float]:
    """Do the grid in a new folder; seconds, and steps a second."""
    sizes = {"batch_size": 32, "epochs": epochs, "steps": steps}
    with tempfile.TemporaryDirectory() as folder:
        grid = [["adadfq", "adadfq+akt"], [3], range(seeds), ["paper"]]
        jobs = jobs_of(Path(folder), BenchSpec(), *grid, sizes)
        began = time.time()
        run_grid(jobs, workers, progress=False)
        whole = time.time() - began
        starts = [(job.folder / ".lock").stat().st_mtime for job in jobs]
        ends = [(job.folder / STUDENT).stat().st_mtime for job in jobs]
    busy = max(ends) - min(starts)
    done = len(jobs) * epochs * steps
    return {"steps_per_second": done / busy, "busy_seconds": busy, "whole_seconds": whole}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, default=4, help="runs are twice as many")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--rounds", type=int, default=2)
    chosen = parser.parse_args()
    measured: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for _ in range(chosen.rounds):
        for workers, rounds in measured.items():
            rounds.append(measure(workers, chosen.seeds, chosen.epochs, chosen.steps))
            print(f"{workers} workers: {rounds[-1]}", flush=True)
    one, two = (statistics.median(r["steps_per_second"] for r in measured[w]) for w in (1, 2))
    whole = [statistics.median(r["whole_seconds"] for r in measured[w]) for w in (1, 2)]
    report = {
        "two_over_one": round(two / one, 3),
        "two_over_one_with_start": round(whole[0] / whole[1], 3),
        "rounds": measured,
        "settings": {k: v for k, v in vars(chosen).items() if k != "out"},
        "versions": provenance(),
    }
    print(f"two workers / one: {two / one:.2f}; with their start: {whole[0] / whole[1]:.2f}")
    if chosen.out:
        chosen.out.write_text(json.dumps(report, indent=2) + "\n")

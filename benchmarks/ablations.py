"""Runs AKT with one thing changed at a time, on digits at 3 bits, several seeds.

    python benchmarks/ablations.py --out results/ablations_digits.jsonl
    akt-lab figures ablations --runs runs/ablations

The runs are those of the demo. What has ended is not done again.
"""

import argparse
from pathlib import Path

from akt_lab.analysis.ablations import jobs
from akt_lab.runs.sweep import run_grid

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/ablations_digits.jsonl"))
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--bits", type=int, default=3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    chosen = parser.parse_args()
    run_grid(jobs(chosen.runs, chosen.bits, chosen.seeds), results_file=chosen.out)

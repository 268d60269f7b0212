r"""How the demo's student rate was chosen: on synthetic images, without a label or a test image.

    python benchmarks/rates.py --out results/rates.csv
    python benchmarks/rates.py --out results/rates_photographs.csv --bench cifar10 --weights FILE \
        --data TRAINING_SPLIT --bits 3 --epochs 10 --batch-size 16 --compile

For each method, bit-width and rate one short run; the score is the student's KL from the teacher
on 256 synthetic images set aside at the end of the warm-up. They are the same images for every
rate, because the student has not been trained by then. What --data holds is not looked at.
"""

import argparse
import itertools
import os
from pathlib import Path

import pandas as pd

from akt_lab.benches import BenchSpec
from akt_lab.runs.folder import Run
from akt_lab.runs.jobs import Job
from akt_lab.runs.sweep import run_grid
from akt_lab.settings import Settings

LOSSES = (("", "paper"), ("+akt", "paper"), ("+akt", "code"))  # what follows a method's name


def job(given: argparse.Namespace, method: str, variant: str, bits: int, rate: float) -> Job:
    """One run of the grid."""
    settings = Settings(
        method=method,
        variant=variant,
        weight_bits=bits,
        act_bits=bits,
        student_lr=rate,
        batch_size=given.batch_size,
        epochs=given.epochs,
        steps=given.steps,
        warmup_epochs=2,
        eval_every=given.epochs,
        compile=given.compile,
    )
    spec = BenchSpec(given.bench, weights=given.weights, data=given.data)
    return Job(settings, spec, given.runs / f"{given.bench}-{method}-{variant}-{bits}-{rate:g}")


def row(run: Run) -> dict[str, object]:
    """What the choice may look at: no accuracy."""
    record, history, settings = run.record, run.history(), run.settings
    scores = history.get("synthetic_kl", pd.Series(dtype=float)).dropna()
    return {
        "method": settings.method,
        "variant": settings.shown_variant,
        "bits": settings.weight_bits,
        "student_lr": settings.student_lr,
        "synthetic_kl": scores.iloc[-1] if run.done else float("inf"),
        "status": record["status"],
        "lambda": record.get("lam"),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/rates.csv"))
    parser.add_argument("--runs", type=Path, default=Path("runs/rates"))
    parser.add_argument("--bits", type=int, nargs="+", default=[3, 2, 4])
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-5, 1e-4, 3e-4, 1e-3])
    parser.add_argument("--methods", nargs="+", default=["gdfq", "adadfq"], help="plain ones")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--bench", default="digits")
    parser.add_argument("--weights", type=os.path.abspath)
    parser.add_argument("--data", type=os.path.abspath)
    chosen = parser.parse_args()
    grid = itertools.product(chosen.bits, chosen.methods, LOSSES, chosen.rates)
    jobs = [
        job(chosen, method + akt, variant, bits, rate)
        for bits, method, (akt, variant), rate in grid
    ]
    table = pd.DataFrame([row(run) for run in run_grid(jobs)])
    table.to_csv(chosen.out, index=False)
    print(table.to_string(index=False))

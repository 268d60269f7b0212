"""The main job in minutes: a digits teacher, and its students at 2, 3 and 4 bits without data."""

import itertools
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from akt_lab.benches import BenchSpec
from akt_lab.grid import Job
from akt_lab.intervals import proportion_interval
from akt_lab.methods import Settings
from akt_lab.runs import Run, table
from akt_lab.sweep import run_grid

METHODS, BITS = ("ptq", "adadfq", "adadfq+akt"), (2, 3, 4)


def settings(method: str, bits: int, seed: int = 0, steps: int = 50) -> Settings:
    """The demo's settings; the student's rate was chosen by benchmarks/rates.py."""
    return Settings(
        method=method,
        weight_bits=bits,
        act_bits=bits,
        batch_size=32,
        epochs=8,
        steps=steps,
        warmup_epochs=2,
        seed=seed,
    )


def run(folder: Path, seed: int, steps: int, workers: int | None) -> tuple[pd.DataFrame, list[Run]]:
    """Every method at every bit-width; runs that are there already are not made again."""
    jobs = [
        Job(
            settings(method, bits, seed, steps),
            BenchSpec(),
            folder / f"{method}-{bits}-{seed}",
            watch=True,
        )
        for method, bits in itertools.product(METHODS, BITS)
    ]
    runs = run_grid(jobs, workers)
    return table(runs), runs


def print_table(results: pd.DataFrame) -> None:
    """Accuracy of each student, and its difference from the teacher's."""
    teacher, images = results["teacher"].iloc[0], int(results["images"].iloc[0])
    low, high = proportion_interval(float(results["accuracy"].max()), images)
    shown = Table(
        title=f"digits: teacher {teacher:.2f}% in full precision; students without data",
        caption=f"Top-1 on {images} test images, last epoch, one seed: near the top each figure is "
        f"uncertain by about ±{(high - low) / 2:.1f} points, so smaller differences mean nothing.",
    )
    shown.add_column("bits")
    methods = list(dict.fromkeys(results["method"]))
    for method in methods:
        shown.add_column(method, justify="right")
    for bits, rows in results.groupby("bits"):
        cells = {
            row.method: _cell(row.accuracy, row.difference, row.status) for row in rows.itertuples()
        }
        shown.add_row(str(bits), *(cells[method] for method in methods))
    Console().print(shown)


def _cell(accuracy: float, difference: float, status: str) -> str:
    if accuracy != accuracy:  # NaN: it diverged before its first evaluation
        return "diverged"
    mark = " (diverged)" if status == "failed" else ""
    return f"{accuracy:.2f}% ({difference:+.2f}){mark}"

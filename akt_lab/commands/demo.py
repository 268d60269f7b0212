"""`akt-lab demo`, the main job in minutes: digits, and students at 2, 3 and 4 bits without data."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from akt_lab.commands.options import (
    DEMO_RUNS,
    FIGURES,
    figure_folders,
    make_folder,
    path,
    positive,
    whole,
)

if TYPE_CHECKING:
    import pandas as pd

    from akt_lab.runs.folder import Run


def add(commands: argparse._SubParsersAction, name: str) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        name, help="digits: teacher to students at 2, 3, 4 bits, in minutes"
    )
    parser.add_argument("--out", type=path, default=DEMO_RUNS, help="folder for the runs")
    parser.add_argument("--figures", type=path, default=FIGURES, help="folder for the figures")
    parser.add_argument("--seed", type=whole, default=0, help="random seed")
    parser.add_argument("--workers", type=positive, help="runs side by side (default: one a core)")
    parser.add_argument("--steps", type=positive, default=50, help="steps an epoch")


def run(options: argparse.Namespace) -> int:
    """Train, print the table, draw the figures."""
    from akt_lab.figures import gallery
    from akt_lab.files import write_whole

    make_folder("--figures", options.figures)
    found, runs = train(options.out, options.seed, options.steps, options.workers)
    print_table(found)
    text = found.drop(columns=["label", "same"]).to_csv(index=False)
    write_whole(options.figures / "demo_table.csv", text.encode())
    folders = figure_folders(options.out, options.figures)
    pictures = gallery.draw(gallery.OF_RUNS, runs, options.figures, folders)
    print(f"\ntable   {options.figures / 'demo_table.csv'}")
    for picture in pictures:
        print(f"figure  {picture}")
    print(f"gallery {options.figures / 'README.md'}\nruns    {options.out}")
    return 0


def train(
    folder: Path, seed: int, steps: int, workers: int | None
) -> tuple["pd.DataFrame", list["Run"]]:
    """Every method at every bit-width; runs that are there already are not made again."""
    from akt_lab.runs.jobs import demo_jobs
    from akt_lab.runs.results import table
    from akt_lab.runs.sweep import run_grid

    runs = run_grid(demo_jobs(folder, seed, steps), workers)
    return table(runs), runs


def print_table(results: "pd.DataFrame") -> None:
    """Accuracy of each student, and its difference from the teacher's."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from akt_lab.analysis.intervals import proportion_interval

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
        shown.add_column(escape(method), justify="right")
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

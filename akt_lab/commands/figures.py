"""`akt-lab figures`: draw figures from runs."""

import argparse
from pathlib import Path
from typing import Any

from akt_lab.commands.options import DEMO_RUNS, FIGURES


def add(commands: Any, name: str) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        name, help="draw figures from runs; studies are made once and kept"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which (default: all)")
    parser.add_argument(
        "--runs", type=Path, default=DEMO_RUNS, help="folder of runs (default: the demo's, made)"
    )
    parser.add_argument("--out", type=Path, default=FIGURES, help="folder for the figures")


def run(options: argparse.Namespace) -> int:
    """Draw them, and their page; the demo's runs are made where there are none."""
    from akt_lab.commands import demo
    from akt_lab.figures import gallery
    from akt_lab.runs.folder import find_runs

    if options.runs == DEMO_RUNS and not any(DEMO_RUNS.glob("*/record.json")):
        demo.train(DEMO_RUNS, seed=0, steps=50, workers=None)
    own = "" if options.runs == DEMO_RUNS else f" --runs {options.runs}"
    own += "" if options.out == FIGURES else f" --out {options.out}"
    for picture in gallery.draw(options.names, find_runs(options.runs), options.out, own):
        print(picture)
    return 0

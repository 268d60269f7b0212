"""`akt-lab figures`: draw figures from runs."""

import argparse

from akt_lab.commands.options import DEMO_RUNS, FIGURES, figure_folders, make_folder, path


def add(commands: argparse._SubParsersAction, name: str) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        name, help="draw figures from runs; studies are made once and kept"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which (default: all)")
    parser.add_argument(
        "--runs", type=path, default=DEMO_RUNS, help="folder of runs (default: the demo's, made)"
    )
    parser.add_argument("--out", type=path, default=FIGURES, help="folder for the figures")


def run(options: argparse.Namespace) -> int:
    """Draw them, and their page; the demo's runs are made where there are none."""
    from akt_lab.commands import demo
    from akt_lab.figures import gallery
    from akt_lab.runs.folder import find_runs

    gallery.check(options.names)  # before minutes of training
    if options.runs == DEMO_RUNS and not any(DEMO_RUNS.glob("*/record.json")):
        make_folder("--out", options.out)
        demo.train(DEMO_RUNS, seed=0, steps=50, workers=None)
    runs = find_runs(options.runs)
    make_folder("--out", options.out)
    folders = figure_folders(options.runs, options.out)
    for picture in gallery.draw(options.names, runs, options.out, folders):
        print(picture)
    return 0

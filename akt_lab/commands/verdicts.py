"""`akt-lab verdicts`: the paper's claims, each with its effect, its interval and a word."""

import argparse
import json
from pathlib import Path

from akt_lab.commands.options import path


def add(commands: argparse._SubParsersAction, name: str) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        name,
        help="the paper's claims: effect, interval, and whether that supports them",
        description="The paper's claims, judged by a folder's *.jsonl and by figures' data in it, "
        "in its figures/ or in figures/ beside it. A claim is supported where the whole interval "
        "lies above a margin, contradicted where it lies below, and undecided in between; then the "
        "last column says what would decide it.",
    )
    parser.add_argument(
        "--results", type=path, default=Path("results"), metavar="DIR",
        help="folder with results (default: results)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print rows as JSON, numbers in full")


def run(options: argparse.Namespace) -> int:
    """Print a row for each claim."""
    from akt_lab.analysis.claims import claims, to_markdown

    found = claims(options.results)
    if options.json:
        print(json.dumps([verdict.row() for verdict in found], indent=2))
    else:
        print(to_markdown(found))
    return 0

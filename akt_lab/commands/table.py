"""`akt-lab table`: results with intervals, beside the paper's."""

import argparse
import sys
from pathlib import Path

from akt_lab.commands.options import make_folder, path
from akt_lab.commands.sweep import RESULTS
from akt_lab.errors import AktError


def add(commands: argparse._SubParsersAction, name: str) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        name,
        help="results of sweeps with intervals, beside the paper's",
        description="Means over seeds with 95%% intervals, AKT against plain, and the paper's "
        "numbers, from results.jsonl files.",
    )
    parser.add_argument(
        "--results", nargs="+", type=path, metavar="PATH",
        help="results files, or folders of sweeps (default: results/*.jsonl)",
    )  # fmt: skip
    parser.add_argument("--format", choices=("markdown", "csv", "json"), default="markdown")
    parser.add_argument("--out", type=path, metavar="FILE", help="write it there")
    parser.add_argument("--plot", type=path, metavar="DIR", help="draw it, too, into this folder")


def run(options: argparse.Namespace) -> int:
    """Print, or write, the table; draw it."""
    from akt_lab.analysis import tables

    files = _results_files(options.results)
    if options.plot:
        make_folder("--plot", options.plot)
    cells = tables.summarise(tables.load(files))
    text = tables.FORMATS[options.format](cells)
    if options.out:
        _write(options.out, text)
    else:
        sys.stdout.write(text)
    if options.plot:
        from akt_lab.figures import style
        from akt_lab.figures.table import dots
        from akt_lab.figures.training import curves
        from akt_lab.runs import results

        lines = [line for file in files for line in results.read(file)]
        drawings = {"table": dots(cells)}
        if any(line.get("evaluations") for line in lines):
            drawings["curves"] = curves(lines)
        for name, drawing in drawings.items():
            command = f"akt-lab table --results {' '.join(map(str, files))} --plot {options.plot}"
            style.save(drawing, options.plot, name, command)
            print(options.plot / f"{name}.png", file=sys.stderr)
    return 0


def _results_files(named: list[Path] | None) -> list[Path]:
    files = named or sorted(Path("results").glob("*.jsonl"))
    if not files:
        raise AktError("no results/*.jsonl here: make some with `akt-lab sweep`, or name --results")
    return [file / RESULTS if file.is_dir() else file for file in files]


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise AktError(f"--out {file}: {error.strerror}") from error

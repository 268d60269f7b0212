"""`akt-lab sweep` and `akt-lab table`: their options, and what they print."""

import argparse
import sys
from pathlib import Path
from typing import Any

from akt_lab.errors import AktError
from akt_lab.options import SETTING_OPTIONS, add_bench_options, given_bench, given_settings

IN_THE_GRID = ("--method", "--bits", "--seed", "--variant")  # of one run; a sweep has several
RESULTS = "results.jsonl"


def add_sweep(commands: Any) -> None:
    """Add `akt-lab sweep`."""
    parser = commands.add_parser(
        "sweep",
        help="a grid of runs, side by side or on a cluster",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        description="Do a grid of runs: methods x bits x seeds x variants on one bench. The same "
        "command again goes on where it was stopped; what has ended is not done again.",
    )
    grid = parser.add_argument_group("grid")
    _several(grid, "--methods", str, ["adadfq", "adadfq+akt"], "methods, plain or with +akt")
    _several(grid, "--bits", int, [3], "bits of weights and activations")
    _several(grid, "--seeds", int, [0], "random seeds")
    _several(grid, "--variants", str, [], "of AKT, for methods with +akt")
    where = parser.add_argument_group("where")
    where.add_argument("--out", type=Path, required=True, help="folder for runs and results.jsonl")
    where.add_argument("--workers", type=int, help="processes here; 0: this one (default: cores)")
    where.add_argument("--scheduler", metavar="ADDRESS", help="a Dask cluster, tcp://host:port")
    where.add_argument("--dry-run", action="store_true", help="list the runs and do nothing")
    one = parser.add_argument_group("settings that all runs share")
    for name, how in SETTING_OPTIONS.items():
        if name not in IN_THE_GRID:
            one.add_argument(name, **how)
    add_bench_options(parser)


def _several(group: Any, name: str, kind: type, default: list[Any], what: str) -> None:
    shown = " ".join(map(str, default)) or "the preset's"
    group.add_argument(
        name, nargs="+", type=kind, default=default, help=f"{what} (default: {shown})"
    )


def add_table(commands: Any) -> None:
    """Add `akt-lab table`."""
    parser = commands.add_parser(
        "table",
        help="results of sweeps with intervals, beside the paper's",
        description="Means over seeds with 95%% intervals, AKT against plain, and the paper's "
        "numbers, from results.jsonl files.",
    )
    parser.add_argument(
        "--results", nargs="+", type=Path, metavar="PATH",
        help="results files, or folders of sweeps (default: results/*.jsonl)",
    )  # fmt: skip
    parser.add_argument("--format", choices=("markdown", "csv", "json"), default="markdown")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write it there")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw it, too, into this folder")


def sweep(options: argparse.Namespace) -> int:
    """Do the grid, or list it."""
    from akt_lab import results
    from akt_lab.benches import BenchSpec
    from akt_lab.grid import has_ended, jobs_of
    from akt_lab.methods import check_read
    from akt_lab.sweep import run_grid
    from akt_lab.worker import Place, choose_device

    out = options.out.absolute()
    settings = given_settings(options)
    others = {k: v for k, v in settings.items() if k not in ("bits", "weight_bits", "act_bits")}
    others |= {k: getattr(options, k) for k in ("weight_bits", "act_bits") if hasattr(options, k)}
    spec = BenchSpec(**given_bench(options))
    jobs = jobs_of(
        out, spec, options.methods, options.bits, options.seeds, options.variants, others
    )
    check_read([job.settings for job in jobs], others)
    if getattr(options, "dry_run", False):
        file = out / RESULTS
        lines = {line["run"]: line for line in results.read(file)} if file.exists() else {}
        for job in jobs:
            print(f"{job.name}{'  (ended)' if has_ended(job, lines) else ''}")
        return 0
    place = Place(
        getattr(options, "workers", None),
        getattr(options, "scheduler", None),
        getattr(options, "device", None),
        getattr(options, "threads", 1),
    )
    if not place.scheduler:
        choose_device(place.device)  # a mistake shows at once
    run_grid(jobs, place=place, results_file=out / RESULTS)
    print(f"results  {options.out / RESULTS}\ntable    akt-lab table --results {options.out}")
    return 0


def table(options: argparse.Namespace) -> int:
    """Print, or write, the table; draw it."""
    from akt_lab import tables

    files = _results_files(options.results)
    cells = tables.summarise(tables.load(files))
    text = tables.FORMATS[options.format](cells)
    if options.out:
        _write(options.out, text)
    else:
        sys.stdout.write(text)
    if options.plot:
        from akt_lab import plots, results
        from akt_lab.curves import curves
        from akt_lab.dotplot import dots

        lines = [line for file in files for line in results.read(file)]
        drawings = {"table": dots(cells)}
        if any(line.get("evaluations") for line in lines):
            drawings["curves"] = curves(lines)
        for name, drawing in drawings.items():
            command = f"akt-lab table --results {' '.join(map(str, files))} --plot {options.plot}"
            plots.save(drawing, options.plot, name, command)
            print(options.plot / f"{name}.png", file=sys.stderr)
    return 0


def _results_files(named: list[Path] | None) -> list[Path]:
    paths = named or sorted(Path("results").glob("*.jsonl"))
    if not paths:
        raise AktError("no results/*.jsonl here: make some with `akt-lab sweep`, or name --results")
    return [path / RESULTS if path.is_dir() else path for path in paths]


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise AktError(f"--out {path}: {error.strerror}") from error

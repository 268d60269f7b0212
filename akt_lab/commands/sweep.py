"""`akt-lab sweep`: a grid of runs."""

import argparse
import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from akt_lab.commands.options import (
    SETTING_OPTIONS,
    add_bench_options,
    given_bench,
    given_settings,
    named,
    path,
    positive,
    threads_of,
    whole,
)
from akt_lab.errors import UsageError
from akt_lab.settings import check_read

if TYPE_CHECKING:
    from akt_lab.runs.jobs import Job

SHARED = {  # a grid has several of the others
    option: how
    for option, how in SETTING_OPTIONS.items()
    if option not in ("--method", "--bits", "--seed", "--variant")
}

RESULTS = "results.jsonl"
GRID: dict[str, list[Any]] = {  # where none are named, nor an experiment
    "methods": ["adadfq", "adadfq+akt"], "bits": [3], "seeds": [0], "variants": [],
}  # fmt: skip


def add(commands: argparse._SubParsersAction, name: str) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        name,
        help="a grid of runs, side by side or on a cluster",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        description="Do a grid of runs: methods x bits x seeds x variants on one bench. The same "
        "command again goes on where it was stopped; what has ended is not done again.",
    )
    grid = parser.add_argument_group("grid")
    _several(grid, "methods", named, "methods, plain or with +akt")
    _several(grid, "bits", whole, "bits of weights and activations")
    _several(grid, "seeds", whole, "random seeds")
    _several(grid, "variants", named, "of AKT, for methods with +akt")
    grid.add_argument(
        "--experiment", type=named, metavar="NAME",
        help="accuracy: does AKT raise it? Its methods, variants and budget, with 16 seeds on "
        "cifar10 unless others are named; then akt-lab verdicts --results OUT",
    )  # fmt: skip
    where = parser.add_argument_group("where")
    where.add_argument("--out", type=path, required=True, help="folder for runs and results.jsonl")
    where.add_argument(
        "--workers", type=whole, help="processes here; 0: this one (default: cores, or GPUs)"
    )
    where.add_argument(
        "--scheduler", type=named, metavar="ADDRESS", help="a Dask cluster, tcp://host:port"
    )
    about = "minutes to wait while that cluster has no worker (default: 30)"
    where.add_argument("--wait", type=float, metavar="MINUTES", help=about)
    about = "students that a GPU trains at once (default: what its memory holds, 16 at most)"
    where.add_argument("--side-by-side", type=positive, metavar="N", help=about)
    where.add_argument("--dry-run", action="store_true", help="list the runs and do nothing")
    one = parser.add_argument_group("settings that all runs share")
    for option, how in SHARED.items():
        one.add_argument(option, **how)
    add_bench_options(parser)


def _several(
    group: argparse._ArgumentGroup, name: str, kind: Callable[[str], Any], what: str
) -> None:
    shown = " ".join(map(str, GRID[name])) or "the preset's"
    group.add_argument(f"--{name}", nargs="+", type=kind, help=f"{what} (default: {shown})")


def run(options: argparse.Namespace) -> int:
    """Do the grid, or list it."""
    from akt_lab.benches import load_bench
    from akt_lab.runs import found, results
    from akt_lab.runs.jobs import choose_device, has_ended
    from akt_lab.runs.sweep import Place, run_grid

    out = options.out.absolute()
    others, on = given_settings(options, SHARED), given_bench(options)
    jobs = _jobs(options, out, others, on)
    check_read([job.settings for job in jobs], [*others, *on])
    if getattr(options, "dry_run", False):
        lines, load = results.by_run(out / RESULTS), functools.cache(load_bench)
        for job in jobs:
            print(f"{job.name}{'  (ended)' if has_ended(job, lines, load) else ''}")
        return 0
    place = Place(
        getattr(options, "workers", None),
        getattr(options, "scheduler", None),
        getattr(options, "device", None),
        threads_of(options, default=1) or 1,
        getattr(options, "wait", 30),
        getattr(options, "side_by_side", None),
    )
    if hasattr(options, "wait") and place.scheduler is None:
        raise UsageError("--wait is for a cluster's workers: add --scheduler, or drop it")
    if place.scheduler is None and choose_device(place.device) == "cpu" and place.side_by_side:
        found.say(
            "--side-by-side is ignored: it fills a GPU, which one small student leaves idle, and a "
            "processor's core is busy with one: --workers gives each core its own"
        )
        place = replace(place, side_by_side=None)
    run_grid(jobs, place=place, results_file=out / RESULTS)
    print(f"results  {options.out / RESULTS}\ntable    akt-lab table --results {options.out}")
    if hasattr(options, "experiment"):
        print(f"verdicts akt-lab verdicts --results {options.out}")
    return 0


def _jobs(
    options: argparse.Namespace, out: Path, others: dict[str, Any], on: dict[str, Any]
) -> "list[Job]":
    """The runs of the grid, or of the experiment, that was named."""
    from akt_lab.benches import BenchSpec
    from akt_lab.runs import experiments
    from akt_lab.runs.jobs import jobs_of

    given = {name: getattr(options, name) for name in GRID if hasattr(options, name)}
    if not hasattr(options, "experiment"):
        return jobs_of(out, BenchSpec(**on), **{**GRID, **given}, others=others)
    for name in ("methods", "variants"):
        if name in given:
            raise UsageError(f"--experiment {options.experiment} has its own: drop --{name}")
    spec = BenchSpec(**{"bench": experiments.BENCH, **on})
    several = given.get("bits", experiments.BITS), given.get("seeds", experiments.SEEDS)
    return experiments.jobs_of_experiment(options.experiment, out, spec, *several, others)

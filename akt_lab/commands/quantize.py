"""`akt-lab quantize`: one run."""

import argparse
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from akt_lab.commands.options import (
    SETTING_OPTIONS,
    add_bench_options,
    device_of,
    given_bench,
    given_settings,
    path,
    report,
)
from akt_lab.errors import AktError, DamagedError, UsageError
from akt_lab.settings import Settings, check_read, with_preset

if TYPE_CHECKING:
    from akt_lab.benches import BenchSpec
    from akt_lab.runs.folder import Run


def add(commands: argparse._SubParsersAction, name: str) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        name,
        help="train one student without data",
        argument_default=argparse.SUPPRESS,
        description="Train a quantized student of a teacher, without data, into a run folder.",
    )
    add_bench_options(parser)
    for option, how in SETTING_OPTIONS.items():
        parser.add_argument(option, **how)
    parser.add_argument(
        "--out", type=path, default=None, help="the run's folder (default: a new one in runs/)"
    )
    for option, about in (
        ("--resume", "go on with the run in --out"),
        ("--watch", "keep networks of every epoch, for the explorers"),
        ("--json", "print the result as JSON"),
    ):
        parser.add_argument(option, action="store_true", default=False, help=about)


def run(options: argparse.Namespace) -> int:
    """Train one student, or go on with it."""
    with redirect_stdout(sys.stderr):  # a network may print
        result = _result(_trained(options))
    report(result, options)
    return 0


def _trained(options: argparse.Namespace) -> "Run":
    from akt_lab.benches import load_bench
    from akt_lab.files import claim
    from akt_lab.runs import found, training
    from akt_lab.runs.folder import Run, check_made_with, free_folder
    from akt_lab.runs.jobs import Job, do, name_of
    from akt_lab.runs.networks import look

    settings, spec = _begun(options) if options.resume else _new(options)
    device = device_of(options)
    bench = load_bench(spec, device, progress=True)
    found.check_sizes(bench, settings)
    networks = look(bench, settings)
    teacher_accuracy = training.judge(bench, progress=True)
    out = options.out or free_folder(Path("runs") / name_of(settings, spec))
    run = Run.open(out) if options.resume else Run.create(out)
    with claim(run.folder, wait=False):
        check_made_with(bench, run.folder, run.get("fingerprints", {}))
        job = Job(settings, spec, run.folder, options.watch)
        if not run.done:
            lines = found.about(bench, teacher_accuracy) + found.about_training(bench, settings)
            for line in lines + found.about_networks(networks, settings):
                found.say(line)
        do(job, run, bench, teacher_accuracy, progress=True)
    return run


def _new(options: argparse.Namespace) -> tuple[Settings, "BenchSpec"]:
    """A preset's settings, replaced by what was named, none of it never read; and the bench."""
    from akt_lab.benches import BenchSpec
    from akt_lab.methods import get_method
    from akt_lab.runs.folder import Run

    given, on = given_settings(options), given_bench(options)
    settings, spec = Settings(**with_preset(given)), BenchSpec(**on)
    check_read([settings], [*given, *on])
    spec = spec.seen_by(get_method(settings.method))
    if options.out is not None:
        if options.out.exists():
            Run.create(options.out)  # says so now if it is in use
        nearest = next(folder for folder in options.out.absolute().parents if folder.exists())
        if not nearest.is_dir():
            raise AktError(f"--out {options.out}: {nearest} is a file, not a folder")
    return settings, spec


def _begun(options: argparse.Namespace) -> tuple[Settings, "BenchSpec"]:
    """Settings and bench of the run in --out, and where `options` name none its device and threads.

    Raises:
        AktError: if it is no run's folder, or the run diverged.
        UsageError: if what was named on the command line is not what the run began with.
    """
    from akt_lab.files import claim
    from akt_lab.runs.checkpoint import put_back_record
    from akt_lab.runs.folder import Run, differences

    if options.out is None:
        raise UsageError("--resume goes on with the run in --out: name it")
    if hasattr(options, "preset"):
        raise UsageError("--resume goes on with the run's own settings: drop --preset")
    run = Run(options.out)
    try:
        record = Run.open(options.out).record
    except DamagedError as error:
        with claim(run.folder, wait=False):
            put_back_record(run, error)
        record = run.record
    settings, spec = run.settings, run.spec
    if record.get("status") == "failed":
        why = record.get("error", "the run diverged. Begin another")
        raise AktError(f"{run.folder} has ended: {why}, into another --out")
    then = settings.to_dict() | spec.to_dict()
    now = replace(settings, **given_settings(options)).to_dict()
    now |= replace(spec, **given_bench(options)).to_dict()
    for name, old, new in differences(then, now):
        raise UsageError(
            f"{run.folder} was made with {name} {old}, not {new}: "
            "drop that option, or choose another --out"
        )
    if options.watch and run.done and not record.get("watched"):
        raise UsageError(
            f"{run.folder} has ended without --watch: train it anew, into another --out"
        )
    began = {"device": record.get("device"), "threads": record.get("versions", {}).get("threads")}
    for name, value in began.items():  # the same bits
        if value and not hasattr(options, name):
            setattr(options, name, value)
    return settings, spec


def _result(run: "Run") -> dict[str, Any]:
    accuracy = {name: run.entry("accuracy").get(name) for name in ("last", "label_free", "best")}
    return {
        "run": str(run.folder),
        "method": run.settings.method,
        "student_accuracy": accuracy["last"],
        "label_free_accuracy": accuracy["label_free"],
        "best_accuracy": accuracy["best"],
        "teacher_accuracy": run.entry("teacher_accuracy"),
        "lambda": run.entry("lam"),
        "images": run.entry("images"),
        "seconds": run.entry("seconds"),
    }

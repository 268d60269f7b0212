"""`akt-lab quantize`: one run."""

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from akt_lab.commands.options import (
    SETTING_OPTIONS,
    add_bench_options,
    device_of,
    given_bench,
    given_settings,
    report,
)
from akt_lab.errors import UsageError


def add(commands: Any, name: str) -> None:
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
    parser.add_argument("--out", type=Path, help="the run's folder (default: a new one in runs/)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument(
        "--watch", action="store_true", help="keep networks of every epoch, for the explorers"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: argparse.Namespace) -> int:
    """Train one student, or go on with it."""
    from akt_lab.benches import BenchSpec, load_bench
    from akt_lab.files import claim
    from akt_lab.runs import training
    from akt_lab.runs.folder import RECORD, Run
    from akt_lab.runs.jobs import Job, do

    out: Any = getattr(options, "out", None)
    resume = getattr(options, "resume", False)
    if resume:
        settings, spec = _begun(options)
    else:
        settings, spec = _settings(given_settings(options)), BenchSpec(**given_bench(options))
        if out is not None and out.exists():
            Run.create(out)  # says so now if it is in use
    device = device_of(options)
    bench = load_bench(spec, device, progress=True)
    run = Run.open(out) if resume else Run.create(out or _free_folder(settings, spec))
    with claim(run.folder, wait=False):
        teacher_accuracy = training.evaluate(bench.teacher, bench, progress=True)
        if not ((run / RECORD).exists() and run.record.get("status") == "done"):
            job = Job(settings, spec, run.folder, getattr(options, "watch", False))
            do(job, run, bench, teacher_accuracy, progress=True)
    report(_result(run), options)
    return 0


def _settings(given: dict[str, Any]) -> Any:
    """A preset's settings, replaced by those that were named; none that the method never reads."""
    from akt_lab.settings import Settings, check_read, with_preset

    settings = Settings(**with_preset(given))
    check_read([settings], given)
    return settings


def _begun(options: argparse.Namespace) -> tuple[Any, Any]:
    """Settings and bench of the run in --out, which `options` now name, too, where they do."""
    from akt_lab.benches import BenchSpec
    from akt_lab.runs.folder import Run
    from akt_lab.settings import Settings

    out = getattr(options, "out", None)
    if out is None:
        raise UsageError("--resume goes on with the run in --out: name it")
    run = Run.open(out)
    record = _same_as_recorded(run, given_settings(options), given_bench(options))
    ended = record.get("status") == "done" and not record.get("watched")
    if ended and getattr(options, "watch", False):
        raise UsageError(f"{out} has ended without --watch: train it anew, into another --out")
    _as_recorded(options, record)
    return Settings.from_dict(record["settings"]), BenchSpec.from_dict(record["bench"])


def _same_as_recorded(run: Any, settings: dict[str, Any], bench: dict[str, Any]) -> dict[str, Any]:
    """The run's record, if what was named on the command line agrees with it."""
    from akt_lab.benches import BenchSpec
    from akt_lab.settings import Settings

    settings = {name: value for name, value in settings.items() if name != "preset"}
    recorded = Settings.from_dict(run.entry("settings")), BenchSpec.from_dict(run.entry("bench"))
    named = replace(recorded[0], **settings), replace(recorded[1], **bench)
    pairs: Any = zip(recorded, named, strict=True)
    for then, now in pairs:
        for name, value in asdict(now).items():
            if value != getattr(then, name):
                raise UsageError(
                    f"{run.folder} was made with {name} {getattr(then, name)}, not {value}: "
                    "drop that option, or choose another --out"
                )
    return run.record


def _as_recorded(options: argparse.Namespace, record: dict[str, Any]) -> None:
    """The device and threads that a run began with, unless others are named: the same bits."""
    threads = record.get("versions", {}).get("threads")
    for name, then in (("device", record.get("device")), ("threads", threads)):
        if then and not hasattr(options, name):
            setattr(options, name, then)


def _free_folder(settings: Any, spec: Any) -> Path:
    """A folder in runs/ that is not there yet."""
    from akt_lab.runs.jobs import name_of

    name = name_of(settings, spec)
    free = Path("runs") / name
    count = 1
    while free.exists():
        count += 1
        free = Path("runs") / f"{name}-{count}"
    return free


def _result(run: Any) -> dict[str, Any]:
    record = run.record
    accuracy = record["accuracy"]
    return {
        "run": str(run.folder),
        "method": record["settings"]["method"],
        "student_accuracy": accuracy["last"],
        "label_free_accuracy": accuracy["label_free"],
        "best_accuracy": accuracy["best"],
        "teacher_accuracy": record["teacher_accuracy"],
        "lambda": record["lam"],
        "images": record["images"],
        "seconds": record["seconds"],
    }

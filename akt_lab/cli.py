"""The command line, `akt-lab COMMAND`: see `akt-lab --help`.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
Exit codes: 0 done, 1 failed on the way, 2 wrong usage, 130 stopped by Ctrl-C.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from akt_lab import __version__, many
from akt_lab.errors import AktError, UsageError
from akt_lab.options import SETTING_OPTIONS, positive

DEMO_RUNS = Path("runs/demo")
FIGURES = Path("figures")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a user's mistake is one line on standard error, never a traceback."""
    parser = _parser()
    options, rest = parser.parse_known_args(argv)
    if rest and options.command != "lab":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return {
            "demo": _demo,
            "quantize": _quantize,
            "evaluate": _evaluate,
            "sweep": lambda o: many.sweep(o, _given_settings(o), _given_bench(o)),
            "table": many.table,
            "figures": _figures,
            "doctor": _doctor,
            "methods": _methods,
            "lab": lambda o: _lab(o, rest),
        }[options.command](options)
    except AktError as error:
        print(f"akt-lab {options.command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        how = "--resume goes on from its last checkpoint, if it has one"
        if options.command != "quantize":
            how = "the same command goes on from it"
        print(f"\nstopped; what was saved is kept, and {how}", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="akt-lab", description="See zero-shot quantization happen, and test its claims."
    )
    parser.add_argument("--version", action="version", version=f"akt-lab {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo", help="digits: teacher to students at 2, 3, 4 bits, in minutes"
    )
    demo.add_argument("--out", type=Path, default=DEMO_RUNS, help="folder for the runs")
    demo.add_argument("--figures", type=Path, default=FIGURES, help="folder for the figures")
    demo.add_argument("--seed", type=int, default=0, help="random seed")
    demo.add_argument("--workers", type=positive, help="runs side by side (default: one a core)")
    demo.add_argument("--steps", type=positive, default=50, help="steps an epoch")

    quantize = commands.add_parser(
        "quantize",
        help="train one student without data",
        argument_default=argparse.SUPPRESS,
        description="Train a quantized student of a teacher, without data, into a run folder.",
    )
    _add_bench_options(quantize)
    for name, how in SETTING_OPTIONS.items():
        quantize.add_argument(name, **how)
    quantize.add_argument("--out", type=Path, help="the run's folder (default: a new one in runs/)")
    quantize.add_argument("--resume", action="store_true", help="go on with the run in --out")
    quantize.add_argument(
        "--watch", action="store_true", help="keep networks of every epoch, for the explorers"
    )
    quantize.add_argument("--json", action="store_true", help="print the result as JSON")

    evaluate = commands.add_parser(
        "evaluate",
        help="accuracy of a run's student, and of its teacher",
        argument_default=argparse.SUPPRESS,
        description="Accuracy of a run's student and its teacher; of a teacher alone without RUN.",
    )
    evaluate.add_argument(
        "run", nargs="?", type=Path, default=None, metavar="RUN", help="a run's folder"
    )
    _add_bench_options(evaluate)
    evaluate.add_argument("--json", action="store_true", help="print the result as JSON")

    sweep = many.add_sweep(commands, SETTING_OPTIONS)
    _add_bench_options(sweep)
    many.add_table(commands)

    figures = commands.add_parser(
        "figures", help="draw figures from runs; studies are made once and kept"
    )
    figures.add_argument("names", nargs="*", metavar="NAME", help="which (default: all)")
    figures.add_argument(
        "--runs", type=Path, default=DEMO_RUNS, help="folder of runs (default: the demo's, made)"
    )
    figures.add_argument("--out", type=Path, default=FIGURES, help="folder for the figures")

    methods = commands.add_parser("methods", help="list the methods: source, equations, settings")
    methods.add_argument("--json", action="store_true", help="print them as JSON")

    doctor = commands.add_parser("doctor", help="what this machine has, and what is missing")
    doctor.add_argument("--json", action="store_true", help="print it as JSON")

    lab = commands.add_parser("lab", help="open JupyterLab on notebooks/ (its options may follow)")
    lab.add_argument("--folder", type=Path, help="another folder of notebooks")
    lab.add_argument("--app", action="store_true", help="the explorers alone, without code")
    lab.add_argument("--runs", type=Path, help=f"runs that --app shows (default: {DEMO_RUNS})")
    return parser


def _add_bench_options(parser: argparse.ArgumentParser) -> None:
    bench = parser.add_argument_group("bench")
    bench.add_argument(
        "--bench",
        help="digits (default), cifar10 or cifar100 (downloaded on first use), imagenet-resnet18 "
        "(or just imagenet) or imagenet-mobilenet_v2 (weights are downloaded, --data is yours)",
    )
    bench.add_argument("--teacher", help="one's own network: module:function that returns it")
    bench.add_argument("--weights", help="the teacher's weights, .safetensors or .pth")
    bench.add_argument("--data", help="evaluation images: a folder for each class")
    for name in ("--mean", "--std"):
        bench.add_argument(
            name, nargs="+", action="extend", type=_numbers, metavar="X",
            help="of each channel, on the scale 0 to 1",
        )  # fmt: skip
    bench.add_argument(
        "--image-size", type=positive, help="resize and crop images to this many pixels"
    )
    bench.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    bench.add_argument(
        "--threads",
        type=int,
        help="processor threads (default: one a core; in a sweep 1 for each run)",
    )


def _numbers(text: str) -> list[float]:
    """`0.5` or `0.5,0.4,0.3`."""
    return [float(part) for part in text.split(",") if part.strip()]


# ---- commands -----------------------------------------------------------------------------------


def _demo(options: argparse.Namespace) -> int:
    from akt_lab import demo, gallery

    try:
        options.figures.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AktError(f"--figures {options.figures}: {error.strerror}") from error
    table, runs = demo.run(options.out, options.seed, options.steps, options.workers)
    demo.print_table(table)
    table.to_csv(options.figures / "demo_table.csv", index=False)
    pictures = gallery.draw(gallery.OF_RUNS, runs, options.figures)
    print(f"\ntable   {options.figures / 'demo_table.csv'}")
    for picture in pictures:
        print(f"figure  {picture}")
    print(f"gallery {options.figures / 'README.md'}\nruns    {options.out}")
    return 0


def _quantize(options: argparse.Namespace) -> int:
    from akt_lab.benches import BenchSpec, load_bench
    from akt_lab.grid import Job
    from akt_lab.runs import RECORD, Run, claim
    from akt_lab.training import evaluate
    from akt_lab.worker import do

    out: Any = getattr(options, "out", None)
    resume = getattr(options, "resume", False)
    if resume:
        settings, spec = _begun(options)
    else:
        settings, spec = _settings(_given_settings(options)), BenchSpec(**_given_bench(options))
        if out is not None and out.exists():
            Run.create(out)  # says so now if it is in use
    device = _device(options)
    bench = load_bench(spec, device, progress=True)
    run = Run.open(out) if resume else Run.create(out or _free_folder(settings, spec))
    with claim(run.folder, wait=False):
        teacher_accuracy = evaluate(bench.teacher, bench, progress=True)
        if not ((run / RECORD).exists() and run.record.get("status") == "done"):
            job = Job(settings, spec, run.folder, getattr(options, "watch", False))
            do(job, run, bench, teacher_accuracy, progress=True)
    _report(_result(run), options)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from akt_lab.benches import BenchSpec, load_bench
    from akt_lab.runs import Run
    from akt_lab.training import evaluate, load_student

    given, run = _given_bench(options), None
    if options.run is not None:
        run = Run.open(options.run)
        given = {**run.entry("bench"), **given}
    bench = load_bench(BenchSpec.from_dict(given), _device(options), progress=True)
    result: dict[str, Any] = {"bench": bench.name, "images": len(bench.images)}
    if run is not None:
        student, result["student"] = load_student(run, bench)
        result["student_accuracy"] = evaluate(student, bench, progress=True)
    result["teacher_accuracy"] = evaluate(bench.teacher, bench, progress=True)
    _report(result, options)
    return 0


def _figures(options: argparse.Namespace) -> int:
    from akt_lab import demo, gallery

    if options.runs == DEMO_RUNS and not any(DEMO_RUNS.glob("*/record.json")):
        demo.run(DEMO_RUNS, seed=0, steps=50, workers=None)
    own = "" if options.runs == DEMO_RUNS else f" --runs {options.runs}"
    own += "" if options.out == FIGURES else f" --out {options.out}"
    for picture in gallery.draw(options.names, gallery.find_runs(options.runs), options.out, own):
        print(picture)
    return 0


def _methods(options: argparse.Namespace) -> int:
    from akt_lab.methods import METHODS, Settings

    rows = []
    for name, method in METHODS.items():
        s = Settings(method=name)
        images = f"{method.pool} optimised once" if method.pool else "a generator's"
        rows.append({"method": name, "source": method.source, "equation": method.equation,
                     "images": images, "batch_size": s.batch_size, "ranges": s.ranges})  # fmt: skip
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        print(f"{row['method']}\n  {row['source']}\n  {row['equation']}")
        print(f"  images: {row['images']}; {row['batch_size']} a step; ranges: {row['ranges']}")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from akt_lab import doctor

    found = doctor.examine(_device(options))
    _report(found, options)
    if not found["cache writable"]:
        cache = found["cache folder"]
        raise AktError(f"{cache} cannot be written: set AKT_LAB_CACHE to a folder that can")
    return 0


def _lab(options: argparse.Namespace, rest: list[str]) -> int:
    import importlib.util
    import subprocess

    if options.runs and not options.app:
        raise UsageError("--runs is what --app shows: add --app, or drop it")
    server = "voila" if options.app else "jupyterlab"
    if importlib.util.find_spec(server) is None:
        raise AktError(f"{server} is not installed: pip install -e '.[lab]'")
    command, environment = _app(options) if options.app else _notebooks(options)
    named = {option.partition("=")[0] for option in rest}
    command = [option for option in command if option.partition("=")[0] not in named]
    with suppress(KeyboardInterrupt):  # the server hears Ctrl-C too, and ends by itself
        whole = [sys.executable, "-m", server, *command, *rest]
        return subprocess.call(whole, env=os.environ | environment)
    return 0


def _notebooks(options: argparse.Namespace) -> tuple[list[str], dict[str, str]]:
    here = [Path("notebooks"), Path(__file__).parent.parent / "notebooks"]
    folder = options.folder or next((f for f in here if f.is_dir()), None)
    if folder is None or not folder.is_dir():
        raise AktError("no notebooks/ folder here: run this in AKT Lab's folder, or name --folder")
    return [str(folder)], _also("JUPYTER_CONFIG_PATH")  # no news, no updates: nothing is asked for


def _app(options: argparse.Namespace) -> tuple[list[str], dict[str, str]]:
    widgets = ("@voila-dashboards/widgets-manager8", "@jupyter-widgets/jupyterlab-manager")
    needed = [f"--VoilaConfiguration.extension_allowlist={name}" for name in widgets]
    page = str(Path(__file__).parent / "widgets" / "app.ipynb")
    runs = {"AKT_LAB_RUNS": str((options.runs or DEMO_RUNS).absolute())}
    return [page, "--template=akt-lab", *needed], runs | _also("JUPYTER_PATH")


def _also(name: str) -> dict[str, str]:
    """An environment variable with the folder of our settings and templates added to it."""
    ours = str(Path(__file__).parent / "widgets" / "jupyter")
    return {name: os.pathsep.join(filter(None, (os.environ.get(name), ours)))}


# ---- what commands share ------------------------------------------------------------------------


def _given_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings that were named on the command line."""
    names = [name.removeprefix("--").replace("-", "_") for name in SETTING_OPTIONS]
    given = {name: getattr(options, name) for name in names if hasattr(options, name)}
    if "bits" in given:
        bits = given.pop("bits")
        given = {"weight_bits": bits, "act_bits": bits, **given}
    return given


def _settings(given: dict[str, Any]) -> Any:
    """A preset's settings, replaced by those that were named; none that the method never reads."""
    from akt_lab.methods import Settings, check_read, with_preset

    settings = Settings(**with_preset(given))
    check_read([settings], given)
    return settings


def _given_bench(options: argparse.Namespace) -> dict[str, Any]:
    """The parts of the bench that were named on the command line; paths made absolute."""
    names = ("bench", "teacher", "weights", "data", "mean", "std", "image_size")
    given = {name: getattr(options, name) for name in names if hasattr(options, name)}
    if "bench" in given and "teacher" in given:
        raise UsageError("--bench and --teacher exclude each other: a teacher makes its own bench")
    if "teacher" in given:
        given["bench"] = None
    for name in {"weights", "data"} & given.keys():
        given[name] = os.path.abspath(given[name])
    for name in {"mean", "std"} & given.keys():
        given[name] = tuple(number for part in given[name] for number in part)
    return given


def _begun(options: argparse.Namespace) -> tuple[Any, Any]:
    """Settings and bench of the run in --out, which `options` now name, too, where they do."""
    from akt_lab.benches import BenchSpec
    from akt_lab.methods import Settings
    from akt_lab.runs import Run

    out = getattr(options, "out", None)
    if out is None:
        raise UsageError("--resume goes on with the run in --out: name it")
    run = Run.open(out)
    record = _same_as_recorded(run, _given_settings(options), _given_bench(options))
    ended = record.get("status") == "done" and not record.get("watched")
    if ended and getattr(options, "watch", False):
        raise UsageError(f"{out} has ended without --watch: train it anew, into another --out")
    _as_recorded(options, record)
    return Settings.from_dict(record["settings"]), BenchSpec.from_dict(record["bench"])


def _same_as_recorded(run: Any, settings: dict[str, Any], bench: dict[str, Any]) -> dict[str, Any]:
    """The run's record, if what was named on the command line agrees with it."""
    from akt_lab.benches import BenchSpec
    from akt_lab.methods import Settings

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
    from akt_lab.grid import name_of

    name = name_of(settings, spec)
    free = Path("runs") / name
    count = 1
    while free.exists():
        count += 1
        free = Path("runs") / f"{name}-{count}"
    return free


def _device(options: argparse.Namespace) -> str:
    import torch

    from akt_lab.worker import choose_device

    if hasattr(options, "threads"):
        if options.threads < 1:
            raise UsageError(f"--threads must be at least 1, not {options.threads}")
        torch.set_num_threads(options.threads)
    return choose_device(getattr(options, "device", None))


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


def _report(result: dict[str, Any], options: argparse.Namespace) -> None:
    if getattr(options, "json", False):
        print(json.dumps(result, indent=2))
        return
    width = max(map(len, result))
    for name, value in result.items():
        percent = name.endswith("accuracy") and value is not None
        shown = f"{value:.2f}%" if percent else value
        print(f"{name.replace('_', ' '):{width}}  {shown}")


if __name__ == "__main__":
    sys.exit(main())

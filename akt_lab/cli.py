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
from pathlib import Path

from akt_lab import __version__, many, one
from akt_lab.errors import AktError, UsageError
from akt_lab.options import device_of, positive, report

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
            "quantize": one.quantize,
            "evaluate": one.evaluate,
            "sweep": many.sweep,
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

    one.add_quantize(commands)
    one.add_evaluate(commands)
    many.add_sweep(commands)
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

    found = doctor.examine(device_of(options))
    report(found, options)
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


if __name__ == "__main__":
    sys.exit(main())

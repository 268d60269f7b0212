"""`akt-lab lab`: JupyterLab on the notebooks, or the explorers alone."""

import argparse
import importlib.util
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from akt_lab.commands.options import DEMO_RUNS, path
from akt_lab.errors import AktError, UsageError

PACKAGE = Path(__file__).parents[1]
EXPLORERS = PACKAGE / "explorers"
# A page that is closed ends its kernel; one that was left while it loaded, or whose browser died,
# is missed after ten minutes.
CULLED = ("cull_idle_timeout=600", "cull_interval=60")


def add(commands: argparse._SubParsersAction, name: str) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        name, help="open JupyterLab on notebooks/ (its options may follow)"
    )
    parser.add_argument("--folder", type=path, help="another folder of notebooks")
    parser.add_argument("--app", action="store_true", help="the explorers alone, without code")
    parser.add_argument("--runs", type=path, help=f"runs that --app shows (default: {DEMO_RUNS})")


def run(options: argparse.Namespace) -> int:
    """Start the server, and stay until it ends."""
    if options.runs and not options.app:
        raise UsageError("--runs is what --app shows: add --app, or drop it")
    needed = "voila" if options.app else "jupyterlab"
    if importlib.util.find_spec(needed) is None:
        raise AktError(f"{needed} is not installed: pip install -e '.[lab]'")
    server = "akt_lab.commands.app_server" if options.app else needed
    command, environment = _app(options) if options.app else _notebooks(options)
    named = {option.partition("=")[0] for option in options.rest}
    command = [option for option in command if option.partition("=")[0] not in named]
    with suppress(KeyboardInterrupt):  # the server hears Ctrl-C too, and ends by itself
        whole = [sys.executable, "-m", server, *command, *options.rest]
        return subprocess.call(whole, env=os.environ | environment)
    return 0


def _notebooks(options: argparse.Namespace) -> tuple[list[str], dict[str, str]]:
    here = [Path("notebooks"), PACKAGE.parent / "notebooks"]
    folder = options.folder or next((f for f in here if f.is_dir()), None)
    if folder is None or not folder.is_dir():
        raise AktError("no notebooks/ folder here: run this in AKT Lab's folder, or name --folder")
    return [str(folder)], _also("JUPYTER_CONFIG_PATH")  # no news, no updates: nothing is asked for


def _app(options: argparse.Namespace) -> tuple[list[str], dict[str, str]]:
    widgets = ("@voila-dashboards/widgets-manager8", "@jupyter-widgets/jupyterlab-manager")
    needed = [f"--VoilaConfiguration.extension_allowlist={name}" for name in widgets]
    kernels = [f"--MappingKernelManager.{name}" for name in CULLED]
    page, folder = str(EXPLORERS / "app.ipynb"), {"AKT_LAB_FOLDER": os.getcwd()}
    runs = {"AKT_LAB_RUNS": str(options.runs.absolute())} if options.runs else {}
    command = [page, "--template=akt-lab", "--Voila.auto_token=True", *kernels, *needed]
    return command, folder | runs | _also("JUPYTER_PATH")


def _also(name: str) -> dict[str, str]:
    """An environment variable with the folder of our settings and templates added to it."""
    ours = str(EXPLORERS / "jupyter")
    return {name: os.pathsep.join(filter(None, (os.environ.get(name), ours)))}

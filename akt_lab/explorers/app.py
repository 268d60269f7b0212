"""All explorers as tabs of one page, for a notebook or for `akt-lab lab --app`."""

import html
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import ipywidgets as w

from akt_lab.benches import Bench, BenchSpec
from akt_lab.errors import AktError
from akt_lab.explorers.attention import attention_explorer
from akt_lab.explorers.explorer import alert
from akt_lab.explorers.generator import generator_explorer
from akt_lab.explorers.gradients import gradient_explorer
from akt_lab.explorers.quantizer import quantizer_playground
from akt_lab.explorers.students import bench_of
from akt_lab.explorers.training import training_panel
from akt_lab.runs.folder import Run, find_runs

DEMO = Path("runs", "demo")
NONE = "make some with `akt-lab demo`, or name another folder: app('runs/mine'), or --runs"


def demo_runs() -> Path:
    """runs/demo of this folder, or of the nearest one above it, or of AKT Lab's own."""
    folders = [Path.cwd(), *Path.cwd().parents, Path(__file__).parents[2]]
    return next((f / DEMO for f in folders if (f / DEMO).is_dir()), Path.cwd() / DEMO)


def app(runs: Path | str | None = None) -> w.Tab:
    """The five explorers as tabs; each is made when its tab is first opened.

    One that cannot be made says why in its tab, and the others work. Above each stands what it
    shows, and which runs are left out because they cannot be read.

    Args:
        runs: folder of the runs that they show, see `demo_runs`; trainings go into `panel` beside.
    """
    folder = Path(runs) if runs else demo_runs()
    benches: dict[BenchSpec, Bench] = {}

    def bench(found: Sequence[Run]) -> Bench:
        spec = found[0].spec if found else BenchSpec()
        if spec not in benches:
            benches[spec] = bench_of(found, None)
        return bench_of(found, benches[spec])

    makers: dict[str, Callable[[list[Run]], w.Widget]] = {
        "1 Quantizer": lambda found: quantizer_playground(bench(found[:1])),
        "2 Attention": lambda found: attention_explorer(found, bench(found)),
        "3 Gradients": lambda found: gradient_explorer(_some(found, folder)),
        "4 Generator": lambda found: generator_explorer(_some(found, folder), bench(found)),
        "5 Training": lambda _: training_panel(str(folder.parent / "panel")),
    }
    tabs = w.Tab([w.VBox() for _ in makers], titles=list(makers), selected_index=0)

    def open_tab() -> None:
        title = tabs.titles[tabs.selected_index]
        page, make = tabs.children[tabs.selected_index], makers[title]
        if len(page.children) < 2:  # nothing yet, or a complaint
            page.children = [w.HTML("one moment …")]
            found, broken = _readable(folder)
            said: list[str | Exception] = [*broken]
            about, made = _about([] if title == "5 Training" else found, folder), []
            try:
                made = [make(found)]
            except Exception as error:  # a callback's traceback would be seen by nobody
                said.append(error)
            page.children = [w.HTML(about + "".join(map(alert, said))), *made]

    tabs.observe(lambda _: open_tab(), "selected_index")
    open_tab()
    return tabs


def _readable(folder: Path) -> tuple[list[Run], list[str]]:
    """The runs under a folder, and a sentence for each that cannot be read."""
    if folder.exists() and not os.access(folder, os.R_OK | os.X_OK):
        return [], [f"{folder} may not be read: ask whose it is"]
    runs: list[Run] = []
    broken = []
    try:
        everything = find_runs(folder)
    except AktError:  # there are none, which is enough for students that are merely rounded
        everything = []
    for run in everything:
        try:
            _ = run.settings, run.spec
        except Exception as error:  # whatever a damaged record can raise
            broken.append(f"left out: {run.folder.name}: {error}")
        else:
            runs.append(run)
    return runs, broken


def _some(runs: list[Run], folder: Path) -> list[Run]:
    if not runs:
        where = f"{folder}, nor in one above it" if folder == Path.cwd() / DEMO else f"{folder}"
        raise AktError(f"no runs in {where}: {NONE}")
    return runs


def _about(runs: list[Run], folder: Path) -> str:
    """Whose network a tab shows, and which runs."""
    shown = f", {len(runs)} runs in {folder}" if runs else ""
    name = (runs[0].spec if runs else BenchSpec()).name
    style = "line-height:1.4;overflow-wrap:anywhere;color:var(--jp-ui-font-color2,#555)"
    return f'<div style="{style}">teacher: {html.escape(name + shown)}</div>'

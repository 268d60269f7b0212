"""All explorers as tabs of one page, for a notebook or for `akt-lab lab --app`."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import ipywidgets as w

from akt_lab.errors import AktError
from akt_lab.explorers.attention import attention_explorer
from akt_lab.explorers.generator import generator_explorer
from akt_lab.explorers.gradients import gradient_explorer
from akt_lab.explorers.quantizer import quantizer_playground
from akt_lab.explorers.shell import alert, unforeseen
from akt_lab.explorers.training import training_panel
from akt_lab.runs.folder import Run


def app(runs: Path | str = "runs/demo") -> w.Tab:
    """The five explorers as tabs; each is made when its tab is first opened.

    One that cannot be made says why in its tab, and the others work.

    Args:
        runs: folder of the runs that they show; trainings go into `panel` beside it.
    """
    makers = _makers(Path(runs))
    tabs = w.Tab([w.VBox() for _ in makers], titles=list(makers), selected_index=0)
    _open(tabs, makers)
    tabs.observe(lambda _: _open(tabs, makers), "selected_index")
    return tabs


def _makers(folder: Path) -> dict[str, Callable[[], w.Widget]]:
    return {
        "1 Quantizer": lambda: quantizer_playground(),
        "2 Attention": lambda: attention_explorer(_any_runs(folder)),
        "3 Gradients": lambda: gradient_explorer(_runs(folder)),
        "4 Generator": lambda: generator_explorer(_runs(folder)),
        "5 Training": lambda: training_panel(str(folder.parent / "panel")),
    }


def _runs(folder: Path) -> list[Run]:
    from akt_lab.runs.folder import find_runs

    return find_runs(folder)


def _any_runs(folder: Path) -> list[Run]:
    """None are enough for students that are merely rounded."""
    with suppress(AktError):
        return _runs(folder)
    return []


def _open(tabs: w.Tab, makers: dict[str, Callable[[], w.Widget]]) -> None:
    page = tabs.children[tabs.selected_index]
    if not page.children or isinstance(page.children[0], w.HTML):  # nothing yet, or a complaint
        page.children = [w.HTML("one moment …")]
        page.children = [_made(list(makers.values())[tabs.selected_index])]


def _made(maker: Callable[[], w.Widget]) -> w.Widget:
    try:
        return maker()
    except AktError as error:
        return w.HTML(alert(str(error)))
    except Exception as error:  # a callback's traceback would be seen by nobody
        return w.HTML(alert(unforeseen(error)))

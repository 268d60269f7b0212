"""All explorers as tabs of one page, for a notebook or for `akt-lab lab --app`."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import ipywidgets as w

from akt_lab.errors import AktError
from akt_lab.explorers.attention import attention_explorer
from akt_lab.explorers.explorer import alert
from akt_lab.explorers.generator import generator_explorer
from akt_lab.explorers.gradients import gradient_explorer
from akt_lab.explorers.quantizer import quantizer_playground
from akt_lab.explorers.training import training_panel
from akt_lab.runs.folder import Run, find_runs


def app(runs: Path | str = "runs/demo") -> w.Tab:
    """The five explorers as tabs; each is made when its tab is first opened.

    One that cannot be made says why in its tab, and the others work.

    Args:
        runs: folder of the runs that they show; trainings go into `panel` beside it.
    """
    folder = Path(runs)
    makers: dict[str, Callable[[], w.Widget]] = {
        "1 Quantizer": quantizer_playground,
        "2 Attention": lambda: attention_explorer(_any_runs(folder)),
        "3 Gradients": lambda: gradient_explorer(find_runs(folder)),
        "4 Generator": lambda: generator_explorer(find_runs(folder)),
        "5 Training": lambda: training_panel(str(folder.parent / "panel")),
    }
    tabs = w.Tab([w.VBox() for _ in makers], titles=list(makers), selected_index=0)

    def open_tab() -> None:
        page, make = tabs.children[tabs.selected_index], makers[tabs.titles[tabs.selected_index]]
        if not page.children or isinstance(page.children[0], w.HTML):  # nothing yet, or a complaint
            page.children = [w.HTML("one moment …")]
            try:
                page.children = [make()]
            except Exception as error:  # a callback's traceback would be seen by nobody
                page.children = [w.HTML(alert(error))]

    tabs.observe(lambda _: open_tab(), "selected_index")
    open_tab()
    return tabs


def _any_runs(folder: Path) -> list[Run]:
    """None are enough for students that are merely rounded."""
    with suppress(AktError):
        return find_runs(folder)
    return []

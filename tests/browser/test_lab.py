"""Notebooks 1, 2 and 4 in JupyterLab, as a student uses them."""

import pytest

from tests.browser import driving
from tests.browser.conftest import BOOKS, KEPT, LAPTOP, watched

pytestmark = pytest.mark.browser
FIRST = {"numbers": "activations"}
SILENT = {"image"}  # shows nothing new before a file is there: test_app drops one
GROUP = ".widget-interact, .jp-OutputArea-output > .widget-vbox"


@pytest.mark.parametrize("name", BOOKS)
def test_a_notebook_runs_and_its_controls_move(lab, browser, name):
    with watched(browser, LAPTOP, f"lab-{name}-end") as page:
        open_notebook(page, lab[0], name)
        run_all(page)
        assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
        assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
        for group in driving.until(lambda: groups(page)):  # they come after the kernel is idle
            try_controls(page, group)
        assert not page.get_by_text("official Jupyter news").count()


def open_notebook(page, address, name):
    """Open it alone, in a workspace of its own, and wait until its kernel is idle."""
    page.goto(f"{address}/lab/workspaces/{name}/tree/{name}.ipynb?reset")
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()


def run_all(page):
    """Run > Run All Cells, until the last cell has its number and the kernel is idle."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(
        """() => {
            const cells = [...document.querySelectorAll('.jp-CodeCell')];
            const prompts = cells.map(c => c.querySelector('.jp-InputPrompt').textContent);
            return cells.length > 5 && prompts.every(p => /\\[\\d+\\]/.test(p));
        }""",
        timeout=120_000,
    )
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()


def groups(page):
    """The explorers of a notebook: what has a control that can be used."""
    return [group for group in page.locator(GROUP).all() if driving.controls(group)]


def try_controls(page, group):
    """Every control by mouse and keyboard; the picture follows, and nothing is cut off."""
    group.scroll_into_view_if_needed()
    driving.until(lambda: driving.pictures(group))
    page.screenshot(path=KEPT / f"lab-{page.title().split('-')[0]}.png")
    for how in (driving.by_mouse, driving.by_keyboard):
        assert set(driving.each_moves_the_picture(page, group, how, FIRST)) <= SILENT
        driving.choose(group, {"image": "evaluation image"})
    driving.until(lambda: driving.said(group) == [])
    assert group.evaluate("g => g.scrollWidth <= g.parentElement.clientWidth + 1")

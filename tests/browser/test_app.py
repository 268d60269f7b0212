"""The app that Voila serves: every tab, every control, at two sizes of screen."""

import base64
import re

import pytest

from tests.browser import driving
from tests.browser.conftest import KEPT

pytestmark = pytest.mark.browser
# What must be chosen first, so that every control has something to show.
FIRST = {
    "1 Quantizer": {"numbers": "activations"},
    "2 Attention": {"image": "synthetic", "student": "adadfq"},
}
EXPLORERS = ("1 Quantizer", "2 Attention", "3 Gradients", "4 Generator")
ALL = (*EXPLORERS, "5 Training")


def open_tab(page, title):
    """Open a tab by mouse, and give its panel once something is in it."""
    page.get_by_role("tab", name=title).click()
    area = page.locator(".widget-tab-contents > :not(.lm-mod-hidden)")
    driving.until(lambda: driving.pictures(area) or driving.said(area))
    driving.choose(area, FIRST.get(title, {}))
    return area


@pytest.mark.parametrize("title", ALL)
def test_a_tab_opens(app, title):
    area = open_tab(app, title)
    app.screenshot(path=KEPT / f"{app.name}-{title.replace(' ', '-').lower()}.png")
    assert driving.said(area) == []
    assert driving.unnamed(app.locator("body")) == []
    assert app.evaluate(TOO_WIDE) == []


TOO_WIDE = """() => [...document.querySelectorAll('*')]
    .filter(e => e.offsetParent && (e.getBoundingClientRect().right > innerWidth + 1
        || (e.scrollWidth > e.clientWidth + 1
            && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX))))
    .map(e => `${e.tagName} ${e.className}`)"""


@pytest.mark.parametrize("how", [driving.by_mouse, driving.by_keyboard])
@pytest.mark.parametrize("title", EXPLORERS)
def test_every_control_moves_the_picture(app, title, how):
    area = open_tab(app, title)
    assert driving.controls(area)
    assert driving.each_moves_the_picture(app, area, how, FIRST.get(title, {})) == []
    assert driving.said(area) == []


def test_a_file_is_dropped_in(app):
    area = open_tab(app, "2 Attention")
    driving.choose(area, {"image": "your file"})
    driving.hears(area, "choose an image file, or drop one on the button")
    before, file = driving.pictures(area), KEPT / f"{app.name}-dropped.png"
    app.screenshot(path=file)
    drop(app, area, file)
    driving.until(lambda: driving.pictures(area) != before)
    assert driving.said(area) == []  # taken back before the picture comes
    drop(app, area, KEPT / "voila.log")
    driving.hears(area, "not an image that can be read")
    driving.choose(area, {"image": "synthetic"})
    driving.until(lambda: driving.said(area) == [])


def test_a_file_that_misses_does_not_replace_the_page(app):
    area = open_tab(app, "2 Attention")
    button = area.locator(".widget-upload")
    assert button.is_disabled()
    for kind in ("dragover", "drop"):
        assert button.evaluate(PREVENTED, kind)


PREVENTED = """(button, kind) => !button.dispatchEvent(
    new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: new DataTransfer()}))"""


def drop(page, area, file):
    """Drop a file on the upload button."""
    data = base64.b64encode(file.read_bytes()).decode()
    files = page.evaluate_handle("""async ([data, name]) => {
        const bytes = await (await fetch(`data:;base64,${data}`)).blob();
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], name));
        return transfer;
    }""", [data, file.name])  # fmt: skip
    area.locator(".widget-upload").dispatch_event("drop", {"dataTransfer": files})


def test_a_click_leads_to_the_layer_that_disagrees_most(app):
    area = open_tab(app, "2 Attention")
    options = area.get_by_label("layer", exact=True).locator("option").all_inner_texts()
    told = re.search(r"layer (\d+) disagrees most", area.inner_text())[1]
    other = options[int(told) - 2]  # the one before it, or the last
    driving.choose(area, {"layer": other})
    area.get_by_role("button", name="Most different layer").click()
    menu = area.get_by_label("layer", exact=True)
    driving.until(lambda: menu.input_value() == options[int(told) - 1])


@pytest.mark.parametrize("title", ALL)
def test_tab_goes_through_controls_as_the_eye_does(app, title):
    open_tab(app, title)
    app.get_by_role("tab", name=title).focus()
    places = []
    while (place := next_stop(app)) and place not in places:
        places.append(place)
    assert len(places) >= 2
    assert places == sorted(places)


def next_stop(page):
    """Row and column where the Tab key leads; None once it has left the panel."""
    page.keyboard.press("Tab")
    return page.evaluate("""() => {
        const box = document.activeElement.closest('.widget-inline-hbox, button');
        if (!box || !box.closest('.widget-tab-contents')) return null;
        const {left, top, height} = box.getBoundingClientRect();
        return [Math.round((top + height / 2 + scrollY) / 16), Math.round(left)];
    }""")


def test_tabs_are_opened_by_keyboard(app):
    open_tab(app, ALL[0])
    app.get_by_role("tab", name=ALL[0]).focus()
    app.keyboard.press("ArrowRight")
    app.keyboard.press("Enter")
    tab = app.get_by_role("tab", name=ALL[1])
    driving.until(lambda: tab.get_attribute("aria-selected") == "true")


def test_a_training_starts_and_stops(app):
    area = open_tab(app, "5 Training")
    before = driving.pictures(area)
    area.get_by_role("button", name="Start").click()
    area.get_by_text(re.compile(r"epoch \d+ of \d+, step [1-9]")).wait_for()
    driving.until(lambda: driving.pictures(area) != before)
    app.screenshot(path=KEPT / f"{app.name}-training-runs.png")
    area.get_by_role("button", name="Pause").click()
    area.get_by_text(re.compile("^paused")).wait_for()
    area.get_by_role("button", name="Go on").click()
    area.get_by_role("button", name="Pause").wait_for()
    area.get_by_role("button", name="Stop").click()
    area.get_by_text(re.compile("^stopped")).wait_for()
    app.screenshot(path=KEPT / f"{app.name}-training-stopped.png")
    assert driving.said(area) == []

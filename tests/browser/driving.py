"""How a user moves controls: by mouse, by keyboard; and what the screen then shows."""

import re
import time

CONTROLS = ".widget-hslider, .widget-dropdown, .widget-toggle-buttons, .widget-checkbox"
# JupyterLab keeps plain arrows to itself in command mode, so a menu is opened first there.
KEYS = (
    ("Alt+ArrowDown", "ArrowUp", "Enter"),
    ("Alt+ArrowDown", "ArrowDown", "Enter"),
    ("ArrowLeft",),
    ("ArrowRight",),
)
ROLES = "slider|combobox|textbox|checkbox|button|radio|spinbutton|tab|option"


def until(true, seconds=30):
    """Wait until `true()` is, and give what it gave.

    Raises:
        AssertionError: if it never was.
    """
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f"waited {seconds} s"
        time.sleep(0.02)
    return found


def comes(true, seconds):
    """Whether `true()` is, within so many seconds."""
    end = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < end:
        time.sleep(0.02)
    return bool(found)


# ---- what is there ------------------------------------------------------------------------------


def controls(area):
    """The visible controls that can be used, each with its label."""
    found = [c for c in area.locator(CONTROLS).all() if c.is_visible()]
    usable = [c for c in found if c.locator(":disabled, [disabled]").count() == 0]
    return [(label(c), c) for c in usable]


def label(control):
    """What stands beside it."""
    return control.locator(".widget-label, label").first.inner_text().strip()


def value(control):
    """Its value, as the page has it."""
    return control.evaluate("""c => c.querySelector('select')?.value
        ?? c.querySelector('[role=slider]')?.getAttribute('aria-valuenow')
        ?? c.querySelector('input')?.checked
        ?? c.querySelector('.mod-active')?.textContent""")


def pictures(area):
    """All pictures of an area, as one text."""
    return area.evaluate("a => [...a.querySelectorAll('img')].map(i => i.src).join()")


def unnamed(area):
    """Controls without a name for a screen reader."""
    lines = area.aria_snapshot().splitlines()
    return [line for line in lines if re.match(rf'\s*- ({ROLES})\b(?! ")', line)]


def said(area):
    """What the explorers complain of."""
    return [t for t in area.get_by_role("alert").all_inner_texts() if t.strip()]


def hears(area, sentence):
    """Wait for a complaint that holds a sentence."""
    until(lambda: any(sentence in t for t in said(area)))


# ---- moves --------------------------------------------------------------------------------------


def choices(control):
    """How many values it can have."""
    return control.evaluate("""c => {
        const slider = c.querySelector('[role=slider]');
        if (slider) return 1 + slider.ariaValueMax - slider.ariaValueMin;
        return c.querySelector('select')?.options.length ?? 2;
    }""")


def by_keyboard(page, control):
    """One step by an arrow key; back where it is at its end."""
    part = control.locator("[role=slider], select, input, button").first
    part.focus()
    before = value(control)
    if control.locator("input[type=checkbox]").count():
        page.keyboard.press("Space")
    elif control.locator("button").count():
        control.locator("button:not(.mod-active)").first.press("Enter")
    else:
        for keys in KEYS:
            part.focus()
            for key in keys:
                page.keyboard.press(key)
            if comes(lambda: value(control) != before, 0.5):  # a menu tells its value late
                break
    assert value(control) != before, f"the keyboard does not move {label(control)}"


def by_mouse(page, control):
    """A slider is dragged to its other half, a menu opened, another button pressed."""
    before = value(control)
    if control.locator("[role=slider]").count():
        _drag(page, control)
    elif control.locator("select").count():
        menu = control.locator("select")
        menu.click()
        count = menu.locator("option").count()
        chosen = menu.evaluate("m => m.selectedIndex")
        menu.select_option(index=(chosen or count) - 1)
    else:
        control.locator("button:not(.mod-active), input").first.click()
    assert value(control) != before, f"the mouse does not move {label(control)}"


def _drag(page, control):
    handle = control.locator("[role=slider]")
    handle.scroll_into_view_if_needed()
    grip, track = handle.bounding_box(), control.locator(".noUi-base").bounding_box()
    x, y = grip["x"] + grip["width"] / 2, grip["y"] + grip["height"] / 2
    left = x - track["x"] > track["width"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(track["x"] + track["width"] * (0.02 if left else 0.98), y, steps=5)
    page.mouse.up()


def choose(area, values):
    """Choose from menus, by their labels; those that are not there are left out."""
    for name, value in values.items():
        for menu in area.get_by_label(name, exact=True).all():
            _pick(area, menu, value)


def _pick(area, menu, value):
    if menu.input_value() == value:
        return
    before = pictures(area), said(area)
    menu.select_option(value)
    until(lambda: (pictures(area), said(area)) != before)
    settled(area)


def each_moves_the_picture(page, area, how, first):
    """Move every control, with `first` chosen before; those that changed no picture.

    Each may move twice, because the end of a run and its last epoch are one picture. A control
    that has one value only is left alone.
    """
    still = []
    for name, control in controls(area):
        choose(area, first)
        if choices(control) > 1 and not any(_changes(page, area, how, control) for _ in range(2)):
            still.append(name)
    return still


def _changes(page, area, how, control):
    before = pictures(area)
    how(page, control)
    moved = comes(lambda: pictures(area) not in (before, ""), 15)  # a network may be loaded first
    if moved:
        settled(area)
    return moved


def settled(area):
    """Wait until the picture stays for a quarter of a second."""
    since, seen = time.monotonic(), pictures(area)
    while time.monotonic() < since + 0.25:
        if (now := pictures(area)) != seen:
            since, seen = time.monotonic(), now
        time.sleep(0.02)

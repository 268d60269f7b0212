"""The page of four pictures, opened from a disk: its arithmetic, its controls, its manners."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from akt_lab.attention import attention_divergences, channel_attention, spatial_attention
from akt_lab.export import OnnxRuntime, of_run
from akt_lab.quantizer import affine_parameters, fake_quantize, pnorm_range
from akt_lab.runs.folder import Run
from tests.browser.conftest import KEPT, watched
from tests.browser.driving import until

pytestmark = pytest.mark.browser
IMAGES = 100
WIDTHS = (360, 480, 600, 800, 1024, 1366, 1920)
STUDENTS = [(kind, bits) for kind in ("rounded", "rounded-pnorm", "plain", "plain-pnorm")
            for bits in (4, 3, 2)]  # fmt: skip
SECTIONS = ("draw", "round", "gradients", "images")
# All that one sees of a section: its words, its plots, the pixels of its canvases.
SEEN = """id => {
    const area = document.getElementById(id), all = kind => [...area.querySelectorAll(kind)];
    return [area.innerText, ...all('svg').map(s => s.innerHTML),
        ...all('canvas').map(c => c.toDataURL())].join();
}"""
ANSWERS = """([name, count]) => {
    window.digits ??= new Digits(JSON.parse(document.getElementById("data").textContent));
    return Array.from({length: count}, (_, i) => {
        const {logits, maps} = digits.run(name, digits.image(i));
        return [Array.from(logits), ...maps.map(m => Array.from(m.data))];
    });
}"""


@pytest.fixture(scope="module")
def page(browser, explore):
    """The page; that it asks for no other file is seen at the end."""
    with watched(browser, {"width": 1366, "height": 900}, "explore-end") as page:
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.emulate_media(reduced_motion="reduce")  # no scroll goes on while the mouse moves
        page.goto(explore[0].as_uri())
        page.locator("html[data-ready]").wait_for(state="attached")
        yield page
        assert asked == [explore[0].as_uri()]


# ---- arithmetic ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["teacher", *(f"{kind} {bits}" for kind, bits in STUDENTS)])
def test_a_network_answers_as_onnx_runtime_does(page, explore, digits, name):
    folder = name.replace(" ", "-") if name != "teacher" else "plain-4"
    file = of_run(Run(explore[1] / folder), digits, maps=True, teacher=name == "teacher")
    images = digits.normalise(digits.images[:IMAGES]).contiguous().numpy()
    expected = OnnxRuntime(file.content).run(images)
    found = page.evaluate(ANSWERS, [name, IMAGES])
    logits = np.array([one[0] for one in found])
    assert (logits.argmax(1) == expected["logits"].argmax(1)).all()
    # Where a sum lies within rounding of the middle between two levels, both answers are right.
    near = np.abs(logits - expected["logits"]).max(1) < 1e-3
    assert near.mean() >= 0.98
    for place, layer in enumerate(file.maps, start=1):
        maps = np.array([one[place] for one in found])
        theirs = expected[f"map/{layer}"].reshape(IMAGES, -1)
        assert np.abs(maps - theirs)[near].max() < 1e-3 * np.abs(theirs).max()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_grid_is_the_packages(page, bits):
    x = torch.randn(500, generator=torch.Generator().manual_seed(bits)) + 0.3
    chosen = page.evaluate("([x, bits]) => pnormRange(x, bits)", [x.tolist(), bits])
    low, high = (float(end) for end in pnorm_range(x[None].double(), None, bits))
    assert chosen == pytest.approx([low, high], rel=1e-6)
    scale, zero_point = affine_parameters(x.min(), x.max(), bits)
    rounded = page.evaluate("""([x, bits]) => {
        const grid = gridOf(extremes(x), bits);
        return x.map(v => fakeQuantize(v, grid));
    }""", [x.tolist(), bits])  # fmt: skip
    assert rounded == pytest.approx(fake_quantize(x, scale, zero_point, bits).tolist(), abs=1e-5)


def test_attention_is_the_packages(page):
    rng = torch.Generator().manual_seed(0)
    t, s = (torch.randn(1, 6, 4, 4, generator=rng) for _ in range(2))
    found = page.evaluate("""([t, s]) => {
        const [a, b] = [t, s].map(data => ({shape: [1, 6, 4, 4], data}));
        return [spatialAttention(a), channelAttention(a), attentionDivergence(a, b)];
    }""", [t.flatten().tolist(), s.flatten().tolist()])  # fmt: skip
    assert found[0] == pytest.approx(spatial_attention(t)[0].tolist(), abs=1e-5)
    assert found[1] == pytest.approx(channel_attention(t)[0].tolist(), abs=1e-5)
    spatial, channel = attention_divergences([s], [t])
    assert found[2] == pytest.approx(
        {"spatial": float(spatial), "channel": float(channel)}, abs=1e-5
    )


# ---- drawing ------------------------------------------------------------------------------------


def teacher(page):
    """What it says."""
    return page.locator(".answer.teacher .digit").inner_text()


def test_what_is_drawn_by_mouse_is_answered(page):
    page.get_by_role("button", name="Clear").click()
    until(lambda: teacher(page) == "–")
    page.locator("#pad").scroll_into_view_if_needed()
    box = page.locator("#pad").bounding_box()
    across = box["x"] + box["width"] / 2
    page.mouse.move(across, box["y"] + 0.1 * box["height"])
    page.mouse.down()
    page.mouse.move(across, box["y"] + 0.9 * box["height"], steps=12)
    page.mouse.up()
    until(lambda: teacher(page).isdigit())  # which one, hangs on the teacher
    assert "your drawing" in page.locator("#seen-words").inner_text()


def test_what_is_drawn_by_keyboard_is_answered(page):
    page.locator("#pad").focus()
    page.keyboard.press("Delete")
    until(lambda: teacher(page) == "–")
    page.keyboard.press("Space")
    for _ in range(10):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    until(lambda: teacher(page).isdigit())
    drawn = page.locator("#pad").screenshot()
    says = teacher(page)
    for key in ("ArrowLeft", "ArrowRight"):  # the pen is up: it moves, and draws nothing
        page.keyboard.press(key)
    assert teacher(page) == says
    assert page.locator("#pad").screenshot() == drawn


def test_the_next_image_is_one_that_the_student_gets_wrong(page):
    page.get_by_role("button", name="gets wrong").click()
    marked = page.locator(".answer:has(input:checked)")
    until(lambda: "wrong" in marked.inner_text())
    first = page.locator("#seen-words").inner_text()
    page.get_by_role("button", name="gets wrong").press("Enter")
    until(lambda: page.locator("#seen-words").inner_text() != first)
    assert "wrong" in marked.inner_text()


# ---- controls -----------------------------------------------------------------------------------


def moves(page, section, do):
    """Do something, and wait until the section shows something else."""
    before = page.evaluate(SEEN, section)
    do()
    until(lambda: page.evaluate(SEEN, section) != before)


@pytest.mark.parametrize("how", ["mouse", "keyboard"])
@pytest.mark.parametrize("section", SECTIONS)
def test_every_control_moves_the_picture(page, section, how):
    area = page.locator(f"#{section}")
    if section == "draw":
        page.get_by_role("button", name="Next test image").click()  # all answers are shown
    for group in area.get_by_role("group").all():
        buttons = group.get_by_role("radio")
        checked = group.get_by_role("radio", checked=True)
        if how == "keyboard":
            moves(page, section, lambda checked=checked: checked.press("ArrowRight"))
        else:
            other = buttons.nth(0 if not buttons.nth(0).is_checked() else 1)
            moves(page, section, lambda other=other: other.click())
    for menu in area.get_by_role("combobox").all():
        last = menu.evaluate("m => m.options.length - 1")
        at_end = menu.evaluate("m => m.selectedIndex") == last
        if how == "keyboard":
            key = "Home" if at_end else "End"
            moves(page, section, lambda menu=menu, key=key: menu.press(key))
        else:
            index = 0 if at_end else last
            menu.click()
            moves(page, section, lambda menu=menu, index=index: menu.select_option(index=index))
    for slider in area.get_by_role("slider").all():
        if not slider.is_visible():
            continue
        if how == "keyboard":
            slider.press("Home")
            moves(page, section, lambda slider=slider: slider.press("End"))
        else:
            box = slider.bounding_box()
            left, right = (
                {"x": share * box["width"], "y": box["height"] / 2} for share in (0.02, 0.9)
            )
            slider.click(position=left)
            moves(page, section, lambda slider=slider, at=right: slider.click(position=at))


def test_students_are_chosen_by_both(page):
    answers = page.get_by_role("radio", name="look at the")
    assert answers.count() == 6
    answers.nth(0).click()
    moves(page, "draw", lambda: answers.nth(0).press("ArrowRight"))
    assert answers.nth(1).is_checked()


def test_a_click_in_a_picture_moves_its_slider(page):
    for section, picture, name in (
        ("round", "#round-plots svg.live", "clip"),
        ("gradients", "#gradients-maps canvas", "step"),
        ("gradients", "#gradients-plots svg.live", "step"),
        ("images", "#images-plots svg.live", "epoch"),
    ):
        slider = page.locator(f"#{section}").get_by_role("slider", name=name)
        slider.press("End")
        last = slider.input_value()
        picture = page.locator(picture).first
        picture.scroll_into_view_if_needed()
        box = picture.bounding_box()
        page.mouse.click(box["x"] + 0.3 * box["width"], box["y"] + 0.4 * box["height"])
        until(lambda slider=slider, last=last: slider.input_value() != last)


# ---- manners ------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_at_every_width(page, theme):
    page.emulate_media(color_scheme=theme)
    until(lambda: page.evaluate("document.documentElement.dataset.theme") == theme)
    try:
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.screenshot(path=KEPT / f"explore-{width}-{theme}.png", full_page=True)
    finally:
        page.set_viewport_size({"width": 1366, "height": 900})


def test_the_theme_is_changed_by_its_button(page):
    theme = page.evaluate("document.documentElement.dataset.theme")
    page.get_by_role("button", name="Change to").click()
    assert page.evaluate("document.documentElement.dataset.theme") != theme
    page.get_by_role("button", name="Change to").press("Enter")
    assert page.evaluate("document.documentElement.dataset.theme") == theme


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious(page, theme):
    page.emulate_media(color_scheme=theme)
    until(lambda: page.evaluate("document.documentElement.dataset.theme") == theme)
    place = Path(importlib.util.find_spec("axe_playwright_python").origin).with_name("axe.min.js")
    page.add_script_tag(content=place.read_text())
    found = page.evaluate("axe.run()")["violations"]
    serious = [(v["id"], v["impact"], [n["target"] for n in v["nodes"]][:5]) for v in found
               if v["impact"] in ("serious", "critical")]  # fmt: skip
    assert serious == []
    (KEPT / f"axe-{theme}.json").write_text(json.dumps(found, indent=1))


def test_every_picture_has_its_words(page):
    for kind in ("svg[role=img]", "canvas:not([aria-hidden])"):
        for picture in page.locator(kind).all():
            assert (picture.get_attribute("aria-label") or "").strip()


def test_first_paint_is_written_down(browser, explore):
    with watched(browser, {"width": 1366, "height": 900}, "explore-paint") as page:
        page.goto(explore[0].as_uri())
        page.locator("html[data-ready]").wait_for(state="attached")
        paints = page.evaluate("""performance.getEntriesByType('paint')
            .map(p => [p.name, Math.round(p.startTime)])""")
    print(*paints)
    assert paints

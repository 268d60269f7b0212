"""How fast a picture follows, which is written down; and that 500 moves leave nothing behind."""

import csv
import statistics

import psutil
import pytest
from jupyter_client import BlockingKernelClient

from tests.browser import driving
from tests.browser.conftest import KEPT, LAPTOP, watched
from tests.browser.test_app import open_tab

pytestmark = pytest.mark.browser
MOVES, WARM_UP, MEASURED = 500, 50, 30
# Of which every step gives another picture.
SLIDERS = {"1 Quantizer": "clip", "2 Attention": "number", "3 Gradients": "step",
           "4 Generator": "seed"}  # fmt: skip
# Milliseconds from the key to the first frame with the new picture in it.
STOPWATCH = """area => {
    window.taken = [];
    if (area.timed) return;  // the page is shared, and one stopwatch is enough
    area.timed = true;
    let pressed = 0;
    area.addEventListener('keydown', () => { pressed = performance.now(); }, true);
    const look = new MutationObserver(async () => {
        const start = pressed, image = area.querySelector('img');
        if (!start || !image) return;
        pressed = 0;
        await image.decode();
        requestAnimationFrame(() => taken.push(performance.now() - start));
    });
    for (const place of area.querySelectorAll('.widget-html'))
        if (place.querySelector('img')) look.observe(place, {childList: true, subtree: true});
}"""


@pytest.fixture(scope="module")
def page(voila, browser):
    with watched(browser, LAPTOP, "speed-end") as page:
        page.goto(voila[0])
        page.get_by_role("img").first.wait_for()
        yield page


@pytest.fixture(scope="module")
def kernel(voila, page):
    """A client of the page's kernel, and its process."""
    mark = "ipykernel_launcher"
    family = voila[1].children(recursive=True)
    kernels = [p for p in family if mark in " ".join(p.cmdline())]
    process = max(kernels, key=psutil.Process.create_time)
    words = process.cmdline()
    client = BlockingKernelClient(connection_file=words[words.index("-f") + 1])
    client.load_connection_file()
    client.start_channels()
    yield client, process
    client.stop_channels()


def press(page, slider, count):
    """Move a slider `count` times, to and fro, as fast as the picture follows."""
    handle, done = slider.locator("[role=slider]"), 0
    handle.focus()
    steps, key = driving.choices(slider) - 1, "ArrowLeft"
    while done < count:
        key = "ArrowRight" if key == "ArrowLeft" else "ArrowLeft"
        for _ in range(steps):
            before, seen = driving.value(slider), page.evaluate("taken.length")
            page.keyboard.press(key)
            if driving.value(slider) != before:
                page.wait_for_function("seen => taken.length > seen", arg=seen)
                done += 1


def test_latency_is_written_down(page):
    rows = []
    for title, name in SLIDERS.items():
        area = open_tab(page, title)
        area.evaluate(STOPWATCH)
        press(page, dict(driving.controls(area))[name], MEASURED)
        taken = sorted(page.evaluate("taken"))
        middle, slow = statistics.median(taken), taken[int(0.9 * len(taken))]
        rows.append([title, name, len(taken), round(middle), round(slow), round(taken[-1])])
        print(*rows[-1])
    with open(KEPT / "latency.csv", "w", newline="") as file:
        head = ["explorer", "slider", "moves", "median_ms", "p90_ms", "slowest_ms"]
        csv.writer(file).writerows([head, *rows])
    assert all(row[2] >= MEASURED for row in rows)


def test_500_moves_leave_nothing_behind(page, kernel):
    area = open_tab(page, "1 Quantizer")
    area.evaluate(STOPWATCH)
    slider = dict(driving.controls(area))["bits"]
    press(page, slider, WARM_UP)
    before = left_behind(page, kernel)
    press(page, slider, MOVES)
    after = left_behind(page, kernel)
    print(before, after, sep="\n")
    assert after["kernel_mb"] < before["kernel_mb"] + 30
    assert after["page_mb"] < before["page_mb"] + 20
    assert after["nodes"] < before["nodes"] + 200
    assert figures(kernel) == "[]"


def left_behind(page, kernel):
    """Memory in megabytes and nodes, after both have tidied up."""
    ask(kernel, "__import__('gc').collect()")
    session = page.context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    session.send("Performance.enable")
    found = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
    session.detach()
    return {
        "kernel_mb": kernel[1].memory_info().rss / 1e6,
        "page_mb": found["JSHeapUsedSize"] / 1e6,
        "nodes": found["Nodes"],
    }


def figures(kernel):
    """The figures that pyplot knows."""
    return ask(kernel, "__import__('matplotlib.pyplot').pyplot.get_fignums()")


def ask(kernel, expression):
    """What the page's kernel says to an expression."""
    reply = kernel[0].execute("", user_expressions={"asked": expression}, reply=True, timeout=60)
    return reply["content"]["user_expressions"]["asked"]["data"]["text/plain"]

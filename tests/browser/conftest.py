"""A real JupyterLab, a real Voila and a real Chromium; what they show is kept in build/browser/."""

import os
import re
import shutil
import signal
import socket
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import psutil
import pytest
from playwright.sync_api import sync_playwright

from akt_lab.benches import BenchSpec
from akt_lab.runs.jobs import Job
from akt_lab.runs.sweep import run_grid
from akt_lab.settings import Settings
from tests.browser import chromium
from tests.browser.driving import until

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "build" / "browser"
LAPTOP = {"width": 1366, "height": 768}
SCREENS = {"laptop": LAPTOP, "projector": {"width": 1920, "height": 1080}}
BOOKS = (
    "1-quantization-from-scratch",
    "2-why-low-bits-break-training",
    "4-what-a-network-looks-at",
)

collect_ignore = ["offline"]  # for the servers' Python, not for this one


def pytest_collection_modifyitems(config, items):
    """Without `-m browser` they are deselected, and the summary says how many."""
    if "browser" in config.option.markexpr:
        return
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    config.hook.pytest_deselected(items=here)
    items[:] = [item for item in items if item not in here]


# ---- browser ------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def browser():
    """Chromium, closed at the end."""
    KEPT.mkdir(parents=True, exist_ok=True)
    path = chromium.find() or pytest.fail(chromium.FAILED)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@contextmanager
def watched(browser, viewport, name):
    """A page; at its end a screenshot, and an error for whatever went wrong or out of here."""
    page = browser.new_page(viewport=viewport)
    page.set_default_timeout(60_000)
    wrong = []
    page.on("request", lambda r: _is_here(r.url) or wrong.append(f"asked for {r.url[:200]}"))
    page.on("response", lambda r: r.status < 400 or wrong.append(f"{r.status} {r.url[:200]}"))
    page.on("console", lambda m: m.type != "error" or wrong.append(f"console: {m.text[:400]}"))
    page.on("pageerror", lambda e: wrong.append(f"error in the page: {e}"))
    try:
        yield page
        assert wrong == []
    finally:
        page.screenshot(path=KEPT / f"{name}.png")
        page.close()


def _is_here(url):
    parts = urlsplit(url)
    return parts.scheme in ("data", "blob", "file") or parts.hostname in ("127.0.0.1", "localhost")


# ---- servers ------------------------------------------------------------------------------------


@contextmanager
def serving(folder, name, *options):
    """`akt-lab lab` with a configuration of its own; gives its address and its process."""
    port, outside = _free_port(), folder / f"outside-{name}.txt"
    command = [sys.executable, "-m", "akt_lab.commands", "lab", "--no-browser", f"--port={port}"]
    with open(KEPT / f"{name}.log", "wb") as log:
        process = psutil.Popen(
            [*command, *options],
            cwd=folder, stdout=log, stderr=log, env=_environment(folder, outside),
            start_new_session=True,
        )  # fmt: skip
        try:
            until(lambda: _answers(port) or process.poll() is not None, 60)
            assert process.poll() is None, (KEPT / f"{name}.log").read_text()
            yield f"http://127.0.0.1:{port}", process
        finally:
            _end(process)
    assert not outside.exists(), outside.read_text()


def _environment(folder, outside):
    own = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR",
           "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")  # fmt: skip
    path = filter(None, (str(Path(__file__).parent / "offline"), os.environ.get("PYTHONPATH")))
    return (
        os.environ
        | {name: str(folder / name.lower()) for name in own}
        | {"OMP_NUM_THREADS": "1", "AKT_LAB_OUTSIDE": str(outside)}
        | {"PYTHONPATH": os.pathsep.join(path)}
    )


def _free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _answers(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/static/favicon.ico", timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _end(process):
    """End a server and all that it started, by Ctrl-C or else by force."""
    family = [process, *process.children(recursive=True)]
    for _ in range(2):  # JupyterLab asks whether it is meant
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
    _, alive = psutil.wait_procs(family, timeout=10)
    for left in alive:
        left.kill()
    psutil.wait_procs(alive, timeout=10)


@pytest.fixture(scope="session")
def folder(tmp_path_factory, digits):
    """Notebooks in smoke size, their results, and runs; the digits teacher is in the cache."""
    folder = tmp_path_factory.mktemp("browser")
    shutil.copytree(ROOT / "results", folder / "results")
    (folder / "notebooks").mkdir()
    for name in BOOKS:
        _small(name, folder / "notebooks")
    _make_runs(folder / "runs" / "demo")
    return folder


def _small(name, folder):
    """A solution with its smoke sizes, as tests/test_notebooks.py runs it."""
    book = nbformat.read(ROOT / "notebooks" / "solutions" / f"{name}.ipynb", as_version=4)
    cells = []
    for cell in book.cells:
        cells.append(cell)
        if "smoke" in cell.metadata:
            cells.append(nbformat.v4.new_code_cell(cell.metadata.smoke))
    book.cells = cells
    nbformat.write(book, folder / f"{name}.ipynb")


def _make_runs(folder):
    small = {"batch_size": 16, "epochs": 3, "warmup_epochs": 1, "steps": 4}
    jobs = []
    for seed, method in enumerate(("adadfq", "adadfq+akt")):
        for bits in (2, 3):
            settings = Settings(method=method, weight_bits=bits, act_bits=bits, seed=seed, **small)
            jobs.append(Job(settings, BenchSpec(), folder / f"{method}-{bits}", True))
    run_grid(jobs, workers=0, progress=False)


@pytest.fixture(scope="session")
def lab(folder, browser):
    """JupyterLab's address and process."""
    root = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with serving(folder, "lab", "--IdentityProvider.token=", *root) as server:
        yield server


@pytest.fixture(scope="session")
def voila(folder, browser):
    """The app's address and process."""
    with serving(folder, "voila", "--app", "--runs", "runs/demo") as (address, process):
        yield f"{address}/?token={token_of('voila')}", process


def token_of(name):
    """What a server prints for its user."""
    log = until(lambda: re.search(r"token=(\w+)", (KEPT / f"{name}.log").read_text()))
    return log[1]


@pytest.fixture(scope="module", params=SCREENS)
def app(request, voila, browser):
    """The app in a page, at one size of screen."""
    name = f"app-{request.param}"
    with watched(browser, SCREENS[request.param], f"{name}-end") as page:
        page.goto(voila[0])
        page.get_by_role("img").first.wait_for()
        page.name = name
        yield page

"""The explorers as one page."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from akt_lab.benches import BenchSpec
from akt_lab.explorers import app
from akt_lab.explorers.app import demo_runs
from akt_lab.runs.folder import RECORD, Run


@pytest.fixture
def tabs(digits, tmp_path, monkeypatch):
    """Tabs on a folder without runs."""
    monkeypatch.chdir(tmp_path)
    return app(tmp_path / "runs")


def opened(tabs, number):
    """What is in a tab once it was left and opened."""
    tabs.selected_index = 0 if number else 1
    tabs.selected_index = number
    return tabs.children[number].children[-1]


def test_an_import_says_nothing():
    words = [sys.executable, "-c", "import akt_lab.explorers"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")  # a notebook would show it


def test_a_tab_is_made_when_it_is_opened_and_stays(tabs):
    assert [len(page.children) for page in tabs.children] == [2, 0, 0, 0, 0]
    made = opened(tabs, 1)
    assert "base64" in made.picture.value  # students that are merely rounded need no run
    assert opened(tabs, 1) is made
    assert "base64" in opened(tabs, 4).picture.value


def test_what_cannot_be_made_says_why_and_is_tried_again(tabs, runs, tmp_path):
    for number in (2, 3):
        assert f"no runs in {tmp_path / 'runs'}: make some" in opened(tabs, number).value
    (tmp_path / "runs").symlink_to(runs[0].folder.parent)
    for number in (2, 3):
        assert "base64" in opened(tabs, number).picture.value


def test_a_tab_says_what_it_shows(tabs, runs, tmp_path):
    assert "teacher: digits<" in tabs.children[0].children[0].value
    copy = shutil.copytree(runs[0].folder.parent, tmp_path / "runs")
    opened(tabs, 1)
    assert f"teacher: digits, 3 runs in {copy}<" in tabs.children[1].children[0].value


def test_a_run_that_cannot_be_read_is_named_and_the_others_are_shown(tabs, runs, tmp_path):
    copy = shutil.copytree(runs[0].folder.parent, tmp_path / "runs")
    broken = copy / "adadfq-2" / RECORD
    for text in (
        "{",
        "[]",
        "{}",
        '{"settings": 3, "bench": {}}',
        '{"settings": {"method": "<b>"}}',
    ):
        broken.write_text(text)
        again = app(copy)
        for number in (1, 2, 3):
            assert "base64" in opened(again, number).picture.value
            said = again.children[number].children[0].value
            assert said.count("left out: ") == said.count("role=") == 1
            assert "left out: adadfq-2: " in said
            assert "<b>" not in said


def test_runs_of_several_benches_are_not_mixed(runs, tmp_path):
    copy = shutil.copytree(runs[0].folder.parent, tmp_path / "runs")
    Run(copy / "adadfq-2").update_record(bench=BenchSpec("cifar10").to_dict())
    said = opened(app(copy), 1).value
    assert "these runs are of several benches" in said


def test_a_folder_that_may_not_be_read(tmp_path, digits, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    opened(tabs := app(tmp_path), 1)
    assert f"{tmp_path} may not be read" in tabs.children[1].children[0].value


@pytest.mark.parametrize("inside", [".", "notebooks", "notebooks/more"])
def test_the_demo_s_runs_are_found_from_any_folder(inside, tmp_path, monkeypatch, digits):
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / inside).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path / inside)
    assert demo_runs() == tmp_path / "runs" / "demo"
    (tmp_path / "runs" / "demo").rmdir()
    own = Path(sys.modules["akt_lab"].__file__).parents[1] / "runs" / "demo"
    elsewhere = own if own.exists() else Path.cwd() / "runs" / "demo"
    assert demo_runs() == elsewhere
    if elsewhere != own:
        said = opened(app(), 2).value
        assert f"no runs in {elsewhere}, nor in one above it: make some with `akt-lab demo`" in said


def test_an_error_that_nobody_foresaw_is_said_in_the_tab(tabs, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("by <nothing>")

    monkeypatch.setattr(sys.modules["akt_lab.explorers.app"], "generator_explorer", broken)
    monkeypatch.setattr(sys.modules["akt_lab.explorers.app"], "_some", lambda *_: [])
    assert "(ZeroDivisionError: by &lt;nothing&gt;)" in opened(tabs, 3).value

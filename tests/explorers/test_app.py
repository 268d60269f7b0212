"""The explorers as one page."""

import subprocess
import sys

import pytest

from akt_lab.explorers import app


@pytest.fixture
def tabs(digits, tmp_path, monkeypatch):
    """Tabs on a folder without runs."""
    monkeypatch.chdir(tmp_path)
    return app(tmp_path / "runs")


def opened(tabs, number):
    """What is in a tab once it was left and opened."""
    tabs.selected_index = 0 if number else 1
    tabs.selected_index = number
    return tabs.children[number].children[0]


def test_an_import_says_nothing():
    words = [sys.executable, "-c", "import akt_lab.explorers"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")  # a notebook would show it


def test_a_tab_is_made_when_it_is_opened_and_stays(tabs):
    assert [len(page.children) for page in tabs.children] == [1, 0, 0, 0, 0]
    made = opened(tabs, 1)
    assert "base64" in made.picture.value  # students that are merely rounded need no run
    assert opened(tabs, 1) is made
    assert "base64" in opened(tabs, 4).picture.value


def test_what_cannot_be_made_says_why_and_is_tried_again(tabs, runs, tmp_path):
    for number in (2, 3):
        assert "no runs under" in opened(tabs, number).value
    (tmp_path / "runs").symlink_to(runs[0].folder.parent)
    for number in (2, 3):
        assert "base64" in opened(tabs, number).picture.value


def test_an_error_that_nobody_foresaw_is_said_in_the_tab(tabs, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("by <nothing>")

    monkeypatch.setattr(sys.modules["akt_lab.explorers.app"], "generator_explorer", broken)
    monkeypatch.setattr(sys.modules["akt_lab.explorers.app"], "find_runs", lambda folder: [])
    assert "(ZeroDivisionError: by &lt;nothing&gt;)" in opened(tabs, 3).value

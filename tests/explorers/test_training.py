"""The training panel: what its folder allows, what it says, and real runs in the background."""

import asyncio
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from akt_lab.explorers import training
from akt_lab.explorers.history import History
from akt_lab.explorers.training import TrainingPanel
from akt_lab.explorers.training_curves import show
from akt_lab.runs.folder import Run
from tests.explorers.conftest import RECORD, steps, write


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder of its own; the panel's runs end with the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "INTERVAL", 0.0)
    monkeypatch.setattr(training, "FIXED", {"batch_size": 8, "warmup_epochs": 2})
    made = []
    real = training.Background

    def kept(words):
        made.append(real(words))
        return made[-1]

    monkeypatch.setattr(training, "Background", kept)
    yield tmp_path
    for run in made:
        if not run.errors.closed:
            run.close()


def small(**values):
    """A panel set to a run of seconds."""
    shown = TrainingPanel("runs/panel")
    for name, value in {"epochs": 3, "steps": 5, **values}.items():
        shown.controls[name].value = value
    return shown


def wait(shown, until, seconds=90):
    """Poll until something holds."""
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, f"{shown.state}: {shown.status.value} {shown.message.value}"
        shown.poll()
        time.sleep(0.05)


def enabled(shown):
    buttons = {"start": shown.start, "pause": shown.pause, "stop": shown.stop}
    return {name for name, button in buttons.items() if not button.disabled}


def put_run(folder, status="running", rows=60, **entries):
    """A run folder as a run leaves it."""
    folder.mkdir(parents=True)
    record = {**RECORD, "status": status, **entries}
    (folder / "record.json").write_text(json.dumps(record))
    write(folder / "history.jsonl", steps(rows))


def opened(place, **entries):
    """A panel on a run folder that was there before."""
    put_run(place / "runs" / "mine", **entries)
    shown = TrainingPanel()
    shown.folder.value = "runs/mine"
    return shown


class Still:
    """A process that does nothing, in place of `Background`."""

    state, paused, seconds = "running", False, 7.0

    def __init__(self, words):
        self.words = words

    def enforce(self):
        pass

    def close(self):
        pass


@pytest.fixture
def still(place, monkeypatch):
    """A panel whose run does nothing: what it leaves is put into `place` by hand."""
    monkeypatch.setattr(training, "Background", Still)
    return TrainingPanel()


@pytest.fixture
def started(still):
    still.start.click()
    return still


def test_every_control_has_a_label_and_comes_in_order(place):
    shown = TrainingPanel()
    order = [child for row in shown.children[:4] for child in row.children]
    controls, rest = order[:6], order[6:]
    assert all(c.description and c.tooltip for c in [*controls, *rest[:4]])
    assert rest[:4] == [shown.folder, shown.start, shown.pause, shown.stop]
    assert enabled(shown) == {"start"}
    assert shown.folder.value == "runs/panel"
    assert "Curves of 0 of 400 steps" in shown.picture.value


def test_moving_a_control_starts_nothing_and_changes_the_command(place):
    shown = TrainingPanel()
    shown.controls["bits"].value = 5
    assert "--bits 5" in shown.commands.value
    assert "--variant paper" in shown.commands.value
    shown.controls["method"].value = "gdfq"
    assert "--variant" not in shown.commands.value
    assert shown.controls["variant"].disabled
    assert shown.background is None
    assert not Path("runs").exists()


def test_an_unfinished_run_can_go_on_and_shows_its_curves(place):
    shown = opened(place)
    assert enabled(shown) == {"pause"}
    assert shown.pause.description == "Go on"
    assert "unfinished: epoch 2 of 4, step 60 of 200" in shown.status.value
    assert "Curves of 60 of 200 steps" in shown.picture.value
    assert f"akt-lab quantize --out {place}/runs/mine --resume" in shown.commands.value
    assert "--method" not in shown.commands.value  # it has settings of its own
    assert shown.message.value == ""


@pytest.mark.parametrize(("status", "word"), [("done", "is finished"), ("failed", "diverged")])
def test_a_run_that_has_ended_is_named_and_another_folder_proposed(place, status, word):
    put_run(place / "runs" / "panel", status)
    shown = TrainingPanel()
    assert shown.folder.value == "runs/panel-2"
    assert enabled(shown) == {"start"}
    shown.folder.value = "runs/panel"
    assert f"holds a run that {word}: choose another folder, such as runs/panel-2" in (
        shown.message.value
    )
    assert enabled(shown) == set()
    assert shown.commands.value == ""
    shown.folder.value = "runs/other"
    assert enabled(shown) == {"start"}
    assert shown.message.value == ""


def test_what_is_no_run_folder_is_refused(place):
    (place / "file").write_text("")
    (place / "full").mkdir()
    (place / "full" / "letter.txt").write_text("")
    (place / "odd").mkdir()
    (place / "odd" / "record.json").write_text("{")
    write(place / "odd" / "history.jsonl", steps(60))
    shown = TrainingPanel()
    for name, words in (
        ("file", "file is no run folder"),
        ("full", "full is no run folder"),
        (".", ". is no run folder: choose another folder, such as .-2"),
        ("odd", "odd/record.json is damaged"),
        (" ", "name a folder"),
    ):
        shown.folder.value = name
        assert words in shown.message.value
        assert (shown.place, enabled(shown)) == ("taken", set())
    (place / "new").mkdir()
    (place / "new" / ".record.json.1234.tmp").write_text("{")  # killed before its first record
    shown.folder.value = "new"
    assert (shown.place, enabled(shown)) == ("free", {"start"})


def test_a_broken_history_line_is_told(place):
    put_run(place / "runs" / "mine", "running")
    with open(place / "runs" / "mine" / "history.jsonl", "a") as file:
        file.write("{{{\n")
    shown = TrainingPanel()
    shown.folder.value = "runs/mine"
    assert "1 broken lines in" in shown.message.value
    assert "Curves of 60 of 200 steps" in shown.picture.value


def test_a_run_without_a_history_is_shown_with_its_own_settings(place):
    shown = opened(place, rows=0)
    assert "unfinished: epoch 1 of 4, step 0 of 200" in shown.status.value


def test_what_cannot_be_drawn_disables_all_buttons(place):
    shown = opened(place, settings={"epochs": 4, "steps": "50"})
    assert "record.json is damaged" in shown.message.value
    assert (shown.place, enabled(shown)) == ("taken", set())


@pytest.mark.parametrize(
    ("status", "words", "can"),
    [("running", "holds an unfinished run: go on with it", {"pause"}),
     ("done", "is finished", set())],
)  # fmt: skip
def test_another_process_began_a_run_in_the_folder_since(place, status, words, can):
    shown = TrainingPanel()
    put_run(place / "runs" / "panel", status)
    shown.start.click()
    assert words in shown.message.value
    assert shown.background is None
    assert enabled(shown) == can
    assert shown.pause.description == "Go on"


def test_nothing_is_drawn_twice_within_the_interval_nor_without_news(place, started, monkeypatch):
    monkeypatch.setattr(training, "INTERVAL", 3600.0)
    drawn = []
    monkeypatch.setattr(training, "show", lambda view: drawn.append(len(view.steps)) or show(view))
    put_run(place / "runs" / "panel", "running")
    for _ in range(5):
        write(place / "runs" / "panel" / "history.jsonl", steps(3))
        started.poll()
    assert drawn == []
    assert "step 75 of 400, 7 s so far" in started.status.value  # the line is not held back
    monkeypatch.setattr(training, "INTERVAL", 0.0)
    started.poll()
    started.poll()
    assert len(drawn) == 1


def test_each_step_of_a_run_is_taken_once(place, started, monkeypatch):
    taken, add = [], History.add
    monkeypatch.setattr(History, "add", lambda self, row: taken.append(row) or add(self, row))
    put_run(place / "runs" / "panel", "running")  # of other settings than the controls'
    for _ in range(4):
        started.poll()
        write(place / "runs" / "panel" / "history.jsonl", steps(60)[-1:])
    started.poll()
    assert len(taken) == 64 + 60  # the first time in points of the controls' settings
    assert "Curves of 60 of 200 steps" in started.picture.value


def test_a_run_that_was_stopped_before_its_first_step_can_go_on(place, started):
    put_run(place / "runs" / "panel", "running", rows=0)
    started.background.state = "stopped"
    started.poll()
    assert "stopped: epoch 1 of 4, step 0 of 200; go on here" in started.status.value
    assert enabled(started) == {"pause"}


def test_a_run_that_was_stopped_before_its_record_begins_again(place, started):
    started.background.state = "stopped"
    started.poll()
    assert started.status.value == "stopped before its first step: Start begins again"
    assert enabled(started) == {"start"}


def test_two_runs_in_a_row_are_not_followed_by_two_tasks(still):
    async def twice(shown):
        shown.start.click()
        first = shown._task
        await asyncio.sleep(0)
        shown.background = None  # it has ended, and the next comes before the task looks again
        shown.start.click()
        await asyncio.wait_for(first, 5)
        assert not shown._task.done()
        shown.background = None
        await shown._task

    asyncio.run(twice(still))


@pytest.mark.usefixtures("still")
def test_a_panel_whose_run_is_going_is_given_again():
    first = training.training_panel("runs/again")
    first.start.click()
    assert training.training_panel("runs/again") is first
    first.background = None
    assert training.training_panel("runs/again") is not first


@pytest.mark.slow
def test_a_run_is_paused_and_stopped_goes_on_here_and_ends_by_the_command_line(digits, place):
    shown = small(method="adadfq", steps=100, epochs=8)  # not over between two looks
    lines = place / "runs" / "panel" / "history.jsonl"
    shown.start.click()
    assert enabled(shown) == {"pause", "stop"}
    assert all(c.disabled for c in [*shown.controls.values(), shown.folder])
    wait(shown, lambda: shown.history.rows)

    shown.pause.click()
    process = shown.background.process
    assert (shown.state, shown.pause.description) == ("paused", "Go on")
    wait(shown, lambda: process.status() == psutil.STATUS_STOPPED, 5)
    held = lines.read_bytes()
    time.sleep(1.5)  # longer than from one flush to the next
    shown.poll()
    assert lines.read_bytes() == held
    assert shown.state == "paused"

    shown.pause.click()
    assert shown.state == "running"
    wait(shown, lambda: shown.history.rows > max(100, held.count(b"\n")))
    shown.pause.click()
    shown.stop.click()
    wait(shown, lambda: shown.background is None, 20)
    assert not process.is_running()
    assert shown.state == "stopped"
    assert f"akt-lab quantize --out {place}/runs/panel --resume" in shown.status.value
    assert enabled(shown) == {"pause"}

    old = lines.stat()
    shown.pause.click()
    wait(shown, lambda: lines.stat().st_ino != old.st_ino and lines.stat().st_size > old.st_size)
    shown.stop.click()
    wait(shown, lambda: shown.background is None, 20)
    assert shown.state == "stopped"

    words = "quantize --out runs/panel --resume".split()
    done = subprocess.run([sys.executable, "-m", "akt_lab.commands", *words], capture_output=True)
    assert done.returncode == 0, done.stderr
    run = Run.open("runs/panel")
    assert run.record["status"] == "done"
    assert len(run.history()) == 800


@pytest.mark.slow
def test_a_run_ends_by_itself_and_the_next_has_a_folder(digits, place):
    shown = small(method="gdfq")
    shown.start.click()
    wait(shown, lambda: shown.background is None)
    assert shown.state == "done"
    run = Run.open("runs/panel")
    assert run.epochs == [1, 2, 3]  # the other explorers can look into it
    student, teacher = run.record["accuracy"]["last"], run.record["teacher_accuracy"]
    assert shown.status.value == (
        f"done: {student:.2f}% (teacher {teacher:.2f}%); kept in runs/panel"
    )
    assert "Curves of 15 of 15 steps" in shown.picture.value
    assert f"Last accuracy: {student:.2f}%" in shown.picture.value
    assert shown.message.value == ""
    assert shown.folder.value == "runs/panel-2"
    assert enabled(shown) == {"start"}
    said = shown.status.value
    shown.controls["seed"].value = 1
    assert shown.status.value == said


@pytest.mark.slow
def test_a_deleted_folder_ends_the_run_with_a_sentence(digits, place):
    shown = small(steps=200)
    shown.start.click()
    wait(shown, lambda: shown.history.rows)
    shutil.rmtree(place / "runs")
    wait(shown, lambda: shown.background is None)
    assert shown.state == "failed"
    assert "cannot write" in shown.message.value
    assert "No such file or directory" in shown.message.value


@pytest.mark.slow
def test_what_the_command_line_refuses_is_told(place, monkeypatch):
    shown = small()
    words = shown._words()
    monkeypatch.setattr(shown, "_words", lambda: [*words, "--weight-bits", "9"])
    shown.start.click()
    wait(shown, lambda: shown.background is None)
    assert shown.state == "failed"
    assert "bits must be" in shown.message.value
    assert 'role="alert"' in shown.message.value
    assert enabled(shown) == {"start"}

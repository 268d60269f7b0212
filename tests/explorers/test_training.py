"""The training panel: its pictures by numbers and pixels, and real runs in the background."""

import asyncio
import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.colors
import numpy as np
import psutil
import pytest
from PIL import Image

from akt_lab.explorers import background
from akt_lab.explorers import training as panel
from akt_lab.explorers.background import Background, Follower
from akt_lab.explorers.curves import PICTURE, decades, draw, look, show
from akt_lab.explorers.training import TrainingPanel
from akt_lab.figures.style import COLOURS
from akt_lab.runs.folder import Run

RECORD = {
    "settings": {
        "method": "adadfq+akt", "variant": "paper", "alpha": 0.5, "temperature": 20.0,
        "epochs": 4, "steps": 50, "warmup_epochs": 2,
    },
    "teacher_accuracy": 99.0,
    "classes": 10,
}  # fmt: skip
FLOOR = -0.5 * 400 * np.log(10)  # of the difference entropy


def history(rows, norm=20.0):
    """A history of so many rows, epoch by epoch of 50 steps, as `training` writes them."""
    return [_row(*divmod(i, 50), norm) for i in range(rows)]


def _row(epoch, step, norm):
    row = {"epoch": epoch, "step": step, "generator/bns": 0.3, "generator/agreement": 0.0}
    if epoch >= 2:
        student = {"student/spatial": 0.2, "student/difference_entropy": FLOOR + 0.7}
        row |= {**student, "student/gradient_norm": norm}
    if epoch >= 1 and step == 49:
        row |= {"accuracy": 60.0 + 10 * epoch}
    return row


def write(path, rows):
    with open(path, "a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def has_colour(png, index, box):
    """Whether many pixels of the box (left, top, right, bottom: shares) have a colour of ours."""
    image = pixels(png)
    h, w, _ = image.shape
    left, top, right, bottom = (int(s * n) for s, n in zip(box, (w, h, w, h), strict=True))
    colour = 255 * np.array(matplotlib.colors.to_rgb(COLOURS[index]))
    near = np.abs(image[top:bottom, left:right] - colour).max(axis=-1) < 24
    return near.sum() > 20


# ---- numbers -------------------------------------------------------------------------------------


def test_a_history_is_counted_over_epochs_and_cut_into_blocks():
    view = look(history(151), RECORD)
    assert (view.total, view.warmup) == (200, 100)
    assert view.steps[0] == 2  # blocks of two steps
    assert view.steps[-1] == 151  # the last block is not whole
    assert view.evaluated.tolist() == [[100, 150], [70.0, 80.0]]
    assert np.isnan(view.norm[:, view.steps <= 100]).all()
    assert (view.norm[:, view.steps > 100] == 20.0).all()


def test_no_gradient_is_lost_in_a_long_history():
    rows = history(200)
    rows[133]["student/gradient_norm"] = 777.0
    record = {**RECORD, "settings": {**RECORD["settings"], "epochs": 400}}
    view = look(rows + history(200)[100:], record)
    assert len(view.steps) <= 100
    assert np.nanmax(view.norm[2]) == 777.0
    assert np.nanmax(view.norm[0]) == 20.0


@pytest.mark.parametrize(
    ("method", "variant", "share"),
    [("adadfq+akt", "paper", 0.5), ("adadfq+akt", "code", 1.0), ("adadfq", "paper", 1.0)],
)
def test_the_difference_entropy_is_drawn_above_its_least_value(method, variant, share):
    rows = history(150)
    for row in rows[100:]:
        row["student/difference_entropy"] = share * (-400 * np.log(10)) + 0.25
    settings = {**RECORD["settings"], "method": method, "variant": variant}
    view = look(rows, {**RECORD, "settings": settings})
    assert view.terms["student/difference_entropy"][-1] == pytest.approx(0.25)


def test_decades_hold_every_value_but_four_at_most():
    assert decades(np.array([0.02, 5.0, np.nan, 0.0]), 0.1, 1.0) == (0.01, 10.0)
    assert decades(np.array([0.5]), 0.1, 10.0) == (0.1, 10.0)
    assert decades(np.array([1e-9, 50.0]), 0.1, 10.0) == (0.01, 100.0)
    assert decades(np.array([10.0]), 1.0, 10.0) == (1.0, 100.0)
    assert decades(np.array([np.nan]), 0.1, 10.0) == (0.1, 10.0)


# ---- history -------------------------------------------------------------------------------------


def test_a_follower_reads_each_line_once_and_waits_for_half_a_line(tmp_path):
    follower = Follower(tmp_path / "history.jsonl")
    assert not follower.read()
    write(follower.path, history(3))
    with open(follower.path, "a") as file:
        file.write('{"epoch": 0, "st')
    assert follower.read()
    assert len(follower.rows) == 3
    first = follower.rows[0]
    assert not follower.read()
    with open(follower.path, "a") as file:
        file.write('ep": 3, "generator/bns": 5.0, "gradient/conv.weight": 1.0}\n')
    assert follower.read()
    assert follower.rows[0] is first
    assert follower.rows[3] == {"epoch": 0, "step": 3, "generator/bns": 5.0}
    assert follower.broken == 0


def test_a_follower_starts_over_when_a_resume_has_cut_the_file(tmp_path):
    run = Run(tmp_path)
    write(tmp_path / "history.jsonl", history(120))
    follower = Follower(tmp_path / "history.jsonl")
    follower.read()
    run.cut_history(100)
    write(tmp_path / "history.jsonl", history(150, norm=2.0)[100:])  # longer than it was
    assert follower.read()
    assert len(follower.rows) == 150
    assert follower.rows[-1]["student/gradient_norm"] == 2.0


@pytest.mark.parametrize("line", ["{", "[1]", '{"epoch": 1}', '{"epoch": 0, "step": "x"}', "\x00"])
def test_a_broken_line_is_left_out_and_counted(tmp_path, line):
    path = tmp_path / "history.jsonl"
    path.write_text(line + "\n")
    write(path, history(2))
    follower = Follower(path)
    follower.read()
    assert (follower.broken, len(follower.rows)) == (1, 2)


# ---- picture -------------------------------------------------------------------------------------


def test_the_axes_hold_the_curves_of_the_history():
    view = look(history(200), RECORD)
    generator, student, norm, accuracy = draw(view).axes
    lines = [line for axes in (generator, student) for line in axes.lines]
    curves = {"bns": lines[0], "spatial": student.lines[0]}
    assert curves["bns"].get_ydata() == pytest.approx(0.3)
    assert curves["bns"].get_xdata() == pytest.approx(view.steps)
    assert np.nanmax(curves["spatial"].get_ydata()) == pytest.approx(0.2)
    assert norm.lines[0].get_ydata()[-1] == pytest.approx(20.0)
    assert accuracy.lines[-1].get_ydata().tolist() == [70.0, 80.0, 90.0]
    names = {text.get_text() for axes in (generator, student) for text in axes.texts}
    assert names == {"bns", "agreement", "spatial", "difference entropy"}
    assert {t.get_text() for t in accuracy.texts} == {"teacher 99.0%"}


def test_each_term_has_a_colour_and_a_dash_of_its_own_and_names_do_not_meet():
    view = look(history(200), RECORD)
    axes = draw(view).axes[0]
    styles = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    colours, dashes = zip(*styles, strict=True)
    assert len(styles) == len(set(colours)) == len(set(dashes)) == 2
    heights = sorted(text.get_position()[1] for text in axes.texts)
    assert np.diff(heights).min() > 0.16
    assert 0 <= heights[0]
    assert heights[-1] <= 1


def test_the_picture_has_the_lines_and_changes_with_the_data():
    warm, later = (show(look(history(n), RECORD)).png for n in (60, 200))
    norm_panel = 0.69, 0.1, 0.98, 0.42
    assert has_colour(later, 0, norm_panel)
    assert not has_colour(warm, 0, norm_panel)
    generators = 0.07, 0.1, 0.41, 0.42
    assert has_colour(warm, 0, generators)
    higher = show(look(history(200, norm=25.0), RECORD)).png
    assert (pixels(higher) != pixels(later)).any()


def test_the_kept_frame_gives_the_same_picture_as_a_new_one():
    view = look(history(160), RECORD)
    show(look(history(120), RECORD))
    figure = draw(view)
    figure.canvas.draw()
    fresh = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
    assert np.abs(pixels(PICTURE.png(view)) - fresh).mean() < 0.5


def test_the_picture_is_told_in_words():
    shown = show(look(history(200), RECORD))
    assert "200 of 200 steps" in shown.alt
    assert "90.00%" in shown.alt
    assert "gradient norm: 20" in shown.alt
    assert "none yet" in show(look([], RECORD)).alt


# ---- panel ---------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder of its own; the panel's runs end with the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(panel, "INTERVAL", 0.0)
    monkeypatch.setattr(panel, "FIXED", {"batch_size": 8, "warmup_epochs": 2})
    made = []
    real = panel.Background

    def kept(words):
        made.append(real(words))
        return made[-1]

    monkeypatch.setattr(panel, "Background", kept)
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


def put_run(folder, status, rows=60, **entries):
    """A run folder as a run leaves it."""
    folder.mkdir(parents=True)
    record = {**RECORD, "status": status, **entries}
    (folder / "record.json").write_text(json.dumps(record))
    write(folder / "history.jsonl", history(rows))


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
    put_run(place / "runs" / "mine", "running")
    shown = TrainingPanel()
    shown.folder.value = "runs/mine"
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
    shown = TrainingPanel()
    for name, words in (
        ("file", "file is no run folder"),
        ("full", "full is no run folder"),
        ("odd", "odd/record.json cannot be read"),
        (" ", "name a folder"),
    ):
        shown.folder.value = name
        assert words in shown.message.value
        assert enabled(shown) == set()


def test_a_broken_history_line_is_told(place):
    put_run(place / "runs" / "mine", "running")
    with open(place / "runs" / "mine" / "history.jsonl", "a") as file:
        file.write("{{{\n")
    shown = TrainingPanel()
    shown.folder.value = "runs/mine"
    assert "1 broken lines in" in shown.message.value
    assert "Curves of 60 of 200 steps" in shown.picture.value


def test_a_run_without_a_history_is_shown_with_its_own_settings(place):
    put_run(place / "runs" / "mine", "running", rows=0)
    shown = TrainingPanel()
    shown.folder.value = "runs/mine"
    assert "unfinished: epoch 1 of 4, step 0 of 200" in shown.status.value


def test_a_broken_record_disables_all_buttons(place):
    put_run(place / "runs" / "mine", "running")
    shown = TrainingPanel()
    (place / "runs" / "mine" / "record.json").write_text("{")
    shown.folder.value = "runs/mine"
    assert "record.json cannot be read" in shown.message.value
    assert (shown.place, enabled(shown)) == ("taken", set())


def test_what_cannot_be_drawn_disables_all_buttons(place):
    record = {"settings": {"epochs": 4, "steps": 50}}  # and no more
    put_run(place / "runs" / "mine", "running", **record)
    shown = TrainingPanel()
    shown.folder.value = "runs/mine"
    assert "this should not have happened" in shown.message.value
    assert (shown.place, enabled(shown)) == ("taken", set())


def test_a_run_was_begun_in_the_folder_since(place):
    shown = TrainingPanel()
    put_run(place / "runs" / "panel", "running")
    shown.start.click()
    assert "holds an unfinished run: go on with it" in shown.message.value
    assert shown.background is None
    assert enabled(shown) == {"pause"}
    assert shown.pause.description == "Go on"


def test_the_folder_was_taken_since(place):
    shown = TrainingPanel()
    put_run(place / "runs" / "panel", "done")
    shown.start.click()
    assert "is finished" in shown.message.value
    assert shown.background is None
    assert enabled(shown) == set()


class Still:
    """A process that does nothing, in place of `Background`."""

    state, paused, seconds = "running", False, 7.0

    def __init__(self, words):
        self.words = words

    def enforce(self):
        pass

    def close(self):
        pass


def test_nothing_is_drawn_twice_within_the_interval_nor_without_news(place, monkeypatch):
    monkeypatch.setattr(panel, "Background", Still)
    monkeypatch.setattr(panel, "INTERVAL", 3600.0)
    shown = TrainingPanel()
    shown.start.click()
    drawn = []
    monkeypatch.setattr(panel, "show", lambda view: drawn.append(len(view.steps)) or show(view))
    put_run(place / "runs" / "panel", "running")
    for _ in range(5):
        write(place / "runs" / "panel" / "history.jsonl", history(3))
        shown.poll()
    assert drawn == []
    assert "step 75 of 400, 7 s so far" in shown.status.value  # the line is not held back
    monkeypatch.setattr(panel, "INTERVAL", 0.0)
    shown.poll()
    shown.poll()
    assert len(drawn) == 1


def test_a_run_that_was_stopped_before_its_first_step_can_go_on(place, monkeypatch):
    monkeypatch.setattr(panel, "Background", Still)
    shown = TrainingPanel()
    shown.start.click()
    put_run(place / "runs" / "panel", "running", rows=0)
    shown.background.state = "stopped"
    shown.poll()
    assert "stopped: epoch 1 of 4, step 0 of 200; go on here" in shown.status.value
    assert enabled(shown) == {"pause"}


def test_a_run_that_was_stopped_before_its_record_begins_again(place, monkeypatch):
    monkeypatch.setattr(panel, "Background", Still)
    shown = TrainingPanel()
    shown.start.click()
    shown.background.state = "stopped"
    shown.poll()
    assert shown.status.value == "stopped before its first step: Start begins again"
    assert enabled(shown) == {"start"}


def test_two_runs_in_a_row_are_not_followed_by_two_tasks(place, monkeypatch):
    monkeypatch.setattr(panel, "Background", Still)

    async def twice():
        shown = TrainingPanel()
        shown.start.click()
        first = shown._task
        await asyncio.sleep(0)
        shown.background = None  # it has ended, and the next comes before the task looks again
        shown.start.click()
        await asyncio.wait_for(first, 5)
        assert not shown._task.done()
        shown.background = None
        await shown._task

    asyncio.run(twice())


def test_a_panel_whose_run_is_going_is_given_again(place, monkeypatch):
    monkeypatch.setattr(panel, "Background", Still)
    first = panel.training_panel("runs/again")
    first.start.click()
    assert panel.training_panel("runs/again") is first
    first.background = None
    assert panel.training_panel("runs/again") is not first


# ---- real runs -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_is_paused_and_stopped_goes_on_here_and_ends_by_the_command_line(digits, place):
    shown = small(method="adadfq", steps=100)
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
    wait(shown, lambda: len(shown.history.rows) > max(100, held.count(b"\n")))
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
    assert len(run.history()) == 300


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


def test_progress_bars_are_rare_and_only_the_last_words_are_read(monkeypatch):
    started = {}

    def popen(words, **options):
        started.update(options)
        return subprocess.Popen([sys.executable, "-c", ""], env=options["env"])

    monkeypatch.setattr(background.psutil, "Popen", popen)
    run = Background([])
    monkeypatch.setattr(run, "_each", lambda action: None)
    assert started["env"]["TQDM_MININTERVAL"] == "60"
    assert started["env"].items() >= os.environ.items()
    run.errors.write(b"akt-lab: long ago\n" + 10**5 * b"\rstep" + b"\nthe last words\n")
    assert run.close() == "the last words"


@pytest.mark.slow
def test_a_run_ends_with_the_process_that_started_it(place):
    script = (
        "from akt_lab.explorers.training import Background\n"
        "print(Background(['--out', 'run']).process.pid)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not psutil.pid_exists(int(done.stdout))

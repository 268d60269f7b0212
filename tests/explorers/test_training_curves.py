"""The training panel's curves: by numbers, against pandas over all rows, and by pixels."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from akt_lab.explorers import history
from akt_lab.explorers.history import History
from akt_lab.explorers.training_curves import NORM, PICTURE, decades, draw, look, rows_a_point, show
from tests.explorers.conftest import FLOOR, RECORD, pixels, steps, write


def seen(rows, record=RECORD):
    """The curves of rows that are there all at once."""
    whole = History(Path("nowhere"), rows_a_point(record))
    for row in rows:
        whole.add(row)
    return look(whole, record)


def test_a_history_is_counted_over_epochs_and_cut_into_blocks():
    view = seen(steps(151))
    assert (view.total, view.warmup) == (200, 100)
    assert view.steps[0] == 2  # blocks of two steps
    assert view.steps[-1] == 151  # the last block is not whole
    assert view.evaluated.tolist() == [[100, 150], [70.0, 80.0]]
    assert np.isnan(view.norm[:, view.steps <= 100]).all()
    assert (view.norm[:, view.steps > 100] == 20.0).all()


def of_all_rows(rows, record):
    """The same by pandas, which holds them all: steps, medians, and the norm's median and ends."""
    settings, table = record["settings"], pd.DataFrame(rows)
    size = -(-settings["epochs"] * settings["steps"] // 100)
    blocks = table.groupby(np.arange(len(table)) // size)
    last = blocks.tail(1)
    names = [name for name in rows[-1] if "/" in name and name != NORM]
    terms = blocks[names].median()
    if "student/difference_entropy" in terms:
        terms["student/difference_entropy"] -= FLOOR
    norm = blocks[NORM]
    return (
        (last["epoch"] * settings["steps"] + last["step"] + 1).to_numpy(),
        {name: terms[name].to_numpy() for name in names},
        np.stack([norm.median(), norm.min(), norm.max()]),
    )


def test_curves_that_grow_are_those_of_all_rows(tmp_path):
    rng, rows = np.random.default_rng(0), steps(1700)
    for row in rows:
        drawn = [name for name in row if "/" in name]
        row |= dict(zip(drawn, rng.normal(size=len(drawn)), strict=True))
    rows[1203][NORM] = rows[1700 - 1]["student/spatial"] = float("nan")
    del rows[1204][NORM]
    record = {**RECORD, "settings": {**RECORD["settings"], "epochs": 37}}  # 19 steps a point
    path = tmp_path / "history.jsonl"
    followed = History(path, rows_a_point(record))
    for start, end in ((0, 1), (1, 18), (18, 19), (19, 20), (20, 1210), (1210, 1700)):
        write(path, rows[start:end])
        followed.read()
        view = look(followed, record)
        if end > 100:
            at, terms, norm = of_all_rows(rows[:end], record)
            assert np.array_equal(view.steps, at)
            assert np.array_equal(view.norm, norm, equal_nan=True)
            assert list(view.terms) == list(terms)
            for name, values in terms.items():
                assert np.array_equal(view.terms[name], values, equal_nan=True), name
        assert show(view) == show(seen(rows[:end], record))


def test_a_look_at_a_long_run_touches_its_latest_rows_only(tmp_path, monkeypatch):
    settings = {**RECORD["settings"], "epochs": 400, "steps": 200}
    record, path = {**RECORD, "settings": settings}, tmp_path / "history.jsonl"
    rows = [row | {"epoch": i // 200} for i, row in enumerate(400 * steps(200))]
    write(path, rows[:79_990])
    followed = History(path, rows_a_point(record))
    followed.read()
    first = look(followed, record)
    parsed, sorted_ = [], []
    unsealed, median = history.unsealed, history.median
    monkeypatch.setattr(history, "unsealed", lambda s: parsed.append(s) or unsealed(s))
    monkeypatch.setattr(history, "median", lambda v: sorted_.append(len(v)) or median(v))
    write(path, rows[79_990:79_991])
    followed.read()
    second = look(followed, record)
    assert len(parsed) == 1
    assert max(sorted_) <= 800
    assert len(sorted_) <= len(rows[-1])  # of one block
    assert len(followed._open) <= 800
    assert len(second.steps) == len(first.steps) == 100
    assert second.steps[-1] == first.steps[-1] + 1


@pytest.mark.parametrize(
    ("method", "variant", "share"),
    [("adadfq+akt", "paper", 0.5), ("adadfq+akt", "code", 1.0), ("adadfq", "paper", 1.0)],
)
def test_the_difference_entropy_is_drawn_above_its_least_value(method, variant, share):
    rows = steps(150)
    for row in rows[100:]:
        row["student/difference_entropy"] = share * (-400 * np.log(10)) + 0.25
    settings = {**RECORD["settings"], "method": method, "variant": variant}
    view = seen(rows, {**RECORD, "settings": settings})
    assert view.terms["student/difference_entropy"][-1] == pytest.approx(0.25)


def test_decades_hold_every_value_but_four_at_most():
    assert decades(np.array([0.02, 5.0, np.nan, 0.0]), 0.1, 1.0) == (0.01, 10.0)
    assert decades(np.array([0.5]), 0.1, 10.0) == (0.1, 10.0)
    assert decades(np.array([1e-9, 50.0]), 0.1, 10.0) == (0.01, 100.0)
    assert decades(np.array([10.0]), 1.0, 10.0) == (1.0, 100.0)
    assert decades(np.array([np.nan]), 0.1, 10.0) == (0.1, 10.0)


def test_the_axes_hold_the_curves_of_the_history():
    view = seen(steps(200))
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
    view = seen(steps(200))
    axes = draw(view).axes[0]
    styles = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    colours, dashes = zip(*styles, strict=True)
    assert len(styles) == len(set(colours)) == len(set(dashes)) == 2
    heights = sorted(text.get_position()[1] for text in axes.texts)
    assert np.diff(heights).min() > 0.16
    assert 0 <= heights[0]
    assert heights[-1] <= 1


def test_the_kept_frame_gives_the_same_picture_as_a_new_one():
    view = seen(steps(160))
    show(seen(steps(120)))
    figure = draw(view)
    figure.canvas.draw()
    fresh = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
    assert np.abs(pixels(PICTURE.png(view)) - fresh).mean() < 0.5


def test_the_picture_is_told_in_words():
    shown = show(seen(steps(200)))
    assert "200 of 200 steps" in shown.alt
    assert "90.00%" in shown.alt
    assert "gradient norm: 20" in shown.alt
    assert "none yet" in show(seen([])).alt

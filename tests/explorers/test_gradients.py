"""The gradient explorer: norms of runs and of studies, read once and drawn in few points."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from akt_lab.analysis.gradients import Case, study, synthetic_batches
from akt_lab.errors import AktError
from akt_lab.explorers import gradient_explorer, gradients
from akt_lab.runs.folder import HISTORY, Run
from akt_lab.runs.verified_json import read_lines


@pytest.fixture(scope="module")
def norms(digits):
    images = synthetic_batches(digits, 3, 8)
    return study(digits, [Case(0, "ce"), Case(2, "ce"), Case(3, "kd")], images, progress=False)


@pytest.fixture
def copy(runs, tmp_path):
    """A run of which a test may rewrite the history, and its rows."""
    run = Run(shutil.copytree(runs[0].folder, tmp_path / "run"))
    run.update_record(steps_done=0, steps_saved=0)  # a test may write more rows, or fewer
    return run, [row for _, row in read_lines(run / HISTORY, "")]


@pytest.fixture
def calm(norms):
    return gradients.of_study(norms)[1]


def view(left, right=None, layer=gradients.ALL, step=0):
    """What is drawn of two."""
    pair = left, right or left
    span = left.first, left.first + left.values.shape[1] - 1
    return gradients.View(pair, layer, step, gradients.limits(pair), span)


def test_norms_of_a_watched_run(runs):
    found = {(n.name, n.bits): n for n in gradients.of_runs(runs)[0]}
    history, one = runs[0].history(), found["adadfq", 2]
    assert one.first == 3  # after the warm-up
    assert one.values.shape == (len(one.layers), 6)
    column = history[f"gradient/{one.layers[2]}.weight"].dropna()
    assert one.of(one.layers[2]) == pytest.approx(column.to_numpy())
    assert (one.of(gradients.ALL) <= history["student/gradient_norm"].dropna() * 1.0001).all()


def test_a_history_is_read_once_and_anew_when_it_was_written_to(copy, monkeypatch):
    (run, rows), reads, history = copy, [], Run.history
    monkeypatch.setattr(Run, "history", lambda self: reads.append(self.folder) or history(self))
    (first,) = gradients.of_runs([run])[0]
    (second,) = gradients.of_runs([run])[0]
    assert reads == [run.folder]  # and not twice
    assert np.shares_memory(second.values, first.values)
    run.append_history([{**rows[-1], "epoch": rows[-1]["epoch"] + 1, "step": 0}])
    (third,) = gradients.of_runs([run])[0]
    assert np.array_equal(third.values, first.values[:, [*range(6), 5]])


def test_a_step_without_norms_is_a_gap_and_a_broken_line_is_told(copy):
    run, rows = copy
    (whole,) = gradients.of_runs([run])[0]
    for row, some in ((rows[3], slice(0, 1)), (rows[5], slice(1, 3)), (rows[8], slice(None))):
        for name in [n for n in row if n.startswith("gradient/")][some]:
            del row[name]
    (run / HISTORY).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = gradients.of_runs([run])[0]
    places = [found.layers.index(layer) for layer in whole.layers]
    expected = whole.values.copy()
    expected[0, 0] = expected[1:3, 2] = expected[:, 5] = np.nan
    assert np.array_equal(found.values[places], expected, equal_nan=True)
    (run / HISTORY).write_text("{{{\n")
    with pytest.raises(AktError, match="line 1, is damaged"):
        gradients.of_runs([run])


def test_norms_of_a_study(norms):
    found = {(n.name, n.bits): n for n in gradients.of_study(norms)}
    assert set(found) == {("ce", 0), ("ce", 2), ("kd", 3)}
    rows = norms[(norms["bits"] == 2) & (norms["step"] == 1)]
    assert found["ce", 2].values[:, 1] == pytest.approx(rows["norm"].to_numpy())


def test_cases_that_differ_in_what_the_ranges_observed_are_two(norms):
    two = norms[norms["bits"] == 2]
    more = two.assign(observed=20, norm=2 * two["norm"])
    legacy = two.assign(ranges="ema_legacy", norm=3 * two["norm"])
    found = {n.name: n.values for n in gradients.of_study(pd.concat([two, more, legacy]))}
    assert set(found) == {"ce", "ce, ema 20", "ce, ema_legacy 10"}
    assert found["ce, ema 20"] == pytest.approx(2 * found["ce"])
    assert found["ce, ema_legacy 10"] == pytest.approx(3 * found["ce"])


def test_a_run_that_broke_off_is_shown_as_one(copy):
    broken, rows = copy
    rows[-1] |= {name: float("nan") for name in rows[-1] if name.startswith("gradient/")}
    lines = [json.dumps(row) + "\n" for row in rows]
    (broken / HISTORY).write_text("".join([*lines, '{"epo']))
    (found,) = gradients.of_runs([broken])[0]
    assert found.values.shape[1] == 6
    assert np.isnan(found.values[:, -1]).all()
    shown = view(found, step=8)
    assert "not finite" in gradients.show(shown).alt
    crosses = [line for line in gradients.draw(shown).axes[2].lines if line.get_marker() == "X"]
    assert [line.get_xdata()[0] for line in crosses] == [8, 8]


def test_nothing_finite_at_all_and_a_long_run(calm):
    nothing = replace(calm, values=np.full_like(calm.values, np.nan))
    assert "not finite" in gradients.show(view(nothing)).alt
    values = np.ones((3, 5000))
    values[1, 4321] = 99
    thin = gradients._thinned(values)
    assert thin.shape == (3, 385)
    assert thin[1].max() == 99


def test_a_look_at_a_long_run_is_as_short_as_its_picture(calm, monkeypatch):
    values = np.random.default_rng(0).lognormal(size=(3, 80_000))
    values[1, 54_321] = 1e6
    long = replace(calm, layers=("a", "b", "c"), values=values)
    calls, real = [], gradients.explosion
    monkeypatch.setattr(gradients, "explosion", lambda x: calls.append(len(x)) or real(x))
    shown = [gradients.show(view(long, layer="b", step=step)) for step in (7, 70_000)]
    assert calls == [80_000]  # at the first look
    assert shown[1] == gradients.show(view(replace(long), layer="b", step=70_000))
    left, _, lines, _ = gradients.draw(view(long, layer="b")).axes
    assert left.images[0].get_array().shape == (3, 400)
    steps, drawn = lines.lines[0].get_data()
    assert len(steps) == len(drawn) == 800
    assert (drawn.min(), drawn.max()) == (values[1].min(), 1e6)
    assert abs(steps[drawn.argmax()] - 54_321) < 200


def test_a_gradient_that_is_zero_at_most_steps_is_finite(calm):
    values = np.zeros((len(calm.layers), 5))
    values[:, 3] = 1.0
    alt = gradients.show(view(replace(calm, values=values))).alt
    assert "Left, ce, 2 bits: zero at most steps, largest at step 3. Right" in alt
    assert "not finite" not in alt


def test_an_explosion_is_marked(calm):
    values = np.tile(calm.values[:, :1], 12)
    values[:, 7] *= 30
    wild = replace(calm, name="wild", values=values)
    shown = view(wild, replace(wild, values=np.tile(calm.values[:, :1], 12)), step=3)
    first, second = shown.bursts()
    assert (first.exploded, first.step, round(first.ratio)) == (True, 7, 30)
    assert not second.exploded
    lines = gradients.draw(shown).axes[2].lines
    assert [line.get_xdata()[0] for line in lines if line.get_marker() == "X"] == [7]
    assert "an explosion" in gradients.show(shown).alt


def test_a_broken_off_run_can_be_scrubbed_past_its_end(calm):
    shown = view(calm, replace(calm, values=calm.values[:, :1]), step=2)
    at = [line.get_ydata() for line in gradients.draw(shown).axes[3].lines]
    assert np.isfinite(at[0]).all()
    assert np.isnan(at[1]).all()


def test_gradient_explorer_without_norms(digits, tmp_path):
    with pytest.raises(AktError, match="--watch"):
        gradient_explorer([])


def test_gradient_explorer_from_a_study(norms):
    explorer = gradient_explorer(table=norms)
    assert explorer.message.value == ""
    assert [label for label, _ in explorer.controls["left_bits"].options] == [
        "2 bits", "full",
    ]  # fmt: skip


def test_a_damaged_history_is_left_out_and_said(runs, tmp_path):
    damaged = Run(shutil.copytree(runs[0].folder, tmp_path / "damaged"))
    (damaged / HISTORY).write_text('{"epoch": 1,\n')
    explorer = gradient_explorer([damaged, *runs[1:]])
    assert "base64" in explorer.picture.value
    assert f"left out: {damaged / HISTORY}" in explorer.message.value
    with pytest.raises(AktError, match="damaged"):
        gradient_explorer([damaged])

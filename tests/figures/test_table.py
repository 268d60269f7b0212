import itertools
import json
from dataclasses import replace

import pandas as pd
import pytest

from akt_lab.analysis import tables
from akt_lab.commands import main
from akt_lab.figures.table import dots, gains
from akt_lab.methods import METHODS
from akt_lab.runs.results import line_of


@pytest.fixture
def new_method(monkeypatch):
    monkeypatch.setitem(METHODS, "mine", replace(METHODS["gdfq"], name="mine"))


@pytest.fixture
def results(made, tmp_path):
    """A file of runs of three methods, of one with other settings, and of one on another bench."""
    names = [name for name in ("adadfq", "adadfq+akt", "mine") if name in METHODS]
    runs = [made(name, 3, s, 80 + s + n) for n, name in enumerate(names) for s in range(3)]
    runs += [made("adadfq", 3, 0, 70.0, student_lr=1e-3)]
    runs += [made("adadfq", 3, s, 84.0, bench="cifar10", images=10_000) for s in range(3)]
    scores = [{"epoch": 2, "accuracy": 80.0, "synthetic_kl": 1.0}]
    file = tmp_path / "results.jsonl"
    lines = [{**line_of(run), "evaluations": scores} for run in runs]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_a_picture_with_its_text(results, tmp_path):
    assert main(["table", "--results", str(results), "--plot", str(tmp_path / "f")]) == 0
    assert (tmp_path / "f" / "table.png").stat().st_size > 1000
    about = json.loads((tmp_path / "f" / "table.json").read_text())
    assert "3w3a  adadfq+akt  (n=3" in about["alt"]  # as in every figure: see Settings.label
    assert "3w3a  adadfq student_lr=0.001  (n=1, 800 images) 70.0%" in about["alt"]
    assert "95% t-interval" in about["caption"]
    assert len(pd.read_csv(tmp_path / "f" / "table.csv")) == 4


def test_no_label_or_dot_lies_on_another(results):
    drawing = dots(tables.summarise(tables.load([results])))
    drawing.figure.canvas.draw()
    for axes in drawing.figure.axes:
        boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
        for upper, lower in itertools.pairwise(boxes):
            assert not upper.overlaps(lower)
        for number, label in enumerate(axes.get_yticklabels()):
            assert label.get_window_extent().x0 >= 0, number


def test_a_new_method_is_one_entry(new_method, results, tmp_path):
    """As CONTRIBUTING says: its picture needs no second one."""
    assert main(["table", "--results", str(results), "--plot", str(tmp_path / "f")]) == 0
    for name in ("table", "curves"):
        assert "mine" in json.loads((tmp_path / "f" / f"{name}.json").read_text())["alt"]


def test_gains_are_drawn_with_their_intervals(request):
    runs = tables.load([request.config.rootpath / "results" / "photographs.jsonl"])
    drawing = gains(tables.summarise(runs))
    assert len(drawing.data) == runs.query("method.str.endswith('+akt')").groupby(
        ["bits", "method", "variant"]
    ).ngroups  # fmt: skip
    assert all(name in drawing.alt for name in drawing.data["name"])
    bars = drawing.figure.axes[0].containers
    for (_, _, (bar,)), row in zip(bars, drawing.data.itertuples(), strict=True):
        assert bar.get_segments()[0][:, 0] == pytest.approx([row.gain_last_low, row.gain_last_high])

import itertools

import pytest

from akt_lab.errors import AktError
from akt_lab.figures.style import METHOD_STYLE
from akt_lab.figures.training import BITS_STYLE, curves, training_by_bits
from akt_lab.runs.results import line_of


def steps(loss, count=4):
    """A history: the warm-up's steps, and the student's."""
    numbers = {"student/kd": loss, "student/gradient_norm": loss}
    later = [{"epoch": 1, "step": step, **numbers} for step in range(count)]
    return [{"epoch": 0, "step": 9, "generator/ce": 1.0}, *later]


def test_a_column_for_each_method_and_setting(made):
    runs = [made(bits=3, seed=seed, history=steps(1.0 + seed)) for seed in (0, 1)]
    runs += [made(bits=8, history=steps(9.0), epochs=9), made("ptq")]
    drawing = training_by_bits(runs)
    first, second = drawing.figure.axes[:2]
    assert [axes.get_title() for axes in (first, second)] == [
        "adadfq (epochs=6)",
        "adadfq (epochs=9)",
    ]
    smooth = {line.get_label(): set(line.get_ydata()) for line in first.lines + second.lines}
    assert smooth["3 bits"] == {1.5}  # the seeds' median
    assert smooth["8 bits"] == {9}
    (legend,) = drawing.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["3 bits", "8 bits"]
    assert list(drawing.data) == [
        "method", "variant", "bits", "seed", "step", "loss_above_floor", "gradient_norm", "name",
    ]  # fmt: skip
    with pytest.raises(AktError, match="needs a run that trained a student"):
        training_by_bits(runs[-1:])
    with pytest.raises(AktError, match="several benches"):
        training_by_bits([*runs, made(bench="cifar10", history=steps(1.0))])


def test_every_bit_width_has_a_colour_and_a_dash():
    assert set(BITS_STYLE) == set(range(2, 9))
    for looks in zip(*BITS_STYLE.values(), strict=True):
        assert len(set(looks)) == 7


def evaluated(made, method, seed, accuracies, **settings):
    scores = [
        {"epoch": 2 * n, "accuracy": a, "synthetic_kl": 1.0} for n, a in enumerate(accuracies, 1)
    ]
    return line_of(made(method, 3, seed, evaluations=scores, **settings))


def test_curves_are_the_evaluations(made):
    lines = [evaluated(made, "adadfq", s, (60 + s, 70 + s, 80 + s)) for s in range(2)]
    lines += [evaluated(made, "adadfq+akt", 0, (61, 71, 81), variant="code")]
    lines += [lines[0]]  # a run that is in two files counts once
    drawing = curves(lines)
    assert drawing.data["images"].tolist() == [160, 480, 800] * 3  # (epoch - 1) * 10 steps * 16
    assert drawing.data["variant"].tolist() == [""] * 6 + ["code"] * 3
    drawn = {line.get_label(): line for line in drawing.figure.axes[0].lines}
    assert list(drawn["adadfq"].get_ydata()) == [60.5, 70.5, 80.5]  # the mean over seeds
    assert drawn["adadfq+akt code"].get_marker() == METHOD_STYLE["adadfq+akt code"]["marker"]
    assert "adadfq 80.5% (digits, 3w3a)" in drawing.alt


def test_curves_of_other_settings_are_no_seeds(made):
    lines = [
        evaluated(made, "adadfq", 0, (60, 70, 80)),
        evaluated(made, "adadfq", 1, (0, 0, 0), student_lr=1e-3),
    ]
    lines += [evaluated(made, "adadfq", 0, (9, 9, 9), bench="cifar10", teacher_accuracy=94.0)]
    drawing = curves(lines)
    drawn = [[list(line.get_ydata()) for line in axes.lines if line.get_label()[0] != "_"]
             for axes in drawing.figure.axes]  # fmt: skip
    assert drawn == [[[60, 70, 80], [0, 0, 0]], [[9, 9, 9]]]
    names = [[t.get_text() for t in axes.get_legend().get_texts()] for axes in drawing.figure.axes]
    assert names == [["adadfq", "adadfq (student_lr=0.001)"], ["adadfq"]]
    for one, other in itertools.combinations(drawing.alt.split(": ")[1].split("; "), 2):
        assert one != other

import pytest

from akt_lab.analysis.intervals import mean_interval
from akt_lab.errors import AktError
from akt_lab.figures.accuracy import accuracy_by_bits


def lines_of(drawing):
    return {c.get_label(): list(c[0].get_ydata()) for c in drawing.figure.axes[0].containers}


def test_other_budgets_are_no_seeds(made):
    runs = [made(bits=b, seed=s, last=80.0 + b) for b in (2, 3) for s in (0, 1)]
    runs += [made(bits=3, seed=s, last=60.0, epochs=9) for s in (0, 1)]
    drawing = accuracy_by_bits(runs)
    shown = {name.split(" (")[1]: y for name, y in lines_of(drawing).items()}
    assert shown == {"epochs=6)": [82, 83], "epochs=9)": [60]}
    legend = [text.get_text() for text in drawing.figure.axes[0].get_legend().get_texts()]
    assert legend == list(lines_of(drawing))
    assert set(drawing.data["name"]) == set(legend)
    assert "60.0% at 3 bits" in drawing.alt


def test_equal_seeds_are_no_certainty(made):
    """As in tables: the spread counts as no less than that of rounding to one image."""
    drawing = accuracy_by_bits([made(seed=seed, last=90.0, images=100) for seed in range(3)])
    (bars,) = drawing.figure.axes[0].containers[0][2]
    _, low, high = mean_interval([90.0] * 3, 1.0)
    assert high > low
    assert bars.get_segments()[0][:, 1] == pytest.approx([low, high])


def test_one_bench_a_figure(made):
    run = made()
    for other in ({"bench": "cifar10"}, {"teacher_accuracy": 98.0}, {"images": 100}):
        with pytest.raises(AktError, match=r"of several (benches|teachers)"):
            accuracy_by_bits([run, made(**other)])


def test_runs_that_diverged(made):
    with pytest.raises(AktError, match="needs a run that was evaluated"):
        accuracy_by_bits([made(last=None, status="failed")])
    runs = [made(last=None, status="failed"), made("gdfq", last=50.0, status="failed")]
    drawing = accuracy_by_bits(runs)
    assert lines_of(drawing) == {"gdfq": [50]}
    assert len(drawing.data) == 2
    assert "Of runs that diverged: the last evaluation before." in drawing.caption

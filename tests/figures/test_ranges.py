import pytest

from akt_lab.analysis.intervals import mean_interval
from akt_lab.errors import AktError
from akt_lab.figures import gallery
from akt_lab.figures.ranges import accuracy_by_range, evaluations
from tests.conftest import fake_run

ENDS = {("ema", False): 70.0, ("ema", True): 74.0, ("pnorm", False): 80.0, ("pnorm", True): 79.0}


def score(epoch, accuracy):
    return {"epoch": epoch, "accuracy": accuracy, "synthetic_kl": 0.1, "synthetic_agreement": 90.0}


@pytest.fixture
def runs(tmp_path):
    """Two rules, with AKT and without, three seeds; evaluated before training, after 1 epoch, 2."""
    found = []
    for (ranges, akt), end in ENDS.items():
        for seed in range(3):
            scores = [score(e, end - 10 + 5 * (e - 2) + seed) for e in (2, 3, 4)]
            about = {"method": "adadfq+akt", "variant": "code"} if akt else {}
            found.append(fake_run(
                tmp_path / f"{ranges}-{akt}-{seed}", evaluations=scores, ranges=ranges, seed=seed,
                epochs=4, warmup_epochs=2, steps=10, batch_size=8, lam=None, **about,
            ))  # fmt: skip
    return found


def test_a_row_an_evaluation_and_a_gain_a_pair(runs):
    table = evaluations(runs)
    assert len(table) == 4 * 3 * 3
    assert sorted(table["images"].unique()) == [0, 80, 160]
    gains = table.dropna(subset="gain").groupby("ranges")["gain"]
    assert gains.nunique().to_dict() == {"ema": 1, "pnorm": 1}  # seed by seed it is the same
    assert gains.first().to_dict() == {"ema": 4.0, "pnorm": -1.0}
    assert table.loc[table["akt"] == "", "gain"].isna().all()


def test_what_is_drawn_is_the_mean_and_its_interval(runs, tmp_path):
    (picture,) = gallery.draw(["accuracy_by_range"], runs, tmp_path / "out")
    assert picture.stat().st_size > 1000
    drawing = accuracy_by_range(runs)
    assert "ema 71.0%" in drawing.alt
    assert "adadfq+akt code on pnorm -1.0 points" in drawing.alt
    left, right = drawing.figure.axes
    ema = next(c for c in left.containers if c.get_label() == "ema")
    (mean, low, high) = mean_interval([70, 71, 72], 100 / 540)
    assert ema[0].get_ydata()[-1] == mean
    assert ema[2][0].get_segments()[-1][:, 1].tolist() == pytest.approx([low, high])
    assert {c.get_label() for c in right.containers} == {
        "adadfq+akt code, ema", "adadfq+akt code, pnorm",
    }  # fmt: skip


def test_runs_that_differ_in_more_are_refused(runs, tmp_path):
    other = fake_run(tmp_path / "other", evaluations=[score(4, 1.0)], steps=11)
    with pytest.raises(AktError, match="differ in ranges, AKT and seed alone"):
        accuracy_by_range([*runs, other])
    with pytest.raises(AktError, match="has method gdfq, others adadfq"):
        accuracy_by_range([*runs, fake_run(
            tmp_path / "gdfq", evaluations=[score(4, 1.0)], method="gdfq",
            epochs=4, warmup_epochs=2, steps=10, batch_size=8,
        )])  # fmt: skip
    with pytest.raises(AktError, match="two of these runs are of one kind"):
        accuracy_by_range([*runs, runs[0]])
    waits = fake_run(tmp_path / "waits", status="stopped")
    with pytest.raises(AktError, match="runs that ended and were evaluated"):
        accuracy_by_range([waits])

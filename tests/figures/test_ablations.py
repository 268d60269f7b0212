import math

import pytest

from akt_lab.analysis.ablations import jobs, table
from akt_lab.analysis.intervals import mean_interval
from akt_lab.figures import gallery
from akt_lab.figures.ablations import ablations


@pytest.fixture
def runs(made, tmp_path):
    """Two changes and what they are compared with, their seeds 5 points apart, or one image."""
    last = {"neither": (90, 95, 100), "both": (92, 97, 102), "spatial": (80, 80, 80)}
    found = []
    for job in jobs(tmp_path, 3, [0, 1, 2]):
        name, s = job.folder.name, job.settings
        if (change := name.removesuffix(f"-3-{s.seed}")) in last:
            accuracy = float(last[change][s.seed])
            found.append(made(s.method, 3, s.seed, accuracy, name=name, parts=s.parts, images=200))
    return found


def test_each_change_has_its_mean_interval_and_seeds(runs, tmp_path):
    (picture,) = gallery.draw(["ablations"], runs, tmp_path / "out")
    assert picture.stat().st_size > 1000
    page = (tmp_path / "out" / "README.md").read_text()
    assert "both 97.0%" in page
    assert "3 seeds" in page
    drawing = ablations(runs)
    grains = {"accuracy": 0.5, "gain": 0.5 * math.sqrt(2)}  # one of 200 images
    for axes, value in zip(drawing.figure.axes, grains, strict=True):
        ends = [(min(x), max(x)) for line in axes.lines if len(x := line.get_xdata())]
        for change, rows in table(runs).groupby("change"):
            interval = mean_interval([*rows[value]], grains[value])[1:]
            assert interval[1] > interval[0]  # equal seeds are no certainty
            drawn = any(pair == pytest.approx(interval) for pair in ends)
            assert drawn == (value == "accuracy" or change != "neither")

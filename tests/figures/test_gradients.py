import itertools

import numpy as np
import pandas as pd
import pytest

from akt_lab.analysis import studies
from akt_lab.analysis.gradients import grid, summarise
from akt_lab.figures.gallery import FIGURES
from akt_lab.figures.gradients import LOSS_STYLE, RULE_STYLE


@pytest.fixture
def found(monkeypatch):
    """What `studies.gradients` returns, in closed form: norms double with each bit less."""
    rows = [
        {"bits": case.bits, "loss": case.loss, "gradient": case.gradient, "ranges": case.ranges,
         "observed": case.observed, "seed": seed, "step": step, "layer": layer,
         "norm": (2.0 ** (9 - case.bits) + seed) * (1 + (layer == "b")), "weight_norm": 10.0,
         "reference_norm": 1.0, "cosine": 0.5, "kd_norm": 1.0}
        for case, seed, step, layer in itertools.product(grid(), (0, 1, 2), range(8), "ab")
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    monkeypatch.setattr(studies, "kept", lambda *_, **__: table)
    return table


def test_lines_are_medians_and_bars_the_seeds_extremes(found, made):
    drawing = FIGURES["gradients_by_bits"]([made()])
    summary = summarise(found).query("loss == 'kd' and gradient == 'identity' and ranges == 'ema'")
    expected = summary.groupby("bits")["relative_norm"].agg(["median", "min", "max"])
    lines = {c.get_label(): c for c in drawing.figure.axes[0].containers}
    assert set(lines) == {style["label"] for style in LOSS_STYLE.values()}
    middle, _, (bars,) = lines["distillation"]
    order = [0, 8, 6, 5, 4, 3, 2]
    assert list(middle.get_ydata()) == pytest.approx(list(expected["median"][order]))
    ends = np.array([segment[:, 1] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends, expected.loc[order, ["min", "max"]])
    for words in ("Bench `digits`", "8 steps", "the least and the largest of 3 seeds"):
        assert words in drawing.caption


def test_a_heat_map_s_cells_are_the_table_s(found, made):
    drawing = FIGURES["gradients_by_layer"]([made()])
    cells = drawing.data.query("loss == 'kd'").pivot_table(
        index="layer", columns="bits", values="relative", aggfunc="median"
    )
    assert drawing.data["seed"].nunique() == 3
    (panel,) = (axes for axes in drawing.figure.axes if axes.get_title() == "distillation")
    shown = panel.collections[0].get_array().reshape(cells.shape)
    np.testing.assert_allclose(shown, np.log10(cells[[8, 6, 5, 4, 3, 2]]))
    assert [t.get_text() for t in panel.get_xticklabels()] == ["8", "6", "5", "4", "3", "2"]
    assert [t.get_text() for t in drawing.figure.axes[0].get_yticklabels()] == ["a", "b"]
    assert "in layer b at 2 bits" in drawing.alt
    assert "Median over steps, 3 seeds" in drawing.caption


def test_every_rule_has_a_line(found, made):
    drawing = FIGURES["gradient_suspects"]([made()])
    labels = [c.get_label() for c in drawing.figure.axes[0].containers]
    assert labels == [style["label"] for style in RULE_STYLE.values()]
    assert set(drawing.data["loss"]) == {"kd"}

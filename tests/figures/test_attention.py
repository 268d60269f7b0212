import numpy as np
import pandas as pd
import pytest

from akt_lab.analysis.studies import SideBySide
from akt_lab.errors import AktError
from akt_lab.figures.attention import draw_attention_by_bits, draw_attention_side_by_side
from akt_lab.figures.gallery import FIGURES
from akt_lab.figures.style import style_of


def test_both_attentions_of_both_networks_side_by_side():
    rng = np.random.default_rng(0)
    spatial, channel = rng.random((2, 3, 4, 4)), rng.random((2, 3, 5))
    kl = [(0.1, 0.2), (0.3, 0.4), (0.5, 0.6)]
    found = SideBySide(rng.random((3, 8, 8)), spatial, channel, kl, [*"abc"], "x")
    drawing = draw_attention_side_by_side(found)
    data = drawing.data.set_index(["part", "image", "place"])
    assert data.loc[("spatial", 2, 5), "student"] == spatial[1, 2, 1, 1]
    assert data.loc[("channel", 1, 4), "teacher"] == channel[0, 1, 4]
    assert "spatial 0.3, channel 0.4 nats" in drawing.alt  # means over the images
    difference = drawing.figure.axes[3].images[0].get_array()
    np.testing.assert_allclose(difference, spatial[1, 0] - spatial[0, 0])


AFTER = {"granq+akt code": 0.25, "adadfq": 0.5, "adadfq+akt": 0.75, "ptq": 9.0, "zeroq": 8.0}


def by_bits(before):
    """What is drawn of each method's value `before` training, and of AFTER it; AKT's only at 3."""
    rows = [(m, b, s, layer, trained, (AFTER if trained else before)[m] + s, 2.0) for m in before
            for b in ((3,) if "akt" in m else (2, 3)) for s in (0, 1) for layer in "xy"
            for trained in (False, True)]  # fmt: skip
    names = ["method", "bits", "seed", "layer", "trained", "spatial", "channel"]
    drawing = draw_attention_by_bits(pd.DataFrame(rows, columns=names), "Here.")
    lines = {line.get_label(): line for line in drawing.figure.axes[0].lines}
    return drawing, lines, {name: dict(line.get_xydata()) for name, line in lines.items()}


def test_attention_by_bits_is_a_mean_over_seeds_and_layers():
    drawing, lines, shown = by_bits(dict.fromkeys(AFTER, 1.0))
    assert shown == {
        "before training": {2: 1.5, 3: 1.5},
        "after granq+akt code": {3: 0.75},
        "after adadfq": {2: 1.0, 3: 1.0},
        "after adadfq+akt": {3: 1.25},
    }
    assert lines["after granq+akt code"].get_marker() == style_of("granq+akt code")["marker"]
    assert "2 layers, 2 seeds. Here." in drawing.caption


def test_each_rounding_has_its_own_line_before_training():
    _, lines, shown = by_bits({"granq+akt code": 4.0, "adadfq": 1.0, "adadfq+akt": 1.0, "ptq": 1.0})
    before = {label: y for label, y in shown.items() if label.startswith("before")}
    assert before == {
        "before training granq+akt code": {3: 4.5},
        "before training adadfq, adadfq+akt": {2: 1.5, 3: 1.5},
    }
    assert len({lines[label].get_marker() for label in before}) == 2


def test_attention_of_other_settings_is_not_averaged(made):
    with pytest.raises(AktError, match=r"'adadfq' differ in more than their seeds .*epochs=9"):
        FIGURES["attention_by_bits"]([made(), made(seed=1, epochs=9)])
    with pytest.raises(AktError, match="needs a run that trained a student to its end"):
        FIGURES["attention_by_bits"]([made(status="running")])

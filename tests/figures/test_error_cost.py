import itertools

import pandas as pd
import pytest

from akt_lab.figures.error_cost import draw_error_cost


def test_lines_are_means_over_layers_and_dots_the_layers():
    shares = {"spatial": 0.2, "channel": 0.3, "rest": 0.5, "all": 1.0}
    table = pd.DataFrame(
        {"part": part, "bits": bits, "layer": layer, "share": shares[part] + layer / 10,
         "cost_per_square": 2.0 * 4**layer, "random": 1.0}
        for part, bits, layer in itertools.product(shares, (2, 3, 8), (0, 1))
    )  # fmt: skip
    drawing = draw_error_cost(table, "Here.")
    share, cost = drawing.figure.axes
    lines = {c.get_label(): c[0].get_ydata() for c in share.containers}
    assert list(lines) == ["spatial part", "channel part", "the rest"]
    assert lines["channel part"] == pytest.approx([0.35] * 3)
    assert cost.containers[0][0].get_ydata() == pytest.approx([4.0] * 3)  # geometric: of 2 and 8
    assert "all" not in set(drawing.data["part"])
    assert "spatial: 25% of the square, 4 times" in drawing.alt

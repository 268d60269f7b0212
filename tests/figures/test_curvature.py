import math

import numpy as np
import pandas as pd
import pytest

from akt_lab.figures.curvature import draw_curvature, draw_loss_surface, draw_straight_through


def test_curvature_by_bits_with_two_standard_errors():
    table = pd.DataFrame(
        {"bits": bits, "sharpness": k, "trace": 100.0 / bits if bits else 7.0, "trace_error": 1.0,
         "eigenvalue": 3.0, "residual": 0.1}
        for bits, k in [(0, math.nan), *((b, k) for b in (8, 2, 4) for k in (0.0, 0.5))]
    )  # fmt: skip
    drawing = draw_curvature(table, "Here.")
    middle, _, (bars,) = drawing.figure.axes[0].containers[0]
    assert list(middle.get_ydata()) == [12.5, 25, 50]  # from many bits to few
    assert np.ptp(bars.get_segments()[0][:, 1]) == pytest.approx(4)
    assert "Largest trace of a student: 50 at 2 bits" in drawing.alt
    assert "Here." in drawing.caption


def test_the_loss_surface_is_one_scale_for_all_networks():
    table = pd.DataFrame(
        {"network": name, "a": a, "b": b, "loss": at + a**2 + b**2}
        for name, at in (("teacher", 0.01), ("student", 1.0))
        for a in (-1.0, 0.0, 1.0) for b in (-1.0, 0.0, 1.0)
    )  # fmt: skip
    drawing = draw_loss_surface(table, "Here.")
    titles = [axes.get_title() for axes in drawing.figure.axes if axes.get_title()]
    assert titles == ["teacher", "student"]
    levels = [axes.collections[0].levels for axes in drawing.figure.axes[:2]]
    np.testing.assert_array_equal(*levels)
    assert "In the middle: teacher 0.01; student 1." in drawing.alt


def test_straight_through_beside_a_real_gradient():
    table = pd.DataFrame(
        {"bits": bits, "ratio": ratio, "error": 0.05, "step_error": 1e-6, "pairs": 32}
        for bits, ratio in ((0, 1e-9), (8, 0.2), (2, 0.6))
    )
    drawing = draw_straight_through(table, "Here.")
    middle, _, (bars,) = drawing.figure.axes[0].containers[0]
    assert list(middle.get_ydata()) == [0.2, 0.6]
    assert np.ptp(bars.get_segments()[0][:, 1]) == pytest.approx(0.2)
    assert "Students: 0.20 at 8, 0.60 at 2 bits" in drawing.alt

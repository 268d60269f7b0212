"""Is the straight-through field a gradient? The figure of the asymmetry test."""

import math

import matplotlib.pyplot as plt
import pandas as pd

from akt_lab.analysis_plots import RULE_STYLE, _bit_axis
from akt_lab.plots import STYLE, Drawing


def straight_through(found: pd.DataFrame, about: str) -> Drawing:
    """How far from any function's gradient backward() is, by bits and straight-through rule.

    Args:
        found: what `studies.asymmetry` returns.
        about: bench and images, for the caption.
    """
    full, students = found[found["bits"] == 0].iloc[0], found[found["bits"] > 0]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
        places = _bit_axis(axes, students["bits"].unique().tolist())
        for rule, rows in students.groupby("gradient", sort=False):
            style = {**RULE_STYLE[rule, "ema", 10], "label": f"student, {rule} rule"}
            axes.errorbar(
                rows["bits"].map(places), rows["ratio"], rows["error"], capsize=3, **style
            )
        axes.axhline(math.sqrt(0.5), color="0.4", linestyle="--", linewidth=1)
        axes.annotate("J and its transpose have nothing in common", (0.02, math.sqrt(0.5)), (0, 4),
                      xycoords=("axes fraction", "data"), textcoords="offset points",
                      color="0.3", fontsize=9)  # fmt: skip
        axes.axhline(full["ratio"], color="0.3", linewidth=1, label="teacher: a real gradient")
        axes.set(ylabel="asymmetry |J − Jᵀ| / 2|J|", ylim=(-0.04, 1))
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
    listed = "; ".join(
        f"{rule} " + ", ".join(f"{r.ratio:.2f} at {r.bits}" for r in rows.itertuples())
        for rule, rows in students.groupby("gradient", sort=False)
    )
    return Drawing(
        figure,
        found,
        alt=f"Asymmetry by bits. Teacher: {full.ratio:.1e}. Students: {listed} bits.",
        caption=(
            "What backward() returns for the distillation loss, tested: a gradient's Jacobian J "
            "is symmetric, v'(Ju) = u'(Jv) for all u and v. The straight-through estimator "
            "returns a field that no function has as its gradient, so a student has no Hessian, "
            "and `curvature` and `loss_surface` speak of a stand-in or of the loss alone. "
            f"{about} Central differences in float64 over 8 random pairs; bars: how much half "
            "the step changes it."
        ),
    )

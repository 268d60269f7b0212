"""Is the straight-through field a gradient? The figure of the asymmetry test."""

import math

import matplotlib.pyplot as plt
import pandas as pd

from akt_lab.analysis_plots import bit_axis
from akt_lab.gradient_plots import LOSS_STYLE
from akt_lab.plots import STYLE, Drawing


def straight_through(found: pd.DataFrame, about: str) -> Drawing:
    """How far from any function's gradient backward() is, by bits.

    Args:
        found: what `studies.asymmetry` returns.
        about: bench and images, for the caption.
    """
    full, students = found[found["bits"] == 0].iloc[0], found[found["bits"] > 0]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
        places = bit_axis(axes, students["bits"].unique().tolist())
        style = {**LOSS_STYLE["kd"], "label": "student: straight-through"}
        x = students["bits"].map(places)
        axes.errorbar(x, students["ratio"], 2 * students["error"], capsize=3, **style)
        axes.axhline(
            math.sqrt(0.5), color="0.4", linestyle=":", linewidth=1, label="J and Jᵀ unrelated"
        )
        axes.axhline(full["ratio"], color="0.3", linewidth=1, label="teacher: a real gradient")
        axes.set(ylabel="asymmetry |J − Jᵀ| / 2|J|", ylim=(-0.04, 1.06))
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
    listed = ", ".join(f"{r.ratio:.2f} at {r.bits:.0f}" for r in students.itertuples())
    return Drawing(
        figure,
        found,
        alt=f"Asymmetry by bits. Teacher: {full.ratio:.1e}. Students: {listed} bits.",
        caption=(
            "What backward() returns for the distillation loss, tested: a gradient's Jacobian J "
            "is symmetric, v'(Ju) = u'(Jv) for all u and v. The straight-through estimator "
            "returns a field that no function has as its gradient, so a student has no Hessian, "
            "and `curvature` and `loss_surface` speak of a stand-in or of the loss alone. "
            f"{about} Central differences in float64 over {full.pairs:.0f} random pairs; bars: two "
            "standard errors over the pairs (jackknife). Half the step changes a student's value "
            f"by at most {students['step_error'].max():.0e}."
        ),
    )

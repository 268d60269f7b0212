"""Training as curves: losses and gradient norms by step, accuracy by images seen."""

from collections.abc import Sequence
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from akt_lab.analysis import studies
from akt_lab.analysis.kept import check_one_bench
from akt_lab.figures.labels import by_line, named, seeds
from akt_lab.figures.style import COLOURS, STYLE, Drawing, plain
from akt_lab.runs.folder import Run
from akt_lab.runs.results import Line

BITS_STYLE = {
    2: (COLOURS[3], ":"), 3: (COLOURS[1], "--"), 4: (COLOURS[0], "-"), 5: (COLOURS[2], "-."),
    6: (COLOURS[4], (0, (5, 1))), 7: (COLOURS[9], (0, (1, 3))), 8: (COLOURS[7], (0, (3, 1, 1, 1))),
}  # fmt: skip


def training_by_bits(runs: Sequence[Run]) -> Drawing:
    """Student loss above its floor, and gradient norm: a column a method, a line a bit-width."""
    check_one_bench(runs)
    rows_shown = (
        ("loss_above_floor", "student loss\nabove its floor (nats × T²)"),
        ("gradient_norm", "norm of the student's\nweight gradient"),
    )
    history = named(studies.training(runs)).drop(columns=["label", "same"])
    methods = list(dict.fromkeys(history["name"]))
    with plt.rc_context(STYLE):
        wide = (3.6 if len(methods) < 4 else 2.3) * len(methods)
        figure, grid = plt.subplots(2, len(methods), figsize=(wide, 5.4), sharex=True,
                                    sharey="row", squeeze=False)  # fmt: skip
        for column, method in enumerate(methods):
            for axes, (quantity, label) in zip(grid[:, column], rows_shown, strict=True):
                _lines_by_bits(axes, history[history["name"] == method], quantity)
                axes.set(yscale="log", ylabel=label if column == 0 else "")
            grid[0, column].set_title(fill(method, 30))
            grid[1, column].set_xlabel("student step")
        legend = {line.get_label(): line for axes in grid[0] for line in axes.get_lines()}
        bits = [f"{b} bits" for b in sorted(history["bits"].unique())]
        below: Any = {"loc": "outside lower center", "ncols": len(bits), "frameon": False}
        figure.legend([legend[b] for b in bits], bits, **below)
        figure.tight_layout(rect=(0, 0.05, 1, 1))
    medians = history.groupby(["name", "bits"], sort=False)["gradient_norm"].median()
    listed = "; ".join(f"{m} at {b} bits {v:.3g}" for (m, b), v in medians.items())
    return Drawing(
        figure,
        history,
        alt=f"Loss and gradient-norm curves by bits. Median gradient norm: {listed}.",
        caption=(
            "The student's loss above the least value that it can take, and the norm of its weight "
            "gradient, at every training step (faint) and their running median over 15 steps (of "
            "the seeds' median, where there are several). The methods' losses are weighted "
            "differently, so compare bit-widths within a column; "
            f"{seeds(history)}."
        ),
    )


def _lines_by_bits(axes: Axes, history: pd.DataFrame, quantity: str) -> None:
    for bits, rows in history.groupby("bits"):
        colour, dash = BITS_STYLE[int(str(bits))]
        for _, run in rows.groupby("seed"):
            axes.plot(run["step"], run[quantity], color=colour, alpha=0.2, linewidth=0.6)
        middle = rows.groupby("step")[quantity].median()
        smooth = middle.rolling(15, min_periods=1, center=True).median()
        axes.plot(smooth.index, smooth, color=colour, linestyle=dash, label=f"{bits} bits")


def curves(lines: Sequence[Line]) -> Drawing:
    """One panel a teacher and bit-width, a line a method and setting: seeds faint, and their mean.

    Args:
        lines: of results files; those without `evaluations` are left out.
    """
    panel = ["bench", "bits", "teacher"]
    found = named(studies.evaluations(lines), [*panel, "label"])
    panels, listed = found.groupby(panel, sort=False), []
    tall = 3.6 + 0.22 * panels["name"].nunique().max()  # with the legend
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            1, len(panels), figsize=(1.2 + 5.2 * len(panels), tall), squeeze=False,
            layout="constrained",
        )  # fmt: skip
        for axes, ((bench, bits, teacher), rows) in zip(grid[0], panels, strict=True):
            for name, line, style in by_line(rows):
                for _, run in line.groupby("seed"):
                    axes.plot(run["images"], run["accuracy"], color=style["color"], alpha=0.25,
                              linewidth=0.8)  # fmt: skip
                mean = line.groupby("images")["accuracy"].mean()
                axes.plot(mean.index, mean, label=fill(name, 60), **style)
                last = line.groupby("seed").tail(1)["accuracy"].mean()
                listed.append(f"{name} {last:.1f}% ({bench}, {bits})")
            axes.set(title=f"{plain(bench)}, {bits}, teacher {teacher:.2f}%",
                     xlabel="images that the student was trained on")  # fmt: skip
            under: Any = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "borderaxespad": 4}
            axes.legend(frameon=False, **under)
        grid[0, 0].set_ylabel("top-1 accuracy (%)")
    return Drawing(
        figure,
        found.drop(columns=["label", "same"]),
        alt=f"Accuracy against images seen. At the end: {'; '.join(listed)}.",
        caption=(
            f"Top-1 accuracy on the evaluation images as training goes on: mean over seeds "
            f"(at most {found['seed'].nunique()}), each seed faint. At 0 the student is only "
            "rounded, with the ranges of the warm-up."
        ),
    )

"""Training as curves: losses and gradient norms by step, accuracy by images seen."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from akt_lab.figures.style import COLOURS, METHOD_STYLE, STYLE, Drawing, _named, seeds
from akt_lab.runs.results import Line

BITS_STYLE = {2: (COLOURS[3], ":"), 3: (COLOURS[1], "--"), 4: (COLOURS[0], "-")}


def training_by_bits(history: pd.DataFrame) -> Drawing:
    """Student loss and gradient norm through training, one column a method, one line a bit-width.

    Args:
        history: columns method, variant, bits, seed, step (of the student), loss_above_floor,
            gradient_norm.
    """
    rows_shown = (
        ("loss_above_floor", "student loss\nabove its floor (nats × T²)"),
        ("gradient_norm", "norm of the student's\nweight gradient"),
    )
    history = _named(history)
    methods = list(dict.fromkeys(history["name"]))
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            2,
            len(methods),
            figsize=((3.6 if len(methods) < 4 else 2.3) * len(methods), 5.4),
            sharex=True,
            sharey="row",
            squeeze=False,
        )
        for column, method in enumerate(methods):
            for axes, (quantity, label) in zip(grid[:, column], rows_shown, strict=True):
                _lines_by_bits(axes, history[history["name"] == method], quantity)
                axes.set(yscale="log", ylabel=label if column == 0 else "")
            grid[0, column].set_title(method)
            grid[1, column].set_xlabel("student step")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
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
        colour, dash = BITS_STYLE.get(int(str(bits)), ("0.4", "-"))
        for _, run in rows.groupby("seed"):
            axes.plot(run["step"], run[quantity], color=colour, alpha=0.2, linewidth=0.6)
        middle = rows.groupby("step")[quantity].median()
        smooth = middle.rolling(15, min_periods=1, center=True).median()
        axes.plot(smooth.index, smooth, color=colour, linestyle=dash, label=f"{bits} bits")


DASHES = {"paper": "-", "code": "-.", "published": (0, (1, 1)), "": "--"}


def table(lines: Sequence[Line]) -> pd.DataFrame:
    """A row for each evaluation of each run.

    Columns: bench, bits, method, variant, seed, images (that the student was trained on by then),
    accuracy in percent, synthetic_kl in nats.
    """
    return pd.DataFrame([row for line in lines for row in _rows(line)])


def _rows(line: Line) -> list[dict[str, Any]]:
    s, bench = line["settings"], line["bench"]
    about = {
        "bench": bench["teacher"] or bench["bench"],
        "bits": f"{s['weight_bits']}w{s['act_bits']}a",
        "method": s["method"],
        "variant": s["variant"] if s["method"].endswith("+akt") else "",
        "seed": s["seed"],
    }
    step = s["steps"] * s["batch_size"]
    return [
        {**about, "images": (e["epoch"] - s["warmup_epochs"]) * step,
         "accuracy": e["accuracy"], "synthetic_kl": e["synthetic_kl"]}
        for e in line.get("evaluations", [])
    ]  # fmt: skip


def curves(lines: Sequence[Line]) -> Drawing:
    """One panel a bench and bit-width, a line a method: mean over seeds, each seed faint."""
    found = table(lines)
    panels = list(found.groupby(["bench", "bits"], sort=False))
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            1, len(panels), figsize=(1.2 + 5.2 * len(panels), 4.3), squeeze=False,
            layout="constrained",
        )  # fmt: skip
        for axes, ((bench, bits), rows) in zip(grid[0], panels, strict=True):
            for (method, variant), runs in rows.groupby(["method", "variant"], sort=False):
                style = {**METHOD_STYLE.get(method, {}), "linestyle": DASHES[variant]}
                if variant == "code":
                    style["marker"] = "x"
                for _, run in runs.groupby("seed"):
                    axes.plot(run["images"], run["accuracy"], color=style["color"], alpha=0.25,
                              linewidth=0.8)  # fmt: skip
                mean = runs.groupby("images")["accuracy"].mean()
                axes.plot(mean.index, mean, label=f"{method} {variant}".strip(), **style)
            axes.set(title=f"{bench}, {bits}", xlabel="images that the student was trained on")
        grid[0, 0].set_ylabel("top-1 accuracy (%)")
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    last = found.groupby(["bench", "bits", "method", "variant", "seed"], sort=False).tail(1)
    listed = "; ".join(
        f"{method} {variant}".strip() + f" {rows['accuracy'].mean():.1f}%"
        for (method, variant), rows in last.groupby(["method", "variant"], sort=False)
    )
    seeds = found["seed"].nunique()
    return Drawing(
        figure,
        found,
        alt=f"Accuracy against images seen. At the end: {listed}.",
        caption=(
            f"Top-1 accuracy on the evaluation images as training goes on: mean over seeds "
            f"(at most {seeds}), each seed faint. At 0 the student is only rounded, with the "
            "ranges of the warm-up."
        ),
    )

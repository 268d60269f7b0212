"""Accuracy against bit-width."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from akt_lab.analysis.intervals import mean_interval, proportion_interval
from akt_lab.figures.style import METHOD_STYLE, STYLE, Drawing, _named, seeds


def accuracy_by_bits(table: pd.DataFrame) -> Drawing:
    """Accuracy against bit-width, one line a method.

    Args:
        table: `runs.table`'s columns method, bits, accuracy, teacher, images, epochs, status.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 4.0))
        teacher, images = table["teacher"].iloc[0], int(table["images"].iloc[0])
        axes.axhline(teacher, color="0.3", linewidth=1)
        axes.annotate(
            f"teacher, full precision: {teacher:.1f}%",
            (0.02, teacher),
            (0, 4),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color="0.3",
            fontsize=9,
        )
        groups = list(_named(table).groupby("name", sort=False))
        for offset, (name, rows) in zip(np.linspace(-0.04, 0.04, len(groups)), groups, strict=True):
            _accuracies(axes, rows.dropna(subset="accuracy"), str(name), float(offset), images)
        lowest = 10 * np.floor(max(0, table["accuracy"].min() - 10) / 10)
        axes.set(
            xlabel="bits of weights and activations", ylabel="top-1 accuracy (%)",
            ylim=(lowest, teacher + 0.08 * (teacher - lowest)),
        )  # fmt: skip
        axes.set_xticks(sorted(table["bits"].unique()))
        axes.margins(x=0.05 if table["bits"].nunique() > 1 else 2)
        axes.legend(loc="lower right", frameon=False)
    best = table.loc[table["accuracy"].idxmax()]
    listed = "; ".join(
        f"{name}: " + ", ".join(f"{a:.1f}% at {bits} bits" for bits, a in means.items())
        for name, rows in groups
        if len(means := rows.dropna(subset="accuracy").groupby("bits")["accuracy"].mean())
    )
    return Drawing(
        figure,
        table.drop(columns=["label", "same"], errors="ignore"),
        alt=f"Line chart of accuracy against bits. Teacher {teacher:.1f}%. {listed}.",
        caption=(
            f"Top-1 accuracy after the last epoch on {images} test images of `{best.bench}`, "
            f"{seeds(table)}. Bars: of several seeds, the 95% t-interval over them, and small dots "
            "for each; of one, the 95% Wilson interval for that many images, which says nothing "
            "about other seeds."
        ),
    )


def _accuracies(axes: Axes, rows: pd.DataFrame, name: str, offset: float, images: int) -> None:
    """One method's line, with its intervals."""
    if rows.empty:
        return
    by_bits = rows.groupby("bits")["accuracy"]
    mean = by_bits.mean()
    ends = [
        mean_interval(list(a))[1:] if len(a) > 1 else proportion_interval(a.iloc[0], images)
        for _, a in by_bits
    ]
    reach = np.abs(np.array(ends).T - mean.to_numpy())
    style = METHOD_STYLE.get(name, METHOD_STYLE.get(rows["method"].iloc[0], {}))
    axes.errorbar(mean.index + offset, mean, reach, capsize=3, label=name, **style)
    if rows["bits"].duplicated().any():
        axes.plot(rows["bits"] + offset, rows["accuracy"], ".", color="0.3", markersize=4)

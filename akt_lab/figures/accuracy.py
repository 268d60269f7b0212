"""Accuracy against bit-width."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np

from akt_lab.analysis.intervals import mean_interval, proportion_interval
from akt_lab.analysis.kept import check_one_bench
from akt_lab.analysis.tables import ceiling
from akt_lab.errors import AktError
from akt_lab.figures.labels import as_code, by_line, named, seeds
from akt_lab.figures.style import STYLE, Drawing
from akt_lab.runs import results
from akt_lab.runs.folder import Run


def accuracy_by_bits(runs: Sequence[Run]) -> Drawing:
    """Accuracy against bit-width, a line for each method and setting.

    Raises:
        AktError: if no run was evaluated, or the runs are of several teachers or images.
    """
    check_one_bench(runs)
    table = named(results.table(runs))
    measured = table.dropna(subset="accuracy")
    if measured.empty:
        raise AktError("accuracy_by_bits needs a run that was evaluated: none of these came so far")
    benches = measured[["teacher", "images"]].round(2).drop_duplicates()
    if len(benches) > 1:
        listed = "; ".join(f"{b.teacher:.2f}% on {b.images:g} images" for b in benches.itertuples())
        raise AktError(f"these runs are of several teachers ({listed}): name a folder of one's")
    teacher, images, bench = measured.iloc[0][["teacher", "images", "bench"]]
    lines = list(by_line(measured))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 4.0))
        axes.axhline(teacher, color="0.3", linewidth=1)
        axes.text(0.02, teacher, f"teacher, full precision: {teacher:.1f}%\n", color="0.3",
                  fontsize=9, va="center", transform=axes.get_yaxis_transform())  # fmt: skip
        few = len(lines) <= 4
        apart = 0.01 * max(4, len(lines))
        offsets = np.linspace(-apart, apart, len(lines))  # so that no bar hides another
        for offset, (name, rows, style) in zip(offsets, lines, strict=True):
            by_bits = rows.groupby("bits")["accuracy"]
            mean = by_bits.mean()
            ends = [
                mean_interval([*a], 100 / images)[1:] if len(a) > 1
                else proportion_interval(a.iloc[0], images) for _, a in by_bits
            ]  # fmt: skip
            reach = np.abs(np.array(ends).T - mean.to_numpy())
            axes.errorbar(mean.index + offset, mean, reach, capsize=3, label=name, **style)
            if rows["bits"].duplicated().any():
                axes.plot(rows["bits"] + offset, rows["accuracy"], ".", color="0.3", markersize=4)
        lowest = 10 * np.floor(max(0, table["accuracy"].min() - 10) / 10)
        axes.set(
            xlabel="bits of weights and activations", ylabel="top-1 accuracy (%)",
            ylim=(lowest, teacher + 0.08 * (teacher - lowest)),
        )  # fmt: skip
        axes.set_xticks(sorted(table["bits"].unique()))
        axes.margins(x=0.05 if table["bits"].nunique() > 1 else 2)
        beside = {"loc": "upper left", "bbox_to_anchor": (1, 1)}
        axes.legend(frameon=False, **({"loc": "lower right"} if few else beside))
    listed = "; ".join(
        f"{name}: " + ", ".join(f"{a:.1f}% at {bits} bits" for bits, a in means.items())
        for name, rows, _ in lines
        for means in [rows.groupby("bits")["accuracy"].mean()]
    )
    failed = "failed" in set(measured["status"])
    lost = " Of runs that diverged: the last evaluation before." if failed else ""
    return Drawing(
        figure,
        table.drop(columns=["label", "same"]),
        alt=f"Line chart of accuracy against bits. Teacher {teacher:.1f}%. {listed}.",
        caption=(
            f"Top-1 accuracy after the last epoch on {images:g} test images of {as_code(bench)}, "
            f"{seeds(table)}. Bars: of several seeds, the 95% t-interval over them, and small dots "
            "for each; of one, the 95% Wilson interval for that many images, which says nothing "
            f"about other seeds.{lost} {ceiling(measured['method'])}".rstrip()
        ),
    )

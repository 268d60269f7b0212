"""Accuracy against what a student takes on a disk."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.ticker import NullFormatter, ScalarFormatter

from akt_lab.analysis.kept import bench_of
from akt_lab.errors import AktError
from akt_lab.export import accounted_bytes
from akt_lab.figures.labels import as_code, by_line, named, seeds
from akt_lab.figures.style import STYLE, Drawing
from akt_lab.runs import results
from akt_lab.runs.folder import Run
from akt_lab.runs.networks import load_student


def accuracy_by_bytes(runs: Sequence[Run]) -> Drawing:
    """Accuracy against bytes: a line for each method and setting, a dot for each student.

    Bytes are those of weights at their bits, of all ranges, and of what stays in floating point
    (`accounted_bytes`): what an exported file cannot go below without a code.

    Raises:
        AktError: if no run left a student that was evaluated, or the runs are of several benches.
    """
    bench = bench_of(runs)
    ended = [run for run in runs if run.done and run.get("accuracy", {}).get("last") is not None]
    if not ended:
        raise AktError("accuracy_by_bytes needs runs that ended and were evaluated")
    bytes_ = [accounted_bytes(load_student(run, bench)[0]) for run in ended]
    table = named(results.table(ended)).assign(kB=[n / 1000 for n in bytes_])
    full = sum(p.numel() for p in bench.teacher.parameters()) * 4 / 1000
    teacher = table["teacher"].iloc[0]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 4.0))
        axes.axhline(teacher, color="0.3", linewidth=1)
        axes.plot(full, teacher, "*", color="0.3", markersize=11, label="teacher, float32")
        for name, rows, style in by_line(table):
            means = rows.groupby("bits")[["kB", "accuracy"]].mean()
            axes.plot(means["kB"], means["accuracy"], label=name, **style)
            if rows["bits"].duplicated().any():
                axes.plot(rows["kB"], rows["accuracy"], ".", color="0.3", markersize=4)
        at_bits = {str(bits): rows["kB"].mean() for bits, rows in table.groupby("bits")}
        for number, (bits, size) in enumerate({**at_bits, "32": full}.items()):
            text = bits if number else f"{bits} bits"  # the next may be near
            axes.text(size, 1.0, text, transform=axes.get_xaxis_transform(), ha="center", va="top",
                      fontsize=9, color="0.3")  # fmt: skip
        axes.set(xlabel="size (kB), ranges and shifts counted", ylabel="top-1 accuracy (%)")
        lowest = min(table["accuracy"].min(), teacher)
        above = 0.15 * (teacher - lowest) + 1  # for the bits
        axes.set_ylim(lowest - 0.4 * above, teacher + above)
        low, high = axes.get_ylim()
        axes.set_yticks([t for t in axes.get_yticks() if low <= t <= min(high, 100)])
        axes.set_xscale("log")
        ticks = [2.0**k for k in range(40) if table["kB"].min() / 1.5 <= 2.0**k <= 1.5 * full]
        axes.set_xticks(ticks)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.legend(frameon=False, fontsize=9, loc="lower right")
    ends = "; ".join(_said(name, rows) for name, rows, _ in by_line(table))
    return Drawing(
        figure,
        table.drop(columns="same"),
        alt=f"Accuracy against size; the teacher, {full:.0f} kB, has {teacher:.1f}%. {ends}.",
        caption=(
            f"Students of {as_code(bench.name)}, {seeds(table)}, by what they take on a disk: "
            "weights at their bits, scales and zero points, and what stays in floating point. "
            "Above: bits of weights and activations. Ranges and shifts stay as they are when bits "
            "are fewer. A file of `akt-lab export --storage packed` takes these bytes, and some "
            "thousand more for the network's operations."
        ),
    )


def _said(name: str, rows: pd.DataFrame) -> str:
    means = rows.groupby("bits")[["kB", "accuracy"]].mean()
    return f"{name}: " + ", ".join(
        f"{bits} bits {kb:.1f} kB {accuracy:.1f}%" for bits, kb, accuracy in means.itertuples()
    )

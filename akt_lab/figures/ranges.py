"""What the rule for activation ranges moves, and what AKT adds to it, as training goes on."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from akt_lab.analysis.intervals import mean_interval
from akt_lab.analysis.kept import check_one_bench
from akt_lab.errors import AktError
from akt_lab.figures.labels import as_code, seeds
from akt_lab.figures.style import COLOURS, STYLE, Drawing
from akt_lab.methods import get_method
from akt_lab.runs import results
from akt_lab.runs.folder import Run, differences

LOOK: dict[str, dict[str, Any]] = {
    "ema": {"color": COLOURS[0], "marker": "o", "linestyle": "--"},
    "ema_legacy": {"color": COLOURS[7], "marker": "s", "linestyle": ":"},
    "minmax": {"color": COLOURS[5], "marker": "v", "linestyle": ":"},
    "pnorm": {"color": COLOURS[3], "marker": "D", "linestyle": "-"},
    "learned": {"color": COLOURS[2], "marker": "^", "linestyle": "-."},
    "per_channel_dynamic": {"color": COLOURS[4], "marker": "P", "linestyle": (0, (3, 1, 1, 1))},
}
OWN = {"seed", "ranges"}  # in which all runs may differ; those with AKT in its settings, too


def evaluations(runs: Sequence[Run]) -> pd.DataFrame:
    """A row for each evaluation of each run that ended: what it was, `images` and `accuracy`.

    `ranges` and `seed`; `akt`, the run's label where it has AKT, else empty; `images` that the
    student had been trained on by then; `gain` against the run without AKT of the same ranges and
    seed, NaN where there is none.

    Raises:
        AktError: if the runs differ in more than method, seed, ranges and AKT; says in what.
    """
    rows: list[dict[str, Any]] = []
    first: dict[str, dict[str, Any]] = {}
    for run in runs:
        if not run.done:  # what diverged has no place among means
            continue
        line = results.line_of(run)
        about, s = results.row(line), run.settings
        own = {k: v for k, v in s.to_dict().items() if k not in {*OWN, "method"}}
        of_akt = {k: own.pop(k) for k in results.OF_AKT if k != "lam" or s.variant != "paper"}
        own["method"] = get_method(s.method).plain
        same = {"plain": own, s.label: of_akt if s.has_akt else {}}
        for kind, values in same.items():
            for name, one, other in differences(first.setdefault(kind, values), values):
                raise AktError(
                    f"{run.folder} has {name} {other}, others {one}: name a folder of runs that "
                    "differ in ranges, AKT and seed alone by --runs"
                )
        each = s.steps * s.batch_size
        rows += [
            {
                "ranges": s.ranges, "akt": s.label if s.has_akt else "", "seed": s.seed,
                "images": (e["epoch"] - s.warmup_epochs) * each, "accuracy": e["accuracy"],
                "method": own["method"], "bits": s.bits, "teacher": about["teacher"],
                "evaluated_on": about["images"],
            }
            for e in line["evaluations"]
        ]  # fmt: skip
    if not rows:
        raise AktError("accuracy_by_range needs runs that ended and were evaluated")
    table = pd.DataFrame(rows)
    once = ["ranges", "akt", "seed", "images"]
    if twice := table[table.duplicated(once)][once].to_dict("records"):
        raise AktError(f"two of these runs are of one kind ({twice[0]}): take one of them away")
    plain = table[table["akt"] == ""].set_index(["ranges", "seed", "images"])["accuracy"]
    keys = pd.MultiIndex.from_frame(table[["ranges", "seed", "images"]])
    gains = table["accuracy"] - plain.reindex(keys).to_numpy()
    return table.assign(gain=gains.where(table["akt"] != ""))


def accuracy_by_range(runs: Sequence[Run]) -> Drawing:
    """Left: accuracy as training goes on, a line for each range rule. Right: what AKT adds."""
    check_one_bench(runs)
    table = evaluations(runs)
    rules = [rule for rule in LOOK if rule in set(table["ranges"])]
    teacher, images, bits, method = table.iloc[0][["teacher", "evaluated_on", "bits", "method"]]
    lost = sum(run.get("status") == "failed" for run in runs)
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3.8), layout="constrained")
        left.axhline(teacher, color="0.3", linewidth=1)
        left.text(0.99, teacher, f"teacher: {teacher:.1f}%", color="0.3", fontsize=9, ha="right",
                  va="bottom", transform=left.get_yaxis_transform())  # fmt: skip
        right.axhline(0, color="0.3", linewidth=1)
        ends = []
        for number, rule in enumerate(rules):
            of_rule = table[table["ranges"] == rule]
            plain = of_rule[of_rule["akt"] == ""]
            if len(plain):
                last = _line(left, plain, "accuracy", 100 / images, number, LOOK[rule], rule)
                ends.append(f"{rule} {last:.1f}%")
            for label, rows in of_rule.dropna(subset="gain").groupby("akt"):
                grain, name = 100 * np.sqrt(2) / images, f"{label}, {rule}"
                last = _line(right, rows, "gain", grain, number, LOOK[rule], name)
                ends.append(f"{label} on {rule} {last:+.1f} points")
        left.set(ylabel="top-1 accuracy without AKT (%)")
        right.set(ylabel="with AKT minus without (points)")
        for axes in (left, right):
            axes.set_xlabel("images that the student has learned from")
            if axes.get_legend_handles_labels()[0]:
                above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2}  # of all bars
                axes.legend(frameon=False, fontsize=9, **above)
    return Drawing(
        figure,
        table,
        alt=f"Accuracy by range rule through training, and AKT's gain. Ends: {'; '.join(ends)}.",
        caption=(
            f"Students of {as_code(runs[0].spec.name)} at {bits}, {seeds(table)}, {images:g} test "
            "images: mean and 95% t-interval over seeds (of one seed, a dot). Left: "
            f"{as_code(method)}, whose activation ranges are those that were observed (`ema`) or "
            "others; at 0 images the student is only rounded. Right: AKT with the same ranges, "
            f"seed by seed.{f' Left out: {lost} runs that diverged.' if lost else ''}"
        ),
    )


def _line(
    axes: Axes, rows: pd.DataFrame, value: str, grain: float, place: int, look: Any, name: str
) -> float:
    """Means and intervals of `value` by images; returns the last mean."""
    by_images = rows.groupby("images")[value]
    means = by_images.mean()
    reach = [
        np.abs(np.array(mean_interval([*v], grain)[1:]) - v.mean()) if len(v) > 1 else (0, 0)
        for _, v in by_images
    ]
    apart = 0.006 * max(means.index) * place  # so that no bar hides another
    axes.errorbar(means.index + apart, means, np.array(reach).T, capsize=3, label=name, **look)
    return float(means.iloc[-1])

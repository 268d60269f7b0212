"""Accuracy as training goes on, from results: has it levelled off?"""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from akt_lab.plots import METHOD_STYLE, STYLE, Drawing
from akt_lab.results import Line

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

"""The table as a picture: a dot and its interval for each cell, one panel a bench."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from akt_lab.analysis.tables import ceiling
from akt_lab.figures.style import STYLE, Drawing, plain, style_of
from akt_lab.settings import Settings

ROW = 0.3  # inches a cell
ABOVE = 0.36  # of a row: where the paper's mark is, clear of the dot
PAPER: Any = {"marker": "|", "markersize": 7, "mew": 2.2, "color": "0.1", "linestyle": "none"}


def dots(cells: pd.DataFrame) -> Drawing:
    """Accuracy after the last epoch, its 95% interval over seeds, and the paper's number.

    Args:
        cells: what `tables.summarise` returns.
    """
    shown = cells.dropna(subset="last")
    benches = list(dict.fromkeys(shown["bench"]))
    heights = [_places(shown[shown["bench"] == bench])[-1] + 2 for bench in benches]
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            max(1, len(benches)), 1, figsize=(7.6, 1.3 + ROW * sum(heights) + 0.5 * len(benches)),
            height_ratios=heights or [1], squeeze=False, layout="constrained",
        )  # fmt: skip
        for axes, bench in zip(grid[:, 0], benches, strict=False):
            _panel(axes, shown[shown["bench"] == bench], bench)
        grid[-1, 0].set_xlabel("top-1 accuracy after the last epoch (%)")
        _legend(figure, bool(shown["paper"].notna().any()))
    listed = "; ".join(f"{_label(c)} {c['last']:.1f}%" for c in shown.to_dict("records"))
    above = ceiling(shown["method"])
    return Drawing(
        figure,
        cells,
        alt=f"Dot plot of accuracy with 95% intervals. {listed or 'No run ended'}.",
        caption=(
            "Top-1 accuracy after the last epoch: mean over seeds and its 95% t-interval (none "
            "for one seed). n: runs; images: what each student was trained on. The dashed line is "
            "the teacher in full precision. The paper's numbers, where there are any, are its "
            f"best epochs on test images, at budgets of their own. {above}".rstrip()
        ),
    )


def gains(cells: pd.DataFrame) -> Drawing:
    """AKT minus plain, seed by seed: a dot and its 95% interval for each cell with two pairs.

    Args:
        cells: what `tables.summarise` returns.
    """
    shown = cells[cells["pairs"] >= 2].reset_index(drop=True)
    names = [f"{plain(cell['bench'])} {_label({**cell, 'runs': int(cell['pairs'])})}"
             for cell in shown.to_dict("records")]  # fmt: skip
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(8.4, 1.1 + ROW * len(shown)), layout="constrained")
        for place, cell in enumerate(shown.to_dict("records")):
            half = cell["gain_last_high"] - cell["gain_last"]
            axes.errorbar(cell["gain_last"], place, xerr=half, capsize=3, **_dot(cell))
        axes.axvline(0, color="0.3", linewidth=1)
        reach = max(4.0, 1.5 * float(shown["gain_last"].abs().max()))
        axes.set(xlim=(-reach, reach), ylim=(len(shown) - 0.4, -0.6),
                 xlabel="AKT minus plain, last epoch (points of accuracy)")  # fmt: skip
        axes.set_yticks(range(len(names)), names, fontsize=8.5)
        axes.grid(axis="y", visible=False)
    listed = "; ".join(f"{n} {g:+.1f}" for n, g in zip(names, shown["gain_last"], strict=True))
    return Drawing(
        figure,
        shown.assign(name=names),
        alt=f"Dot plot of AKT minus plain with 95% intervals. {listed}.",
        caption=(
            "AKT minus the plain method after the last epoch, with the same seeds, settings and "
            "budget: mean and its 95% t-interval. n: pairs. Long bars may run beyond the frame."
        ),
    )


def _places(cells: pd.DataFrame) -> list[float]:
    """Heights from the top down, with a gap before each bit-width."""
    places, height = [], 0.0
    for number, (before, now) in enumerate(
        zip([None, *cells["bits"]], cells["bits"], strict=False)
    ):
        height += (1.0 if before == now else 1.6) if number else 0.0
        places.append(height)
    return places


def _panel(axes: Axes, cells: pd.DataFrame, bench: str) -> None:
    places = _places(cells)
    for place, cell in zip(places, cells.to_dict("records"), strict=True):
        half = cell["last_high"] - cell["last"]
        bar = None if half != half else half
        axes.errorbar(cell["last"], place, xerr=bar, capsize=3, **_dot(cell))
        if cell["paper"] == cell["paper"]:
            axes.plot(cell["paper"], place - ABOVE, **PAPER)
    for teacher in cells["teacher"].unique():
        axes.axvline(teacher, color="0.4", linestyle="--", linewidth=1)
    axes.set_yticks(places, [_label(cell) for cell in cells.to_dict("records")], fontsize=8.5)
    axes.set_ylim(places[-1] + 0.8, -0.8)
    axes.set_xlim(right=min(100.5, axes.get_xlim()[1]))  # an interval may reach past 100%
    axes.set_title(plain(bench), loc="left")
    axes.grid(axis="y", visible=False)


def _dot(cell: Any) -> dict[str, Any]:
    return {**style_of(_name(cell)), "linestyle": "none"}


def _name(cell: Any) -> str:
    return Settings(method=cell["method"], variant=cell["variant"] or "paper").label


def _label(cell: Any) -> str:
    name = f"{_name(cell)} {cell['settings']}".strip()
    return f"{cell['bits']}  {name}  (n={cell['runs']}, {_short(cell['student_images'])} images)"


def _short(count: int) -> str:
    size, unit = (1e6, "M") if count >= 1e6 else (1e3, "k") if count >= 1e3 else (1, "")
    return f"{count / size:.3g}{unit}"


def _legend(figure: Any, paper: bool) -> None:
    axes = figure.axes[0]
    handles = [
        axes.errorbar([], [], xerr=[], color="0.3", marker="o", linestyle="none", capsize=3),
        axes.plot([], [], color="0.4", linestyle="--")[0],
    ]
    labels = ["mean and 95% interval", "teacher"]
    if paper:
        handles += axes.plot([], [], **PAPER)
        labels.append("paper")
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), frameon=False)

"""Synthetic images, a row a class."""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from akt_lab.analysis.studies import SyntheticImages
from akt_lab.analysis.tables import as_text
from akt_lab.figures.style import STYLE, Drawing, plain


def draw_synthetic_images(found: SyntheticImages) -> Drawing:
    """Synthetic images, a row a class."""
    images, classes, confidence = found.images, found.classes, found.confidence
    rows, columns = images.shape[:2]
    with plt.rc_context({**STYLE, "axes.grid": False}):
        grid: Any
        figure, grid = plt.subplots(rows, columns, figsize=(0.72 * columns + 1, 0.72 * rows + 0.5))
        for row in range(rows):
            for column in range(columns):
                axes = grid[row, column]
                axes.imshow(images[row, column], cmap="gray", vmin=0, vmax=1)
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set_visible(False)
            mean = confidence[row].mean()
            grid[row, 0].set_ylabel(
                f"{plain(classes[row])}  ({mean:.0%})", rotation=0, ha="right", va="center",
                fontsize=9,
            )  # fmt: skip
        figure.suptitle(plain(found.title, 100), fontsize=11)
        figure.subplots_adjust(wspace=0.06, hspace=0.06, top=0.93)
    data = pd.DataFrame(
        {"class": classes[r], "image": c, "teacher_probability": confidence[r, c]}
        for r in range(rows) for c in range(columns)
    )  # fmt: skip
    return Drawing(
        figure,
        data,
        alt=(
            f"Grid of synthetic images, {columns} for each of {rows} classes. The teacher gives "
            f"them their class with probability {confidence.mean():.0%} on average."
        ),
        caption=(
            f"{as_text(found.title)}. A row a class; in brackets the teacher's mean probability of "
            "that class. No real image was used to make them."
        ),
    )

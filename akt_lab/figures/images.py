"""Synthetic images, a row a class."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from akt_lab.analysis import studies
from akt_lab.figures.style import STYLE, Drawing
from akt_lab.runs.folder import Run


def synthetic_images(runs: Sequence[Run]) -> Drawing:
    """Images of every class from a run's generator."""
    return draw_synthetic_images(**vars(studies.synthetic_images(runs)))


def draw_synthetic_images(
    images: np.ndarray, classes: Sequence[str], confidence: np.ndarray, title: str
) -> Drawing:
    """Synthetic images, a row a class.

    Args:
        images: (classes, columns, S, S) or (..., 3), values 0 to 1.
        classes: the rows' names.
        confidence: the teacher's probability of the row's class for each image.
        title: which generator.
    """
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
                f"{classes[row]}  ({mean:.0%})", rotation=0, ha="right", va="center", fontsize=9
            )
        figure.suptitle(title, fontsize=11)
        figure.subplots_adjust(wspace=0.06, hspace=0.06, top=0.93)
    data = pd.DataFrame(
        [
            {"class": classes[r], "image": c, "teacher_probability": confidence[r, c]}
            for r in range(rows) for c in range(columns)
        ]
    )  # fmt: skip
    return Drawing(
        figure,
        data,
        alt=(
            f"Grid of synthetic images, {columns} for each of {rows} classes. The teacher gives "
            f"them their class with probability {confidence.mean():.0%} on average."
        ),
        caption=(
            f"{title}. A row a class; in brackets the teacher's mean probability of that class. "
            "No real image was used to make them."
        ),
    )

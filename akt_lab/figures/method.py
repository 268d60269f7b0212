"""The method as drawings of our own: who sees what, and what the student learns from."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from akt_lab.figures.style import COLOURS, STYLE, Drawing
from akt_lab.runs.folder import Run

FROZEN, LEARNS, LOSS = COLOURS[0], COLOURS[1], "0.25"
EDGES = {FROZEN: "--", LEARNS: "-", LOSS: ":"}  # also without colour
HEIGHT = 0.9  # of a box
ATTENTION = "1 · where: mean of {0}² over C\nwhat: mean of {0}² over H, W"

# name: (x, y, width, text, colour); the middle of each box
BOXES: dict[str, tuple[float, float, float, str, Any]] = {
    "noise": (0.9, 2.5, 1.5, "noise z\nclass y", "0.6"),
    "generator": (3.0, 2.5, 1.7, "generator", LEARNS),
    "images": (5.2, 2.5, 1.7, "synthetic\nimages", "0.6"),
    "teacher": (7.6, 4.0, 1.9, "teacher\nfull precision", FROZEN),
    "student": (7.6, 1.0, 1.9, "student\n2 to 8 bits", LEARNS),
    "teacher_maps": (10.2, 4.0, 1.9, "feature maps a\n(B, C, H, W)", FROZEN),
    "student_maps": (10.2, 1.0, 1.9, "feature maps b\n(B, C, H, W)", LEARNS),
    "teacher_attention": (13.0, 4.0, 2.5, ATTENTION.format("a"), FROZEN),
    "student_attention": (13.0, 1.0, 2.5, ATTENTION.format("b"), LEARNS),
    "features": (13.0, 2.5, 2.5, "2 · L_RFD =\nKL(where) + KL(what)", LOSS),
    "logits": (10.2, 2.5, 1.9, "logits: L_KL", LOSS),
    "loss": (16.2, 2.5, 2.5, "3 · α λ L_RFD + (1 − α) L_KL", LOSS),
}  # fmt: skip
ARROWS = (
    ("noise", "generator"), ("generator", "images"), ("images", "teacher"), ("images", "student"),
    ("teacher", "teacher_maps"), ("student", "student_maps"), ("teacher", "logits"),
    ("student", "logits"), ("teacher_maps", "teacher_attention"),
    ("student_maps", "student_attention"), ("teacher_attention", "features"),
    ("student_attention", "features"), ("features", "loss"),
)  # fmt: skip


def method(_: Sequence[Run] = ()) -> Drawing:
    """One training step: 1 decomposition, 2 refined feature distillation, 3 knowledge transfer."""
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, axes = plt.subplots(figsize=(13.2, 4.2), layout="constrained")
        axes.set(xlim=(0, 17.6), ylim=(-0.7, 5.0), aspect="equal")
        axes.axis("off")
        for box in BOXES.values():
            _box(axes, *box)
        for start, end in ARROWS:
            _arrow(axes, start, end)
        below = {"arrowstyle": "-|>", "color": "0.3", "connectionstyle": "arc3,rad=0.12"}
        axes.annotate("", (15.1, 2.0), (10.4, 2.0), arrowprops=below)  # logits, under the features
        axes.plot([16.2, 16.2, 7.6, 7.6], [1.95, -0.1, -0.1, 0.2], color="0.3", linestyle="--")
        axes.annotate("", (7.6, 0.45), (7.6, 0.1), arrowprops={"arrowstyle": "-|>", "color": "0.3"})
        axes.text(12, -0.45, "gradient at the student's weights", ha="center", fontsize=9)
        for place, (colour, text) in enumerate(
            ((FROZEN, "frozen (dashed)"), (LEARNS, "learns (solid)"), (LOSS, "loss (dotted)"))
        ):
            axes.text(0.2, 4.7 - 0.4 * place, text, color=colour, fontsize=10, weight="bold")
    return Drawing(
        figure,
        pd.DataFrame(ARROWS, columns=["from", "to"]),
        alt=(
            "Flow chart. Noise and class go through the generator to synthetic images, which both "
            "the frozen teacher and the quantized student see. Their feature maps are reduced to "
            "where and to what they are active; the divergences of both, and that of the logits, "
            "make the student's loss."
        ),
        caption=(
            "AKT's training step as we read its equations: 1, each feature map is decomposed into "
            "spatial attention (where) and channel attention (what); 2, refined feature "
            "distillation compares both between teacher and student; 3, it is joined to the "
            "logits' distillation. The generator's own loss is left out. CSV: the arrows."
        ),
    )


def _box(axes: Axes, x: float, y: float, width: float, text: str, colour: Any) -> None:
    look: Any = {"facecolor": "w", "edgecolor": colour, "linewidth": 1.8}
    look["linestyle"] = EDGES.get(colour, "-")
    corner = (x - width / 2, y - HEIGHT / 2)
    axes.add_patch(FancyBboxPatch(corner, width, HEIGHT, boxstyle="round,pad=0.08", **look))
    size = 8 if len(max(text.split("\n"), key=len)) > 20 else 9.5
    axes.text(x, y, text, ha="center", va="center", fontsize=size)


def _arrow(axes: Axes, start: str, end: str) -> None:
    x0, y0, w0 = BOXES[start][:3]
    x1, y1, w1 = BOXES[end][:3]
    gap = 0.1
    if x0 == x1:  # up or down
        side = 1 if y1 > y0 else -1
        ends = (x0, y0 + side * (HEIGHT / 2 + gap)), (x1, y1 - side * (HEIGHT / 2 + gap))
    else:
        ends = (x0 + w0 / 2 + gap, y0), (x1 - w1 / 2 - gap, y1)
    axes.annotate("", ends[1], ends[0], arrowprops={"arrowstyle": "-|>", "color": "0.3"})

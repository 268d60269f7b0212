"""Figures from arrays and tables; no network runs here.

One style for all: colour-blind-safe colours with a marker or dash beside each, axes with units,
labels at the lines. A figure cannot be saved without the text that stands in for it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from akt_lab.errors import AktError
from akt_lab.intervals import mean_interval, proportion_interval

COLOURS = sns.color_palette("colorblind")
METHOD_STYLE: Mapping[str, dict[str, Any]] = {
    "ptq": {"color": COLOURS[7], "marker": "s", "linestyle": ":"},
    "zeroq": {"color": COLOURS[7], "marker": "P", "linestyle": "-."},
    "hast": {"color": COLOURS[3], "marker": "<", "linestyle": "--"},
    "hast+akt": {"color": COLOURS[3], "marker": ">", "linestyle": "-"},
    "granq": {"color": COLOURS[5], "marker": "p", "linestyle": "--"},
    "granq+akt": {"color": COLOURS[5], "marker": "h", "linestyle": "-"},
    "gdfq": {"color": COLOURS[2], "marker": "^", "linestyle": "--"},
    "gdfq+akt": {"color": COLOURS[4], "marker": "v", "linestyle": "-"},
    "adadfq": {"color": COLOURS[0], "marker": "o", "linestyle": "--"},
    "adadfq+akt": {"color": COLOURS[1], "marker": "D", "linestyle": "-"},
    "adadfq+akt code": {"color": COLOURS[3], "marker": "X", "linestyle": "-."},
    "gdfq+akt code": {"color": COLOURS[6], "marker": "P", "linestyle": "-."},
}
BITS_STYLE = {2: (COLOURS[3], ":"), 3: (COLOURS[1], "--"), 4: (COLOURS[0], "-")}
STYLE: Any = {
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "svg.hashsalt": "akt-lab",
}


@dataclass(frozen=True)
class Drawing:
    """A figure with all that is published beside it."""

    figure: Figure
    data: pd.DataFrame
    alt: str
    caption: str


def save(drawing: Drawing, folder: Path, name: str, command: str) -> None:
    """Write NAME.png, NAME.svg, NAME.csv and NAME.json (alt text, caption, command).

    Raises:
        AktError: if the drawing has no alt text or no caption.
    """
    if not drawing.alt.strip() or not drawing.caption.strip():
        raise AktError(f"figure {name!r} needs alt text and a caption before it is saved")
    folder.mkdir(parents=True, exist_ok=True)
    drawing.figure.savefig(folder / f"{name}.png", bbox_inches="tight")
    drawing.figure.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(drawing.figure)
    drawing.data.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    about = {"alt": drawing.alt, "caption": drawing.caption, "command": command}
    (folder / f"{name}.json").write_text(json.dumps(about, indent=2) + "\n")


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
        table,
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


def _named(table: pd.DataFrame) -> pd.DataFrame:
    """With a column `name`: the method, and its variant where it comes in several."""
    several = table.groupby("method")["variant"].transform("nunique") > 1
    names = table["method"].where(~several, table["method"] + " " + table["variant"])
    return table.assign(name=names)


def attention_side_by_side(
    images: np.ndarray,
    spatial: Sequence[np.ndarray],
    channel: Sequence[np.ndarray],
    divergences: Sequence[tuple[float, float]],
    labels: Sequence[str],
    title: str,
) -> Drawing:
    """Where teacher and student look in one layer: a row an image.

    Args:
        images: (N, S, S) or (N, S, S, 3), values 0 to 1.
        spatial: teacher's and student's spatial attention, (N, H, W) each, unit length.
        channel: teacher's and student's channel attention, (N, C) each, sums to 1.
        divergences: spatial and channel, KL(teacher || student) in nats, a pair an image.
        labels: the classes' names.
        title: which layer of which run.
    """
    (teacher_spatial, student_spatial), (teacher_channel, student_channel) = spatial, channel
    count = len(teacher_channel)
    top = max(teacher_spatial.max(), student_spatial.max())
    difference = student_spatial - teacher_spatial
    reach = np.abs(difference).max()
    spatial_kl, channel_kl = np.asarray(divergences).T
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, grid = plt.subplots(
            count, 5, figsize=(10.4, 1.9 * count), squeeze=False, width_ratios=(1, 1, 1, 1, 2.1),
            layout="constrained",
        )  # fmt: skip
        for row, axes in enumerate(grid):
            axes[0].imshow(images[row], cmap="gray", vmin=0, vmax=1)
            axes[0].set_ylabel(f"class {labels[row]}")
            seen = axes[1].imshow(teacher_spatial[row], cmap="cividis", vmin=0, vmax=top)
            axes[2].imshow(student_spatial[row], cmap="cividis", vmin=0, vmax=top)
            signed = axes[3].imshow(difference[row], cmap="RdBu_r", vmin=-reach, vmax=reach)
            below = np.argwhere(difference[row] < -reach / 4)
            axes[3].plot(below[:, 1], below[:, 0], "k_", markersize=4)  # red and blue are one grey
            axes[3].set_xlabel(f"KL {spatial_kl[row]:.2g} nats", fontsize=8)
            _paired_bars(axes[4], teacher_channel[row], student_channel[row], last=row == count - 1)
            axes[4].text(1, 0.99, f"KL {channel_kl[row]:.2g} nats", fontsize=8, ha="right",
                         va="top", transform=axes[4].transAxes)  # fmt: skip
            for panel in axes[:4]:
                panel.set(xticks=[], yticks=[])
                panel.spines[:].set_visible(False)
        headings = ("image", "teacher", "student", "student − teacher", "channel attention")
        for panel, heading in zip(grid[0, :4], headings[:4], strict=True):
            panel.set_title(heading)
        grid[0, 4].set_title(headings[4], loc="left")
        grid[0, 4].legend(
            loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, frameon=False, fontsize=8
        )
        figure.colorbar(
            seen,
            ax=grid[:, 1:3],
            shrink=0.6,
            location="bottom",
            label="spatial attention (unit length)",
        )
        bar = figure.colorbar(
            signed, ax=grid[:, 3], shrink=0.9, location="bottom", label="difference"
        )
        bar.set_ticks([-reach, 0, reach], labels=[f"−{reach:.2g}", "0", f"{reach:.2g}"])
        figure.suptitle(title, fontsize=11)
    data = pd.concat(
        [_long(labels, "spatial", *spatial), _long(labels, "channel", *channel)], ignore_index=True
    )
    disagreement = np.abs(difference).mean(axis=(1, 2))
    worst = labels[int(disagreement.argmax())]
    return Drawing(
        figure,
        data,
        alt=(
            f"{title}. For {count} images of classes {', '.join(labels)}: teacher's and student's "
            f"spatial attention, their difference and channel attention. Largest difference at one "
            f"place {reach:.2f}; they differ most, on average, on class {worst}. Mean KL: spatial "
            f"{spatial_kl.mean():.2g}, channel {channel_kl.mean():.2g} nats."
        ),
        caption=(
            f"{title}: refined feature distillation in one layer. Spatial attention of teacher and "
            "student on one scale, the signed difference (red: the student looks there more; blue, "
            "dashes: less), channel attention, and for each image the two losses, KL(teacher || "
            "student). Real test images. CSV: both attentions, places row by row."
        ),
    )


def _long(labels: Sequence[str], part: str, teacher: Any, student: Any) -> pd.DataFrame:
    """A row for each image and each place of its map, or channel."""
    both = [np.asarray(a).reshape(len(labels), -1) for a in (teacher, student)]
    places = both[0].shape[1]
    return pd.DataFrame(
        {
            "image": np.repeat(np.arange(len(labels)), places),
            "class": np.repeat(labels, places),
            "part": part,
            "place": np.tile(np.arange(places), len(labels)),
            "teacher": both[0].ravel(),
            "student": both[1].ravel(),
        }
    )


def _paired_bars(axes: Axes, teacher: np.ndarray, student: np.ndarray, last: bool) -> None:
    places = np.arange(len(teacher))
    axes.bar(places - 0.2, teacher, 0.4, color=COLOURS[0], label="teacher")
    axes.bar(
        places + 0.2, student, 0.4, color=COLOURS[1], label="student", hatch="//", edgecolor="w"
    )
    axes.set_ylabel("weight", fontsize=8)
    axes.set_ylim(top=1.18 * max(teacher.max(), student.max()))  # room for the number
    axes.tick_params(labelsize=8)
    if last:
        axes.set_xlabel("channel", fontsize=9)


def images_by_class(
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


def seeds(table: pd.DataFrame) -> str:
    """How many, in words."""
    count = table["seed"].nunique()
    return "one seed" if count == 1 else f"{count} seeds"

"""Where teacher and student look: one layer image by image, and all layers by bits."""

import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from akt_lab.analysis.studies import SideBySide
from akt_lab.analysis.tables import as_text
from akt_lab.figures.labels import seeds
from akt_lab.figures.style import COLOURS, STYLE, Drawing, plain, style_of
from akt_lab.methods import get_method


def draw_attention_side_by_side(found: SideBySide) -> Drawing:
    """Where teacher and student look in one layer: a row an image."""
    labels, title = found.labels, found.title
    teacher_spatial, student_spatial = found.spatial
    teacher_channel, student_channel = found.channel
    count = len(teacher_channel)
    top = max(teacher_spatial.max(), student_spatial.max())
    difference = student_spatial - teacher_spatial
    reach = np.abs(difference).max()
    spatial_kl, channel_kl = np.asarray(found.divergences).T
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, grid = plt.subplots(
            count, 5, figsize=(10.4, 1.9 * count), squeeze=False, width_ratios=(1, 1, 1, 1, 2.1),
            layout="constrained",
        )  # fmt: skip
        for row, axes in enumerate(grid):
            axes[0].imshow(found.images[row], cmap="gray", vmin=0, vmax=1)
            axes[0].set_ylabel(f"class {plain(labels[row], 20)}")
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
        above: Any = {"loc": "lower right", "bbox_to_anchor": (1, 0.98)}
        grid[0, 4].legend(ncols=2, frameon=False, fontsize=8, **above)
        figure.colorbar(seen, ax=grid[:, 1:3], shrink=0.6, location="bottom",
                        label="spatial attention (unit length)")  # fmt: skip
        bar = figure.colorbar(signed, ax=grid[:, 3], shrink=0.9, location="bottom",
                              label="difference")  # fmt: skip
        bar.set_ticks([-reach, 0, reach], labels=[f"−{reach:.2g}", "0", f"{reach:.2g}"])
        figure.suptitle(plain(title, 100), fontsize=11)
    parts = {"spatial": found.spatial, "channel": found.channel}
    data = pd.concat([_long(labels, part, *of) for part, of in parts.items()], ignore_index=True)
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
            f"{as_text(title)}: refined feature distillation in one layer. Spatial attention of "
            "teacher and student on one scale, the signed difference (red: the student looks there "
            "more; blue, dashes: less), channel attention, and for each image the two losses, "
            "KL(teacher || student). Real test images. CSV: both attentions, places row by row."
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
    hatched: Any = {"hatch": "//", "edgecolor": "w"}
    axes.bar(places + 0.2, student, 0.4, color=COLOURS[1], label="student", **hatched)
    axes.set_ylabel("weight", fontsize=8)
    axes.set_ylim(top=1.18 * max(teacher.max(), student.max()))  # room for the number
    axes.tick_params(labelsize=8)
    if last:
        axes.set_xlabel("channel", fontsize=9)


def draw_attention_by_bits(found: pd.DataFrame, about: str) -> Drawing:
    """How far attention lies apart before and after training: of `studies.attention`."""
    kinds = found.groupby(["method", "bits", "trained"], sort=False, as_index=False)
    table = kinds[["spatial", "channel"]].mean()
    methods = [m for m in dict.fromkeys(table["method"]) if get_method(m.split()[0]).trains]
    bits = sorted(table["bits"].unique())

    def kl_of(method: str, trained: bool) -> pd.DataFrame:
        rows = table[(table["method"] == method) & (table["trained"] == trained)]
        return rows.set_index("bits")[["spatial", "channel"]].sort_index()

    rounded: dict[str, pd.DataFrame] = {}  # those that begin alike share a line, and its name
    for method in methods:
        own = kl_of(method, False)
        for names, rows in rounded.items():
            both = own.index.intersection(rows.index)
            if len(both) and np.allclose(own.loc[both], rows.loc[both], 1e-5, 0, equal_nan=True):
                rounded[f"{names}, {method}"] = rounded.pop(names).combine_first(own)
                break
        else:
            rounded[method] = own
    lines = []
    for (names, rows), marker in zip(rounded.items(), itertools.cycle("sPX8dH*")):
        label = f"before training {names}" if len(rounded) > 1 else "before training"
        lines.append((label, rows, {"color": "0.35", "linestyle": ":", "marker": marker}))
    lines += [(f"after {m}", kl_of(m, True), style_of(m)) for m in sorted(methods)]
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(1, 2, figsize=(8.6, 3.8), layout="constrained")
        for axes, part in zip(grid, ("spatial", "channel"), strict=True):
            for label, rows, style in lines:
                axes.plot(rows.index, rows[part], label=label, **style)
            axes.set(title=f"{part} attention", yscale="log", xlabel="bits")
            axes.set_xticks(bits, [str(b) for b in bits])
            axes.xaxis.set_minor_locator(NullLocator())
        grid[0].set_ylabel("KL(teacher ‖ student),\nnats, mean over layers")
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    at = table[(table["bits"] == bits[0]) & table["method"].isin(methods)]
    listed = "; ".join(
        f"{r.method} {'after' if r.trained else 'before'}: {r.spatial:.2g} and {r.channel:.2g}"
        for r in at.itertuples()
    )
    return Drawing(
        figure,
        table,
        alt=f"Divergence of spatial and channel attention by bits. At {bits[0]} bits: {listed}.",
        caption=(
            f"How far the student's attention maps lie from the teacher's, mean over "
            f"{found['layer'].nunique()} layers, {seeds(found)}. {about} "
            "`before training`: only rounded."
        ),
    )

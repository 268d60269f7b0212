"""What all figures share: one style, colours with marker or dash, and how a figure is saved.

A figure cannot be saved without the text that stands in for it.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from akt_lab.errors import AktError
from akt_lab.files import cannot_write
from akt_lab.methods import METHODS

COLOURS = sns.color_palette("colorblind")
EDGE = {"markeredgecolor": "0.2"}  # yellow alone is pale on white
METHOD_STYLE: Mapping[str, dict[str, Any]] = {
    "ptq": {"color": COLOURS[7], "marker": "s", "linestyle": ":"},
    "zeroq": {"color": COLOURS[7], "marker": "P", "linestyle": "-."},
    "hast": {"color": COLOURS[3], "marker": "<", "linestyle": "--"},
    "hast+akt": {"color": COLOURS[3], "marker": ">", "linestyle": "-"},
    "granq": {"color": COLOURS[5], "marker": "p", "linestyle": "--"},
    "granq+akt": {"color": COLOURS[5], "marker": "h", "linestyle": "-"},
    "real": {"color": "0.15", "marker": "*", "linestyle": "--"},
    "real+akt": {"color": "0.15", "marker": "X", "linestyle": "-"},
    "gdfq": {"color": COLOURS[2], "marker": "^", "linestyle": "--"},
    "gdfq+akt": {"color": COLOURS[4], "marker": "v", "linestyle": "-"},
    "adadfq": {"color": COLOURS[0], "marker": "o", "linestyle": "--"},
    "adadfq+akt": {"color": COLOURS[1], "marker": "D", "linestyle": "-"},
    "adadfq-lsq": {"color": COLOURS[8], "marker": "D", "linestyle": "--", **EDGE},
    "adadfq-lsq+akt": {"color": COLOURS[8], "marker": "o", "linestyle": "-", **EDGE},
    "adadfq+akt code": {"color": COLOURS[3], "marker": "X", "linestyle": "-."},
    "gdfq+akt code": {"color": COLOURS[6], "marker": "P", "linestyle": "-."},
}

VARIANT_STYLE: Mapping[str, dict[str, Any]] = {
    "code": {"marker": "x", "linestyle": "-."},
    "published": {"marker": "*", "linestyle": (0, (1, 1))},
    "placebo": {"marker": "1", "linestyle": (0, (3, 2))},
}

NEW_MARKERS = "dH8spv^"  # of methods that METHOD_STYLE does not know; with ten colours, seventy

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
        AktError: if the drawing has no alt text or no caption, or the folder cannot be written to.
    """
    if not drawing.alt.strip() or not drawing.caption.strip():
        raise AktError(f"figure {name!r} needs alt text and a caption before it is saved")
    about = {"alt": drawing.alt, "caption": drawing.caption, "command": command}
    look: dict[str, Any] = {"bbox_inches": "tight"}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with plt.rc_context(STYLE):
            drawing.figure.savefig(folder / f"{name}.png", **look)
            drawing.figure.savefig(folder / f"{name}.svg", **look, metadata={"Date": None})
        drawing.data.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
        (folder / f"{name}.json").write_text(json.dumps(about, indent=2) + "\n")
    except OSError as error:
        raise cannot_write(folder / name, error) from error
    finally:
        plt.close(drawing.figure)


def plain(name: str, most: int = 40) -> str:
    r"""A name from outside as Matplotlib is given it: one line, not endless, and no formula.

    >>> plain("$x_1$ and\nmore")
    '\\$x_1\\$ and more'
    """
    line = " ".join(name.split())
    short = line if len(line) <= most else f"{line[: most - 1]}…"
    return short.replace("$", r"\$")


def style_of(label: str) -> dict[str, Any]:
    """Colour, marker and dash of runs by their `Settings.label`; a new method has its own, too.

    A variant of AKT has its method's colour, where nothing else is said.
    """
    method, _, variant = label.partition(" ")
    style = METHOD_STYLE.get(label) or METHOD_STYLE.get(method)
    if style is None:
        new = [name for name in METHODS if name not in METHOD_STYLE]
        place = new.index(method) if method in new else zlib.crc32(method.encode())
        style = {"color": COLOURS[(8 + place) % 10], "marker": NEW_MARKERS[place % 7]}
        style["linestyle"] = "-" if method in METHODS and METHODS[method].akt else "--"
    return {**style, **({} if label in METHOD_STYLE else VARIANT_STYLE.get(variant, {}))}


def bit_name(bits: int) -> str:
    """As on an axis; 0 stands for full precision."""
    return str(bits) if bits else "full"


def bit_axis(axes: Axes, bits: Sequence[int]) -> dict[int, int]:
    """From full precision down to 2; returns each bit-width's place."""
    order = sorted(bits, key=lambda b: -b if b else -99)
    axes.set_xticks(range(len(order)), [bit_name(b) for b in order])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("bits of weights and activations")
    return {b: place for place, b in enumerate(order)}


def lines(axes: Axes, table: pd.DataFrame, value: str, by: Any, styles: Mapping[Any, Any]) -> None:
    """A line a style: the seeds' median by bits, with bars from the least to the largest."""
    places = bit_axis(axes, table["bits"].unique().tolist())
    for key, style in styles.items():
        rows = table[(table[by] == key) if isinstance(by, str) else all_equal(table, by, key)]
        seeds = rows.dropna(subset=value).groupby("bits")[value]
        middle = seeds.median().sort_index(key=lambda b: b.map(places))
        reach = [middle - seeds.min(), seeds.max() - middle]
        where = middle.index.map(places)
        axes.errorbar(where, middle, [r.loc[middle.index] for r in reach], capsize=2, **style)


def all_equal(table: pd.DataFrame, names: Sequence[str], values: Sequence[Any]) -> pd.Series:
    """Which rows have these values in these columns."""
    return (table[list(names)] == list(values)).all(axis=1)

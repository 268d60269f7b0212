"""What figures call things: lines by method and settings, the bench, the seeds.

Runs share a line, and are averaged, where they agree in all but seed and bits: as in tables.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from akt_lab.analysis.kept import check_one_bench
from akt_lab.analysis.tables import what_differs
from akt_lab.errors import AktError
from akt_lab.figures.style import style_of
from akt_lab.runs import results
from akt_lab.runs.folder import Run

OTHERS = "<>^vDP"  # markers


def named(table: pd.DataFrame, alike: Sequence[str] = ("label",)) -> pd.DataFrame:
    """With a column `name`: only runs of one name may share a line, and be averaged at its bits.

    It is the runs' label, and in brackets the settings in which others of that label differ.

    Args:
        table: with columns label and `same`; see `results.row`.
        alike: the columns within which names must differ.
    """
    settings = what_differs(table.assign(same=table["same"].map(_off_axis)), alike)
    labels = zip(table["label"], settings, strict=True)
    return table.assign(name=[f"{label} ({s})" if s else label for label, s in labels])


def _off_axis(same: str) -> str:
    """Without bits, which are an axis: of weights and, unless it is said here, of activations."""
    values = json.loads(same)
    values.pop("student_images", None)  # it follows from the rest
    weights, activations = (values.pop(name, 0) for name in ("weight_bits", "act_bits"))
    if weights != activations:
        values["activations"] = f"{activations} bits"
    return json.dumps(values)


def by_line(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame, dict[str, Any]]]:
    """Each line's name, rows and style, of a `named` table.

    Others of a label are hollow, from the third on with another marker.
    """
    for label, rows in table.groupby("label", sort=False):
        for number, (name, line) in enumerate(rows.groupby("name", sort=False)):
            dots: dict[str, Any] = {
                "markerfacecolor": "w",
                "linestyle": (0, (3, 1, *[1, 1] * number)),
            }
            if number > 1:
                dots["marker"] = OTHERS[number % len(OTHERS)]
            yield str(name), line, {**style_of(str(label)), **(dots if number else {})}


def alike(runs: Sequence[Run]) -> Sequence[Run]:
    """These runs, if those of one label that ended may be averaged.

    Raises:
        AktError: says in what they differ beside seed and bits.
    """
    ended = [run for run in runs if run.done]
    lines = named(results.table(ended)).groupby("label", sort=False)["name"] if ended else ()
    for label, names in lines:
        if names.nunique() > 1:
            listed = "; ".join(names.unique())
            raise AktError(f"runs of {label!r} differ in more than their seeds ({listed}): "
                           "name a folder of one kind by --runs")  # fmt: skip
    return runs


# ---- in captions --------------------------------------------------------------------------------


def on_bench(runs: Sequence[Run], rest: str) -> str:
    """For a caption: which bench the runs are of, and the rest of that sentence.

    Raises:
        AktError: for runs of several benches.
    """
    check_one_bench(runs)
    return f"Bench {as_code(runs[0].spec.name)}{rest}"


def as_code(name: str) -> str:
    """A name in Markdown, as code: what stands there is never a tag or a formula."""
    return f"`{' '.join(name.replace('`', '').split())}`"


def seeds(table: pd.DataFrame) -> str:
    """How many, in words: of each line at each number of bits, where the table has them."""
    points = [name for name in ("name", "bits") if name in table]
    groups = table.groupby(points)["seed"] if points else table["seed"]
    counts = np.unique(groups.nunique())
    if len(counts) > 1:
        return f"{counts[0]} to {counts[-1]} seeds"
    return "one seed" if counts[0] == 1 else f"{counts[0]} seeds"

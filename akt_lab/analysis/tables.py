"""A table from the results of sweeps: means over seeds, AKT against plain, and the paper's numbers.

A cell holds runs that differ in nothing but their seed: runs with another budget, teacher or
setting make rows of their own and are never averaged together.
"""

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from akt_lab.analysis.intervals import mean_interval
from akt_lab.errors import AktError
from akt_lab.methods import get_method
from akt_lab.runs.results import KEY, METRICS, Line, read, row
from akt_lab.settings import Settings, with_preset

BUDGET = ("epochs", "steps", "batch_size", "warmup_epochs", "milestones")
NO_MATTER = ("seed", "eval_every", "compile", "deterministic")
TEACHER_TOLERANCE = 0.2  # points by which a teacher may differ from the paper's
PAPER_IMAGES = 10_000  # test images of CIFAR-10 and CIFAR-100
SEEDS_TO_CLAIM, HALF_TO_CLAIM = 3, 1.0  # runs, and points of interval, to call it reproduced


def load(paths: Sequence[Path]) -> pd.DataFrame:
    """One row a run. A run that is in several files counts once, as in the last of them.

    Raises:
        AktError: for a file that cannot be read, or where there are no runs.
    """
    runs = [_row(line) for path in paths for line in read(path)]
    if not runs:
        raise AktError(f"no runs in {', '.join(map(str, paths))}: make some with `akt-lab sweep`")
    return pd.DataFrame(runs).drop_duplicates([*KEY, "seed"], keep="last", ignore_index=True)


def _row(line: Line) -> dict[str, Any]:
    """A run as a row; beside it which of its settings are the papers', and its effective bits."""
    found = row(line)
    differs = [_differs(found["settings"], preset) for preset in ("paper", "code")]
    bits = line.get("effective_bits")  # of weights and activations; older results have none
    return {
        **found,
        "as_published": not line["bench"].get("data") and any(d <= {*BUDGET} for d in differs),
        "budget_as_published": any(not d & {*BUDGET} for d in differs),
        "effective": f"{bits['weights']:.2f}, {bits['activations']:.2f}" if bits else "",
    }


def _differs(settings: Mapping[str, Any], preset: str) -> set[str]:
    """The settings that are not those of the papers, or of their codes."""
    named = {k: settings[k] for k in ("method", "weight_bits", "act_bits")}
    theirs = Settings(**with_preset({**named, "preset": preset})).to_dict()
    return {k for k, v in theirs.items() if settings[k] != v and k not in NO_MATTER}


# ---- intervals ----------------------------------------------------------------------------------


def verdict(low: float, high: float, pairs: int, lost: int = 0) -> str:
    """What an interval of AKT minus plain says.

    Args:
        low: end of the interval, in points.
        high: its other end.
        pairs: seeds with which both ended.
        lost: seeds with which either diverged: without them, the others prove nothing.
    """
    if lost:
        return f"{lost} of {pairs + lost} diverged"
    if pairs < 2:
        return "one seed" if pairs else "no plain runs alike"
    return "helps" if low > 0 else "hurts" if high < 0 else "cannot be told apart"


# ---- cells --------------------------------------------------------------------------------------


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a cell; accuracies and intervals in percent, differences in points.

    Args:
        runs: what `load` returns.
    """
    cells = pd.DataFrame(
        _cell(dict(zip(KEY, key, strict=True)), rows, runs)
        for key, rows in runs.groupby(KEY, dropna=False)
    )
    cells["settings"] = what_differs(cells, KEY[:-1])
    order = ["bench", "bits", "base", "method", "variant", "student_images"]
    base = [get_method(method).plain for method in cells["method"]]
    cells = cells.assign(base=base).sort_values(order)
    return cells.drop(columns=["same", "base", "budget_as_published"]).reset_index(drop=True)


def _cell(key: dict[str, Any], rows: pd.DataFrame, runs: pd.DataFrame) -> dict[str, Any]:
    ended = rows[rows["ended"]]
    grain = 100 / float(rows["images"].iloc[0])
    counts = {"runs": len(ended), "diverged": len(rows) - len(ended)}
    cell = {**key, "evaluation_images": int(rows["images"].iloc[0]), **counts}
    cell["effective"] = next((bits for bits in rows["effective"] if bits), "")
    for metric in METRICS:
        cell |= _named(metric, mean_interval(ended[metric].tolist(), grain))
    if get_method(key["method"]).akt:
        cell |= _gains(key, rows, runs, grain)
        cell |= {"lam_low": rows["lam"].min(), "lam_high": rows["lam"].max()}
    for name in ("as_published", "budget_as_published"):
        cell[name] = bool(rows[name].all())
    cell["commits"] = " ".join(sorted({str(commit) for commit in rows["commit"].dropna()}))
    return cell | _paper(cell)


def _named(name: str, interval: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))


def _gains(
    key: dict[str, Any], rows: pd.DataFrame, runs: pd.DataFrame, grain: float
) -> dict[str, Any]:
    """AKT minus the plain method, seed by seed, where all else is the same."""
    plain = runs[
        (runs["method"] == get_method(key["method"]).plain)
        & (runs["pair"] == rows["pair"].iloc[0])
        & (runs["teacher"] == key["teacher"])
    ]
    both = rows.merge(plain, on="seed", suffixes=("", "_plain"))
    pairs = both[both["ended"] & both["ended_plain"]]
    lost = len(both) - len(pairs)
    gains: dict[str, Any] = {"pairs": len(pairs), "lost": lost}
    for metric in METRICS:
        differences = (pairs[metric] - pairs[f"{metric}_plain"]).tolist()
        gains |= _named(f"gain_{metric}", mean_interval(differences, grain * math.sqrt(2)))
    gains["verdict"] = verdict(gains["gain_last_low"], gains["gain_last_high"], len(pairs), lost)
    return gains


def what_differs(cells: pd.DataFrame, alike: Sequence[str]) -> list[str]:
    """For rows that look alike, the settings in which they differ; those as usual go unsaid.

    Args:
        cells: with a column `same`; see `results.row`.
        alike: columns; rows that agree in them look alike.
    """
    groups = cells.groupby([*alike], dropna=False)["same"]
    same = groups.transform(lambda same: json.dumps(sorted(set(same))))
    return [_differing(json.loads(s), list(map(json.loads, json.loads(a))))
            for s, a in zip(cells["same"], same, strict=True)]  # fmt: skip


def _differing(own: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    known = {name for each in others for name in each}
    names = [n for n in sorted(known) if any(other.get(n) != own.get(n) for other in others)]
    usual = json.loads(json.dumps(Settings().to_dict()))
    return ", ".join(f"{n}={own.get(n)}" for n in names if own.get(n) != usual.get(n))


# ---- the paper ----------------------------------------------------------------------------------


def reference() -> list[dict[str, str]]:
    """Published numbers, each with its source: akt_lab/analysis/reference.csv.

    `student_images` is the student's budget, batch x steps after the warm-up, where it is known;
    `rerun` says whether the AKT paper marks the number as its authors' own run of another method.
    The first row of a cell is what its runs are compared with. Of methods that are not ours (SynQ,
    PLF, TexQ) the numbers stand there to be read: no run has them beside it.
    """
    with (files("akt_lab.analysis") / "reference.csv").open() as file:
        return list(csv.DictReader(file))


def _paper(cell: Mapping[str, Any]) -> dict[str, Any]:
    """The published number beside a cell, the others for it, and how far ours may be compared."""
    found = [
        row for row in reference()
        if (row["bench"], row["method"]) == (cell["bench"], cell["method"])
        and cell["bits"] == f"{row['bits']}w{row['bits']}a"
    ]  # fmt: skip
    if not found:
        known = {row["bench"] for row in reference()}
        standing = "no number" if cell["bench"] in known else "other bench"
        return {"paper": math.nan, "paper_source": "", "standing": standing}
    first, *others = found
    source = first["source"] + (", the authors' re-run" if first["rerun"] == "yes" else "")
    source += "".join(f"; {row['top1']} in {row['source']}" for row in others)
    paper = float(first["top1"])
    return {"paper": paper, "paper_source": source, "standing": standing_of(cell, first)}


def standing_of(cell: Mapping[str, Any], row: Mapping[str, str]) -> str:
    """How a cell stands to a published number: `reproduced` only where all was the paper's.

    The best epoch on test images is compared, because the papers report that one: one run, so it
    must lie where one more run of ours is expected, by a 95% prediction interval.
    """
    reasons = []
    if not cell["as_published"]:
        reasons.append("other settings")
    if cell["evaluation_images"] != PAPER_IMAGES:
        reasons.append("other images")
    if not abs(cell["teacher"] - float(row["teacher"] or math.inf)) <= TEACHER_TOLERANCE:
        reasons.append("other teacher")
    if not row["student_images"]:
        reasons.append("paper's budget unknown")
    elif cell["student_images"] != int(row["student_images"]) or not cell["budget_as_published"]:
        reasons.append("other budget")
    if reasons:
        return ", ".join(reasons)
    if cell["runs"] < SEEDS_TO_CLAIM:
        return "too few seeds"
    half = (cell["best_high"] - cell["best"]) * math.sqrt(cell["runs"] + 1)
    if half > HALF_TO_CLAIM:
        return "interval too wide"
    inside = abs(float(row["top1"]) - cell["best"]) <= half
    return "reproduced" if inside and not cell["diverged"] else "not reproduced"


# ---- formats ------------------------------------------------------------------------------------


def to_markdown(cells: pd.DataFrame) -> str:
    """A table to read, and the notes without which it must not be read."""
    headings = (
        "bench", "bits", "effective", "method", "teacher", "images", "runs", "last epoch",
        "label-free choice", "best on test", "AKT − plain, last", "", "paper", "against the paper",
    )  # fmt: skip
    rows = [_shown(cell) for cell in cells.to_dict("records")]
    table = "\n".join(
        f"| {' | '.join(row)} |" for row in (headings, ["---"] * len(headings), *rows)
    )
    return f"{table}\n\n{_notes(cells)}"


def as_text(name: str) -> str:
    r"""A name from outside in Markdown: a text in one line, no tag, link, formula or cell's end.

    >>> as_text("<b>|[x](y) $z$ a_b")
    '\\<b\\>\\|\\[x\\](y) \\$z\\$ a_b'
    """
    line = " ".join(name.split())
    return re.sub(r"[\\`*\[\]<>|$&]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", line)


def _shown(cell: Mapping[Any, Any]) -> list[str]:
    method = cell["method"] + (f" `{cell['variant']}`" if cell["variant"] else "")
    runs = f"{cell['runs']}" + (f" + {cell['diverged']} diverged" if cell["diverged"] else "")
    gain = _with_half(cell, "gain_last", "+.2f") if cell.get("pairs", 0) > 0 else ""
    word = cell.get("verdict")
    paper = "" if math.isnan(cell["paper"]) else f"{cell['paper']:.2f}"
    return [
        as_text(cell["bench"]),
        cell["bits"],
        cell["effective"],
        method + (f" ({cell['settings']})" if cell["settings"] else ""),
        f"{cell['teacher']:.2f}",
        f"{cell['student_images']:,}",
        runs,
        *(_with_half(cell, metric, ".2f") for metric in METRICS),
        gain,
        word if isinstance(word, str) else "",
        paper + ("†" if "re-run" in cell["paper_source"] else ""),
        cell["standing"],
    ]


def _with_half(cell: Mapping[Any, Any], name: str, form: str) -> str:
    if math.isnan(cell[name]):
        return "–"
    half = cell[f"{name}_high"] - cell[name]
    return f"{cell[name]:{form}}" + ("" if math.isnan(half) else f" ± {half:.2f}")


def ceiling(methods: Iterable[str]) -> str:
    """Of these methods, those that are not zero-shot: what is said of them below, or nothing.

    >>> ceiling(["real", "adadfq"])
    'real: trained on real images, a ceiling and not zero-shot.'
    """
    names = [name for name in dict.fromkeys(methods) if get_method(name).real]
    text = f"{', '.join(names)}: trained on real images, a ceiling and not zero-shot."
    return text if names else ""


def _notes(cells: pd.DataFrame) -> str:
    notes = [
        "Top-1 in %, mean over seeds ± half of its 95% t-interval: other seeds, the same test "
        "images. One run has no interval. `effective`: bits a weight and an activation, their "
        "ranges counted. In brackets: where rows differ in settings, those that are not the usual. "
        "`images`: what each student was trained on (batch × "
        "steps). `best on test` was chosen on the test images, as the papers do.",
        "AKT − plain: the same seeds, settings and budget. Each interval is 95% for itself: of "
        "twenty, one misses by chance.",
    ]
    if not_zero_shot := ceiling(cells["method"]):
        notes.append(not_zero_shot)
    if cells["diverged"].any():
        notes.append("Diverged runs are counted, and are in no mean.")
    sources = sorted(set(cells["paper_source"]) - {""})
    if sources:
        notes.append(
            "Paper: best epoch on test images, one run. † marks the authors' re-run of another "
            f"method. Sources: {' · '.join(sources)}."
        )
    commits = sorted({c for row in cells["commits"] for c in row.split()})
    notes.append(f"Made by commit{'s' if len(commits) > 1 else ''} {', '.join(commits) or '–'}.")
    return "\n\n".join(notes) + "\n"


def to_csv(cells: pd.DataFrame) -> str:
    """Every number in full."""
    return cells.to_csv(index=False)


def to_json(cells: pd.DataFrame) -> str:
    """Every number in full; null where there is none."""
    rows = cells.to_dict("records")
    plain = [{k: None if v != v else v for k, v in row.items()} for row in rows]
    return json.dumps(plain, indent=2) + "\n"


FORMATS = {"markdown": to_markdown, "csv": to_csv, "json": to_json}

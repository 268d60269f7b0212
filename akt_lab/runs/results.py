"""results.jsonl: one line a run, with all that a table needs; and a run as a row of a table.

Lines are appended as runs end, and each is verified when it is read; a last one that was cut short
by a crash is left out.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from akt_lab.benches import BenchSpec
from akt_lab.files import damaged, write_whole
from akt_lab.runs.folder import HISTORY, Record, Run, check_entries
from akt_lab.runs.verified_json import append_lines, read_lines, sealed
from akt_lab.settings import Settings

Line = dict[str, Any]
NEEDED = {
    "run", "status", "bench", "settings", "accuracy", "teacher_accuracy", "evaluation_images",
}  # fmt: skip
# Lines that agree in these are of one run.
IDENTITY = "run", "bench", "settings", "fingerprints", "teacher_accuracy", "evaluation_images"


class Entries(Record, total=False):
    """The entries of a line that are read: a record's, and its own."""

    run: str
    evaluation_images: int | None
    student_images: int
    commit: str | None


def line_of(run: Run) -> Line:
    """What a run leaves in results.jsonl. Accuracies in percent, times in seconds."""
    run.entry("settings"), run.entry("bench")  # or it was not made by a command or a sweep
    record = run.record
    versions = dict(record.get("versions", {}))
    last = [{"versions": versions}]  # all that an older record knows
    commits = [s["versions"].get("commit") for s in record.get("stretches", last)]
    line = {
        "run": run.folder.name,
        "status": record.get("status", "new"),
        "bench": public_bench(record["bench"]),
        "settings": record["settings"],
        "accuracy": record.get("accuracy", {}),
        "evaluations": record.get("evaluations", []),
        "effective_bits": record.get("effective_bits", {}),
        "teacher_accuracy": record.get("teacher_accuracy", math.nan),
        "evaluation_images": record.get("images"),
        "student_images": _student_images(run, record),
        "lam": record.get("lam"),
        "seconds": record.get("seconds"),
        "device": record.get("device"),
        "commit": " ".join(dict.fromkeys(filter(None, commits))) or None,
        "versions": {name: v for name, v in versions.items() if name != "commit"},
    }
    fingerprints = record.get("fingerprints")  # older records have none
    line |= {"fingerprints": fingerprints} if fingerprints else {}
    return line | ({"error": record.get("error", "")} if line["status"] == "failed" else {})


def public_bench(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A bench's spec with the names of its files in place of their paths on this machine."""
    files = ("weights", "data", "train_data")
    names = {name: os.path.basename(spec[name]) for name in files if spec.get(name)}
    return json.loads(json.dumps({**spec, **names}))  # tuples are lists, as in a file


def _student_images(run: Run, record: Mapping[str, Any]) -> int:
    """Images the student was trained on: batch x its steps. Less than planned if it diverged."""
    s, steps = run.settings, record.get("steps_done")
    if steps is None:  # it has not ended, or is of an older version
        steps = run.steps_in_history() if (run / HISTORY).exists() else 0
    return max(0, steps - s.warmup_epochs * s.steps) * s.batch_size


def read(path: Path) -> list[Line]:
    """The lines of a results file, each once; a last line that was cut short is left out.

    Raises:
        AktError: if it cannot be read.
        DamagedError: if a line is not what was written, or not a run's, or two lines say
            different things of one run; names the line.
    """
    lines: dict[str, tuple[int, Line]] = {}
    then = "take that line out, and the sweep that wrote it adds it again"
    for number, line in read_lines(path, then, "the sweep that wrote it adds it again"):
        try:
            if missing := NEEDED - line.keys():
                raise ValueError(f"not a run's: no {', '.join(sorted(missing))}")
            check_entries(line, Entries)
            about = json.dumps([line.get(name) for name in IDENTITY], sort_keys=True)
            first, same = lines.setdefault(about, (number, line))
            if json.dumps(same) != json.dumps(line):
                raise ValueError(f"it is not what line {first} says of the same run")
        except ValueError as error:
            raise damaged(f"{path}, line {number},", error, then) from error
    return [line for _, line in lines.values()]


def by_run(path: Path | None) -> dict[str, Line]:
    """The lines of a results file by their runs' names; none where there is no file."""
    return {line["run"]: line for line in read(path)} if path and path.exists() else {}


class Results:
    """A results file that grows: every run is in it once, whatever was killed in between."""

    def __init__(self, path: Path | None) -> None:
        """Read what is there, and drop a last line that was cut short; None: keep no file."""
        self.path, self.lines = path, by_run(path)
        if path and path.exists() and not path.read_bytes().endswith(b"\n"):
            text = "".join(sealed(line) + "\n" for line in self.lines.values())
            write_whole(path, text.encode())

    def append(self, line: Line) -> None:
        """Add a run's line, on the disk when this returns; a run that is there already is not."""
        if line["run"] in self.lines:
            return
        if self.path:
            append_lines(self.path, [line])
        self.lines[line["run"]] = line


# ---- a run as a row -----------------------------------------------------------------------------

METRICS = ("last", "label_free", "best")
# Runs that agree in all of these differ in their seed alone: only they may be averaged.
KEY = ["bench", "bits", "method", "variant", "student_images", "teacher", "same"]
OF_AKT = ("variant", "parts", "maps", "last_maps", "alpha", "lam")


def row(line: Line) -> dict[str, Any]:
    """A run as a row of a table: what it was, what it must agree in to be averaged, what came out.

    Returns:
        `KEY`, of which `same` holds every further setting, bench, fingerprint (older lines have
        none, and a group of their own) and number of images as text, and `pair` the same without
        AKT's own: of a plain run and its partner with AKT they are equal;
        `label`, what figures call it; accuracies `last` (where it diverged, that of the last
        evaluation before), `label_free` and `best` (chosen on the evaluation images), in percent,
        NaN where there is none; and what a table shows beside them.
    """
    settings = Settings.from_dict(line["settings"])  # older lines lack newer ones
    values = settings.to_dict()
    shared = {k: v for k, v in values.items() if k not in {"method", "seed", *OF_AKT}}
    of_akt = {k: values[k] for k in OF_AKT if settings.has_akt and k != "variant"}
    fingerprints = {f"{k} fingerprint": v for k, v in line.get("fingerprints", {}).items()}
    on = {**line["bench"], "evaluation_images": line["evaluation_images"], **fingerprints}
    steps = max(0, settings.epochs - settings.warmup_epochs) * settings.steps
    return {
        "bench": BenchSpec.from_dict(line["bench"]).name,
        "bits": settings.bits,
        "method": settings.method,
        "variant": settings.shown_variant,
        "student_images": steps * settings.batch_size,  # as planned: it may diverge
        "teacher": round(line["teacher_accuracy"], 2),
        "same": _text_of({**shared, **of_akt, **on}),
        "pair": _text_of({**shared, **on}),
        "label": settings.label,
        "seed": settings.seed,
        "status": line["status"],
        "ended": line["status"] == "done",
        "settings": values,
        "teacher_accuracy": line["teacher_accuracy"],
        "images": line["evaluation_images"],
        "lam": line.get("lam"),
        "seconds": line.get("seconds"),
        "commit": line.get("commit"),
        **{metric: line["accuracy"].get(metric, math.nan) for metric in METRICS},
    }


def _text_of(values: Mapping[str, Any]) -> str:
    """The same for the same values; what is not set is as good as not there."""
    return json.dumps({k: v for k, v in values.items() if v is not None}, sort_keys=True)


def table(runs: Iterable[Run]) -> pd.DataFrame:
    """One row a run: what it was, how accurate its student is in percent; and `label` and `same`.

    `accuracy` is the last epoch's; where a run diverged, that of the last evaluation before.
    """
    return pd.DataFrame([_shown(row(line_of(run))) for run in runs])


def _shown(r: Mapping[str, Any]) -> dict[str, Any]:
    s = r["settings"]
    return {
        **{name: r[name] for name in ("method", "variant")},
        **{"bits": s["weight_bits"], "act_bits": s["act_bits"], "seed": s["seed"]},
        **{"accuracy": r["last"], "teacher": r["teacher_accuracy"]},
        "difference": r["last"] - r["teacher_accuracy"],
        **{name: r[name] for name in ("label_free", "best")},
        **{"lambda": r["lam"], "images": r["images"], "bench": r["bench"]},
        **{name: s[name] for name in ("epochs", "steps", "batch_size")},
        **{name: r[name] for name in ("seconds", "status", "label", "same")},
    }

"""A run's folder: its record, its history, its checkpoint, its student.

    record.json             settings, bench, versions, times, accuracies
    history.jsonl           one line a step: every loss term and gradient norm
    checkpoint.safetensors  everything that a bit-exact resume needs; small state in its header
    student.safetensors     weights and ranges of the student as it ended
    epochs/                 of a watched run: student and generator after every epoch

Files are written whole or not at all, and no pickle is ever loaded.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from akt_lab.errors import AktError
from akt_lab.files import cannot_write, write_whole
from akt_lab.runs.folder import HISTORY, Run


def table(runs: Iterable[Run]) -> pd.DataFrame:
    """One row a run: what it was, and how accurate its student is, in percent.

    `accuracy` is the last epoch's; where a run diverged, that of the last evaluation before.
    `best` was chosen on the evaluation images.
    """
    return pd.DataFrame(
        [_row(run.record) for run in runs if run.entry("settings") and run.entry("bench")]
    )


def _row(record: Mapping[str, Any]) -> dict[str, Any]:
    settings, accuracy = record["settings"], record.get("accuracy", {})
    akt = "akt" in settings["method"]
    return {
        "method": settings["method"],
        "variant": settings["variant"] if akt else "",
        "bits": settings["weight_bits"],
        "act_bits": settings["act_bits"],
        "seed": settings["seed"],
        "accuracy": accuracy.get("last", float("nan")),
        "teacher": record.get("teacher_accuracy", float("nan")),
        "difference": accuracy.get("last", float("nan"))
        - record.get("teacher_accuracy", float("nan")),
        "label_free": accuracy.get("label_free", float("nan")),
        "best": accuracy.get("best", float("nan")),
        "lambda": record.get("lam"),
        "images": record.get("images"),
        "bench": record["bench"]["teacher"] or record["bench"]["bench"],
        "epochs": settings["epochs"],
        "steps": settings["steps"],
        "batch_size": settings["batch_size"],
        "seconds": record.get("seconds"),
        "status": record.get("status", "new"),
    }


Line = dict[str, Any]

NEEDED = {
    "run", "status", "bench", "settings", "accuracy", "teacher_accuracy", "evaluation_images",
}  # fmt: skip


def line_of(run: Run) -> Line:
    """What a run that ended leaves in results.jsonl. Accuracies in percent, times in seconds."""
    record = run.record
    versions = dict(record.get("versions", {}))
    line = {
        "run": run.folder.name,
        "status": record["status"],
        "bench": public_bench(record["bench"]),
        "settings": record["settings"],
        "accuracy": record.get("accuracy", {}),
        "evaluations": record.get("evaluations", []),
        "effective_bits": record.get("effective_bits", {}),
        "teacher_accuracy": record["teacher_accuracy"],
        "evaluation_images": record["images"],
        "student_images": _student_images(run, record["settings"]),
        "lam": record.get("lam"),
        "seconds": record.get("seconds"),
        "device": record.get("device"),
        "commit": versions.pop("commit", None),
        "versions": versions,
    }
    return line | ({"error": record["error"]} if record["status"] == "failed" else {})


def public_bench(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A bench's spec with the names of its files in place of their paths on this machine."""
    names = {name: os.path.basename(spec[name]) for name in ("weights", "data") if spec.get(name)}
    return json.loads(json.dumps({**spec, **names}))  # tuples are lists, as in a file


def _student_images(run: Run, settings: Mapping[str, Any]) -> int:
    """Images the student was trained on: batch x its steps. Less than planned if it diverged."""
    with open(run / HISTORY, "rb") as file:
        steps = sum(1 for _ in file)
    return max(0, steps - settings["warmup_epochs"] * settings["steps"]) * settings["batch_size"]


def read(path: Path) -> list[Line]:
    """The lines of a results file; a last line that was cut short is left out.

    Raises:
        AktError: if it cannot be read, or a line is not a run's; names the line.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise AktError(f"{path} cannot be read ({error})") from error
    whole = text[: text.rfind("\n") + 1].splitlines()
    return [_parsed(path, number, line) for number, line in enumerate(whole, 1) if line.strip()]


def _parsed(path: Path, number: int, text: str) -> Line:
    try:
        line = json.loads(text)
        missing = NEEDED - line.keys()
    except (ValueError, AttributeError):
        missing = {"a JSON object"}
    if missing:
        raise AktError(f"{path}, line {number} is not a run's: no {', '.join(sorted(missing))}")
    return line


class Results:
    """A results file that grows: every run is in it once, whatever was killed in between."""

    def __init__(self, path: Path) -> None:
        """Read what is there, and drop a last line that was cut short."""
        self.path = path
        self.lines = {line["run"]: line for line in read(path)} if path.exists() else {}
        if path.exists() and not path.read_bytes().endswith(b"\n"):
            write_whole(path, _text(list(self.lines.values())).encode())

    def append(self, line: Line) -> None:
        """Add a run's line, on the disk when this returns; a run that is there already is not."""
        if line["run"] in self.lines:
            return
        try:
            with open(self.path, "a") as file:
                file.write(_text([line]))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self.lines[line["run"]] = line


def _text(lines: Sequence[Line]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)

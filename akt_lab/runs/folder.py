"""A run's folder: its record, its history, its checkpoint, its student.

    record.json             settings, bench, fingerprints of teacher and images, versions, device
                            and commit of each stretch, times, accuracies
    history.jsonl           one line a step: every loss term and gradient norm
    checkpoint.safetensors  everything that a bit-exact resume needs; small state in its header
    checkpoint.previous.safetensors  the one of the epoch before
    student.safetensors     weights and ranges of the student as it ended
    epochs/                 of a watched run: student and generator after every epoch

Files are written whole or not at all, and no pickle is ever loaded. Each is verified when it is
read: record and lines of the history end in a digest of themselves, tensors lie beside theirs. What
older versions wrote has no digest; its entries must be of the right types.
"""

import itertools
import math
import platform
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Never, Required, TypedDict

import pandas as pd
import torch

from akt_lab import __version__
from akt_lab.benches import Bench, BenchSpec
from akt_lab.errors import AktError, DamagedError
from akt_lab.files import LOCK, cannot_write, damaged, write_whole
from akt_lab.runs.verified_json import (
    append_lines,
    fits,
    misfits,
    read_bytes,
    read_lines,
    sealed,
    unsealed,
)
from akt_lab.settings import Settings

RECORD, HISTORY = "record.json", "history.jsonl"
CHECKPOINT, STUDENT = "checkpoint.safetensors", "student.safetensors"
PREVIOUS, EPOCHS = "checkpoint.previous.safetensors", "epochs"
WRITE_EVERY = 1.0  # seconds, of the history
ENDED = ("done", "failed")  # statuses that are final
WITHOUT_CURVES = "delete it to go on without its curves"

# ---- what a record holds ------------------------------------------------------------------------

Finite = Annotated[float, lambda number: -math.inf < number < math.inf]


class Accuracy(TypedDict):
    """In percent; see `training.summary`."""

    last: Finite
    label_free: Finite
    best: Finite


class Scores(TypedDict, total=False):
    """One evaluation; not finite but for the accuracy where a run diverged."""

    epoch: Required[int]
    accuracy: Required[Finite]
    synthetic_kl: Required[float]
    synthetic_agreement: float


class Step(TypedDict):
    """What every row of a history has, beside numbers of any name."""

    epoch: int
    step: int


class Stretch(TypedDict):
    """What a run was made with, from an epoch on."""

    from_epoch: int
    versions: dict[str, Any]
    device: str | None


class Record(TypedDict, total=False):
    """The entries of a record that are read.

    A history has the rows of `steps_saved` at least; that of an ended run, those of `steps_done`.
    """

    status: str
    error: str
    settings: dict[str, Any]
    bench: dict[str, Any]
    fingerprints: dict[str, str]
    versions: dict[str, Any]
    device: str | None
    stretches: list[Stretch]
    watched: bool
    teacher_accuracy: Annotated[float, lambda number: not math.isinf(number)]  # NaN: not known
    images: int | None
    classes: int
    lam: float | None
    accuracy: Accuracy | dict[str, Never]  # empty: it diverged before its first evaluation
    evaluations: list[Scores]
    effective_bits: dict[str, Finite]
    seconds: Finite | None
    steps_done: int
    steps_saved: int
    imported: str  # the file that its student came from: no step was done here


def check_entries(values: Mapping[str, Any], kind: Any) -> None:
    """Refuse what cannot be of a run: entries of other types, settings that are none.

    Raises:
        ValueError: names the first.
    """
    for name in misfits(values, kind):
        has = f"cannot be {str(values[name])[:40]!r}" if name in values else "is missing"
        raise ValueError(f"{name!r} {has}")
    for name, made_of in (("settings", Settings), ("bench", BenchSpec)):
        if name in values:
            made_of.from_dict(values[name])  # an AktError is a ValueError


# ---- the folder ---------------------------------------------------------------------------------


class Run:
    """One run's folder."""

    def __init__(self, folder: Path | str) -> None:
        """`folder` need not exist yet; see `create` and `open`."""
        self.folder = Path(folder)

    @classmethod
    def create(cls, folder: Path | str) -> "Run":
        """A new, empty run folder.

        Raises:
            AktError: if it exists and is not empty, or cannot be made.
        """
        run = cls(folder)
        if not is_free(run.folder):
            raise AktError(
                f"{folder} already exists: choose another --out, or go on with it by --resume"
            )
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(run.folder, error) from error
        return run

    @classmethod
    def open(cls, folder: Path | str) -> "Run":
        """A run folder that is there.

        Raises:
            AktError: if it is not one.
            DamagedError: if its record is gone, and a checkpoint is there.
        """
        run = cls(folder)
        if not (run.folder / RECORD).is_file():
            if (run / CHECKPOINT).exists() or (run / PREVIOUS).exists():
                then = f"{run.resume_command} puts it back"
                raise damaged(run / RECORD, "it is not there", then)
            raise AktError(f"{folder} is not a run folder: it holds no {RECORD}")
        return run

    def __truediv__(self, name: str) -> Path:
        """The path of one of its files."""
        return self.folder / name

    @property
    def record(self) -> dict[str, Any]:
        """What record.json holds.

        Raises:
            AktError: if it cannot be read.
            DamagedError: if it is not what was written; `resume_command` puts it back.
        """
        data, then = read_bytes(self / RECORD), f"{self.resume_command} puts it back"
        try:
            check_entries(record := unsealed(data), Record)
        except ValueError as error:
            raise damaged(self / RECORD, error, then) from error
        return record

    @property
    def resume_command(self) -> str:
        """What goes on with it, and mends it from its checkpoint."""
        return f"`akt-lab quantize --out {shlex.quote(str(self.folder))} --resume`"

    def entry(self, name: str) -> Any:
        """One entry of the record.

        Raises:
            AktError: if there is none: the run was never started by a command or a sweep.
        """
        record = self.record
        if name not in record:
            raise AktError(
                f"{self / RECORD} has no {name!r}: the run was not made by akt-lab quantize"
            )
        return record[name]

    def get(self, name: str, default: Any = None) -> Any:
        """One entry of the record, or `default` where there is none, or no record yet."""
        return self.record.get(name, default) if (self / RECORD).exists() else default

    @property
    def settings(self) -> Settings:
        """With which it is done; older records lack newer ones."""
        return Settings.from_dict(self.entry("settings"))

    @property
    def spec(self) -> BenchSpec:
        """Its bench's."""
        return BenchSpec.from_dict(self.entry("bench"))

    @property
    def done(self) -> bool:
        """Whether it came to its end; one that diverged did not."""
        return self.get("status") == "done"

    def update_record(self, **entries: Any) -> None:
        """Add or replace entries of the record; a new `status` takes the old one's `error` away."""
        record = self.record if (self / RECORD).exists() else {}
        if "status" in entries:
            record.pop("error", None)
        self.write_record({**record, **entries})

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Put a record in the place of the one that is there."""
        write_whole(self / RECORD, sealed(record, indent=2).encode() + b"\n")

    def begin(self, epoch: int, device: str, **entries: Any) -> None:
        """Record that the run begins, or goes on after `epoch` epochs: another stretch of it."""
        made = {"versions": provenance(), "device": device}
        # One that was killed before its first checkpoint has left nothing.
        older = {name: self.get(name) for name in made}  # a record that knows no stretches yet
        known = self.get("stretches", [{"from_epoch": 0, **older}] if older["versions"] else [])
        earlier = [s for s in known if s["from_epoch"] < epoch]
        stretches = [*earlier, {"from_epoch": epoch, **made}]
        self.update_record(**entries, **made, stretches=stretches, status="running")

    def epoch(self, number: int) -> Path:
        """Where a watched run keeps its networks after so many epochs."""
        return self.folder / EPOCHS / f"{number:04}.safetensors"

    @property
    def epochs(self) -> list[int]:
        """Those that it kept."""
        files = (self.folder / EPOCHS).glob("*.safetensors")
        return sorted(int(path.stem) for path in files if path.stem.isdecimal())

    def history(self) -> pd.DataFrame:
        """One row a step; columns that a step did not have are NaN. Half a last line is left out.

        It begins late, or is not there, where one that was damaged was deleted.

        Raises:
            AktError: if it cannot be read.
            DamagedError: if it is not what was written; names the line.
        """
        if not (path := self / HISTORY).exists():
            return pd.DataFrame()
        rows, ended = [*self._rows()], self.get("steps_done", 0)
        last = rows[-1][0] + 1 if rows else 0
        if ended and last != ended:
            raise damaged(path, f"it does not end with step {ended}, as the run", WITHOUT_CURVES)
        if last < (saved := self.get("steps_saved", 0)):
            raise damaged(path, f"it ends before step {saved}, the checkpoint's", WITHOUT_CURVES)
        return pd.DataFrame([row for _, row in rows])

    def steps_in_history(self) -> int:
        """How many steps the run has done by its last row, also if the first ones are gone."""
        return [0, *(place + 1 for place, _ in self._rows())][-1]

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The history's rows, each verified and a step after the last; and how many came before."""
        steps, last = self.settings.steps, None
        for number, row in read_lines(self / HISTORY, WITHOUT_CURVES):
            what = f"{self / HISTORY}, line {number},"
            if not fits(row, dict[str, float]) or misfits(row, Step):
                raise damaged(what, "it is not a step's", WITHOUT_CURVES)
            place = row["epoch"] * steps + row["step"]
            if last is not None and place != last + 1:
                raise damaged(what, "it does not follow the one before", WITHOUT_CURVES)
            yield place, row
            last = place

    def append_history(self, rows: list[dict[str, float]]) -> None:
        """Add rows to the history, on the disk before the checkpoint that counts on them."""
        append_lines(self / HISTORY, rows)

    def cut_history(self, epoch: int) -> None:
        """Keep the rows of the first `epoch` epochs: those that the checkpoint knows of.

        Raises:
            DamagedError: if one of them is damaged or missing; what comes later does not matter.
        """
        if not (path := self / HISTORY).exists():
            return
        kept: list[dict[str, Any]] = []
        left = wanted = epoch * self.settings.steps
        try:
            for place, row in self._rows():
                if row["epoch"] >= epoch:
                    left = 0  # if it has none before, it begins late
                    break
                kept.append(row)
                left = wanted - place - 1
            if left:
                raise damaged(path, f"it ends {left} steps before the checkpoint", WITHOUT_CURVES)
        except DamagedError:
            if left:
                raise
        if kept:
            write_whole(path, "".join(sealed(row) + "\n" for row in kept).encode())
        else:  # an empty one would be one that lost its rows
            path.unlink()


def check_made_with(bench: Bench, folder: Path, recorded: Mapping[str, str]) -> None:
    """Refuse a bench with another teacher or other images than a run's `recorded` fingerprints.

    Raises:
        AktError: names what changed. What was not recorded, as in older runs, passes.
    """
    if changed := bench.differs_from(recorded):
        raise AktError(
            f"{changed} are not those that {folder} was made with: put those back, or begin "
            "another run"
        )


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """What is not as it was `then`: names, with the old values and the new."""
    return ((name, old, now.get(name)) for name, old in then.items() if now.get(name) != old)


def is_free(folder: Path) -> bool:
    """Whether a run can begin there: there is nothing, or what one killed at its start left."""
    if not folder.is_dir():
        return not folder.exists()
    return all(path.name == LOCK or path.match(".*.tmp") for path in folder.iterdir())


def free_folder(folder: Path) -> Path:
    """`folder`, or with -2, -3, ... the first one that is not there."""
    others = (Path(f"{folder}-{count}") for count in itertools.count(2))
    return next(free for free in itertools.chain([folder], others) if not free.exists())


def find_runs(folder: Path) -> list[Run]:
    """Every run folder under `folder`, sorted by name.

    Raises:
        AktError: if there is none.
    """
    runs = [Run(path.parent) for path in sorted(folder.glob(f"**/{RECORD}"))]
    if not runs:
        raise AktError(
            f"no runs under {folder}: make some with `akt-lab demo`, or name another --runs"
        )
    return runs


class NewRows(list[dict[str, float]]):
    """An epoch's rows of the history, written about once a second: a run can be watched."""

    def __init__(self, run: Run | None) -> None:
        """Rows of a run; of None they are forgotten."""
        super().__init__()
        self.run, self.written = run, time.perf_counter()

    def write_some(self) -> None:
        """All but the last, to which the epoch's end adds; and not every time."""
        if time.perf_counter() - self.written > WRITE_EVERY:
            self.write(len(self) - 1)

    def write(self, count: int | None = None) -> None:
        """The first `count`, or all."""
        if self.run and self[:count]:
            self.run.append_history(self[:count])
        del self[:count]
        self.written = time.perf_counter()


def provenance() -> dict[str, Any]:
    """With what a run is made: versions, machine, threads, the code's commit."""
    torchvision = None
    with suppress(PackageNotFoundError):
        torchvision = version("torchvision")
    return {
        "akt_lab": __version__,
        "torch": torch.__version__,
        "torchvision": torchvision,
        "python": platform.python_version(),
        "processor": platform.machine(),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """Of the package's own repository: one that merely encloses an installed package says nothing.

    None too where git is not installed.
    """
    home = Path(__file__).parents[2]
    try:
        ours = 'name = "akt-lab"' in (home / "pyproject.toml").read_text()
        command = ["git", "-C", str(home), "describe", "--always", "--dirty"]
        if not (ours and (home / ".git").exists()):
            return None
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None

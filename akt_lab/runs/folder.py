"""A run's folder: its record, its history, its checkpoint, its student.

    record.json             settings, bench, fingerprints of teacher and images, versions, device
                            and commit of each stretch, times, accuracies
    history.jsonl           one line a step: every loss term and gradient norm
    checkpoint.safetensors  everything that a bit-exact resume needs; small state in its header
    student.safetensors     weights and ranges of the student as it ended
    epochs/                 of a watched run: student and generator after every epoch

Files are written whole or not at all, and no pickle is ever loaded.
"""

import io
import itertools
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from akt_lab import __version__
from akt_lab.benches import Bench, BenchSpec
from akt_lab.errors import AktError
from akt_lab.files import LOCK, cannot_write, write_whole
from akt_lab.settings import Settings

RECORD, HISTORY = "record.json", "history.jsonl"
CHECKPOINT, STUDENT = "checkpoint.safetensors", "student.safetensors"
EPOCHS = "epochs"
WRITE_EVERY = 1.0  # seconds, of the history
ENDED = ("done", "failed")  # statuses that are final


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
        """
        run = cls(folder)
        if not (run.folder / RECORD).is_file():
            raise AktError(f"{folder} is not a run folder: it holds no {RECORD}")
        return run

    def __truediv__(self, name: str) -> Path:
        """The path of one of its files."""
        return self.folder / name

    @property
    def record(self) -> dict[str, Any]:
        """What record.json holds."""
        try:
            return json.loads((self / RECORD).read_text())
        except (OSError, ValueError) as error:
            raise AktError(f"{self / RECORD} cannot be read ({error})") from error

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
        write_whole(self / RECORD, json.dumps({**record, **entries}, indent=2).encode() + b"\n")

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
        return sorted(int(p.stem) for p in (self.folder / EPOCHS).glob("*.safetensors"))

    def history(self) -> pd.DataFrame:
        """One row a step; columns that a step did not have are NaN. Half a last line is left out.

        Raises:
            AktError: if it cannot be read.
        """
        if not (self / HISTORY).exists():
            return pd.DataFrame()
        try:
            whole, end, _ = (self / HISTORY).read_text().rpartition("\n")
            return pd.read_json(io.StringIO(whole + end), lines=True)
        except (OSError, ValueError) as error:
            raise AktError(f"{self / HISTORY} cannot be read ({error})") from error

    def append_history(self, rows: list[dict[str, float]]) -> None:
        """Add rows to the history."""
        try:
            with open(self / HISTORY, "a") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
                file.flush()
                os.fsync(file.fileno())  # before the checkpoint that counts on these rows
        except OSError as error:
            raise cannot_write(self / HISTORY, error) from error

    def cut_history(self, rows: int) -> None:
        """Keep the first `rows` lines: those that the checkpoint knows of."""
        if (self / HISTORY).exists():
            lines = (self / HISTORY).read_bytes().splitlines(keepends=True)
            write_whole(self / HISTORY, b"".join(lines[:rows]))


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
    return ((name, old, now[name]) for name, old in then.items() if now[name] != old)


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

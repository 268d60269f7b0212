"""A disk that is full from the n-th write on, for every n; then there is room again."""

import builtins
import contextlib
import errno
import io
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from akt_lab.files import fingerprint, load_tensors
from tests.faults.damage import RUN
from tests.faults.reading import command, outcome

REAL_OPEN = builtins.open


class Disk:
    """Takes the place of `open`: what is written below a folder finds room so many times."""

    def __init__(self, folder: Path, room: int) -> None:
        self.folder, self.room, self.was_full = str(folder), room, False

    def __call__(self, file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
        stream = REAL_OPEN(file, mode, *rest, **named)
        ours = set(mode) & set("wax+") and str(file).startswith(self.folder)
        return Stream(stream, self) if ours else stream


class Stream:
    """A file on such a disk: of the write that finds no room, half is there."""

    def __init__(self, stream: Any, disk: Disk) -> None:
        self.stream, self.disk = stream, disk

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *error: Any) -> None:
        self.stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, data: Any) -> int:
        self.disk.room -= 1
        if self.disk.room < 0:
            self.disk.was_full = True
            self.stream.write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.stream.write(data)

    def writelines(self, lines: Iterable[Any]) -> None:
        for line in lines:
            self.write(line)


def campaign(home: Path, every: int = 1) -> Iterator[dict[str, str]]:
    """A run for each write that may find no room, then the same run with room again: two rows.

    Args:
        home: an empty folder to work in.
        every: look at one write of so many.
    """
    whole = home / "whole"
    with contextlib.redirect_stdout(io.StringIO()):  # what `command` heard
        expected = _done(whole, RUN)
    for room in itertools.count(0, every):
        out = home / f"room-{room}"
        disk = Disk(out, room)
        with mock.patch.object(builtins, "open", disk):
            how, said = outcome(lambda: command("quantize", "--out", out, *RUN), None, out)  # noqa: B023
        if not disk.was_full:
            return
        about = {"state": "running", "file": "any", "fault": "no room", "number": str(room)}
        yield {**about, "reader": "quantize", "outcome": how, "said": said}
        again = ["--resume"] if (out / "record.json").exists() else RUN
        how, said = outcome(lambda: _done(out, again), expected, out)  # noqa: B023
        yield {**about, "reader": "the same again", "outcome": how, "said": said}


def _done(out: Path, options: list[str]) -> str:
    command("quantize", "--out", out, *options)
    return _student(out)


def _student(out: Path) -> str:
    return fingerprint(load_tensors(out / "student.safetensors")[0])

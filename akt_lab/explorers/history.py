"""A run's history as curves, read as it grows: each line once, a block of steps as one point."""

import os
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

from akt_lab.runs.verified_json import unsealed

Row = Mapping[str, float]
DRAWN = ("epoch", "step", "accuracy", "generator/", "student/")  # how their names begin


class Point(NamedTuple):
    """Some steps: the last one's row, and each number's median, least and largest."""

    last: Row
    spread: Mapping[str, tuple[float, float, float]]


class History:
    """Reads a history.jsonl as it grows, each line once.

    A block of rows becomes a point when it is whole, and its rows are forgotten: neither memory nor
    the time of a look grows with the run.

    Attributes:
        rows: how many there are.
        last: of the latest, the numbers that are drawn; None before there is one.
        scored: the rows that have an accuracy.
        broken: lines that could not be read.
    """

    def __init__(self, path: Path, block: int) -> None:
        """`path` need not be there yet; `block` rows make a point."""
        self.path, self.block = path.absolute(), block
        self._forget()

    def _forget(self, file: int | None = None) -> None:
        self.rows, self.broken, self.scored = 0, 0, list[Row]()
        self._points, self._open = list[Point](), list[Row]()  # whole blocks; rows of the next
        self._offset, self._file = 0, file

    def read(self) -> bool:
        """Read what is new, whole lines only; start over if the file was cut by a resume."""
        try:
            with open(self.path, "rb") as file:
                about = os.fstat(file.fileno())
                if about.st_ino != self._file or about.st_size < self._offset:
                    self._forget(about.st_ino)
                file.seek(self._offset)
                whole = file.read().rpartition(b"\n")[:2]
        except OSError:  # not there yet, or not any more
            return False
        new = b"".join(whole)
        self._offset += len(new)
        for line in new.splitlines():
            try:
                row = {n: float(v) for n, v in unsealed(line).items() if n.startswith(DRAWN)}
                row["epoch"], row["step"]
            except (ValueError, TypeError, KeyError):
                self.broken += 1
            else:
                self.add(row)
        return bool(new)

    def add(self, row: Row) -> None:
        """Count one more step."""
        if len(self._open) == self.block:
            self._points.append(_point(self._open))
            self._open = []
        self._open.append(row)
        self.rows += 1
        if "accuracy" in row:
            self.scored.append(row)

    @property
    def last(self) -> Row | None:
        """The latest row."""
        return self._open[-1] if self._open else None

    @property
    def points(self) -> list[Point]:
        """A point for each block, also for the last, which may not be whole."""
        return [*self._points, *([_point(self._open)] if self._open else [])]


def _point(rows: list[Row]) -> Point:
    names = dict.fromkeys(name for row in rows for name in row)
    # A number that is NaN is none, as where a run broke off.
    found = {n: [v for row in rows if (v := row.get(n, float("nan"))) == v] for n in names}
    return Point(rows[-1], {n: (median(v), min(v), max(v)) for n, v in found.items() if v})

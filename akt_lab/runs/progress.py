"""What a sweep shows while it runs: a bar for all runs, one for each that is running."""

import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Self

from tqdm import tqdm

Tell = Callable[[dict[str, Any]], None]
INTERVAL = 0.5  # seconds from one report of a run to the next


class Report:
    """In a worker, the bar of `training.train`: tells where its run is, twice a second."""

    def __init__(
        self, tell: Tell, run: str, steps: int, total: int, initial: int, **_: object
    ) -> None:
        """`tell` takes an event; `steps` are an epoch's, the rest is what tqdm is given."""
        self.tell, self.run, self.steps = tell, run, steps
        self.total, self.done = total, initial
        self.accuracy, self.told = "", 0.0

    def __enter__(self) -> Self:
        """Tell that the run starts, or goes on."""
        self._tell()
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing: the sweep sees by itself that the run ended."""

    def set_description(self, _: str) -> None:
        """As tqdm; the run's name says more."""

    def set_postfix(self, shown: Mapping[str, str], refresh: bool = True) -> None:
        """As tqdm: keep the accuracy."""
        self.accuracy = shown.get("accuracy", "")

    def update(self) -> None:
        """One more step."""
        self.done += 1
        if time.monotonic() - self.told > INTERVAL:
            self._tell()

    def _tell(self) -> None:
        epoch, step = divmod(self.done, self.steps)
        note = f"epoch {epoch}/{self.total // self.steps} step {step} {self.accuracy}"
        self.tell(
            {"run": self.run, "epoch": epoch, "done": self.done, "total": self.total, "note": note}
        )
        self.told = time.monotonic()


class Live:
    """The sweep's side: lines on standard error, bars where it is a terminal."""

    def __init__(self, total: int, ended: int, show: bool) -> None:
        """`total` runs, of which some have `ended` before; `show` nothing if False."""
        self.total, self.ended, self.show = total, ended, show
        self.lock = threading.Lock()  # events come in Dask's thread
        self.bars: dict[str, Any] = {}  # by run; that of all runs is ""
        self.over: set[str] = set()  # bars that are gone for good
        self.process: dict[str, str] = {}
        self._move("", ended, total, f"all runs  {ended}/{total}")

    def __enter__(self) -> Self:
        """Its bars are there already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bars away, that of all runs last; the lines stay."""
        with self.lock:
            self.over.update(self.bars)
            for bar in reversed(self.bars.values()):
                bar.close()

    def tell(self, event: Mapping[str, Any]) -> None:
        """Show where a run is. Thread-safe; what comes after the run's end is not shown."""
        run, process = event["run"], event.get("process", "")
        with self.lock:
            if self.over & {run, ""}:
                return
            if self.process.setdefault(run, process) != process:
                self._say(f"its worker was lost: {run} goes on from epoch {event['epoch']}")
                self.process[run] = process
            self._move(run, event["done"], event["total"], f"{run}  {event['note']}")
            self.bars[""].refresh()  # its time goes on

    def end(self, run: str, line: Mapping[str, Any] | Exception) -> None:
        """A run ended: one line that stays."""
        with self.lock:
            self.ended += 1
            self.over.add(run)
            if run in self.bars:
                self.bars.pop(run).close()
            self._move("", self.ended, self.total, f"all runs  {self.ended}/{self.total}")
            self._say(f"{self.ended}/{self.total}  {run}  {_outcome(line)}")

    def _move(self, run: str, done: int, total: int, text: str) -> None:
        """Its bar; a new one if it is of something else than before: a pool's images come first."""
        if run in self.bars and self.bars[run].total != total:
            self.bars.pop(run).close()
        if run not in self.bars:
            look: dict[str, Any] = {
                "bar_format": "{bar:16} {remaining:>5}  {desc}",
                "dynamic_ncols": True,
            }
            hidden = None if self.show else True  # None: where it is no terminal
            self.bars[run] = tqdm(total=total, initial=done, leave=False, disable=hidden, **look)
        self.bars[run].n = done
        self.bars[run].set_description_str(text)

    def say(self, text: str) -> None:
        """A line that stays, of what concerns no single run. Thread-safe."""
        with self.lock:
            self._say(text)

    def _say(self, text: str) -> None:
        if self.show:
            tqdm.write(text, file=sys.stderr)


def reason(error: Exception) -> str:
    """Why a run did not end, in one line."""
    if type(error).__name__ == "KilledWorker":  # Dask's own says three sentences
        return "its worker was lost again and again: killed, or out of memory"
    first = next(filter(None, str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}"


def _outcome(line: Mapping[str, Any] | Exception) -> str:
    if isinstance(line, Exception):
        return f"did not end: {reason(line)}"
    if line["status"] == "failed":
        return f"failed: {line['error']}"
    return f"{line['accuracy']['last']:.2f}% after the last epoch, {line['seconds']:.0f} s"

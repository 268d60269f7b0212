"""What a sweep shows while it runs: a bar for all runs, one for each that is running."""

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

Tell = Callable[[dict[str, Any]], None]

INTERVAL = 0.5  # seconds from one report of a run to the next


class Report:
    """In a worker, the bar of `training.train`: tells where its run is, twice a second."""

    def __init__(self, tell: Tell, run: str, steps: int, total: int, initial: int) -> None:
        """`tell` takes an event; `steps` are an epoch's, `total` and `initial` the run's."""
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
        self.console = Console(stderr=True, quiet=not show, highlight=False, soft_wrap=True)
        self.total, self.ended = total, ended
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not (show and self.console.is_terminal),
            transient=True,
        )
        self.all = self.bars.add_task("all runs", total=total, completed=ended, note="")
        self.running: dict[str, Any] = {}
        self.process: dict[str, str] = {}
        self._count()

    def __enter__(self) -> Self:
        """Show the bars."""
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Take the bars away; the lines stay."""
        self.bars.stop()

    def tell(self, event: Mapping[str, Any]) -> None:
        """Show where a run is. Thread-safe."""
        run = event["run"]
        process = event.get("process", "")
        if self.process.setdefault(run, process) != process:
            self.say(f"its worker was lost: {run} goes on from epoch {event['epoch']}")
            self.process[run] = process
        if run not in self.running:
            name = f"{event.get('worker', '')} {run}".strip()
            self.running[run] = self.bars.add_task(name, total=event["total"], note="")
        shown = {"completed": event["done"], "total": event["total"], "note": event["note"]}
        self.bars.update(self.running[run], **shown)

    def end(self, run: str, line: Mapping[str, Any] | Exception) -> None:
        """A run ended: one line that stays."""
        self.ended += 1
        if run in self.running:
            self.bars.remove_task(self.running[run])
        self._count()
        self.say(f"{self.ended}/{self.total}  {run}  {_outcome(line)}")

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, markup=False)

    def _count(self) -> None:
        self.bars.update(self.all, completed=self.ended, note=f"{self.ended}/{self.total}")


def _outcome(line: Mapping[str, Any] | Exception) -> str:
    if isinstance(line, Exception):
        return f"did not end: {type(line).__name__}: {line}"
    if line["status"] == "failed":
        return f"failed: {line['error']}"
    return f"{line['accuracy']['last']:.2f}% after the last epoch, {line['seconds']:.0f} s"

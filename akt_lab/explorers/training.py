"""Explorer 5, the training panel: a run in a process of its own, with live curves.

The run is the command line's, so that what is begun here can be finished there, and the reverse.
"""

import asyncio
import html
import math
import shlex
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import ipywidgets as w

from akt_lab.errors import AktError, UsageError
from akt_lab.explorers.background import Background
from akt_lab.explorers.explorer import LABEL, Telling, menu, slider
from akt_lab.explorers.history import History
from akt_lab.explorers.training_curves import look, rows_a_point, show
from akt_lab.methods import METHODS
from akt_lab.quantizer import MAX_BITS, MIN_BITS
from akt_lab.runs.folder import ENDED, HISTORY, RECORD, Run, free_folder, is_free
from akt_lab.settings import Settings

TRAINED = [m.name for m in METHODS.values() if m.trains and m.generates]
FIXED = {"batch_size": 32, "warmup_epochs": 2}  # as in the demo
INTERVAL = 1.0  # seconds from one look at the run to the next, and between two pictures
BUSY = ("running", "paused", "stopping")


def is_unfinished(folder: str) -> bool:
    """Whether a run can go on in the folder; False if one can start there.

    Raises:
        AktError: if neither: it holds a run that has ended, or something else.
    """
    if not folder.strip():
        raise UsageError("name a folder for the run")
    path = Path(folder)
    instead = f"choose another folder, such as {free_folder(path)}"
    if (path / RECORD).exists():
        record = Run(path).record
        if record.get("status") in ENDED:
            how = "diverged" if record["status"] == "failed" else "is finished"
            raise UsageError(f"{folder} holds a run that {how}: {instead}")
        return "settings" in record
    if not is_free(path):
        raise UsageError(f"{folder} is no run folder: {instead}")
    return False


class TrainingPanel(Telling):
    """Start, pause, go on, stop; and what the run has done so far.

    Where the kernel has an event loop, the panel looks at its run once a second by itself;
    elsewhere call `poll`.

    Attributes:
        controls: settings of the next run, by name.
        folder: of the run.
        start, pause, stop: buttons; `pause` is also the one to go on.
        state: idle, or as `Background`'s.
        place: what the folder holds: free, unfinished or taken.
        status, progress, message, picture, commands: what is on the screen.
    """

    def __init__(self, folder: str = "runs/panel") -> None:
        """A panel whose first run goes to `folder`, or to one beside it if that is taken."""
        self.default, self.state, self.place = folder, "idle", "free"
        self.background: Background | None = None
        self.ended = ""  # what is said of the last run, until the next
        style = {"description_width": LABEL}
        self.controls = _controls()
        self.folder = w.Text(
            str(free_folder(Path(folder))), description="run folder",
            tooltip="where the run is kept", continuous_update=False, style=style,
            layout=w.Layout(width="23em"),
        )  # fmt: skip
        self.start = w.Button(
            description="Start", icon="play", tooltip="start a new run in the folder"
        )
        self.pause = w.Button(description="Go on", tooltip="hold the run, or let it go on")
        self.stop = w.Button(
            description="Stop", icon="stop", tooltip="end the run; it can go on later"
        )
        self.progress = w.IntProgress(description="steps", style=style)
        self.status, self.picture, self.commands = (w.HTML() for _ in range(3))
        super().__init__()
        named = list(self.controls.values())
        buttons = [self.folder, self.start, self.pause, self.stop]
        rows = [named[:3], named[3:], buttons, [self.progress, self.status]]
        self.arrange(rows, [self.picture, self.commands])
        for control in named:
            control.observe(lambda _: self.attempt(self._update), "value")
        self.folder.observe(lambda _: self.attempt(self._look_into_folder), "value")
        self.start.on_click(lambda _: self.attempt(self._start))
        self.pause.on_click(lambda _: self.attempt(self._pause_or_go_on))
        self.stop.on_click(lambda _: self.attempt(self._stop))
        self._look_into_folder()

    # -- what the user does --

    def _start(self) -> None:
        self._look_into_folder()  # another process may have begun a run there since
        if self.place == "unfinished":
            raise UsageError(f"{self.folder.value} holds an unfinished run: go on with it")
        self._begin(self._words())

    def _pause_or_go_on(self) -> None:
        if self.background is None:
            self._begin(self._words_to_go_on())
        elif self.background.paused:
            self.background.go_on()
        else:
            self.background.pause()
        self._poll()

    def _stop(self) -> None:
        if self.background:
            self.background.stop()
        self._poll()

    def _begin(self, words: Sequence[str]) -> None:
        self.say("")
        self._open()
        self.background, self.state, self.ended = Background(words), "running", ""
        self._draw()
        self._update()
        with suppress(RuntimeError):  # no event loop: `poll` is called by hand
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._follow(self.background))

    async def _follow(self, background: Background) -> None:
        while self.background is background:  # the next run has a task of its own
            self.poll()
            await asyncio.sleep(INTERVAL)

    def _look_into_folder(self) -> None:
        """What can be done in the folder that is named now; its curves, if it has some."""
        self.say("")
        self.state, self.place = "idle", "taken"
        try:
            self.place = self._read_folder()
        finally:  # the buttons, too, where it cannot be read
            self._update()

    def _read_folder(self) -> str:
        """Show the folder's curves, if it has some; return its `place`."""
        self._open()
        place = "taken"
        try:
            place = "unfinished" if is_unfinished(self.folder.value) else "free"
        finally:  # what the last run left stays, until there is another's
            if self.history.rows or place == "unfinished" or not self.picture.value:
                self._draw()
        return place

    # -- what the run does --

    def poll(self) -> None:
        """Look at the run; draw if there is something new, once a second at most."""
        self.attempt(self._poll)

    def _poll(self) -> None:
        if not (background := self.background):
            return
        background.enforce()
        self.state = background.state  # before the history: after its end nothing is added
        self._stale |= self.history.read()
        if self.state not in BUSY:
            self._end(background)
            return
        if self._stale and time.monotonic() - self._drawn >= INTERVAL:
            self._draw()
        self._update()

    def _end(self, background: Background) -> None:
        self.background, state, said = None, self.state, background.close()
        self.attempt(self._draw)
        text = self._status()
        with suppress(AktError):  # the folder's sentence is less than the run's own
            self._look_into_folder()
        if self.place == "taken":  # the next run has a folder, too
            self.folder.value = str(free_folder(Path(self.default)))
        self.state, self.ended = state, text
        self._update()
        if state == "failed":
            self.say(said)

    def _open(self) -> None:
        """Read what the folder holds, from the beginning."""
        self.record: dict[str, Any] = {"settings": self._settings().to_dict()}
        self.history = History(Path(self.folder.value) / HISTORY, rows_a_point(self.record))
        self._stale, self._drawn = False, 0.0
        self._read_record()
        self._stale = self.history.read()

    def _read_record(self) -> None:
        """The run's own record, once it is there; it stays known if the folder is deleted."""
        run = Run(self.history.path.parent)
        if (run / RECORD).exists():
            self.record |= run.record
        if (block := rows_a_point(self.record)) != self.history.block:  # not as the controls say
            self.history = History(self.history.path, block)

    # -- what is on the screen --

    def _draw(self) -> None:
        self._stale, self._drawn = False, time.monotonic()
        self._read_record()
        self.history.read()
        view = look(self.history, self.record)
        self.progress.max, self.progress.value = view.total, self.history.rows
        self.picture.value = show(view).to_html()

    def _update(self) -> None:
        """Buttons, status line and commands as they are now."""
        busy = self.state in BUSY
        for control in (*self.controls.values(), self.folder):
            control.disabled = busy
        self.controls["variant"].disabled |= not self._settings().has_akt
        self.start.disabled = busy or self.place != "free"
        self.pause.disabled = self.state == "stopping" or not (busy or self.place == "unfinished")
        running = self.state == "running"
        self.pause.description = "Pause" if running else "Go on"
        self.pause.icon = "pause" if running else "forward"
        self.stop.disabled = self.state not in ("running", "paused")
        self.status.value = html.escape(self._status())
        self.commands.value = self._as_commands()
        if self.history.broken and not self.message.value:
            self.say(f"{self.history.broken} broken lines in {self.history.path} are left out")

    def _status(self) -> str:
        rows, last, s = self.history.rows, self.history.last, self.record["settings"]
        epoch = int(last["epoch"]) + 1 if last else 1
        at = f"epoch {epoch} of {s['epochs']}, step {rows} of {s['epochs'] * s['steps']}"
        seconds = f"{self.background.seconds:.0f} s so far" if self.background else ""
        match self.state:
            case "done" | "failed" if self.ended:
                return self.ended
            case "running" if not rows:
                return f"starting: PyTorch and the teacher are loaded, {seconds}"
            case "running":
                return f"{at}, {seconds}"
            case "paused" | "stopping":
                return f"{self.state}: {at}"
            case "stopped" if self.place == "unfinished":
                return f"stopped: {at}; go on here, or by: {_line(self._words_to_go_on())}"
            case "stopped":
                return "stopped before its first step: Start begins again"
            case "done":
                student = self.record.get("accuracy", {}).get("last", math.nan)
                teacher = self.record.get("teacher_accuracy", math.nan)
                return f"done: {student:.2f}% (teacher {teacher:.2f}%); kept in {self.folder.value}"
            case "failed":
                return f"failed: {at}"
        if self.place == "unfinished":
            return f"unfinished: {at}; it goes on with its own settings"
        return "ready" if self.place == "free" else ""

    def _as_commands(self) -> str:
        lines = []
        if self.place == "free":  # else it has settings of its own
            lines.append(("this run as a command", self._words()))
        if self.place != "taken":
            lines.append(("to go on with it", self._words_to_go_on()))
        style = "user-select:all;overflow-wrap:anywhere"
        return "".join(
            f'<div>{about}: <code style="{style}">{html.escape(_line(words))}</code></div>'
            for about, words in lines
        )

    # -- what the run is --

    def _settings(self) -> Settings:
        values: dict[str, Any] = {n: c.value for n, c in self.controls.items()} | FIXED
        bits = values.pop("bits")
        return Settings(**values, weight_bits=bits, act_bits=bits)

    def _words(self) -> list[str]:
        values = {name: control.value for name, control in self.controls.items()} | FIXED
        if not self._settings().has_akt:
            del values["variant"]
        options = [(f"--{name.replace('_', '-')}", str(v)) for name, v in values.items()]
        return [*chain(*options), "--watch", *self._out()]

    def _words_to_go_on(self) -> list[str]:
        return [*self._out(), "--resume"]

    def _out(self) -> list[str]:
        return ["--out", str(Path(self.folder.value).absolute())]  # from wherever it is typed


def _line(words: Sequence[str]) -> str:
    return shlex.join(["akt-lab", "quantize", *words])


# ---- controls ------------------------------------------------------------------------------------


def _controls() -> dict[str, Any]:
    return {
        "method": menu("method", TRAINED, "adadfq+akt", "where images and loss come from"),
        "variant": menu("variant", ["paper", "code"], "paper", "of AKT's features"),
        "bits": slider("bits", range(MIN_BITS, MAX_BITS + 1), 3, "of weights and activations"),
        "epochs": slider("epochs", (3, 4, 6, 8, 12, 16, 24, 40), 8, "the first two: warm-up"),
        "steps": slider("steps", (5, 10, 25, 50, 100, 200), 50, "of each epoch"),
        "seed": slider("seed", range(10), 0, "of the generator and its noise"),
    }


_panels: dict[str, TrainingPanel] = {}


def training_panel(folder: str = "runs/panel") -> TrainingPanel:
    """Train a student in the background, and watch it.

    The panel of a run that is going is given again, so that no cell run twice can lose it.

    Args:
        folder: of the first run, or where that is taken one beside it: `runs/panel-2`.
    """
    if folder not in _panels or _panels[folder].background is None:
        _panels[folder] = TrainingPanel(folder)
    return _panels[folder]

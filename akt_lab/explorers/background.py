"""A run in a process of its own: paused, gone on with, stopped; it ends with the kernel."""

import atexit
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress

import psutil

PATIENCE = 8.0  # seconds from a request to stop to the end by force
LAST = 2**16  # bytes of what a run says that are read at its end
QUIET = {"TQDM_MININTERVAL": "60"}  # nobody sees its progress bars, and they are kept until its end


class Background:
    """`akt-lab quantize` in a process of its own.

    It ends with the kernel: by `atexit`; or as one of the kernel's process group, which Jupyter
    kills as a whole. For the same reason an interrupt of the kernel stops it, as Ctrl-C does.

    Attributes:
        process: its `psutil.Popen`.
    """

    def __init__(self, words: Sequence[str]) -> None:
        """Start it; `words` follow `akt-lab quantize`."""
        self.errors = tempfile.TemporaryFile()
        self.process = psutil.Popen(
            [sys.executable, "-m", "akt_lab.commands", "quantize", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self.errors,
            env=os.environ | QUIET,
        )
        self.paused, self._deadline = False, math.inf
        self._worked, self._since = 0.0, time.monotonic()
        atexit.register(self.kill)

    @property
    def state(self) -> str:
        """One of running, paused, stopping; stopped, done or failed once it has ended."""
        code = self.process.poll()
        if code is None:
            asked = self._deadline < math.inf
            return "stopping" if asked else "paused" if self.paused else "running"
        interrupted = self._deadline < math.inf or code in (130, -signal.SIGINT)
        return "done" if code == 0 else "stopped" if interrupted else "failed"

    @property
    def seconds(self) -> float:
        """How long it has been running; a pause does not count."""
        return self._worked + (0.0 if self.paused else time.monotonic() - self._since)

    def pause(self) -> None:
        """Hold it where it is; its memory stays taken."""
        self._worked, self.paused = self.seconds, True
        self._each("suspend")

    def go_on(self) -> None:
        """End the pause."""
        self._since, self.paused = time.monotonic(), False
        self._each("resume")

    def stop(self) -> None:
        """Ask it to end, as Ctrl-C does; `enforce` ends it if it does not."""
        if self.paused:
            self.go_on()
        self._deadline = time.monotonic() + PATIENCE
        with suppress(psutil.NoSuchProcess):
            if os.name == "posix":
                self.process.send_signal(signal.SIGINT)
            else:
                self.process.terminate()

    def enforce(self) -> None:
        """End it by force if it was asked to stop, and takes too long."""
        if time.monotonic() > self._deadline:
            self.kill()

    def kill(self) -> None:
        """End it now; its last checkpoint is whole."""
        self._each("kill")
        self.process.wait()

    def _each(self, action: str) -> None:
        with suppress(psutil.NoSuchProcess):
            for process in (self.process, *self.process.children(recursive=True)):
                getattr(process, action)()

    def close(self) -> str:
        """End it if it has not ended; return what it said last."""
        self.kill()
        atexit.unregister(self.kill)
        with self.errors as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LAST))
            said = file.read().decode(errors="replace").replace("\r", "\n").splitlines()
        lines = [line.strip() for line in said if line.strip()]
        own = [line for line in lines if line.startswith("akt-lab")]
        ended = f"the run ended with exit code {self.process.returncode}, and said nothing"
        return (own or lines or [ended])[-1]
